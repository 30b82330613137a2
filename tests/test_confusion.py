"""Tests of what a report shows class by class."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from test_report import make_retrain

from nas_plugins.report.confusion import class_accuracy, frequent_confusions, plot_class_accuracy, plot_confusion
from nas_plugins.report.page import write_report
from nas_plugins.runs.reader import read_run
from nas_plugins.training.confusion import write_confusion

CONFUSION = np.array([[8, 2, 0], [0, 10, 0], [5, 0, 5]])


def matrix(classes: int) -> pd.DataFrame:
    """Return random counts with names as long as those of CIFAR-100."""
    counts = np.random.default_rng(0).poisson(0.2, (classes, classes)) + np.diag([70] * classes)
    names = [f"pickup_truck {number}" for number in range(classes)]
    return pd.DataFrame(counts, names, names)


def evaluated(
    path: Path, confusion: np.ndarray = CONFUSION, classes: tuple[str, ...] = ("cat", "dog", "class")
) -> Path:
    run = make_retrain(path)
    write_confusion(run, confusion, classes)
    return run


@pytest.mark.parametrize(
    ("plot", "classes"),
    [
        (plot_confusion, 2),
        (plot_confusion, 100),
        (plot_confusion, 431),
        (plot_class_accuracy, 2),
        (plot_class_accuracy, 101),
    ],
)
def test_pictures_of_any_number_of_classes(tmp_path, plot, classes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        height, width = matplotlib.image.imread(plot(matrix(classes), tmp_path / "picture.png")).shape[:2]
    assert 100 < height < 2200 and 400 < width < 2600


def test_the_most_frequent_errors_come_first():
    table = frequent_confusions(pd.DataFrame(CONFUSION, ["cat", "dog", "hen"], ["cat", "dog", "hen"]))
    assert table == {
        "class": ["hen", "cat"],
        "taken for": ["cat", "dog"],
        "images": ["5 of 10", "2 of 10"],
        "share": ["50.0%", "20.0%"],
    }


def test_a_perfect_network_has_no_errors():
    assert frequent_confusions(pd.DataFrame(np.eye(3, dtype=int))) == {}


def test_the_class_of_the_lowest_accuracy_comes_first_and_one_without_images_has_none():
    counts = pd.DataFrame([[8, 2, 0], [0, 0, 0], [5, 0, 5]], ["cat", "dog", "hen"])
    assert class_accuracy(counts).to_dict() == {"hen": 0.5, "cat": 0.8}
    assert list(class_accuracy(counts).index) == ["hen", "cat"]


def test_names_of_classes_are_read_as_they_are(tmp_path):
    names = ("class", "NA", 'a "b", c')
    confusion = read_run(evaluated(tmp_path / "run", classes=names)).confusion
    assert tuple(confusion.index) == tuple(confusion.columns) == names
    assert (confusion.to_numpy() == CONFUSION).all()


def test_a_class_without_images_has_an_empty_accuracy(tmp_path):
    run = evaluated(tmp_path / "run", np.array([[3, 1], [0, 0]]), ("cat", "dog"))
    assert (run / "class_accuracy.csv").read_text() == "class,images,correct,accuracy\ncat,4,3,0.75\ndog,0,0,\n"


def test_the_page_shows_accuracies_and_errors(tmp_path):
    run = evaluated(tmp_path / "run", classes=("<cat>", "dog", "hen"))
    page = write_report([run]).read_text(encoding="utf-8")
    for part in ("Accuracy of each class", "Confusion matrix", "Most frequent errors", "taken for", "5 of 10"):
        assert part in page
    assert "&lt;cat&gt;" in page and "<cat>" not in page
    assert (run / "confusion.png").exists() and (run / "class_accuracy.png").exists()
