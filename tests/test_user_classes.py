"""Searches and retrainings with a LightningModule and a data module of the user's own, by import path."""

import contextlib
import json
import sqlite3

import pandas as pd
import pytest
import pytorch_lightning as pl
import yaml

from nas_plugins.config import read_retrain, read_search
from nas_plugins.errors import InputError
from nas_plugins.export import export
from nas_plugins.report import summary as tables
from nas_plugins.report.page import write_report
from nas_plugins.runs import read_run
from nas_plugins.sweep.records import read_trials
from nas_plugins.training import evaluate, predict, retrain_sample
from nas_plugins.training.search import resume, search

EVALUATOR = {"class_path": "series_parts.Margin", "init_args": {"learning_rate": 0.01}, "metric": "val_error"}
SEARCH = {
    "space": {"name": "series_parts.Filters", "channels": 4},
    "strategy": {"name": "DARTS", "learning_rate": 0.01},
    "evaluator": EVALUATOR,
    "data": {"class_path": "series_parts.DigitSeries", "init_args": {"samples": 120}},
    "training": {"epochs": 2},
    "compute": {"accelerator": "cpu"},
}
RETRAIN = {key: SEARCH[key] for key in ("evaluator", "data", "training", "compute")} | {"network": {}}


def write(folder, config):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def searched(folder):
    return search(write(folder / "search", SEARCH), folder / "found")


@pytest.fixture(scope="module")
def retrained(folder, searched):
    run = retrain_sample(searched / "sample.json", write(folder / "retrain", RETRAIN), folder / "trained")
    evaluate(run)
    return run


class TestSearch:
    def test_its_table_has_what_the_module_logs_of_supernet_and_derived_network(self, searched):
        metrics = pd.read_csv(searched / "metrics.csv")
        assert {"val_error", "derived_val_error", "seconds"} < set(metrics.columns)
        assert "val_acc" not in metrics
        assert metrics["val_error"].between(0, 1).all() and len(metrics) == 2

    def test_its_config_has_the_defaults_of_the_classes(self, searched):
        config = yaml.safe_load((searched / "config.yaml").read_text())
        assert config["evaluator"]["init_args"] == {"learning_rate": 0.01, "margin": 1.0}
        assert config["data"]["init_args"] == {"batch_size": 32, "samples": 120}
        assert config["training"] == {"epochs": 2}

    def test_finds_a_sample_of_the_space(self, searched):
        assert set(json.loads((searched / "sample.json").read_text())) == {"layer_0", "layer_1"}

    def test_goes_on_after_an_interrupt_to_the_same_end(self, searched, folder):
        class Interrupt(pl.Callback):
            def on_train_epoch_start(self, trainer, pl_module):
                if trainer.current_epoch == 1:
                    raise KeyboardInterrupt

        run = folder / "interrupted"
        with pytest.raises(KeyboardInterrupt):
            search(folder / "search" / "config.yaml", run, callbacks=[Interrupt()])
        resume(run)
        assert (run / "alphas.csv").read_text() == (searched / "alphas.csv").read_text()

    def test_keeps_costs_of_one_sample_low(self, searched, folder):
        run = search(
            folder / "search" / "config.yaml",
            folder / "cheap",
            ["--training.epochs", "1", "--cost", "{metric: multiply_adds, target: 1k}"],
        )
        (cost,) = json.loads((run / "cost.json").read_text())["costs"]
        stem, head = 8 * 8 * 4, 4 * 10
        convolutions = [8 * 4 * 4 * size for size in (3, 5)]
        assert cost["derived"] - stem - head in {0, *convolutions, *(a + b for a in convolutions for b in convolutions)}


class TestRetraining:
    def test_its_network_has_the_sizes_of_the_data(self, retrained):
        size = json.loads((retrained / "network.json").read_text())
        assert size["num_classes"] == 10 and size["image_channels"] == 8
        assert "image_size" not in size

    def test_is_tested_by_the_module(self, retrained):
        tested = json.loads((retrained / "test.json").read_text())
        assert set(tested) == {"test_error", "samples"}
        assert tested["samples"] == 24
        assert not (retrained / "confusion.csv").exists()

    def test_without_an_evaluator_samples_are_classified(self, folder, searched):
        config = {key: RETRAIN[key] for key in RETRAIN if key != "evaluator"}
        config["training"] = {"epochs": 1}
        run = retrain_sample(searched / "sample.json", write(folder / "plain", config), folder / "classified")
        assert set(evaluate(run)) == {"test_acc", "test_loss", "samples"}
        assert pd.read_csv(run / "confusion.csv", index_col=0).to_numpy().sum() == 24

    def test_is_exported_as_weights(self, retrained, tmp_path):
        exported = export(retrained, "safetensors", tmp_path / "model.safetensors")
        assert exported.images == 24
        card = (tmp_path / "model.safetensors.md").read_text()
        assert "samples" in card and "(batch, 8, 8)" in card and "pixels" not in card

    def test_predicts_no_image_files(self, retrained, tmp_path):
        (tmp_path / "a.png").touch()
        with pytest.raises(InputError, match="predict takes runs with the data and the tasks of this project"):
            predict(retrained, [tmp_path / "a.png"])

    def test_needs_a_test_only_to_be_evaluated(self, folder, searched):
        config = RETRAIN | {"evaluator": EVALUATOR | {"class_path": "series_parts.Untested"}, "training": {"epochs": 1}}
        run = retrain_sample(searched / "sample.json", write(folder / "untested", config), folder / "no_test")
        with pytest.raises(InputError, match="evaluator.class_path: Untested has no test_step"):
            evaluate(run)


