"""Retraining of what a search of a space without cells found."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import nni
import nni.nas.nn.pytorch as nas
import pytest
import pytorch_lightning as pl
import torch
import yaml
from nni.nas.hub.pytorch.utils.nn import DropPath
from torch import nn

from nas_plugins.cli import main
from nas_plugins.config import read_retrain_sample
from nas_plugins.report.summary import results
from nas_plugins.runs import read_run
from nas_plugins.sweep.trial import merged
from nas_plugins.training.networks import auxiliary_head, drop_path_setter, fitting_sample, network_of_sample
from nas_plugins.training.retrain import evaluate, retrain_sample
from nas_plugins.training.search import resume, search
from search_spaces.genotype import Genotype

DATA = {"dataset": "digits", "train_images": 64, "test_images": 20, "batch_size": 32}
OTHERS = {"data": DATA, "training": {"epochs": 2}, "compute": {"accelerator": "cpu", "threads": 1}}
COLOUR = SimpleNamespace(num_classes=10, image_channels=3, image_size=32)
"""What a network is told of CIFAR-10."""
RETRAIN = {"seed": 1, "network": {"channels": 4, "drop_path": 0.2, "auxiliary_weight": 0.4}, **OTHERS}


class Choices(nas.ModelSpace):
    """A choice of layers, one of inputs, and one of a width."""

    def __init__(self, num_classes: int = 10, image_channels: int = 1, widths: tuple[int, ...] = (2, 4)):
        super().__init__()
        width = nni.choice("width", list(widths))
        self.stem = nas.MutableConv2d(image_channels, width, 3)
        self.layer = nas.LayerChoice({"rectified": nn.ReLU(), "plain": nn.Identity()}, label="layer")
        self.skip = nas.InputChoice(2, n_chosen=1, label="skip")
        self.head = nas.MutableLinear(width, num_classes)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.skip([x, self.layer(x)]).mean(dim=(2, 3)))


class Kernels(nas.ModelSpace):
    """A choice of shapes, which are tuples."""

    def __init__(self):
        super().__init__()
        self.conv = nas.MutableConv2d(1, 10, kernel_size=nni.choice("kernel", [(1, 3), (3, 1)]))


class Stop(pl.Callback):
    """Interrupts a training in its second epoch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with a finished search, and retrain.yaml with the recipe of a network of cells."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "search.yaml").write_text(
        yaml.safe_dump({"space": {"name": f"{__name__}.Choices", "widths": [2, 4, 6]}, **OTHERS})
    )
    (folder / "retrain.yaml").write_text(yaml.safe_dump(RETRAIN))
    search(folder / "search.yaml", folder / "searched", ["--strategy.name", "DARTS", "--training.epochs", "1"])
    return folder


@pytest.fixture(scope="module")
def retrained(here) -> Path:
    with pytest.warns(UserWarning, match=r"^not used: network.channels .*drop_path \(Choices.*auxiliary"):
        return retrain_sample(here / "searched" / "sample.json", here / "retrain.yaml", here / "retrained")


def config_of(folder: Path, space: dict[str, object], **network: float) -> Path:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({"space": space, "network": network, **OTHERS}))
    return file


class TestARunOfASample:
    def test_has_the_sample_and_the_space_of_the_search(self, here, retrained):
        run = read_run(retrained)
        assert run.sample == json.loads((here / "searched" / "sample.json").read_text())
        assert run.config["space"] == {"name": f"{__name__}.Choices", "widths": [2, 4, 6]}
        recipe = {"weights": "new", "auxiliary_weight": 0.4, "drop_path": 0.2, "gradient_clip_val": 5.0}
        assert run.config["network"] == recipe

    def test_trains_the_network_of_the_sample(self, retrained):
        run = read_run(retrained)
        width = run.sample["width"]
        weights = torch.load(retrained / "weights.pt", weights_only=True)
        assert {name: tuple(value.shape) for name, value in weights.items()} == {
            "stem.weight": (width, 1, 3, 3),
            "stem.bias": (width,),
            "head.weight": (10, width),
            "head.bias": (10,),
        }
        assert run.network["parameters"] == sum(value.numel() for value in weights.values())
        assert run.network["multiply_adds"] == width * (9 * 36 + 10)

    def test_is_evaluated(self, retrained):
        assert evaluate(retrained)["images"] == 20

    def test_belongs_to_its_search_in_a_report(self, here, retrained):
        (row,) = results([here / "searched", retrained]).to_dict("records")
        assert (row["method"], row["searches"], row["retrainings"]) == ("DARTS", 1, 1)

    def test_goes_on_where_it_stopped(self, here, retrained, tmp_path, recwarn):
        given = (here / "searched" / "sample.json", here / "retrain.yaml", tmp_path / "run")
        with pytest.raises(KeyboardInterrupt):
            retrain_sample(*given, callbacks=[Stop()])
        resume(tmp_path / "run")
        weights, others = (torch.load(run / "weights.pt", weights_only=True) for run in (tmp_path / "run", retrained))
        assert all(torch.equal(weights[name], others[name]) for name in others)

    def test_may_change_the_space_of_the_search(self, here):
        read = read_retrain_sample(here / "retrain.yaml", ["--space.widths", "[2, 8]"], {"name": f"{__name__}.Choices"})
        assert read.values["space"] == {"name": f"{__name__}.Choices", "widths": [2, 8]}
        assert read.unused == ("network.channels",)


