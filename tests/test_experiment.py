"""Runs: what they leave, that they can be repeated, and that a kill at any moment costs nothing but time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import nni
import nni.nas.nn.pytorch as nas
import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
import yaml
from forked import Command, nas_plugins
from PIL import Image
from small_searches import FEW
from torch import nn

from nas_plugins import DARTS, EDAS
from nas_plugins.data import cache
from nas_plugins.errors import InputError
from nas_plugins.report.page import write_report
from nas_plugins.runs.directory import read_config
from nas_plugins.runs.reader import read_run
from nas_plugins.training.derive import derive
from nas_plugins.training.preflight import check_epochs
from nas_plugins.training.retrain import evaluate, retrain
from nas_plugins.training.search import resume, search
from search_spaces.complexity import count_parameters
from search_spaces.dartopti import DartOptiSpace
from search_spaces.genotype import Genotype
from search_spaces.network import Network
from search_spaces.space import CellStack, StackedSpace
from strategies.fair_darts import FairDARTS

DATA = {"dataset": "digits", "train_images": 120, "test_images": 40, "batch_size": 32}
COMPUTE = {"accelerator": "cpu", "threads": 1}
SEARCH = {
    "seed": 3,
    "space": {"name": "DartsSpace", "channels": 4, "layers": 3, "nodes": 2, "operations": list(FEW)},
    "strategy": {"name": "EDAS", "sign_flip_epochs": 1},
    "data": {**DATA, "crop_padding": 1},
    "training": {"epochs": 3},
    "compute": COMPUTE,
}
RETRAIN = {
    "seed": 3,
    "network": {"channels": 4, "drop_path": 0.4},
    "data": {**DATA, "val_fraction": 0.25, "cutout": 3},
    "training": {"epochs": 3},
    "compute": COMPUTE,
}
# A kill needs the time to hit the middle of an epoch, and no more.
LONG = ["--training.epochs", "4", "--data.train_images", "240"]
METRICS = [
    "epoch",
    "train_loss",
    "train_acc",
    "val_loss",
    "val_acc",
    "derived_val_acc",
    "seconds",
    "peak_memory_mb",
    "seconds_per_iteration",
]
OPERATIONS = [*FEW, "none"]
CELL = (("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2), ("dil_conv_3x3", 0, 3), ("max_pool_3x3", 2, 3))
GENOTYPE = Genotype(cells=(CELL, CELL[:3]), layout=(0, 1, 1), reductions=(1, 2), concat=(2, 3))


class Strides(nas.ModelSpace):
    """Two strides: the super-kernel of NNI runs each, and cannot mix them."""

    def __init__(self, image_channels=1, num_classes=10):
        super().__init__()
        self.conv = nas.MutableConv2d(image_channels, num_classes, 3, stride=nni.choice("stride", [1, 2]))

    def forward(self, x):
        return self.conv(x).mean((2, 3))


class Columns(nas.ModelSpace):
    """A candidate that is called like a column of alphas.csv."""

    def __init__(self, image_channels=1, num_classes=10):
        super().__init__()
        candidates = {name: nn.Conv2d(image_channels, num_classes, 3) for name in ("epoch", "other")}
        self.layer = nas.LayerChoice(candidates, label="layer")

    def forward(self, x):
        return self.layer(x).mean((2, 3))


class ReductionFirst(StackedSpace):
    """Its first layer has the second of its cells, and one operation starts ahead of the others."""

    initial_alphas = {"normal/0->2": {"max_pool_3x3": 1.0}}
    baseline = Genotype(cells=(CELL, CELL), layout=(1, 0, 0), reductions=(0,), concat=(2, 3))
    search_metrics = DartOptiSpace.search_metrics

    def __init__(self, num_classes: int = 10, channels: int = 2, image_channels: int = 3):
        cells = CellStack(["normal", "reduce"], [1, 0, 0], [0], 2, ["skip_connect", "sep_conv_3x3", "max_pool_3x3"])
        super().__init__(cells, num_classes=num_classes, channels=channels, image_channels=image_channels, stem="cifar")


class SomebodysOwn(FairDARTS):
    """A strategy with sigmoid weights, of a name that nobody knows."""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with search.yaml, retrain.yaml and genotype.json."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "search.yaml").write_text(yaml.safe_dump(SEARCH))
    (folder / "retrain.yaml").write_text(yaml.safe_dump(RETRAIN))
    GENOTYPE.save(folder / "genotype.json")
    return folder


@pytest.fixture(scope="module")
def searched(files) -> Path:
    return search(files / "search.yaml", files / "searched")


@pytest.fixture(scope="module")
def retrained(files) -> Path:
    return retrain(files / "genotype.json", files / "retrain.yaml", files / "retrained")


@pytest.fixture(scope="module")
def somebodys(files) -> Path:
    """A search with a space and a strategy of somebody's own."""
    names = [f"--space={{name: {__name__}.ReductionFirst}}", f"--strategy={{name: {__name__}.SomebodysOwn}}"]
    return search(files / "search.yaml", files / "somebodys", [*names, "--training.epochs", "1"])


