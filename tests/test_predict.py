"""Tests of a retrained network on new images, and class by class on the test images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from nas_plugins.cli import main
from nas_plugins.config.reader import read_retrain
from nas_plugins.data.module import ImageData
from nas_plugins.data.new_images import NewImages, find_images
from nas_plugins.data.samples import Samples
from nas_plugins.errors import InputError
from nas_plugins.training import evaluate, predict, retrain
from nas_plugins.training.predict import predictions_text
from search_spaces.genotype import Genotype

CELL = (("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2))
GENOTYPE = Genotype(cells=(CELL, CELL), layout=(0, 1, 1), reductions=(1, 2), concat=(2,))
CONFIG = {
    "network": {"channels": 4},
    "data": {"dataset": "digits", "train_images": 500, "test_images": 120, "batch_size": 50, "val_fraction": 0.0},
    "training": {"epochs": 2, "learning_rate": 0.1},
    "compute": {"accelerator": "cpu", "threads": 1},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished retraining on the digits, which was evaluated."""
    folder = tmp_path_factory.mktemp("retrained")
    GENOTYPE.save(folder / "genotype.json")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    run = retrain(folder / "genotype.json", folder / "config.yaml", folder / "run")
    evaluate(run)
    return run


@pytest.fixture(scope="module")
def pictures(run, tmp_path_factory) -> Path:
    """Folder of the test images of the run as PNG files, in their order."""
    folder = tmp_path_factory.mktemp("pictures")
    tested = tested_images(run)
    for number, index in enumerate(tested.indices):
        Image.fromarray(tested.images[index][0].numpy()).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module")
def predictions(run, pictures) -> pd.DataFrame:
    """Predictions for the test images."""
    return predict(run, [pictures])


@pytest.fixture
def refused(capsys):
    """Return a function that runs a command, checks that it is refused with one line, and returns the line."""

    def refuse(*arguments: object) -> str:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse
            status = end.code
        out, err = capsys.readouterr()
        assert (status, out, err.count("\n")) == (2, "", 1), (out, err)
        return err

    return refuse


def tested_images(run: Path) -> Samples:
    """Return the test images of a run, read one by one."""
    config = read_retrain(run / "config.yaml", ["--data.cache", "false"])
    return config.data().test_dataloader().dataset


def labels(run: Path) -> np.ndarray:
    return np.array(tested_images(run).labels)


class TestPredict:
    def test_saved_test_images_have_the_evaluated_accuracy(self, run, predictions):
        predicted = predictions.to_numpy().argmax(1)
        tested = json.loads((run / "test.json").read_text())
        assert (predicted == labels(run)).sum() == round(tested["test_acc"] * tested["images"])
        assert 0.3 < tested["test_acc"] < 1  # neither chance, nor without an error that could differ
        confusion = np.zeros((10, 10), int)
        np.add.at(confusion, (labels(run), predicted), 1)
        assert (confusion == pd.read_csv(run / "confusion.csv", index_col=0).to_numpy()).all()

    def test_a_row_has_the_probability_of_every_class_by_its_name(self, pictures, predictions):
        assert list(predictions.columns) == [str(digit) for digit in range(10)]
        assert list(predictions.index) == [str(pictures / f"{number:03}.png") for number in range(120)]
        assert predictions.sum(axis=1).to_numpy() == pytest.approx(1)

    def test_grey_pictures_may_be_saved_with_colours_or_opaque(self, run, pictures, tmp_path):
        with Image.open(pictures / "000.png") as image:
            for mode in ("L", "RGB", "RGBA", "LA"):
                image.convert(mode).save(tmp_path / f"{mode}.png")
            np.save(tmp_path / "array.npy", np.asarray(image))
        predicted = predict(run, [tmp_path]).to_numpy()
        assert len(predicted) == 5 and (predicted == predicted[0]).all()

    def test_lost_weights_predict_nothing(self, run, pictures, tmp_path):
        lost = shutil.copytree(run, tmp_path / "lost")
        weights = torch.load(lost / "weights.pt", weights_only=True)
        torch.save({name: value * torch.nan if value.is_floating_point() else value for name, value in weights.items()},
                   lost / "weights.pt")  # fmt: skip
        with pytest.raises(InputError, match="weights.pt: the outputs are not finite"):
            predict(lost, [pictures])