class TestARecipe:
    def test_drops_paths_and_has_an_auxiliary_head_where_nnis_cells_have_them(self, tmp_path):
        space = {"name": "nni.nas.hub.pytorch.NASNet", "width": [2, 4], "num_cells": 3}
        config = read_retrain_sample(config_of(tmp_path, space, drop_path=0.5, auxiliary_weight=0.4))
        operation = {f"op_{node}_{slot}": "max_pool_3x3" for node in range(2, 7) for slot in (0, 1)}
        source = {f"input_{node}_{slot}": [slot] for node in range(2, 7) for slot in (0, 1)}
        cells = {f"{c}/{key}": value for c in ("normal", "reduce") for key, value in (operation | source).items()}
        network = network_of_sample({"width": 2, "depth": 3, **cells}, config, COLOUR)
        setter = drop_path_setter(network)
        assert setter is not None and auxiliary_head(network) is not None
        setter(0.25)
        assert {m.drop_prob for m in network.modules() if isinstance(m, DropPath)} == {0.25}


def test_values_are_those_of_the_space_where_json_has_no_such_type():
    assert fitting_sample(Kernels(), {"kernel": [3, 1]}) == {"kernel": (3, 1)}


def test_a_sample_of_cells_is_retrained_by_its_genotype(here, tmp_path):
    sample = {f"{cell}/op_2_{slot}": "max_pool_3x3" for cell in ("normal", "reduce") for slot in (0, 1)}
    sample |= {f"{cell}/input_2_{slot}": [slot] for cell in ("normal", "reduce") for slot in (0, 1)}
    (tmp_path / "sample.json").write_text(json.dumps(sample))
    overrides = ["--space", "{name: DartsSpace, nodes: 1, layers: 3}", "--training.epochs", "1"]
    overrides += ["--network.auxiliary_weight", "0"]
    run = retrain_sample(tmp_path / "sample.json", here / "retrain.yaml", tmp_path / "run", overrides)
    assert len(Genotype.load(run / "genotype.json").layout) == 3
    assert not (run / "sample.json").exists() and "space" not in read_run(run).config


def test_a_trial_takes_its_sample_from_the_tuner_too(here):
    sample = str(here / "searched" / "sample.json")
    task = merged(here / "retrain.yaml", [], None, {"sample": sample, "seed": 2})
    assert task == (None, sample, ["--seed", "2\n...\n"])
    assert merged(here / "retrain.yaml", [], None, {}, sample).sample == sample


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer": "curved"}, "sample: layer: 'curved' should be one of rectified, plain, as Choices has it"),
        ({"width": None}, "sample: width: None should be one of 2, 4, 6"),
        ({"skip": [0, 1]}, "sample: skip: [0, 1] should be a list of 1 of 0, 1"),
        ({"skip": 7}, "sample: skip: 7 should be a list of 1 of 0, 1"),
        ({"layer": ...}, "does not fit Choices: Label layer is missing from sample; the labels of the space are"),
    ],
)
def test_a_sample_that_does_not_fit_is_one_line(here, tmp_path, capsys, change, words):
    sample = json.loads((here / "searched" / "sample.json").read_text()) | change
    kept = {label: value for label, value in sample.items() if value is not ...}
    (tmp_path / "sample.json").write_text(json.dumps(kept))
    overrides = ["--space", f"{{name: {__name__}.Choices, widths: [2, 4, 6]}}"]
    assert_refused(tmp_path / "sample.json", here, capsys, words, *overrides)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"layer": "pl', "is no JSON"),
        ("[1]", "should be a JSON object, not list"),
        (None, "cannot be read: No such file"),
        ("{}", "space.name: missing: the sample lies in no run directory of a search"),
    ],
)
def test_a_file_that_is_no_sample_is_one_line(here, tmp_path, capsys, text, words):
    if text is not None:
        (tmp_path / "sample.json").write_text(text)
    assert_refused(tmp_path / "sample.json", here, capsys, words)


def test_a_search_config_is_one_line(here, capsys):
    (here / "both.yaml").write_text(yaml.safe_dump({"strategy": {"name": "DARTS"}, **RETRAIN}))
    assert_refused(here / "searched" / "sample.json", here, capsys, "the section 'strategy'", config="both.yaml")


def assert_refused(sample: Path, here: Path, capsys, words: str, *overrides: str, config: str = "retrain.yaml") -> None:
    arguments = ["retrain", "--sample", sample, "--config", here / config, "--output", here / "none", *overrides]
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1, error
    assert not (here / "none").exists()


def test_a_genotype_and_a_sample_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        main(["retrain", "--sample", "a", "--genotype", "b", "--config", "c", "--output", "d"])
    assert "not allowed with" in capsys.readouterr().err