def table(file: Path) -> pd.DataFrame:
    """A table as it is written, but for what no run repeats."""
    return pd.read_csv(file, dtype=str).drop(
        columns=["seconds", "peak_memory_mb", "seconds_per_iteration"], errors="ignore"
    )


def assert_same_search(one: Path, other: Path) -> None:
    assert (one / "genotype.json").read_bytes() == (other / "genotype.json").read_bytes()
    assert (one / "alphas.csv").exists() == (other / "alphas.csv").exists()
    if (one / "alphas.csv").exists():  # NNI's own strategies have none
        assert (one / "alphas.csv").read_bytes() == (other / "alphas.csv").read_bytes()
    pd.testing.assert_frame_equal(table(one / "metrics.csv"), table(other / "metrics.csv"))


def assert_same_retraining(one: Path, other: Path) -> None:
    pd.testing.assert_frame_equal(table(one / "metrics.csv"), table(other / "metrics.csv"))
    weights, others = (torch.load(run / "weights.pt", weights_only=True) for run in (one, other))
    assert list(weights) == list(others)
    for name in weights:
        assert torch.equal(weights[name], others[name]), name


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def killed_in_the_second_epoch(arguments: list[str], run: Path) -> None:
    """Begin a search, and kill it after the row and the checkpoint of its first epoch."""
    process = Command([*arguments, "--output", run], run.parent)
    try:
        process.wait(lambda: (run / "metrics.csv").exists() and (run / "checkpoints" / "last.ckpt").exists())
        time.sleep(0.1)
        assert process.at_work, f"ended by itself: {process.end()}"
    finally:
        process.send(signal.SIGKILL)
        process.end()
    assert not (run / "genotype.json").exists()


