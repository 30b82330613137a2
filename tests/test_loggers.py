"""Tests of the key logger: what the loggers get, that a resume continues them, and that a run is the same without."""

from __future__ import annotations

import csv
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import pytorch_lightning as pl
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nas_plugins.cli import main
from nas_plugins.config.reader import read_retrain
from nas_plugins.errors import InputError
from nas_plugins.runs import read_run
from nas_plugins.training.retrain import retrain
from nas_plugins.training.search import resume, search
from search_spaces.genotype import Genotype

BASE = {
    "data": {"dataset": "digits", "train_images": 96, "test_images": 40, "batch_size": 32},
    "training": {"epochs": 3},
    "compute": {"accelerator": "cpu", "threads": 1},
}
SPACE = {"name": "DartsSpace", "channels": 2, "layers": 3, "nodes": 2}
CELL = (("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2))
GENOTYPE = Genotype(cells=(CELL, CELL), layout=(0, 1, 1), reductions=(1, 2), concat=(2,))
METRICS = ("train_loss", "train_acc", "val_loss", "val_acc")
LOGGERS = ["tensorboard", "csv", "wandb", "mlflow"]
HERE = [name for name in LOGGERS if name == "csv" or find_spec(name)]
"""Loggers that are installed: those of the extra dev, and others if there are."""


class Interrupt(pl.Callback):
    """Interrupts a run in its second epoch, after the log and before the checkpoint."""

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def configs(tmp_path_factory) -> Path:
    """Folder with search.yaml, retrain.yaml and genotype.json."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "search.yaml").write_text(yaml.safe_dump({**BASE, "space": SPACE, "strategy": {"name": "EDAS"}}))
    (folder / "retrain.yaml").write_text(yaml.safe_dump({**BASE, "network": {"channels": 2}}))
    GENOTYPE.save(folder / "genotype.json")
    return folder


@pytest.fixture(scope="module")
def searched(configs) -> Path:
    """A search with every logger that is installed."""
    return search(configs / "search.yaml", configs / "searched", ["--logger", str(HERE)])


@pytest.fixture(scope="module")
def retrained(configs) -> Path:
    """A retraining that was interrupted and resumed, with every logger that is installed."""
    arguments = (configs / "genotype.json", configs / "retrain.yaml", configs / "retrained", ["--logger", str(HERE)])
    with pytest.raises(KeyboardInterrupt):
        retrain(*arguments, callbacks=[Interrupt()])
    assert json.loads((configs / "retrained/logs/logged.json").read_text())["csv"]["epochs"] == 2
    return resume(configs / "retrained")


def events(run: Path) -> EventAccumulator:
    """Return what TensorBoard shows of a run."""
    return EventAccumulator(str(run / "logs/tensorboard"), size_guidance={"images": 0}).Reload()


def rows(run: Path) -> list[dict[str, str]]:
    """Return the rows of the CSV log of a run."""
    with (run / "logs/csv/metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class TestASearch:
    def test_is_the_same_without_loggers(self, configs, searched):
        plain = search(configs / "search.yaml", configs / "plain")
        assert not (plain / "logs").exists()
        for name in ("alphas.csv", "genotype.json"):
            assert (plain / name).read_bytes() == (searched / name).read_bytes()
        measured = ["seconds", "peak_memory_mb", "seconds_per_iteration"]
        one, other = (read_run(run).metrics.drop(columns=measured) for run in (plain, searched))
        pd.testing.assert_frame_equal(one, other, check_exact=True)

    def test_shows_its_metrics_in_tensorboard(self, searched):
        metrics, shown = read_run(searched).metrics, events(searched)
        for tag in (*(f"metrics/{name}" for name in (*METRICS, "derived_val_acc")), "resources/seconds"):
            points = [(event.step, event.value) for event in shown.Scalars(tag)]
            assert points == [(epoch, pytest.approx(value)) for epoch, value in enumerate(metrics[Path(tag).name])]

    def test_shows_the_weight_of_every_candidate_in_tensorboard(self, searched):
        shown, alphas = events(searched), read_run(searched).alphas
        tags = [tag for tag in shown.Tags()["scalars"] if tag.startswith("weights/")]
        assert len(tags) == alphas.groupby("epoch").size()[0] * (len(alphas.columns) - 3)
        edge = [tag for tag in tags if tag.startswith("weights/normal/0-2/")]
        for epoch in range(3):
            assert sum(shown.Scalars(tag)[epoch].value for tag in edge) == pytest.approx(1)
        (layout,) = shown.Tensors("custom_scalars__config__")
        assert b"0 \xe2\x86\x92 2" in layout.tensor_proto.string_val[0]

    def test_shows_its_cells_and_a_heat_map_in_tensorboard(self, searched):
        shown = events(searched)
        for name in ("cells", "weights"):
            images = shown.Images(name)
            assert [image.step for image in images] == [0, 1, 2]
            assert images[-1].width > 300

    def test_has_its_config_and_its_final_accuracy_as_hyperparameters(self, searched):
        shown, accuracy = events(searched), read_run(searched).metrics["derived_val_acc"].iloc[-1]
        assert [event.value for event in shown.Scalars("final/derived_val_acc")] == [pytest.approx(accuracy)]
        assert b"strategy/sign_flip_epochs" in str(shown.summary_metadata).encode()

    def test_has_the_same_values_in_its_csv_log(self, searched):
        metrics = read_run(searched).metrics
        logged = rows(searched)
        assert [row["step"] for row in logged] == ["0", "1", "2"]
        assert [float(row["metrics/val_acc"]) for row in logged] == list(metrics["val_acc"])
        hyperparameters = yaml.safe_load((searched / "logs/csv/hparams.yaml").read_text())
        assert hyperparameters["strategy"]["name"] == "EDAS"


class TestAResumedRetraining:
    def test_has_every_epoch_once_in_its_csv_log(self, retrained):
        metrics = read_run(retrained).metrics
        assert [row["step"] for row in rows(retrained)] == ["0", "1", "2"]
        for name in METRICS:
            assert [float(row[f"metrics/{name}"]) for row in rows(retrained)] == list(metrics[name])

    def test_has_every_epoch_once_in_tensorboard(self, retrained):
        shown = events(retrained)
        assert [event.step for event in shown.Scalars("metrics/val_acc")] == [0, 1, 2]
        assert [event.step for event in shown.Scalars("final/val_acc")] == [2]
        assert [image.step for image in shown.Images("cells")] == [0, 1, 2]

    @pytest.mark.skipif("mlflow" not in HERE, reason="needs the extra mlflow")
    def test_has_every_epoch_once_in_mlflow(self, retrained):
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{retrained / 'logs/mlflow/mlflow.db'}")
        (experiment,) = client.search_experiments(filter_string="name = 'nas-plugins'")
        (run,) = client.search_runs([experiment.experiment_id])
        assert (run.info.run_name, run.info.status) == ("retrained", "FINISHED")
        assert run.data.params["network/channels"] == "2"
        assert [m.step for m in client.get_metric_history(run.info.run_id, "metrics/val_acc")] == [0, 1, 2]
        assert client.list_artifacts(run.info.run_id, "cells")[0].path == "cells/epoch_0000.png"

    @pytest.mark.skipif("wandb" not in HERE, reason="needs the extra wandb")
    def test_has_one_run_of_wandb_in_two_parts(self, retrained):
        identifier = json.loads((retrained / "logs/logged.json").read_text())["wandb"]["identifier"]
        parts = sorted((retrained / "logs/wandb").glob("offline-run-*"))
        assert [part.name.rpartition("-")[2] for part in parts] == [identifier] * 2
        assert all((part / f"run-{identifier}.wandb").stat().st_size for part in parts)


def test_a_run_that_begins_again_begins_its_log_again(configs, retrained):
    again = configs / "again"
    shutil.copytree(retrained, again)
    for name in ("weights.pt", "network.json", "checkpoints/last.ckpt"):
        (again / name).unlink()
    resume(again)
    assert [row["step"] for row in rows(again)] == ["0", "1", "2"]
    assert [event.step for event in events(again).Scalars("metrics/val_acc")] == [0, 1, 2]


@pytest.mark.parametrize("name", [name for name in LOGGERS if name not in HERE])
def test_a_missing_package_is_named_before_the_run_starts(name, configs, tmp_path, capsys):
    config, output = str(configs / "search.yaml"), str(tmp_path / "run")
    assert main(["search", "--config", config, "--output", output, "--logger", f"[csv, {name}]"]) == 2
    assert f"logger: {name} is not installed: pip install 'nas-plugins[{name}]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


class TestTheKey:
    def test_is_empty_by_default(self, configs):
        assert read_retrain(configs / "retrain.yaml").loggers == ()

    @pytest.mark.parametrize("text", ["csv", "[csv]", "[csv, csv]"])
    def test_takes_a_name_or_a_list_of_names(self, configs, text):
        assert read_retrain(configs / "retrain.yaml", ["--logger", text]).loggers == ("csv",)

    def test_refuses_a_name_that_does_not_exist(self, configs):
        with pytest.raises(InputError, match="logger: 'tensorbord' should be one of tensorboard, wandb, mlflow, csv"):
            read_retrain(configs / "retrain.yaml", ["--logger", "tensorbord"])
