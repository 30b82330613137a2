"""End-to-end tests of the command line, and of its messages for bad input."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from forked import Command
from PIL import Image

from nas_plugins.cli import main
from search_spaces.genotype import Genotype

DATA = {"dataset": "digits", "train_images": 120, "test_images": 40, "batch_size": 32}
SPACE = {"channels": 4, "layers": 3, "nodes": 2, "operations": ["skip_connect", "sep_conv_3x3"]}
SEARCH = {
    "space": {"name": "DartsSpace", **SPACE},
    "strategy": {"name": "EDAS"},
    "data": DATA,
    "training": {"epochs": 2},
    "compute": {"accelerator": "cpu", "threads": 1},
}
RETRAIN = {
    "network": {"channels": 4},
    "data": {**DATA, "val_fraction": 0.0},
    "training": {"epochs": 2},
    "compute": {"accelerator": "cpu", "threads": 1},
}
CELL = (("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2))
GENOTYPE = Genotype(cells=(CELL, CELL), layout=(0, 1, 1), reductions=(1, 2), concat=(2,))
PARTIAL = b"training: {epochs: 1}\ndata: {train_images: 60}\ncompute: {accelerator: cpu, threads: 1}\n"
"""A config.yaml with valid keys that is not of a run, since it lacks some keys."""
COMMANDS = [
    "list",
    "search",
    "resume",
    "derive",
    "retrain",
    "evaluate",
    "predict",
    "export",
    "report",
    "doctor",
    "genotype",
]
ACTIONS = ["import", "info", "draw", "compare"]


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """Folder with search.yaml, retrain.yaml, genotype.json, and the finished runs searched and retrained."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "search.yaml").write_text(yaml.safe_dump(SEARCH))
    (folder / "retrain.yaml").write_text(yaml.safe_dump(RETRAIN))
    GENOTYPE.save(folder / "genotype.json")
    assert run_main(searching(folder / "searched", folder / "search.yaml")) == 0
    assert run_main(retraining(folder / "retrained", folder / "genotype.json", folder / "retrain.yaml")) == 0
    return folder