class TestSearch:
    def test_the_run_directory(self, searched):
        assert {"config.yaml", "genotype.json", "metrics.csv", "alphas.csv", "checkpoints"} <= set(os.listdir(searched))
        assert os.listdir(searched / "checkpoints") == ["last.ckpt"]

    def test_metrics_have_a_row_an_epoch(self, searched):
        metrics = pd.read_csv(searched / "metrics.csv")
        assert list(metrics.columns) == METRICS
        assert list(metrics["epoch"]) == [0, 1, 2]
        assert metrics.notna().all(axis=None)
        assert metrics[["train_acc", "val_acc", "derived_val_acc"]].apply(lambda c: c.between(0, 1)).all(axis=None)
        assert (metrics["seconds"] > 0).all()

    def test_alphas_have_a_row_an_epoch_and_edge(self, searched):
        alphas = pd.read_csv(searched / "alphas.csv")
        assert list(alphas.columns) == ["epoch", "cell", "edge", *OPERATIONS]
        assert set(alphas["cell"]) == {"normal", "reduce"}
        edges = {f"{source}->{target}" for target in range(2, 4) for source in range(target)}
        assert alphas.groupby(["epoch", "cell"])["edge"].agg(set).map(lambda found: found == edges).all()
        assert len(alphas) == 3 * 2 * 5

    def test_the_architecture_is_learned(self, searched):
        alphas = pd.read_csv(searched / "alphas.csv", index_col=["epoch", "cell", "edge"])
        assert (alphas.loc[0] != alphas.loc[2]).to_numpy().any()

    def test_the_genotype_is_derived_from_the_last_alphas(self, searched, tmp_path):
        assert derive(searched, tmp_path / "again.json") == Genotype.load(searched / "genotype.json")

    def test_the_genotype_has_the_layers_of_the_space(self, searched):
        genotype = Genotype.load(searched / "genotype.json")
        assert len(genotype.layout) == 3
        assert genotype.reductions == (1, 2)

    def test_its_config_repeats_it_bit_for_bit(self, searched, tmp_path):
        assert_same_search(search(searched / "config.yaml", tmp_path / "again"), searched)

    @pytest.mark.slow
    def test_the_same_seed_gives_the_same_in_another_process(self, files, searched, tmp_path):
        arguments = ["search", "--config", files / "search.yaml", "--output", tmp_path / "run"]
        assert nas_plugins(arguments, tmp_path).status == 0
        assert_same_search(tmp_path / "run", searched)

    def test_another_seed_gives_another_search(self, files, searched, tmp_path):
        other = search(files / "search.yaml", tmp_path / "other", ["--seed", "4"])
        assert (other / "alphas.csv").read_bytes() != (searched / "alphas.csv").read_bytes()
        assert not table(other / "metrics.csv").equals(table(searched / "metrics.csv"))

    def test_also_another_strategy_repeats(self, files, tmp_path):
        overrides = ["--strategy", "{name: DARTS}", "--training.epochs", "2"]
        runs = [search(files / "search.yaml", tmp_path / name, overrides) for name in ("one", "two")]
        assert_same_search(*runs)


class Watch(pl.Callback):
    """The labels of the batches from which the architecture learned."""

    def __init__(self, labels_of) -> None:
        self.labels_of, self.labels = labels_of, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.labels += map(int, self.labels_of(batch))