class TestCommand:
    def test_the_table_has_the_most_probable_classes(self, run, pictures, predictions, capsys):
        assert main(["predict", str(run), str(pictures / "000.png"), "--top", "2"]) == 0
        heading, _, row = capsys.readouterr().out.splitlines()
        best = predictions.iloc[0].sort_values(ascending=False)
        assert heading.split() == ["image", "1", "2"]
        expected = [word for name, share in best[:2].items() for word in (name, f"{share:.2%}")]
        assert row.split() == [str(pictures / "000.png"), *expected]

    def test_more_classes_than_there_are_show_all(self):
        predictions = pd.DataFrame([[0.25, 0.75]], ["a.png"], ["cat", "dog"])
        assert predictions_text(predictions, 5).splitlines()[2].split() == ["a.png", "dog", "75.00%", "cat", "25.00%"]

    def test_large_values_are_written_without_an_exponent(self):
        predictions = pd.DataFrame([[1234567.8, 0.0001234567]], ["house.png"], ["price", "rate"])
        text = predictions_text(predictions, task="regression")
        assert text.splitlines()[2].split() == ["house.png", "1,234,568", "0.00012346"]

    def test_a_csv_file_has_every_class(self, run, pictures, predictions, tmp_path, capsys):
        file = tmp_path / "new" / "predictions.csv"
        assert main(["predict", str(run), str(pictures), "--output", str(file)]) == 0
        assert capsys.readouterr().out == f"{file}: predictions for 120 images\n"
        table = pd.read_csv(file, dtype={"class": str}).set_index("image")
        assert list(table.columns) == ["class", *(f"probability_{digit}" for digit in range(10))]
        assert table.to_numpy()[:, 1:].astype(float) == pytest.approx(predictions.to_numpy(), abs=1e-6)
        assert (table["class"] == predictions.idxmax(axis=1)).all()

    @pytest.mark.parametrize(
        ("options", "line"),
        [
            (["--top", "0"], "--top: 0 should be at least 1"),
            (["--output", "predictions.txt"], "--output: predictions.txt should be a file that ends in .csv"),
            (["--output", "/dev/null/p.csv"], "--output: /dev/null/p.csv cannot be written: /dev/null is not a folder"),
            (["--output", "p.csv", "--top", "2"], "not allowed with"),
        ],
        ids=str,
    )
    def test_options(self, run, pictures, refused, options, line):
        assert line in refused("predict", run, pictures, *options)


class TestRefuses:
    def test_runs(self, run, pictures, tmp_path, refused):
        unfinished = shutil.copytree(run, tmp_path / "run")
        (unfinished / "weights.pt").unlink()
        assert "goes on with it); predict takes the run directory of a finished retraining" in refused(
            "predict", unfinished, pictures
        )
        assert "is no run" in refused("predict", tmp_path, pictures)

    def test_paths(self, run, tmp_path, refused):
        (tmp_path / "notes.txt").write_text("no image")
        assert "no.png: there is no such file or folder" in refused("predict", run, tmp_path / "no.png")
        assert f"{tmp_path}: has no images; their names should end in one of .jpg" in refused("predict", run, tmp_path)
        message = refused("predict", run, tmp_path / "notes.txt")
        assert "image file" in message and "cannot be used" in message and "data.root" not in message

    @pytest.mark.parametrize(
        ("picture", "words"),
        [
            (Image.new("L", (9, 8)), "is 9x8; it should be 8x8, for this run resizes no images"),
            (Image.new("RGB", (8, 8), "red"), "has three (colours); it should have one channel (grey)"),
            (Image.new("RGBA", (8, 8), (9, 9, 9, 9)), "has four (colours and transparency); it should have one"),
        ],
        ids=["size", "colours", "transparency"],
    )
    def test_pictures(self, run, pictures, tmp_path, refused, picture, words):
        picture.save(tmp_path / "bad.png")
        assert f"{tmp_path / 'bad.png'}' {words}" in refused("predict", run, pictures, tmp_path / "bad.png")

    def test_values_outside_the_range_of_eight_bits(self, run, tmp_path, refused):
        np.save(tmp_path / "bad.npy", np.full((8, 8), 7.5, np.float32))
        assert "has values from 7.5 to 7.5; floats should be from 0 to 1" in refused("predict", run, tmp_path)