def run_main(arguments: list[object]) -> int:
    """Run a command and return its exit status."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:  # argparse exits on --help and usage errors
        return int(end.code or 0)


def searching(output: Path, config: Path, *overrides: object) -> list[object]:
    return ["search", "--config", config, "--output", output, *overrides]


def retraining(output: Path, genotype: Path, config: Path, *overrides: object) -> list[object]:
    return ["retrain", "--genotype", genotype, "--config", config, "--output", output, *overrides]


def contents(folder: Path) -> dict[str, bytes]:
    """Return path -> content of all files except those written by NNI."""
    found = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    return {name: file.read_bytes() for name, file in found.items() if "nni" not in Path(name).parts}


@pytest.fixture
def refused(capsys, tmp_path):
    """Return a function that runs a command, checks that it is refused and returns its message."""

    def refuse(arguments: list[object], *words: str) -> str:
        capsys.readouterr()
        before = contents(tmp_path)
        try:
            status = run_main(arguments)
        except Exception as error:
            pytest.fail(f"a traceback: {type(error).__name__}: {error!s:.200}", pytrace=False)
        out, err = capsys.readouterr()
        assert status == 2, f"status {status}, {out}, {err}"
        assert err.startswith("nas-plugins: ")
        assert err.count("\n") == 1, err
        assert out == ""
        for word in words:
            assert word in err
        assert contents(tmp_path) == before
        assert not (tmp_path / "run").exists() or "run" in {Path(name).parts[0] for name in before}
        return err

    return refuse


class TestEndToEnd:
    def test_search_derive_retrain_evaluate_report(self, here, tmp_path, capsys):
        searched, retrained, genotype = tmp_path / "s", tmp_path / "r", tmp_path / "deep.json"
        assert run_main(searching(searched, here / "search.yaml", "--training.epochs", "3")) == 0
        assert f"{searched}: searched; genotype in {searched}/genotype.json" in capsys.readouterr().out
        assert run_main(["derive", searched, "--layers", "5", "--output", genotype]) == 0
        assert f"{genotype}: 5 layers, 2 different cells" in capsys.readouterr().out
        assert run_main(retraining(retrained, genotype, here / "retrain.yaml")) == 0
        assert f"{retrained}: retrained; weights in {retrained}/weights.pt" in capsys.readouterr().out
        assert run_main(["evaluate", retrained]) == 0
        assert re.search(r"test accuracy \d+\.\d\d%, loss \d\.\d{4}, on 40 images", capsys.readouterr().out)
        assert run_main(["report", searched]) == 0
        assert run_main(["report", searched, retrained, "--output", tmp_path / "report"]) == 0

        for name in ("config.yaml", "genotype.json", "metrics.csv", "alphas.csv", "alphas.png", "progress.png"):
            assert (searched / name).stat().st_size > 0
        assert list(searched.glob("cells.*"))
        assert (searched / "report.html").exists()
        assert (tmp_path / "report" / "report.html").exists()
        assert len(Genotype.load(retrained / "genotype.json").layout) == 5

    def test_another_data_set(self, here, tmp_path, capsys):
        root = pictures(tmp_path / "pictures")
        overrides = ["--data.dataset", "folder", "--data.root", root, "--data.train_images", "null"]
        overrides += ["--data.test_images", "null", "--data.batch_size", "4"]
        arguments = retraining(tmp_path / "r", here / "genotype.json", here / "retrain.yaml", *overrides)
        assert run_main(arguments) == 0
        assert run_main(["evaluate", tmp_path / "r"]) == 0
        assert "on 8 images" in capsys.readouterr().out

    def test_list(self, capsys):
        assert run_main(["list"]) == 0
        out = capsys.readouterr().out
        for word in ("DartsSpace", "DARTS", "EDAS", "digits", "cifar10", "folder", "examples/edas/digits.yaml"):
            assert word in out

    def test_genotype_import_and_info(self, tmp_path, capsys):
        edges = ", ".join("('sep_conv_3x3', 0), ('skip_connect', 1)" for _ in range(4))
        cells = (f"{kind}=[{edges}], {kind}_concat=[2, 3, 4, 5]" for kind in ("normal", "reduce"))
        text = f"G = Genotype({', '.join(cells)})"
        (tmp_path / "g.txt").write_text(text)
        assert run_main(["genotype", "import", tmp_path / "g.txt", "--output", tmp_path / "g.json"]) == 0
        capsys.readouterr()
        arguments = ["genotype", "info", tmp_path / "g.json", "--channels", 8, "--layers", 5, "--classes", 10]
        assert run_main([*arguments, "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["operations"] == {"sep_conv_3x3": 20, "skip_connect": 20}
        assert facts["parameters"] > 0
        assert run_main(arguments) == 0
        assert "20 × sep_conv_3x3" in capsys.readouterr().out


def pictures(root: Path) -> Path:
    noise = np.random.default_rng(0)
    for folder in (root / part / name for part in ("train", "test") for name in ("cat", "dog")):
        folder.mkdir(parents=True)
        for index in range(4):
            Image.fromarray(noise.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{index}.jpg")
    return root


class TestHelp:
    @pytest.mark.parametrize("command", ([], *([c] for c in COMMANDS), *(["genotype", action] for action in ACTIONS)))
    def test_is_short_and_ends_well(self, capsys, command, monkeypatch):
        monkeypatch.setenv("COLUMNS", "100")
        assert run_main([*command, "--help"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert 3 <= len(out.splitlines()) <= 25
        assert " ".join(["usage: nas-plugins", *command]) in out

    def test_names_all_commands(self, capsys):
        run_main(["--help"])
        out = capsys.readouterr().out
        assert all(command in out for command in COMMANDS)

    @pytest.mark.slow
    def test_waits_for_neither_torch_nor_nni(self):
        script = (
            "import sys\n"
            "from nas_plugins.cli import main\n"
            "try: main(['search', '--help'])\n"
            "except SystemExit: print([m for m in ('torch', 'nni') if m in sys.modules])\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        (
            [],
            ["serach"],
            ["search"],
            ["search", "--config"],
            ["search", "--config", "c.yaml"],
            ["derive", "run"],
            ["derive", "run", "--output", "g.json", "--method", "best"],
            ["derive", "run", "--output", "g.json", "--threshold", "high"],
            ["derive", "run", "--output", "g.json", "--layers", "2.5"],
            ["evaluate"],
            ["evaluate", "run", "--fast"],
            ["predict", "run"],
            ["report"],
            ["resume", "a", "b"],
            ["resume", "run", "--training.epochs", "9"],
            ["genotype"],
            ["genotype", "export"],
            ["genotype", "info", "g.json", "--channels", "4"],
            ["genotype", "draw", "g.json"],
            ["genotype", "compare", "g.json"],
            ["list", "--all"],
        ),
        ids=" ".join,
    )
    def test_wrong(self, refused, arguments):
        assert "--help" in refused(arguments)

    def test_a_comparison_with_no_such_table(self, refused, here, tmp_path):
        words = ("--compare: 'imagenet' should be one of cifar10, cifar100",)
        refused(["report", here / "retrained", "--compare", "imagenet", "--output", tmp_path / "run"], *words)


class TestSearchRefuses:
    @pytest.mark.parametrize(
        ("content", "words"),
        (
            ({"sed": 1}, ("unknown key sed", "did you mean seed?")),
            ({"training": {"epoch": 1}}, ("did you mean training.epochs?",)),
            ({"training": {"epochs": "many"}}, ("training.epochs",)),
            ({"training": {"epochs": 0}}, ("training.epochs",)),
            ({"training": {"epochs": None}}, ("training.epochs",)),
            ({"seed": None}, ("seed",)),
            ({"seed": 2**70}, ("seed",)),
            ({"training": 5}, ("training: 5 should be a section",)),
            ({"space": {"name": "DartSpace"}}, ("space.name", "DartsSpace")),
            ({"space": {"name": "nni.nas.nn.pytorch.ModelSpace"}}, ("space",)),
            ({"space": {"operations": ["conv_9x9", "skip_connect"]}}, ("conv_9x9", "sep_conv_3x3")),
            ({"space": {"layers": 2}}, ("layers: 2",)),
            ({"strategy": {"name": "EDSA"}}, ("strategy.name", "did you mean EDAS?")),
            ({"strategy": {"name": "edas"}}, ("strategy.name", "did you mean EDAS? known are")),
            ({"strategy": {"name": "os.system"}}, ("os.system is no nni.nas.strategy",)),
            ({"strategy": {"name": "collections.OrderedDict"}}, ("collections.OrderedDict is no",)),
            ({"strategy": {"name": "no_such_module.Strategy"}}, ("No module named 'no_such_module'",)),
            ({"strategy": {"name": "nni.nas.strategy.Random"}}, ("multi-trial",)),
            ({"strategy": {"name": "strategies.base.DifferentiableStrategy"}}, ("strategy",)),
            ({"strategy": {"learning_rate": -1.0}}, ("learning_rate",)),
            ({"strategy": {"weight_decay": -1.0}}, ("weight_decay",)),
            ({"strategy": {"betas": [2.0, 3.0]}}, ("betas",)),
            ({"strategy": {"gradient_clip_val": -1.0}}, ("gradient_clip_val",)),
            ({"strategy": {"sign_flip_epochs": -1}}, ("sign_flip_epochs",)),
            ({"data": {**DATA, "dataset": "digit"}}, ("data.dataset", "'digits', 'cifar10'")),
            ({"data": {**DATA, "train_images": 5}}, ("data.train_images",)),
            ({"data": {**DATA, "train_images": 12}}, ("data.val_fraction",)),
            ({"data": {**DATA, "val_fraction": 0}}, ("data.val_fraction",)),
            ({"data": {**DATA, "val_fraction": 1.5}}, ("data.val_fraction",)),
            ({"data": {"dataset": "folder", "root": "/nowhere"}}, ("data.root", "/nowhere")),
            ({"data": {"dataset": "cifar10", "root": "/nowhere"}}, ("data.root", "--data.download")),
            ({"compute": {"accelerator": "quantum"}}, ("compute", "quantum")),
            ({"compute": {"accelerator": "tpu"}}, ("compute",)),
            (
                {"space": {"name": "nni.nas.hub.pytorch.DARTS", "width": 4, "num_cells": 3, "dataset": "cifar"}},
                ("channels",),
            ),
        ),
        ids=lambda value: re.sub(r"[{}' ]", "", str(value))[:70] if isinstance(value, dict) else "",
    )
    def test_a_config(self, refused, tmp_path, content, words):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({**SEARCH, **content}))
        refused(searching(tmp_path / "run", tmp_path / "c.yaml"), *words)

    @pytest.mark.parametrize("text", ("seed: [1", "- 1\n", "seed: !!python/object/apply:os.system ['touch trace']"))
    def test_a_file_that_is_no_config(self, refused, tmp_path, text, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "c.yaml").write_text(text)
        refused(searching(tmp_path / "run", tmp_path / "c.yaml"), "c.yaml")
        assert not (tmp_path / "trace").exists()

    @pytest.mark.parametrize("name", ("nowhere.yaml", "."))
    def test_no_file(self, refused, tmp_path, name):
        refused(searching(tmp_path / "run", tmp_path / name), str(tmp_path / name))

    @pytest.mark.parametrize(
        ("overrides", "words"),
        (
            (["--training.epoch", 3], ("did you mean training.epochs?",)),
            (["--training.epochs", "many"], ("training.epochs",)),
            (["--training.epochs", "null"], ("training.epochs",)),
            (["--training.epochs"], ("training.epochs",)),
            (["stray"], ("stray",)),
            (["--strategy.name", "DARTS", "--strategy.alpha_max", "true"], ("unknown key strategy.alpha_max",)),
            (["--data.batch_size", "1e20"], ('"data.batch_size"', "1e20")),
        ),
        ids=lambda value: " ".join(map(str, value)),
    )
    def test_overrides(self, refused, here, tmp_path, overrides, words):
        refused(searching(tmp_path / "run", here / "search.yaml", *overrides), *words)

    def test_an_output_that_exists(self, refused, here, tmp_path):
        (tmp_path / "taken").mkdir()
        (tmp_path / "taken" / "mine.txt").write_text("mine")
        refused(searching(tmp_path / "taken", here / "search.yaml"), "already exists")
        refused(searching(tmp_path / "taken" / "mine.txt", here / "search.yaml"), "mine.txt")
        err = refused(searching(here / "searched", here / "search.yaml"), "already exists")
        assert f"nas-plugins resume {here / 'searched'}" in err

    def test_an_output_that_cannot_be_made(self, refused, here, tmp_path):
        (tmp_path / "file").write_text("")
        refused(searching(tmp_path / "file" / "run", here / "search.yaml"), "--output", str(tmp_path / "file"))

    def test_an_empty_folder_is_taken(self, here, tmp_path):
        (tmp_path / "empty").mkdir()
        assert run_main(searching(tmp_path / "empty", here / "search.yaml", "--training.epochs", 1)) == 0

    def test_a_truncated_image(self, refused, here, tmp_path):
        file = pictures(tmp_path / "pictures") / "train" / "cat" / "2.jpg"
        file.write_bytes(file.read_bytes()[:300])
        data = {"dataset": "folder", "root": str(tmp_path / "pictures"), "batch_size": 4}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({**SEARCH, "data": data}))
        refused(searching(tmp_path / "run", tmp_path / "c.yaml"), str(file))


class TestRetrainRefuses:
    @pytest.mark.parametrize(
        ("change", "words"),
        (
            ({"cells": [{"edges": [["sep_conv_3x3", 3, 2]]}] * 2}, ("cycle", "node 3")),
            ({"cells": [{"edges": [["sep_conv_3x3", 0, 2], ["skip_connect", 7, 8]]}] * 2}, ("no node 7",)),
            ({"cells": [{"edges": [["conv_9x9", 0, 2]]}] * 2}, ("unknown operation 'conv_9x9'",)),
            ({"layout": [0, 5, 1]}, ("layer 1 uses cell 5",)),
            ({"version": 2}, ("version",)),
        ),
        ids=("cycle", "missing node", "unknown operation", "missing cell", "version"),
    )
    def test_a_genotype(self, refused, here, tmp_path, change, words):
        file = tmp_path / "g.json"
        file.write_text(json.dumps({**json.loads(GENOTYPE.to_json()), **change}))
        refused(retraining(tmp_path / "run", file, here / "retrain.yaml"), str(file), *words)

    @pytest.mark.parametrize("content", (b"{", b"", b"\xff\xfe", b"[]", b"{}", b"[" * 100_000), ids=range(6))
    def test_a_file_that_is_no_genotype(self, refused, here, tmp_path, content):
        (tmp_path / "g.json").write_bytes(content)
        refused(retraining(tmp_path / "run", tmp_path / "g.json", here / "retrain.yaml"), "g.json")

    @pytest.mark.parametrize("name", ("nowhere.json", "."))
    def test_no_file(self, refused, here, tmp_path, name):
        refused(retraining(tmp_path / "run", tmp_path / name, here / "retrain.yaml"), str(tmp_path / name))

    def test_a_folder(self, refused, here, tmp_path):
        words = f"{here / 'searched'}: Is a directory"
        refused(retraining(tmp_path / "run", here / "searched", here / "retrain.yaml"), words)
        refused(["genotype", "info", here / "searched", "--channels", 4, "--classes", 10], words)

    @pytest.mark.parametrize(
        ("overrides", "words"),
        (
            (["--network.auxiliary_weight", 0.4], ("auxiliary head", "larger images")),
            (["--network.layers", 2], ("layers: 2",)),
            (["--network.channels", 0], ("network.channels",)),
            (["--network.drop_path", 2], ("network.drop_path",)),
            (["--network.width", 2], ("unknown key network.width",)),
            (["--data.cutout", 9], ("data.cutout",)),
            (["--data.train_images", 5], ("data.train_images",)),
            (["--compute.accelerator", "quantum"], ("compute", "quantum")),
        ),
        ids=lambda value: " ".join(map(str, value)),
    )
    def test_settings(self, refused, here, tmp_path, overrides, words):
        refused(retraining(tmp_path / "run", here / "genotype.json", here / "retrain.yaml", *overrides), *words)

    def test_the_config_of_a_search(self, refused, here, tmp_path):
        refused(retraining(tmp_path / "run", here / "genotype.json", here / "search.yaml"), "is for nas-plugins search")

    def test_an_output_that_exists_or_cannot_be_made(self, refused, here, tmp_path):
        (tmp_path / "file").write_text("")
        refused(retraining(tmp_path / "file", here / "genotype.json", here / "retrain.yaml"), "--output")
        refused(retraining(tmp_path / "file/run", here / "genotype.json", here / "retrain.yaml"), "--output")


class TestRunsThatAreNone:
    @pytest.mark.parametrize("kind", ("missing", "empty", "file", "foreign", "binary", "partial", "folder"))
    @pytest.mark.parametrize("command", ("resume", "derive", "evaluate", "report"))
    def test_are_refused(self, refused, tmp_path, command, kind):
        run = tmp_path / "other"
        if kind == "file":
            run.write_text("")
        elif kind != "missing":
            run.mkdir()
        if kind in ("foreign", "binary", "partial"):
            foreign = {"foreign": b"name: other\nversion: 3\n", "binary": b"\xff\xfe\x00", "partial": PARTIAL}
            (run / "config.yaml").write_bytes(foreign[kind])
        elif kind == "folder":
            (run / "config.yaml").mkdir()
        output = ["--output", tmp_path / "g.json"] if command == "derive" else []
        refused([command, run, *output], "other")

    def test_a_cut_genotype_is_refused_and_written_anew_by_a_resume(self, refused, here, tmp_path):
        run = shutil.copytree(here / "searched", tmp_path / "searched")
        (run / "genotype.json").write_text((run / "genotype.json").read_text()[:40])
        refused(["report", run], f"{run}/genotype.json: ")
        refused(retraining(tmp_path / "run", run / "genotype.json", here / "retrain.yaml"), f"{run}/genotype.json: ")
        (run / "genotype.json").unlink()
        assert run_main(["resume", run]) == 0
        assert (run / "genotype.json").read_bytes() == (here / "searched/genotype.json").read_bytes()

    def test_evaluate_takes_no_search(self, refused, here):
        refused(["evaluate", here / "searched"], "a search", "finished retraining")

    def test_evaluate_takes_no_unfinished_retraining(self, refused, here, tmp_path):
        run = shutil.copytree(here / "retrained", tmp_path / "r", ignore=shutil.ignore_patterns("weights.pt"))
        refused(["evaluate", run], "not finished")

    def test_derive_takes_no_retraining(self, refused, here, tmp_path):
        refused(["derive", here / "retrained", "--output", tmp_path / "g.json"], "no search")

    def test_derive_takes_no_unfinished_search(self, refused, here, tmp_path):
        run = shutil.copytree(here / "searched", tmp_path / "s", ignore=shutil.ignore_patterns("genotype.json"))
        refused(["derive", run, "--output", tmp_path / "g.json"], "not finished", "nas-plugins resume")


class TestDeriveRefuses:
    @pytest.mark.parametrize(
        ("options", "words"),
        (
            (["--method", "sparse"], ("sparse with threshold 0.85 gives no network",)),
            (["--method", "edge", "--threshold", 0.99], ("edge with threshold 0.99 gives no network",)),
            (["--method", "sparse", "--threshold", 2], ("threshold", "from 0 to 1")),
            (["--threshold", 0.5], ("--threshold: 0.5, but darts has none; it needs --method sparse or edge",)),
            (["--method", "darts", "--threshold", 0.5], ("--threshold: 0.5, but darts has none",)),
            (["--method", "sparse", "--threshold", "nan"], ("threshold", "from 0 to 1")),
            (["--layers", 2], ("layers: 2", "at least 3")),
            (["--layers", -5], ("layers: -5",)),
            (["--epoch", 99], ("--epoch: 99", "from 0 to", "alphas.csv")),
            (["--max-skips", -1], ("--max-skips: -1 should be at least 0",)),
            (["--max-skips", "two"], ("--max-skips", "'two'")),
        ),
        ids=lambda value: " ".join(map(str, value)),
    )
    def test_options(self, refused, here, tmp_path, options, words):
        refused(["derive", here / "searched", *options, "--output", tmp_path / "g.json"], *words)

    def test_an_output_that_cannot_be_written(self, refused, here, tmp_path):
        (tmp_path / "file").write_text("")
        refused(["derive", here / "searched", "--output", tmp_path / "file" / "g.json"], str(tmp_path / "file"))
        refused(["derive", here / "searched", "--output", tmp_path], str(tmp_path))

    @pytest.mark.parametrize(
        "text", ("", "epoch,cell\n0,normal\n", "no table", "epoch,cell,edge,a\n0,normal,x,1\n", "epoch,cell,edge,a\n")
    )
    def test_a_damaged_table(self, refused, here, tmp_path, text):
        run = shutil.copytree(here / "searched", tmp_path / "s")
        (run / "alphas.csv").write_text(text)
        refused(["derive", run, "--output", tmp_path / "g.json"], "alphas.csv")


class TestGenotypeRefuses:
    @pytest.mark.parametrize(
        ("options", "words"),
        (
            ({"--channels": 0}, "channels: 0"),
            ({"--layers": 2}, "layers: 2"),
            ({"--layers": 0}, "layers: 0"),
            ({"--classes": 0}, "num_classes: 0"),
            ({"--image-size": 0}, "image_size: 0"),
        ),
        ids=str,
    )
    def test_numbers(self, refused, here, options, words):
        given = {"--channels": 4, "--classes": 10, **options}
        refused(["genotype", "info", here / "genotype.json", *[part for item in given.items() for part in item]], words)

    @pytest.mark.parametrize("text", (b"", b"__import__('os').mkdir('trace')", b"\xff\xfe", b"Genotype(normal=5)"))
    def test_a_text_that_is_none(self, refused, tmp_path, text, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "g.txt").write_bytes(text)
        refused(["genotype", "import", tmp_path / "g.txt", "--output", tmp_path / "g.json"], "g.txt")

    def test_files(self, refused, tmp_path):
        refused(["genotype", "import", tmp_path / "no.txt", "--output", tmp_path / "g.json"], "no.txt")
        refused(["genotype", "info", tmp_path / "no.json", "--channels", 4, "--classes", 10], "no.json")


class Evil:
    """Object that creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = str(file)

    def __reduce__(self):
        return (open, (self.file, "w"))