class TestNni:
    @pytest.mark.parametrize("strategy", ("DARTS", "GumbelDARTS", "RandomOneShot"))
    def test_its_strategies_search_our_space(self, files, tmp_path, strategy):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({**SEARCH, "strategy": {}}))
        overrides = ["--strategy.name", f"nni.nas.strategy.{strategy}", "--training.epochs", "1"]
        run = search(tmp_path / "c.yaml", tmp_path / "run", overrides)
        assert len(Genotype.load(run / "genotype.json").layout) == 3
        assert list(pd.read_csv(run / "metrics.csv").columns) == METRICS

    @pytest.mark.parametrize("strategy", ("EDAS", "nni.nas.strategy.DARTS"))
    def test_its_hub_space_is_searched(self, tmp_path, strategy):
        config = {
            "space": {"name": "nni.nas.hub.pytorch.DARTS", "width": 4, "num_cells": 3, "dataset": "cifar"},
            "strategy": {"name": strategy},
            "data": {"dataset": "folder", "root": str(pictures(tmp_path / "pictures")), "batch_size": 10},
            "training": {"epochs": 1},
            "compute": COMPUTE,
        }
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        run = search(tmp_path / "c.yaml", tmp_path / "run")
        genotype = Genotype.load(run / "genotype.json")
        assert len(genotype.layout) == 3
        assert len(genotype.cells[0]) == 8

    @pytest.mark.parametrize(
        ("strategy", "labels_of"),
        [
            ("nni.nas.strategy.DARTS", lambda batch: batch["val"][1]),
            ("strategies.enas.ENAS", lambda batch: batch[0][1] if batch[1] == "val" else []),
        ],
        ids=["DARTS", "ENAS"],
    )
    def test_the_architecture_learns_from_shuffled_images(self, tmp_path, strategy, labels_of):
        """Those of a folder lie class by class."""
        data = {"dataset": "folder", "root": str(pictures(tmp_path / "pictures")), "batch_size": 5}
        config = {**SEARCH, "strategy": {"name": strategy}, "data": data, "training": {"epochs": 1}}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        watch = Watch(labels_of)
        search(tmp_path / "c.yaml", tmp_path / "run", callbacks=[watch])
        assert len(watch.labels) == 20 and watch.labels != sorted(watch.labels)
        assert set(watch.labels) == set(range(10))

    def test_what_it_found_can_be_retrained(self, files, tmp_path):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({**SEARCH, "strategy": {}}))
        overrides = ["--strategy.name", "nni.nas.strategy.DARTS", "--training.epochs", "1"]
        run = search(tmp_path / "c.yaml", tmp_path / "run", overrides)
        retrain(run / "genotype.json", files / "retrain.yaml", tmp_path / "r", ["--training.epochs", "1"])
        assert (tmp_path / "r" / "weights.pt").exists()

    def test_a_space_for_another_number_of_classes_is_one_clear_line(self, tmp_path):
        config = {
            "space": {"name": "nni.nas.hub.pytorch.DARTS", "width": 4, "num_cells": 3, "dataset": "cifar"},
            "data": {"dataset": "folder", "root": str(pictures(tmp_path / "pictures", classes=2)), "batch_size": 4},
            "training": {"epochs": 1},
            "compute": COMPUTE,
        }
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(InputError, match="class"):
            search(tmp_path / "c.yaml", tmp_path / "run")
        assert not (tmp_path / "run").exists()


