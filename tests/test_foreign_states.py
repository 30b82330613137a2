"""Files of a run that somebody has changed: facts, ends and checkpoints are refused in one line, never believed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
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


FIT = ("loops", "fit_loop")
OPTIMIZER = ("optimizer_states", 0)
ADAM = ("optimizer_states", 1)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ((*FIT, "epoch_progress", "current", "processed"), None, "current.processed: None should be such as 0"),
        ((*FIT, "epoch_progress", "current", "processed"), 10**9, "processed: 1000000000 should be 1, as SeededEpochs"),
        ((*FIT, "epoch_progress", "current", "ready"), -5, "epoch_progress.current.ready: -5 should be such as 0"),
        ((*FIT, "epoch_progress", "current", "ready"), 3, "epoch_progress.current.ready: 3 should be 1, as Seeded"),
        (("callbacks", "SeededEpochs", "next_epoch"), 2, "epoch_progress.current.processed: 1 should be 2, as Seeded"),
        (("epoch",), "x", "epoch: 'x' should be 0"),
        (("loops",), {}, "loops: {} should have a key fit_loop"),
        ((*FIT, "epoch_progress"), {}, "loops: {} should have a key current"),
        (
            (*FIT, "epoch_loop.batch_progress", "total", "ready"),
            "x",
            "batch_progress.total.ready: 'x' should be such as",
        ),
        (
            (*FIT, "epoch_loop.batch_progress", "total", "ready"),
            1.5,
            "batch_progress.total.ready: 1.5 should be such as",
        ),
        ((*FIT, "epoch_loop.batch_progress", "is_last_batch"), "x", "is_last_batch: 'x' should be such as False"),
        (
            (*FIT, "epoch_loop.manual_optimization.optim_step_progress", "total", "completed"),
            "x",
            "optim_step_progress.total.completed: 'x' should be such as 0",
        ),
        (
            (*FIT, "epoch_loop.state_dict", "_batches_that_stepped"),
            "x",
            "_batches_that_stepped: 'x' should be such as 0",
        ),
        ((*OPTIMIZER, "param_groups"), [], "optimizer_states.0.param_groups: [] should be a list of 1"),
        ((*OPTIMIZER, "param_groups", 0, "lr"), "x", "optimizer_states.0.param_groups.0.lr: 'x' should be such as 0.0"),
        (
            (*OPTIMIZER, "param_groups", 0, "lr"),
            float("nan"),
            "optimizer_states.0.param_groups.0.lr: nan should be such",
        ),
        ((*OPTIMIZER, "param_groups", 0, "momentum"), None, "param_groups.0.momentum: None should be such as 0.9"),
        ((*OPTIMIZER, "param_groups", 0, "initial_lr"), "x", "initial_lr: 'x' should be such as 0.0"),
        ((*ADAM, "param_groups", 0, "initial_lr"), "x", "optimizer_states.1.initial_lr: 'x' should be such as 0.0"),
        ((*OPTIMIZER, "param_groups", 0, "params", 0), 1, "its parameters are not those of the run, in their order"),
        ((*OPTIMIZER, "state", 0, "momentum_buffer"), torch.zeros(77), "momentum_buffer: tensor([0., 0., 0., 0., 0.,"),
        (
            (*OPTIMIZER, "state", 0, "momentum_buffer"),
            "x",
            "0.state.0.momentum_buffer: 'x' should be a tensor of (6, 1",
        ),
        ((*OPTIMIZER, "state", 10**6), {}, "0.state.1000000: {} should be the state of one of its parameters"),
        ((*OPTIMIZER, "state", 0), 5, "0.state.0: 5 should be the state of one of its parameters"),
        ((*ADAM, "state", 0), {"step": torch.tensor(1.0)}, "1.state.0.exp_avg: None should be a tensor of "),
        ((*ADAM, "state", 0), {"step": "x"}, "1.state.0.step: 'x' should be a tensor of ()"),
    ],
    ids=lambda value: str(value[-1]) if isinstance(value, tuple) else "",
)
def test_a_state_of_another_kind_is_refused(refused, here, tmp_path, place, value, words):
    run = shutil.copytree(here / "EDAS", tmp_path / "run", ignore=shutil.ignore_patterns("genotype.json"))
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    inner = checkpoint
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    torch.save(checkpoint, run / "checkpoints/last.ckpt")
    err = refused("resume", run)
    assert err.startswith(f"nas-plugins: {run}/checkpoints/last.ckpt: not the checkpoint of this run: ")
    assert words in err and err.endswith("; delete it, and a resume begins at the first epoch\n")
    assert not (run / "genotype.json").exists()


def test_numbers_that_are_not_finite_give_no_architecture(refused, here, tmp_path):
    run = shutil.copytree(here / "EDAS", tmp_path / "run", ignore=shutil.ignore_patterns("genotype.json"))
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    name = "architecture._parameters_by_edge.edge reduce/0->3"
    checkpoint["state_dict"][name] *= torch.nan
    torch.save(checkpoint, run / "checkpoints/last.ckpt")
    assert f"not the checkpoint of this run: state_dict.{name}: has values that are not finite" in refused(
        "resume", run
    )
    assert not (run / "genotype.json").exists()


def test_a_table_of_contributions_that_the_checkpoint_is_beyond_is_missed(refused, tmp_path):
    strategy, space = {"name": "DDARTS"}, {"name": "DDartsSpace", "channels": 2, "layers": 3, "nodes": 1}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**SEARCH, "space": space, "strategy": strategy}))
    run = search(tmp_path / "c.yaml", tmp_path / "run")
    (run / "genotype.json").unlink()
    table = (run / "contributions.csv").read_bytes()
    (run / "contributions.csv").unlink()
    err = refused("resume", run)
    assert f"{run}/contributions.csv: it is missing, and the checkpoint is beyond epochs that it had; delete all" in err
    (run / "contributions.csv").write_bytes(table)
    assert main(["resume", str(run)]) == 0