class TestDamagedRuns:
    @pytest.fixture(params=("searched", "retrained"))
    def interrupted(self, request, here, tmp_path) -> Path:
        """Run directory as it is before the last files are written."""
        ends = {"searched": "genotype.json", "retrained": "weights.pt"}[request.param]
        return shutil.copytree(here / request.param, tmp_path / "broken", ignore=shutil.ignore_patterns(ends))

    @pytest.mark.parametrize("share", (0, 0.5, 0.99))
    def test_a_truncated_checkpoint(self, refused, interrupted, share):
        file = interrupted / "checkpoints" / "last.ckpt"
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
        refused(["resume", interrupted], str(file), "damaged")

    @pytest.mark.parametrize("foreign", ({}, {"a": torch.zeros(1)}, {"state_dict": {}}), ids=("empty", "a", "state"))
    def test_a_foreign_checkpoint(self, refused, interrupted, foreign):
        file = interrupted / "checkpoints" / "last.ckpt"
        torch.save(foreign, file)
        refused(["resume", interrupted], str(file))

    def test_the_checkpoint_of_another_network(self, refused, interrupted, here):
        config = yaml.safe_load((interrupted / "config.yaml").read_text())
        config["space" if "space" in config else "network"]["channels"] = 6
        (interrupted / "config.yaml").write_text(yaml.safe_dump(config))
        refused(["resume", interrupted], "last.ckpt")

    def test_a_hostile_checkpoint_runs_nothing(self, refused, interrupted, tmp_path):
        torch.save({"state_dict": Evil(tmp_path / "trace")}, interrupted / "checkpoints" / "last.ckpt")
        refused(["resume", interrupted], "last.ckpt")
        assert not (tmp_path / "trace").exists()

    def test_hostile_weights_run_nothing(self, refused, here, tmp_path):
        run = shutil.copytree(here / "retrained", tmp_path / "r")
        torch.save({"stem": Evil(tmp_path / "trace")}, run / "weights.pt")
        refused(["evaluate", run], "weights.pt")
        assert not (tmp_path / "trace").exists()

    @pytest.mark.parametrize("weights", ({}, {"a": torch.zeros(1)}, {1: 2}, [1]), ids=str)
    def test_foreign_weights(self, refused, here, tmp_path, weights):
        run = shutil.copytree(here / "retrained", tmp_path / "r")
        torch.save(weights, run / "weights.pt")
        refused(["evaluate", run], "weights.pt")

    @pytest.mark.parametrize("text", ("", "no table"))
    def test_a_damaged_table(self, refused, interrupted, text):
        (interrupted / "metrics.csv").write_text(text)
        shutil.rmtree(interrupted / "checkpoints")
        refused(["resume", interrupted], "metrics.csv")


