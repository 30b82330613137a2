"""Tests of tasks other than classification, from the folder of images to the exported network."""

from __future__ import annotations

import importlib.util
import json
import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from sklearn.metrics import f1_score, jaccard_score, r2_score
from small_searches import FEW
from torch import nn

from nas_plugins.cli import main
from nas_plugins.config.reader import read_retrain
from nas_plugins.data.module import ImageData
from nas_plugins.errors import InputError
from nas_plugins.export import export
from nas_plugins.report.front import Front
from nas_plugins.report.page import write_report
from nas_plugins.sweep.config import read_experiment
from nas_plugins.tasks import TASKS
from nas_plugins.training import evaluate, predict, retrain
from nas_plugins.training.predict import predict_masks
from nas_plugins.training.search import search
from search_spaces.darts import DartsSpace
from search_spaces.genotype import Genotype
from search_spaces.network import Network

EXAMPLES = Path(__file__).parent.parent / "examples" / "tasks"
CELL = (("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2))
GENOTYPE = Genotype(cells=(CELL, CELL), layout=(0, 1, 1), reductions=(1, 2), concat=(2,))
TWO_NODES = tuple(("max_pool_3x3", source, node) for node in (2, 3) for source in (0, 1))
GENOTYPE_OF_TWO_NODES = Genotype(cells=(TWO_NODES, TWO_NODES), layout=(0, 1, 1), reductions=(1, 2), concat=(2, 3))
OTHERS = ("multilabel", "regression", "segmentation")
DATA = {
    "multilabel": {"labels": "labels.csv"},
    "regression": {"labels": "labels.csv"},
    "segmentation": {"class_names": ["background", "digit", "box"]},
}
SPACE = {"channels": 2, "layers": 3, "nodes": 2, "operations": list(FEW)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """The folders of the example, with few images."""
    folder = tmp_path_factory.mktemp("folders")
    example = runpy.run_path(str(EXAMPLES / "make_data.py"))
    example["COUNTS"].update(train=60, test=20)
    for task in OTHERS:
        example[f"make_{task}"](folder / task)
    return folder


def config_of(folders: Path, name: str, **sections: object) -> dict:
    return {
        "task": name,
        "data": {"dataset": "folder", "root": str(folders / name), "batch_size": 20, **DATA[name]},
        "training": {"epochs": 1, "learning_rate": 0.05},
        "compute": {"accelerator": "cpu", "threads": 1},
        **sections,
    }


@pytest.fixture(scope="module")
def runs(folders, tmp_path_factory) -> dict[str, Path]:
    """A finished and evaluated retraining for each task."""
    folder = tmp_path_factory.mktemp("runs")
    GENOTYPE.save(folder / "genotype.json")
    for task in OTHERS:
        config = config_of(folders, task, network={"channels": 4})
        config["data"]["val_fraction"] = 0.25
        (folder / f"{task}.yaml").write_text(yaml.safe_dump(config))
        evaluate(retrain(folder / "genotype.json", folder / f"{task}.yaml", folder / task))
    return {task: folder / task for task in OTHERS}


@pytest.fixture
def refused(capsys):
    """Return a function that runs a command, checks that it is refused with one line, and returns the line."""

    def refuse(*arguments: object) -> str:
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert (status, out, err.count("\n")) == (2, "", 1), (out, err)
        return err

    return refuse


def results_of(run: Path) -> dict[str, float]:
    return json.loads((run / "test.json").read_text())


def truth(folders: Path, task: str) -> pd.DataFrame:
    table = pd.read_csv(folders / task / "labels.csv", index_col=0)
    return table[table.index.str.startswith("test/")]


class TestEvaluate:
    def test_labels_are_those_of_a_probability_above_one_half(self, runs, folders):
        probabilities = predict(runs["multilabel"], [folders / "multilabel/test"])
        right = truth(folders, "multilabel")
        assert list(probabilities.columns) == list(right.columns)
        expected = f1_score(right, probabilities.to_numpy() > 0.5, average="macro", zero_division=0)
        assert results_of(runs["multilabel"])["test_f1"] == pytest.approx(expected, abs=1e-6)

    def test_values_are_in_the_units_of_the_table(self, runs, folders):
        values, right = predict(runs["regression"], [folders / "regression/test"]), truth(folders, "regression")
        errors = np.abs(values.to_numpy() - right.to_numpy())
        result = results_of(runs["regression"])
        assert result["test_mae"] == pytest.approx(errors.mean(), rel=1e-5)
        assert result["test_r2"] == pytest.approx(r2_score(right, values), abs=1e-4)
        each = pd.read_csv(runs["regression"] / "outputs.csv", index_col="output")
        assert each["mae"].to_dict() == pytest.approx(dict(zip(right.columns, errors.mean(0), strict=True)), rel=1e-5)

    def test_pixels_that_count_for_nothing_are_left_out(self, runs, folders, tmp_path):
        predict_masks(runs["segmentation"], [folders / "segmentation/test/images"], tmp_path)
        found, right = (
            np.stack([np.asarray(Image.open(file)) for file in sorted(folder.iterdir())])
            for folder in (tmp_path, folders / "segmentation/test/masks")
        )
        counted = right != 255
        assert 0.5 < counted.mean() < 1
        result = results_of(runs["segmentation"])
        assert result["test_pixel_acc"] == pytest.approx((found == right)[counted].mean(), abs=1e-6)
        each = jaccard_score(right[counted], found[counted], average=None, labels=[0, 1, 2], zero_division=0)
        written = pd.read_csv(runs["segmentation"] / "outputs.csv")
        assert list(written["output"]) == ["background", "digit", "box"]
        assert written["miou"].to_list() == pytest.approx(list(each), abs=1e-6)

    def test_there_is_no_confusion_matrix(self, runs):
        assert not [run for run in runs.values() if (run / "confusion.csv").exists()]


class TestData:
    def test_masks_are_augmented_as_their_images(self, folders, tmp_path):
        for part in ("train", "test"):
            for kind in ("images", "masks"):
                (tmp_path / part / kind).mkdir(parents=True)
            for number in range(8):
                pixels = np.random.default_rng(number).integers(0, 3, (12, 12), np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / f"masks/{number}.png")
                Image.fromarray(100 * pixels).save(tmp_path / part / f"images/{number}.png")
        data = ImageData(
            dataset="folder", root=str(tmp_path), task="segmentation", crop_padding=3, flip=True, val_fraction=0.0
        )
        images, masks = next(iter(data.train_dataloader()))
        mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
        pixels = ((images * std + mean) * 255 / 100)[:, 0].round()
        inside = masks != 255
        assert torch.equal(pixels[inside], masks[inside].float()) and bool((pixels[~inside] == 0).all())
        assert not inside.all() and not torch.equal(masks, next(iter(data.test_dataloader()))[1])

    def test_values_are_standardized_by_the_training_images_alone(self, folders):
        data = read_retrain_data(config_of(folders, "regression"))
        table = pd.read_csv(folders / "regression/labels.csv", index_col=0)[:60].to_numpy()[data.parts["train"]]
        assert data.targets.mean == pytest.approx(table.mean(0), rel=1e-5)
        loss = data.targets.loss()
        assert loss(torch.zeros(30, 3), torch.tensor(table).float()).item() == pytest.approx(1, rel=1e-5)

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (["image,a", "train/1.png,2"], r"line 2: a is '2'; it should be 0 or 1"),
            (["image,a", "train/1.png,"], r"line 2: a is ''"),
            (["image,a", "train/1.png,1,1"], "line 2: has 3 columns; the first line has 2"),
            (["image,a", "train/1.png,1", "train/1.png,0"], "line 3: 'train/1.png' has a row already, line 2"),
            (["image,a", "train/1.png,1"], "has no images of test"),
            (["image,a", "1.png,1"], "line 2: '1.png': its first column should be the path"),
            (
                ["image", "train/1.png"],
                "should name the column of images and, separated by commas, a column for each of the labels; it is 'im",
            ),
            ([], "its first line should name"),
            (["image,a,a", "train/1.png,1,1"], "it has 'a' twice"),
            (["train/1.png,1", "test/1.png,0"], "its first line should name .* it is 'train/1.png,1'"),
            (["image,a", "train/1.png,1", "test/1.png,0"], "line 2: there is no image .*train/1.png"),
        ],
    )
    def test_a_wrong_table_is_refused(self, tmp_path, rows, message):
        (tmp_path / "labels.csv").write_text("\n".join(rows))
        with pytest.raises(InputError, match=message):
            ImageData(
                dataset="folder", root=str(tmp_path), task="multilabel", labels="labels.csv", val_fraction=0.0
            ).prepare()

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (np.full((8, 8), 7, np.uint8), "has the class 7; data.class_names has 0 to 1"),
            (np.zeros((8, 9), np.uint8), "is 9x8; its image is 8x8"),
            (np.zeros((8, 8, 3), np.uint8), "it has colours"),
            (
                np.full((8, 8), 255, np.uint8),
                "have 0 of two or more classes; 1 of 1 have pixels of 255, which data.ign",
            ),
            (np.diag([255] * 8).astype(np.uint8), "have 1 of two or more classes; 1 of 1 have pixels of 255"),
        ],
    )
    def test_a_wrong_mask_is_refused(self, tmp_path, mask, message):
        for part in ("train", "test"):
            for kind, pixels in (("images", np.zeros((8, 8), np.uint8)), ("masks", mask)):
                (tmp_path / part / kind).mkdir(parents=True)
                Image.fromarray(pixels).save(tmp_path / part / kind / "1.png")
        with pytest.raises(InputError, match=message):
            ImageData(dataset="folder", root=str(tmp_path), task="segmentation", class_names=["a", "b"]).prepare()

    def test_masks_of_numbers_with_gaps_need_names(self, tmp_path):
        for part in ("train", "test"):
            for kind, pixels in (("images", np.zeros((8, 8), np.uint8)), ("masks", np.diag([5] * 8).astype(np.uint8))):
                (tmp_path / part / kind).mkdir(parents=True)
                Image.fromarray(pixels).save(tmp_path / part / kind / "1.png")
        with pytest.raises(InputError, match="have the classes 0, 5 and none between them: number them from 0"):
            ImageData(dataset="folder", root=str(tmp_path), task="segmentation").prepare()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"task": "regression"}, "data.dataset: digits has classes only; task: regression is one for a folder"),
            ({"task": "multilabel", "dataset": "folder"}, "data.labels: None, but task: multilabel needs a CSV"),
            ({"labels": "labels.csv"}, "data.labels: 'labels.csv', but task: classification has none"),
            ({"class_names": ["a", "b"]}, "data.class_names: .* is for task: segmentation, not classification"),
        ],
    )
    def test_keys_of_another_task_are_refused(self, settings, message):
        with pytest.raises(InputError, match=message):
            ImageData(**settings).prepare()


