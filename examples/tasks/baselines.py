"""Measure simple models, which a network should outperform, on the folders of make_data.py.

Run ``python examples/tasks/baselines.py FOLDER``. The models are a constant, and extremely randomized trees on the
pixels of an image, or in a segmentation on the 7×7 pixels around each pixel.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from nas_plugins.tasks import TASKS, Targets

AROUND = 3
"""Number of pixels on each side of a pixel that the trees of a segmentation use."""


def main() -> None:
    """Print a line for each task and model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder that make_data.py made")
    folder = parser.parse_args().folder
    for measure in (multilabel, regression, segmentation):
        measure(folder / measure.__name__)


def show(name: str, targets: Targets, predicted: np.ndarray, true: np.ndarray) -> None:
    """Print the metrics of a model.

    Args:
        name: Name of the model.
        targets: Task and outputs.
        predicted: Probabilities of labels, values, or classes of pixels.
        true: The targets, of the same shape.
    """
    metrics, given = targets.metrics(), (torch.as_tensor(predicted), torch.as_tensor(true))
    measured = [f"{one.name} {one.text(float(metrics[one.key](*given)))}" for one in targets.task.metrics]
    print(f"{targets.task.name:<14}{name:<28}{', '.join(measured)}")


def pixels(files: list[Path]) -> np.ndarray:
    """Return images (N, 24, 24) from 0 to 255."""
    return np.stack([np.asarray(Image.open(file)) for file in files])


def from_table(folder: Path) -> tuple[list[str], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Return the names of the outputs of a table, and images (N, 576) and outputs (N, outputs) by part."""
    table = pd.read_csv(folder / "labels.csv", index_col="image")
    found = {}
    for part in ("train", "test"):
        rows = table[table.index.str.startswith(part)]
        images = pixels([folder / name for name in rows.index])
        found[part] = images.reshape(len(rows), -1), np.ascontiguousarray(rows)
    return [*table], found


def multilabel(folder: Path) -> None:
    """Measure the models on labels from a table."""
    names, parts = from_table(folder)
    (images, labels), (test_images, true) = parts["train"], parts["test"]
    targets = Targets(TASKS["multilabel"], tuple(names))
    show("frequency of each label", targets, np.tile(labels.mean(0), (len(true), 1)), true)
    show("every label", targets, np.ones(true.shape), true)
    linear = OneVsRestClassifier(LogisticRegression(max_iter=1000)).fit(images / 255, labels)
    show("logistic regression", targets, linear.predict_proba(test_images / 255), true)
    trees = ExtraTreesClassifier(random_state=0).fit(images, labels)
    show("trees", targets, np.stack([two[:, 1] for two in trees.predict_proba(test_images)], 1), true)


def regression(folder: Path) -> None:
    """Measure the models on values from a table."""
    names, parts = from_table(folder)
    (images, values), (test_images, true) = parts["train"], parts["test"]
    targets = Targets(TASKS["regression"], tuple(names))
    show("mean", targets, np.tile(values.mean(0), (len(true), 1)), true)
    show("trees", targets, ExtraTreesRegressor(random_state=0).fit(images, values).predict(test_images), true)


def segmentation(folder: Path) -> None:
    """Measure the models on classes of pixels."""
    found = {}
    for part in ("train", "test"):
        images, masks = (pixels(sorted((folder / part / kind).iterdir())) for kind in ("images", "masks"))
        padded = np.pad(images, ((0, 0), (AROUND, AROUND), (AROUND, AROUND)))
        side = 2 * AROUND + 1
        patches = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))
        found[part] = patches.reshape(-1, side * side), masks
    (patches, masks), (test_patches, true) = found["train"], found["test"]
    targets = Targets(TASKS["segmentation"], ("background", "digit", "box"))
    show("all background", targets, np.zeros(true.shape, int), true.astype(int))
    counts = np.flatnonzero(masks != targets.ignore_index)[::8]
    trees = ExtraTreesClassifier(30, random_state=0).fit(patches[counts], masks.flatten()[counts])
    show("trees", targets, trees.predict(test_patches).reshape(true.shape).astype(int), true.astype(int))


if __name__ == "__main__":
    main()