def test_a_report_has_the_metric_and_the_data_module(searched, retrained, tmp_path):
    runs = [read_run(searched), read_run(retrained)]
    text = tables.summary_text(tables.summary(runs))
    assert "val error" in text and "test error" in text and "DigitSeries" in text
    write_report(runs, tmp_path)
    assert {"1-found-progress.png", "2-trained-progress.png"} <= {file.name for file in tmp_path.iterdir()}


def test_an_architecture_is_chosen_by_the_metric_of_the_evaluator(folder):
    overrides = ["--training.epochs", "1", "--strategy.finish", "{architectures: 3}"]
    run = search(write(folder / "ranked", SEARCH), folder / "finished", overrides)
    ranking = json.loads((run / "finish.json").read_text())["ranking"]
    (chosen,) = (row["metrics"]["val_error"] for row in ranking if row["chosen"])
    assert chosen == min(row["metrics"]["val_error"] for row in ranking)


def error_of(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestConfigErrors:
    """What is found when a config is read."""

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["--evaluator.class_path", "series_part.Margin"], "; did you mean series_parts.Margin?"),
            (["--evaluator.class_path", "series_parts.Magin"], "; did you mean series_parts.Margin?"),
            (["--data.class_path", "nni.nas.evaluatr.pytorch.X"], "; did you mean nni.nas.evaluator.pytorch.X?"),
            (["--evaluator.class_path", "os.system"], "evaluator.class_path: os.system is no nni.nas.evaluator"),
            (["--evaluator.class_path", "series_parts.PlainModule"], "call self.model, which the search sets"),
            (["--evaluator.class_path", "series_parts.DigitSeries"], "DigitSeries is no nni.nas.evaluator.pytorch."),
            (["--data.class_path", "series_parts.Margin"], "series_parts.Margin is no pytorch_lightning.LightningData"),
            (["--evaluator", "Margin"], "evaluator: 'Margin' should have a class_path"),
            (["--evaluator.init_args.learning_rat", "1"], "did you mean learning_rate?"),
            (["--evaluator.init_args", "{}"], "evaluator.init_args: the following arguments are required"),
            (["--evaluator.init_args.learning_rate", "fast"], 'evaluator.init_args: Parser key "learning_rate"'),
            (["--evaluator.args", "{}"], "unknown key evaluator.args; known are class_path, init_args, metric"),
            (["--evaluator.metric", "error"], "evaluator.metric: 'error' should be a metric that it logs"),
            (["--data.batch_size", "3"], "unknown key data.batch_size; known are class_path, init_args"),
            (["--training.learning_rate", "1"], "training.learning_rate: leave it out: Margin has a recipe"),
            (["--task", "regression"], "task: 'regression': leave it out: Margin is the task"),
            (["--task", "regression", "--evaluator", "null"], "DigitSeries names no targets: name an evaluator"),
        ],
    )
    def test_of_a_search(self, tmp_path, overrides, message):
        assert message in error_of(read_search, write(tmp_path, SEARCH), overrides)

    def test_of_a_retraining(self, tmp_path):
        overrides = ["--network.drop_path", "0.2"]
        assert "network.drop_path: leave it out" in error_of(read_retrain, write(tmp_path, RETRAIN), overrides)


class TestTrialErrors:
    """What is found on a first batch, before anything is written."""

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["--evaluator.metric", "val_acc"], "evaluator.metric: Margin does not log val_acc, but val_error"),
            (["--evaluator.class_path", "series_parts.Silent"], "evaluator: Silent logs no metric of validation"),
            (["--evaluator.class_path", "series_parts.Lossless"], "training_step of Lossless should return the loss"),
            (["--evaluator.class_path", "series_parts.TwoOptimizers"], "of TwoOptimizers gives several optimizers"),
            (["--data.class_path", "series_parts.Unvalidated"], "data.class_path: Unvalidated has no val_dataloader"),
            (["--data.class_path", "series_parts.Unsized"], "space.num_classes: series_parts.Filters takes it"),
            (["--data.class_path", "series_parts.Broken"], "data: Broken: FileNotFoundError: series.csv ("),
            (["--space.image_channels", "3"], "Margin, DigitSeries, Filters fail on a first batch: RuntimeError"),
            (["--evaluator.init_args.margin", "-1", "--space.num_classes", "4"], "fail on a first batch"),
        ],
    )
    def test_of_a_search(self, tmp_path, overrides, message):
        assert message in error_of(search, write(tmp_path, SEARCH), tmp_path / "run", overrides)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "metric", "first"),
    [
        ({"optimize_mode": "minimize"}, "perplexity", "b"),
        ({"optimize_mode": "maximize"}, "perplexity", "a"),
        ({}, "acc", "a"),
        ({}, "mae", "b"),
        ({}, "error", "b"),
    ],
)
def test_the_best_trial_is_the_one_that_the_tuner_looks_for(tmp_path, arguments, metric, first):
    (tmp_path / "db").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "db" / "nni.sqlite")) as database:
        database.execute("CREATE TABLE ExperimentProfile (params, revision)")
        database.execute("CREATE TABLE TrialJobEvent (trialJobId, event, data)")
        database.execute("CREATE TABLE MetricData (trialJobId, type, data)")
        profile = {"tuner": {"name": "TPE", "classArgs": arguments}}
        database.execute("INSERT INTO ExperimentProfile VALUES (?, 1)", [json.dumps(profile)])
        for trial, value in (("a", 0.5), ("b", 0.25)):
            database.execute("INSERT INTO TrialJobEvent VALUES (?, 'SUCCEEDED', NULL)", [trial])
            result = json.dumps({"default": value, "metric": metric})
            database.execute("INSERT INTO MetricData VALUES (?, 'FINAL', ?)", [trial, json.dumps(result)])
        database.commit()
    assert read_trials(tmp_path)["trial"].iloc[0] == first