def pictures(root: Path, classes: int = 10, each: int = 4) -> Path:
    """Noisy colour images in folders."""
    noise = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in range(classes):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(each):
                Image.fromarray(noise.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{index}.jpg")
    return root


class TestRetraining:
    def test_the_run_directory(self, retrained):
        names = {"config.yaml", "genotype.json", "metrics.csv", "weights.pt", "network.json", "checkpoints"}
        assert names <= set(os.listdir(retrained))
        assert not (retrained / "alphas.csv").exists()

    def test_metrics_have_a_row_an_epoch(self, retrained):
        metrics = pd.read_csv(retrained / "metrics.csv")
        assert list(metrics.columns) == METRICS
        assert list(metrics["epoch"]) == [0, 1, 2]
        assert metrics["derived_val_acc"].isna().all()
        assert metrics.drop(columns="derived_val_acc").notna().all(axis=None)

    def test_the_weights_are_those_of_the_genotypes_network(self, retrained):
        genotype = Genotype.load(retrained / "genotype.json")
        network = Network.from_genotype(genotype, num_classes=10, channels=4, image_channels=1)
        network.load_state_dict(torch.load(retrained / "weights.pt", weights_only=True))
        facts = json.loads((retrained / "network.json").read_text())
        assert facts["parameters"] == count_parameters(network)
        assert (facts["num_classes"], facts["image_channels"], facts["image_size"]) == (10, 1, 8)

    def test_its_config_repeats_it_bit_for_bit(self, retrained, tmp_path):
        again = retrain(retrained / "genotype.json", retrained / "config.yaml", tmp_path / "again")
        assert_same_retraining(again, retrained)

    def test_another_seed_gives_other_weights(self, files, retrained, tmp_path):
        other = retrain(files / "genotype.json", files / "retrain.yaml", tmp_path / "other", ["--seed", "4"])
        assert not table(other / "metrics.csv").equals(table(retrained / "metrics.csv"))

    def test_layers_deepens_the_genotype(self, files, tmp_path):
        overrides = ["--network.layers", "6", "--training.epochs", "1"]
        run = retrain(files / "genotype.json", files / "retrain.yaml", tmp_path / "deep", overrides)
        assert Genotype.load(run / "genotype.json") == GENOTYPE.deepen(6)

    def test_a_deepened_one_repeats_from_its_own_files(self, files, tmp_path):
        overrides = ["--network.layers", "6", "--training.epochs", "1"]
        run = retrain(files / "genotype.json", files / "retrain.yaml", tmp_path / "deep", overrides)
        again = retrain(run / "genotype.json", run / "config.yaml", tmp_path / "again")
        assert_same_retraining(again, run)

    def test_an_auxiliary_head_learns_and_is_not_counted(self, files, tmp_path):
        overrides = ["--network.auxiliary_weight", "0.4", "--data.image_size", "32", "--training.epochs", "1"]
        run = retrain(files / "genotype.json", files / "retrain.yaml", tmp_path / "auxiliary", overrides)
        network = Network.from_genotype(GENOTYPE, num_classes=10, channels=4, image_channels=1)
        assert json.loads((run / "network.json").read_text())["parameters"] == count_parameters(network)
        assert evaluate(run)["images"] == 40

    def test_without_held_out_images_it_validates_on_the_test_images(self, files, tmp_path):
        overrides = ["--data.val_fraction", "0", "--training.epochs", "1"]
        run = retrain(files / "genotype.json", files / "retrain.yaml", tmp_path / "all", overrides)
        assert evaluate(run)["test_acc"] == pytest.approx(pd.read_csv(run / "metrics.csv")["val_acc"].iloc[-1])


class TestEvaluate:
    def test_from_the_saved_files_alone(self, retrained, tmp_path):
        moved = shutil.copytree(retrained, tmp_path / "moved", ignore=shutil.ignore_patterns("checkpoints", "*.csv"))
        assert evaluate(moved) == evaluate(retrained)

    def test_it_writes_what_it_returns(self, retrained):
        result = evaluate(retrained)
        assert set(result) == {"test_acc", "test_loss", "images"}
        assert result["images"] == 40
        assert json.loads((retrained / "test.json").read_text()) == result

    def test_it_changes_nothing_else(self, retrained, tmp_path):
        copy = shutil.copytree(retrained, tmp_path / "copy")
        evaluate(copy)
        after = contents(copy)
        after.pop("test.json")
        before = contents(retrained)
        before.pop("test.json", None)
        assert after == before


class TestDerive:
    def test_layers(self, searched, tmp_path):
        assert len(derive(searched, tmp_path / "g.json", layers=8).layout) == 8
        assert len(Genotype.load(tmp_path / "g.json").layout) == 8

    def test_by_the_alpha_of_an_epoch(self, searched, tmp_path):
        run = shutil.copytree(searched, tmp_path / "run")
        alphas = pd.read_csv(run / "alphas.csv")
        first = alphas["epoch"] == 0
        alphas.loc[first, OPERATIONS] = 0.0
        alphas.loc[first, "sep_conv_3x3"] = 1.0
        alphas.to_csv(run / "alphas.csv", index=False)
        genotype = derive(run, tmp_path / "g.json", epoch=0)
        assert {edge.operation for cell in genotype.cells for edge in cell} == {"sep_conv_3x3"}
        assert derive(run, tmp_path / "last.json", epoch=2) == derive(run, tmp_path / "same.json")

    def test_by_other_methods(self, searched, tmp_path):
        sparse = derive(searched, tmp_path / "s.json", "sparse", threshold=0.0)
        edges = derive(searched, tmp_path / "e.json", "edge", threshold=0.0)
        assert len(sparse.cells[0]) == 4
        assert len(edges.cells[0]) == 10

    @pytest.mark.parametrize(("method", "threshold"), [("sparse", 0.5), ("edge", 0.85)])
    def test_with_no_option_it_is_what_the_search_derived(self, tmp_path, method, threshold):
        """At 0.85 so short a search keeps nothing, and falls back on darts."""
        strategy = {"name": "FairDARTS", "derivation": method, "threshold": threshold}
        config = {**SEARCH, "strategy": strategy, "training": {"epochs": 1}}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        run = search(tmp_path / "c.yaml", tmp_path / "run")
        found = Genotype.load(run / "genotype.json")
        assert derive(run, tmp_path / "g.json") == found
        assert derive(run, tmp_path / "deep.json", layers=6).cells == found.cells

    def test_an_option_alone_leaves_the_other_as_in_the_search(self, searched, tmp_path):
        run = shutil.copytree(searched, tmp_path / "run")
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["strategy"] = {"name": "FairDARTS", "derivation": "edge", "threshold": 0.0}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        assert len(derive(run, tmp_path / "e.json").cells[0]) == 10
        assert len(derive(run, tmp_path / "s.json", "sparse").cells[0]) == 4
        with pytest.raises(InputError, match="edge with threshold 0.99 gives no network"):
            derive(run, tmp_path / "e.json", threshold=0.99)

    def test_few_skips(self, searched, tmp_path):
        run = shutil.copytree(searched, tmp_path / "run")
        alphas = pd.read_csv(run / "alphas.csv")
        alphas["skip_connect"] = 5 + alphas.index / 100
        alphas.to_csv(run / "alphas.csv", index=False)

        def skips(**options):
            genotype = derive(run, tmp_path / "g.json", **options)
            return [sum(edge.operation == "skip_connect" for edge in cell) for cell in genotype.cells]

        assert skips() == [4, 4]
        assert skips(max_skips=1) == [1, 1]
        assert Genotype.load(tmp_path / "g.json").max_skips == 1
        assert skips(method="edge", threshold=0.4, max_skips=0, layers=6) == [0, 0]
        assert Genotype.load(tmp_path / "g.json").max_skips == 0

    def test_a_cut_table_is_named(self, searched, tmp_path):
        run = shutil.copytree(searched, tmp_path / "run")
        (run / "alphas.csv").write_text((run / "alphas.csv").read_text()[:-9])
        for read in (lambda: derive(run, tmp_path / "g.json"), lambda: write_report([run])):
            with pytest.raises(InputError, match=f"^{run}/alphas.csv: has no newline at its end: its last line may"):
                read()

    @pytest.mark.parametrize("table", ("as written", "sorted", "without labels"))
    def test_every_cell_is_that_of_its_label(self, somebodys, tmp_path, table):
        run = shutil.copytree(somebodys, tmp_path / "run")
        found = Genotype.load(run / "genotype.json")
        assert found.cells[0] != found.cells[1]
        alphas = pd.read_csv(run / "alphas.csv")
        assert list(alphas["cell"].unique()) == ["reduce", "normal"]
        if table == "sorted":
            alphas.sort_values(["epoch", "cell", "edge"]).to_csv(run / "alphas.csv", index=False)
        if table == "without labels":  # as that of a third-party space
            (run / "search.json").write_text('{"cells": [], "weights": "sigmoid"}')
        assert derive(run, tmp_path / "g.json") == found

    def test_cells_that_keep_nothing_are_named_once_the_file_is_there(self, somebodys, tmp_path):
        with warnings.catch_warnings(), pytest.raises(UserWarning) as said:
            warnings.simplefilter("error")
            derive(somebodys, tmp_path / "g.json")
        assert str(said.value) == "normal, reduce: the derivation keeps no operation; derived as 'darts'"
        assert Genotype.load(tmp_path / "g.json") == Genotype.load(somebodys / "genotype.json")

    def test_it_leaves_the_run_as_it_is(self, searched, tmp_path):
        before = contents(searched)
        derive(searched, tmp_path / "g.json")
        assert contents(searched) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strategy", "{name: nni.nas.strategy.Proxyless}"], "strategy.name: Proxyless cannot search DartsSpace: "),
        (["--strategy.relaxed_edges", "99"], "strategy: EDAS cannot search DartsSpace: relaxed_edges: 99 should be"),
        (
            ["--space", f"{{name: {__name__}.Strides}}"],
            "strategy: EDAS cannot search Strides: the candidates of 'stride' do not fit together: ",
        ),
        (["--space", f"{{name: {__name__}.Columns}}"], "space.name: 'layer' has a candidate 'epoch', "),
    ],
    ids=["Proxyless", "relaxed_edges", "stride", "candidate"],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_written(files, tmp_path, options, message):
    with pytest.raises(InputError, match=f"^{message}"):
        search(files / "search.yaml", tmp_path / "run", options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["search", "retrain"])
