"""Files of a run that somebody has changed: facts, ends and checkpoints are refused in one line, never believed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from test_hostile import GENOTYPE, RETRAIN, SEARCH

from nas_plugins.cli import main
from nas_plugins.experiment import search
from nas_plugins.training import retrain


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with the finished runs EDAS and retrained."""
    folder = tmp_path_factory.mktemp("here")
    for name, config in (("search", SEARCH), ("retrain", RETRAIN)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    GENOTYPE.save(folder / "g.json")
    search(folder / "search.yaml", folder / "EDAS")
    retrain(folder / "g.json", folder / "retrain.yaml", folder / "retrained")
    return folder


@pytest.fixture
def refused(capsys):
    """Run a command that must be refused, and give its line."""

    def refuse(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        err = capsys.readouterr().err
        assert err.startswith("nas-plugins: ") and err.count("\n") == 1 and len(err) < 2000
        return err

    return refuse


@pytest.mark.parametrize(("run", "name"), [("EDAS", "genotype.json"), ("retrained", "network.json")])
def test_a_deep_text_at_the_end_of_a_run_is_refused_with_what_to_do(refused, here, tmp_path, run, name):
    run = shutil.copytree(here / run, tmp_path / "run")
    (run / name).write_text("[" * 200_000)
    assert refused("resume", run).endswith(f"; delete it, and nas-plugins resume {run} writes it anew\n")


@pytest.mark.parametrize(
    "text",
    ("[" * 200_000, "[]", '{"cells": 5}', '{"cells": [[]]}', '{"cells": ["a", "a"]}', '{"cells": [], "weights": []}'),
    ids=range(6),
)
def test_hostile_facts_of_a_search_are_refused(refused, here, tmp_path, text):
    run = shutil.copytree(here / "EDAS", tmp_path / "run")
    (run / "search.json").write_text(text)
    for command in (["report", run], ["derive", run, "--output", tmp_path / "g.json"]):
        assert f"nas-plugins: {run}/search.json: " in refused(*command)


def test_facts_of_other_cells_give_no_other_architecture(refused, here, tmp_path):
    run = shutil.copytree(here / "EDAS", tmp_path / "run")
    (run / "search.json").write_text('{"cells": ["normal", "other"], "weights": null}')
    err = refused("derive", run, "--output", tmp_path / "g.json")
    assert "alphas.csv: has the cells normal, reduce, search.json normal, other; put back" in err
