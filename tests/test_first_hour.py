"""Tests of what a newcomer runs first: the wheel, the demo and the notebook."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from forked import Command

from nas_plugins.cli import main
from nas_plugins.commands.demo import demo_commands
from nas_plugins.errors import InputError

ROOT = Path(__file__).parent.parent
SMALL = ["--training.epochs", "1", "--data.train_images", "64", "--data.test_images", "40"]


@pytest.mark.slow
def test_the_wheel_has_all_that_the_checkout_has(tmp_path):
    source = tmp_path / "source"
    for name in ("nas_plugins", "search_spaces", "strategies", "examples"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "genotypes"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    moved = {f"nas_plugins/{name}" if name.startswith("examples/") else name for name in files}
    assert packed == moved - {"pyproject.toml", "README.md", "LICENSE"}


@pytest.mark.slow
def test_the_demo_goes_from_a_search_to_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *SMALL]) == 0
    lines = capsys.readouterr().out.splitlines()
    config = ROOT / "examples/edas/digits.yaml"
    assert lines[0] == f"$ nas-plugins search --config {config} --output runs/demo/search {' '.join(SMALL)}"
    assert [line.split()[2] for line in lines if line.startswith("$ ")] == ["search", "retrain", "evaluate", "report"]
    assert lines[-1] == "report: runs/demo/report/report.html"
    assert json.loads(Path("runs/demo/retrain/test.json").read_text())["images"] == 40


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output", "taken"], "--output: taken already exists and is not an empty folder"),
        (["--training.epoch", "1"], "unknown key training.epoch; did you mean training.epochs?"),
        (["--space.channels", "4"], "has the section 'space', which is for nas-plugins search"),
    ],
)
def test_the_demo_refuses_what_does_not_fit_before_it_starts(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/note.txt").write_text("mine")
    assert main(["demo", *arguments]) == 2
    out, err = capsys.readouterr()
    assert words in err and err.count("\n") == 1 and out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(("begun", "resumed"), [(["search"], 1), (["search", "retrain"], 2)])
def test_a_demo_that_was_interrupted_goes_on(tmp_path, begun, resumed):
    for run in begun:
        (tmp_path / run).mkdir()
        (tmp_path / run / "config.yaml").touch()
    commands = demo_commands(tmp_path, ROOT / "examples/edas")
    assert commands[:resumed] == [["resume", str(tmp_path / run)] for run in begun]
    assert [name for name, *_ in commands[resumed:]] == ["search", "retrain", "evaluate", "report"][resumed:]
    with pytest.raises(InputError, match="already exists"):
        demo_commands(tmp_path, ROOT / "examples/edas", ["--seed", "1"])


def code_of_the_notebook() -> list[dict]:
    cells = json.loads((ROOT / "examples/tour.ipynb").read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def run_notebook(_: list[str]) -> None:
    """Run all code, in its folder, with the shell that Jupyter's kernel for Python is made of."""
    from IPython.core.interactiveshell import InteractiveShell

    os.chdir(ROOT / "examples")
    shell = InteractiveShell.instance()
    for cell in code_of_the_notebook():
        shell.run_cell("".join(cell["source"]), store_history=True).raise_error()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    ended = Command([], tmp_path, does=run_notebook).end()
    assert ended.status == 0, ended.out + ended.err
    assert f"Out[{len(code_of_the_notebook())}]" in ended.out  # the table at the end


def test_the_notebook_is_kept_without_outputs():
    code = code_of_the_notebook()
    assert code and not any(cell["outputs"] or cell["execution_count"] for cell in code)