def list_into_a_closed_pipe(_):
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, sys.stdout.fileno())
    return main(["list"])


class TestProcesses:
    @pytest.mark.parametrize("command", ["search --output run", "retrain --genotype g.json --output run"])
    def test_a_config_that_is_not_there_is_named_before_pytorch_is_imported(self, tmp_path, command):
        given = [*command.split(), "--config", "none.yaml"]
        program = f"import sys; from nas_plugins.cli import main; print(main({given}), 'torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
        assert done.stdout == "2 False\n"
        assert done.stderr == "nas-plugins: none.yaml: cannot be read: No such file or directory\n"

    @pytest.mark.slow
    def test_a_search_says_its_epochs_and_its_end_and_nothing_else(self, here, tmp_path):
        call = [sys.executable, "-m", "nas_plugins.cli", *map(str, searching(tmp_path / "run", here / "search.yaml"))]
        done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 0
        assert done.stderr == ""
        number = r"\d+\.\d{4}"
        names = ("train_loss", "train_acc", "val_loss", "val_acc", "derived_val_acc")
        line = "  ".join(f"{name} {number}" for name in names)
        first, second, end = done.stdout.splitlines()
        assert re.fullmatch(f"epoch 1/2  {line}", first)
        assert re.fullmatch(f"epoch 2/2  {line}", second)
        assert end == f"{tmp_path}/run: searched; genotype in {tmp_path}/run/genotype.json"
        assert os.listdir(tmp_path) == ["run"]

    @pytest.mark.slow
    def test_an_interrupt_says_how_to_go_on(self, here, tmp_path):
        process = Command(searching(tmp_path / "run", here / "search.yaml", "--training.epochs", 500), tmp_path)
        process.wait((tmp_path / "run" / "metrics.csv").exists)
        process.send(signal.SIGINT)
        done = process.end()
        assert (done.status, done.err.count("\n")) == (130, 1), done.err
        assert done.err.startswith("nas-plugins: interrupted; nas-plugins resume")

    def test_a_pipe_that_closes_early_is_no_error(self, tmp_path):
        done = Command([], tmp_path, does=list_into_a_closed_pipe).end()
        assert (done.status, done.err) == (0, "")
