"""Confusion matrix and per-class accuracy of a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nas_plugins.runs.directory import CLASS_ACCURACY, CONFUSION
from search_spaces.files import write_text_whole


def write_confusion(run: Path, confusion: np.ndarray, classes: Sequence[str]) -> None:
    """Write ``confusion.csv`` and ``class_accuracy.csv``.

    Args:
        run: The run directory.
        confusion: Number of images of each class (row) that were taken for each class (column).
        classes: Names of the classes.
    """
    labels = pd.Index(classes, name="class")
    write_text_whole(run / CONFUSION, pd.DataFrame(confusion, labels, list(classes)).to_csv())
    images, correct = confusion.sum(1), confusion.diagonal()
    accuracy = correct / np.where(images, images, np.nan)  # empty for a class without test images
    columns = {"images": images, "correct": correct, "accuracy": accuracy}
    write_text_whole(run / CLASS_ACCURACY, pd.DataFrame(columns, labels).to_csv())