def test_images_beyond_the_memory_are_refused_before_anything_is_written(files, tmp_path, monkeypatch, command):
    monkeypatch.setattr(cache.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    given = {"search": [files / "search.yaml"], "retrain": [files / "genotype.json", files / "retrain.yaml"]}
    with pytest.raises(InputError, match=r"^data\.cache: the images take 0\.0 GB, and cpu has 0\.0 GB free: use false"):
        {"search": search, "retrain": retrain}[command](*given[command], tmp_path / "run", ["--data.cache", "true"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("strategy", "key"),
    [(EDAS(weights_first_epochs=2), "weights_first_epochs"), (DARTS(warmup_epochs=2), "warmup_epochs")],
    ids=["EDAS", "DARTS"],
)
def test_a_search_that_trains_only_weights_is_warned_of_by_the_key_that_was_given(strategy, key):
    with pytest.warns(UserWarning, match=rf"^strategy\.{key}: 2 is not below training\.epochs, 2: α"):
        check_epochs(strategy, 2)


class TestResume:
    @pytest.mark.parametrize(
        ("strategy", "flip"), [({}, "both"), ({"flip": None}, None), ({"flip": "weights"}, "weights")]
    )
    def test_a_search_from_before_edas_had_a_choice_of_flips_goes_on_as_it_began(self, tmp_path, strategy, flip):
        sections = {**SEARCH, "strategy": {"name": "EDAS", **strategy}}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(sections))
        assert read_config(tmp_path)[0].values["strategy"]["flip"] == flip

    @pytest.mark.slow
    def test_a_search_killed_in_the_middle_of_an_epoch(self, tmp_path):
        """Of the second order; test_kills.py has others, and retrainings, killed at all moments."""
        config = tmp_path / "search.yaml"
        space, strategy = {**SEARCH["space"], "nodes": 1}, {"name": "DARTS", "order": "second"}
        config.write_text(yaml.safe_dump({**SEARCH, "space": space, "strategy": strategy}))
        whole = search(config, tmp_path / "whole", LONG)
        run = tmp_path / "killed"
        killed_in_the_second_epoch(["search", "--config", str(config), *LONG], run)
        assert 1 <= len(pd.read_csv(run / "metrics.csv")) < 4

        resume(shutil.copytree(run, tmp_path / "resumed"))
        assert_same_search(tmp_path / "resumed", whole)

        # Killed between the tables and the checkpoint: the tables are ahead.
        ahead = shutil.copytree(run, tmp_path / "ahead")
        for table in ahead.glob("*.csv"):
            lines = (whole / table.name).read_text().splitlines(keepends=True)
            table.write_text("".join(line for line in lines if not line.startswith("3,")))
        resume(ahead)
        assert_same_search(ahead, whole)

    def test_a_retraining_without_a_checkpoint(self, files, retrained, tmp_path):
        run = tmp_path / "started"
        run.mkdir()
        for name in ("config.yaml", "genotype.json"):
            shutil.copy(retrained / name, run)
        resume(run)
        assert_same_retraining(run, retrained)

    def test_one_killed_after_its_last_epoch(self, searched, retrained, tmp_path):
        run = shutil.copytree(searched, tmp_path / "search", ignore=shutil.ignore_patterns("genotype.json"))
        resume(run)
        assert_same_search(run, searched)
        run = shutil.copytree(retrained, tmp_path / "retrain", ignore=shutil.ignore_patterns("weights.pt"))
        resume(run)
        assert_same_retraining(run, retrained)

    def test_a_retraining_killed_before_its_genotype_was_there_says_what_to_do(self, retrained, tmp_path):
        run = tmp_path / "started"
        run.mkdir()
        shutil.copy(retrained / "config.yaml", run)
        with pytest.raises((InputError, OSError), match=r"genotype\.json"):
            resume(run)
        assert os.listdir(run) == ["config.yaml"]

    def test_a_finished_run_stays_as_it_is(self, searched, retrained):
        for run in (searched, retrained):
            before = contents(run)
            assert resume(run) == run
            assert contents(run) == before

    @pytest.mark.parametrize(
        ("kind", "name"),
        [("searched", "genotype.json"), ("retrained", "weights.pt"), ("retrained", "network.json")],
    )
    def test_a_damaged_end_is_named_and_once_deleted_written_anew(self, request, tmp_path, kind, name):
        whole = request.getfixturevalue(kind)
        run = shutil.copytree(whole, tmp_path / "run")
        (run / name).write_bytes((whole / name).read_bytes()[:40])
        cure = f"delete it, and nas-plugins resume {run} writes it anew"
        with pytest.raises(InputError, match=f"^{run / name}: .*; {cure}$"):
            resume(run)
        if kind == "searched":
            with pytest.raises(InputError, match=f"{cure}$"):
                derive(run, tmp_path / "g.json")
        (run / name).unlink()
        resume(run)
        (assert_same_search if kind == "searched" else assert_same_retraining)(run, whole)
        assert (run / name).exists()


CHOICES = """
import nni.nas.nn.pytorch as nas
from torch import nn


class Choices(nas.ModelSpace):
    def __init__(self, width: int = 4, image_channels: int = 3):
        super().__init__()
        narrow, wide = nn.Conv2d(image_channels, width, 1), nn.Conv2d(image_channels, width, 3, padding=1)
        self.first = nas.LayerChoice({"none": narrow, "wide": wide}, label="NA")
        self.skip = nas.InputChoice(2, n_chosen=1, label="skip")
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.first(x)
        return self.head(self.skip([x, x.relu()]).mean(dim=(2, 3)))
"""


def test_a_space_of_single_choices_is_searched_and_reported(tmp_path, monkeypatch):
    (tmp_path / "somebodys_space.py").write_text(CHOICES)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({**SEARCH, "space": {"name": "somebodys_space.Choices", "width": 6}}))
    run = search(config, tmp_path / "run")
    sample = json.loads((run / "sample.json").read_text())
    assert set(sample) == {"NA", "skip"}
    alphas = pd.read_csv(run / "alphas.csv", keep_default_na=False)
    assert set(zip(alphas["cell"], alphas["edge"], strict=True)) == {("-", "NA"), ("-", "skip")}
    assert write_report([run]).exists()


def test_a_space_of_somebodys_own_that_starts_from_a_baseline_tells_the_distance(somebodys):
    (metrics,) = pd.read_csv(somebodys / "metrics.csv").to_dict("records")
    alpha = pd.read_csv(somebodys / "alphas.csv").set_index(["cell", "edge"]).loc[("normal", "0->2"), "max_pool_3x3"]
    sigmoids = torch.sigmoid(torch.tensor([1.0, alpha]))
    assert metrics["alpha_distance"] == pytest.approx(float((sigmoids[1] - sigmoids[0]).abs()), abs=1e-6)
    found = Genotype.load(somebodys / "genotype.json")
    assert metrics["distance"] == found.distance(ReductionFirst.baseline) > 0


def test_a_strategy_of_somebodys_own_is_drawn_by_the_weights_that_it_has(somebodys, searched, tmp_path):
    run = shutil.copytree(somebodys, tmp_path / "run")
    assert read_run(run).weights == "sigmoid"
    assert "The sigmoid weight of every operation" in write_report([run]).read_text(encoding="utf-8")
    assert read_run(searched).weights == "softmax"