def read_retrain_data(config: dict) -> ImageData:
    data = ImageData(**config["data"], task=config["task"])
    data.prepare()
    return data


@pytest.fixture(scope="module")
def searched(folders, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    config = config_of(folders, "segmentation", space=SPACE, strategy={"name": "DARTS", "finish": {"architectures": 2}})
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    return search(folder / "c.yaml", folder / "run", ["--data.train_images", "40", "--data.test_images", "4"])


class TestSearch:
    def test_a_search_logs_the_metrics_of_the_derived_network(self, searched):
        metrics = pd.read_csv(searched / "metrics.csv")
        assert metrics[list(TASKS["segmentation"].columns)].notna().all(axis=None)

    def test_a_ranking_at_the_end_goes_by_the_metric_of_the_task(self, searched):
        ranking = json.loads((searched / "finish.json").read_text())["ranking"]
        (chosen,) = (row["metrics"]["val_miou"] for row in ranking if row["chosen"])
        assert chosen == max(row["metrics"]["val_miou"] for row in ranking)

    def test_the_dense_head_inherits_its_weights(self, searched, folders, tmp_path):
        config = config_of(folders, "segmentation", network={"weights": "inherited"})
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        tiny = ["--data.train_images", "40", "--data.test_images", "4", "--training.learning_rate", "1e-12"]
        run = retrain(searched / "genotype.json", tmp_path / "c.yaml", tmp_path / "run", tiny)
        supernet = torch.load(searched / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        weights = torch.load(run / "weights.pt", weights_only=True)
        prefix = "training_module._model.network."
        for name in ("classifier.late.weight", "classifier.classifier.bias"):
            assert torch.allclose(weights[name], supernet[prefix + name], atol=1e-4)

    @pytest.mark.parametrize(
        ("sections", "message"),
        [
            ({"space": {"name": "nni.nas.hub.pytorch.NasBench201"}}, "has a classifier only; task: segmentation"),
            ({"space": {**SPACE, "mlp_width": 8}}, "space: mlp_width: is for a classifier"),
            (
                {"strategy": {"name": "DARTSPT", "projection_epochs": 1}},
                "'val_acc' should be one of val_loss, val_miou",
            ),
            ({"training": {"label_smoothing": 0.1}, "task": "multilabel"}, "training.label_smoothing: 0.1"),
        ],
    )
    def test_what_a_task_cannot_use_is_one_line(self, folders, tmp_path, refused, sections, message):
        config = config_of(folders, sections.get("task", "segmentation"), **{"space": SPACE, **sections})
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        assert message in refused("search", "--config", tmp_path / "c.yaml", "--output", tmp_path / "run")
        assert not (tmp_path / "run").exists()


class TestDenseHead:
    @pytest.mark.parametrize("stem", ["cifar", "tiny_imagenet", "imagenet"])
    def test_each_pixel_has_an_output(self, stem):
        network = DartsSpace(num_classes=5, channels=4, layers=3, nodes=1, stem=stem, dense_head=True)
        assert network(torch.zeros(2, 3, 33, 40)).shape == (2, 5, 33, 40)

    def test_a_derived_network_has_the_head_of_its_space(self):
        space = DartsSpace(num_classes=5, channels=2, layers=3, nodes=2, operations=FEW, dense_head=True)
        head = space.network.classifier.state_dict()
        network = space.freeze(space.sample(GENOTYPE_OF_TWO_NODES))
        assert {name: w.shape for name, w in network.classifier.state_dict().items()} == {
            name: w.shape for name, w in head.items()
        }

    def test_it_goes_with_no_auxiliary_head(self):
        with pytest.raises(ValueError, match="auxiliary: is for a classifier"):
            Network.from_genotype(GENOTYPE, auxiliary=True, dense_head=True)


def loaded(file: Path, monkeypatch) -> nn.Module:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, file.stem, module)
    spec.loader.exec_module(module)
    return module


class TestExport:
    def test_the_python_file_of_a_regression_gives_values_in_their_units(self, runs, folders, tmp_path, monkeypatch):
        export(runs["regression"], "python", tmp_path / "regressor.py")
        module = loaded(tmp_path / "regressor.py", monkeypatch)
        assert module.VALUES == ("ink", "x", "y")
        image = torch.from_numpy(np.array(Image.open(folders / "regression/test/0000.png").convert("RGB")))
        with torch.no_grad():
            values = module.load()(module.normalize(image.permute(2, 0, 1)[None] / 255))
        right = predict(runs["regression"], [folders / "regression/test/0000.png"])
        assert values.numpy() == pytest.approx(right.to_numpy(), rel=1e-4)
        assert "| test mean absolute error |" in (tmp_path / "regressor.py.md").read_text()

    def test_the_python_file_of_a_segmentation_has_the_dense_head(self, runs, folders, tmp_path, monkeypatch):
        export(runs["segmentation"], "python", tmp_path / "segmentation.py")
        module = loaded(tmp_path / "segmentation.py", monkeypatch)
        assert module.load()(torch.zeros(2, 3, 24, 24)).shape == (2, 3, 24, 24)

    @pytest.mark.parametrize(
        ("task", "format"),
        [pytest.param("segmentation", "onnx", marks=pytest.mark.slow), ("multilabel", "safetensors")],
    )
    def test_other_formats_pass_their_check(self, runs, tmp_path, task, format):
        pytest.importorskip("onnxruntime" if format == "onnx" else format)
        file = tmp_path / f"model.{format}"
        assert export(runs[task], format, file).images == 20
        assert "logits of shape (batch, " in file.with_name(f"{file.name}.md").read_text()


class TestReport:
    def test_pages_and_tables_name_the_metric(self, runs, tmp_path, capsys):
        page = write_report([*runs.values()], tmp_path).read_text()
        assert all(word in page for word in ("test F1", "test MAE", "test mIoU", "<h3>Each of the labels</h3>"))
        assert main(["report", str(runs["regression"]), "--output", str(tmp_path / "one")]) == 0
        assert "test R²" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("task", "best"), [("regression", [True, False, True]), ("multilabel", [True, True, False])]
    )
    def test_the_front_knows_which_values_are_better(self, task, best):
        table = pd.DataFrame({"cost": [1, 2, 3], "value": [0.5, 0.6, 0.4], "series": "a", "point": list("abc")})
        assert Front("folder", TASKS[task], ("", ""), "parameters", table).points["best"].to_list() == best