def fill(root: Path, save) -> Path:
    """Make an image folder whose files a function writes, given their path without an ending, and a generator."""
    numbers = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for index in range(3):
                save(root / part / name / str(index), numbers)
    return root


def photograph(file: Path, numbers: np.random.Generator) -> None:
    Image.fromarray(numbers.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(f"{file}.jpg")


def deep(file: Path, numbers: np.random.Generator) -> None:
    Image.fromarray(numbers.integers(0, 65536, (16, 16), dtype=np.uint16)).save(f"{file}.png")


def bands(file: Path, numbers: np.random.Generator) -> None:
    np.save(f"{file}.npy", numbers.normal(size=(16, 16, 5)).astype(np.float32))


class TestNewImages:
    @pytest.mark.parametrize(
        ("save", "options"),
        [
            (photograph, {"image_size": 12}),
            (photograph, {"image_size": 12, "resized_crop": True}),
            (deep, {}),
            (bands, {"image_size": 12}),
        ],
        ids=["resized", "cropped", "16 bits", "5 bands"],
    )
    def test_are_what_the_data_set_tests(self, tmp_path, save, options):
        data = ImageData(dataset="folder", root=str(fill(tmp_path, save)), **options)
        data.prepare()
        files = find_images([tmp_path / "test"])
        tested = torch.cat([images for images, _ in data.test_dataloader()])
        assert torch.equal(torch.stack([*NewImages(files, data)]), tested)

    def test_eight_and_sixteen_bits_have_one_scale(self, tmp_path):
        data = ImageData(dataset="folder", root=str(fill(tmp_path / "data", photograph)), image_size=12)
        data.prepare()
        grey = np.arange(144, dtype=np.uint8).reshape(12, 12)
        Image.fromarray(grey).save(tmp_path / "8.png")
        Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
        few, many = NewImages([str(tmp_path / "8.png"), str(tmp_path / "16.png")], data)
        assert torch.allclose(few, many, atol=1e-6)

    def test_grey_of_eight_bits_is_none_of_a_data_set_of_more(self, tmp_path):
        data = ImageData(dataset="folder", root=str(fill(tmp_path / "data", deep)))
        data.prepare()
        Image.new("L", (16, 16)).save(tmp_path / "8.png")
        with pytest.raises(InputError, match=r"8.png' has three \(colours\); it should have one channel \(grey\)"):
            NewImages([str(tmp_path / "8.png")], data)

    def test_are_found_in_folders_once_and_in_order(self, tmp_path):
        for name in ("b/2.PNG", "b/10.jpg", "a.npy", "notes.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        found = find_images([tmp_path, tmp_path / "a.npy"])
        assert found == [str(tmp_path / name) for name in ("a.npy", "b/10.jpg", "b/2.PNG")]


class TestEvaluate:
    def test_classes_add_up_to_the_test(self, run):
        tested = json.loads((run / "test.json").read_text())
        confusion = pd.read_csv(run / "confusion.csv", index_col="class")
        classes = pd.read_csv(run / "class_accuracy.csv", index_col="class")
        assert set(tested) == {"test_acc", "test_loss", "images"}
        assert confusion.to_numpy().sum() == classes["images"].sum() == tested["images"]
        assert (confusion.sum(axis=1) == np.bincount(labels(run))).all()
        assert (np.diag(confusion) == classes["correct"]).all()
        assert (classes["accuracy"] == classes["correct"] / classes["images"]).all()
        assert classes["correct"].sum() / tested["images"] == pytest.approx(tested["test_acc"])