class TestCommands:
    def test_the_metrics_of_the_test_are_named(self, runs, capsys):
        assert main(["evaluate", str(runs["regression"])]) == 0
        assert ": test mean absolute error " in capsys.readouterr().out

    def test_predictions_of_a_regression_are_its_values(self, runs, folders, tmp_path, capsys):
        image = folders / "regression/test/0000.png"
        assert main(["predict", str(runs["regression"]), str(image)]) == 0
        assert capsys.readouterr().out.split()[:4] == ["image", "ink", "x", "y"]
        assert main(["predict", str(runs["regression"]), str(image), "--output", str(tmp_path / "p.csv")]) == 0
        assert list(pd.read_csv(tmp_path / "p.csv").columns) == ["image", "ink", "x", "y"]

    def test_images_of_one_name_have_no_two_masks(self, runs, folders, tmp_path, refused):
        images = [folders / "segmentation/test/images/0000.png", folders / "segmentation/train/images/0000.png"]
        line = refused("predict", runs["segmentation"], *images, "--output", tmp_path / "masks")
        assert "would both have the mask 0000.png" in line

    @pytest.mark.parametrize(("mode", "right"), [("maximize", False), ("minimize", True)])
    def test_a_tuner_looks_for_the_lowest_errors(self, folders, tmp_path, mode, right):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config_of(folders, "regression", space=SPACE)))
        experiment = {
            "trialCommand": f"nas-plugins trial --config {tmp_path / 'c.yaml'}",
            "trialConcurrency": 1,
            "searchSpace": {"seed": {"_type": "choice", "_value": [0, 1]}},
            "tuner": {"name": "TPE", "classArgs": {"optimize_mode": mode}},
            "trainingService": {"platform": "local"},
        }
        (tmp_path / "nni.yaml").write_text(yaml.safe_dump(experiment))
        if right:
            read_experiment(tmp_path / "nni.yaml")
        else:
            with pytest.raises(InputError, match="optimize_mode: maximize should be minimize"):
                read_experiment(tmp_path / "nni.yaml")


def test_runs_of_earlier_versions_classify(tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"network": {}, "data": {"dataset": "digits"}}))
    assert read_retrain(tmp_path / "c.yaml").task is TASKS["classification"]


def test_a_batch_without_a_pixel_that_counts_has_a_finite_loss(folders):
    data = read_retrain_data(config_of(folders, "segmentation"))
    loss = data.targets.loss()(torch.randn(1, 3, 4, 4), torch.full((1, 4, 4), 255))
    assert math.isfinite(loss) and loss == 0
