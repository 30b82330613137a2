"""Plots and a table of the confusions of a retrained network between classes."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from nas_plugins.report.style import FAINT, INK, MUTED, STYLE, axes_at, save

COUNTED, NAMED = 30, 150
"""Maximum numbers of classes for which every field shows its count, and every row and column its class."""

BARS, MOST_BARS = 25, 100
"""Maximum number of bars in one column of the plot of accuracies, and in all columns."""

CONFUSION_HEADINGS = ("class", "taken for")
"""Headings of the text columns in the table of errors."""


def class_accuracy(confusion: pd.DataFrame) -> pd.Series:
    """Return the accuracy of each class that has test images, the lowest first.

    Args:
        confusion: Number of images by their class (rows) and the predicted class (columns).
    """
    images = confusion.sum(axis=1)
    accuracy = pd.Series(np.diag(confusion) / images.where(images > 0), confusion.index)
    return accuracy.dropna().sort_values(kind="stable")


def frequent_confusions(confusion: pd.DataFrame, most: int = 10) -> dict[str, list[str]]:
    """Return heading -> texts of a table of the most frequent errors; empty if there are none.

    Args:
        confusion: Number of images by their class (rows) and the predicted class (columns).
        most: Maximum number of rows.
    """
    counts = confusion.to_numpy()
    errors = counts - np.diag(np.diag(counts))
    ranked = np.argsort(-errors, axis=None, kind="stable")[:most]
    places = zip(*np.unravel_index(ranked, errors.shape), strict=True)
    found = [(row, column) for row, column in places if errors[row, column]]
    images = counts.sum(axis=1)
    columns = {
        "class": [str(confusion.index[row]) for row, _ in found],
        "taken for": [str(confusion.columns[column]) for _, column in found],
        "images": [f"{errors[row, column]} of {images[row]}" for row, column in found],
        "share": [f"{errors[row, column] / images[row]:.1%}" for row, column in found],
    }
    return columns if found else {}


def plot_confusion(confusion: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Plot a confusion matrix as a heat map, coloured by the share of the images of a class.

    Args:
        confusion: Number of images by their class (rows) and the predicted class (columns).
        path: PNG file to write.
    """
    counts, n = confusion.to_numpy(), len(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = n * 0.42 if n <= COUNTED else n * 0.11 if n <= NAMED else 10.0
    names = _shortened(confusion.index)
    font = 8.0 if n <= COUNTED else 6.0
    margin = 0.45 + (max(map(len, names)) * font * 0.0088 if n <= NAMED else 0)
    side = max(side, 2.0)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(margin + side + 1.1, margin + side + 0.2))
        axis = axes_at(figure, margin, margin, side, side)
        # Square-root scale, since rare errors would otherwise be as white as none.
        picture = axis.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1), aspect="auto")
        _label_classes(axis, names if n <= NAMED else [], font)
        if n <= COUNTED:
            for (row, column), count in np.ndenumerate(counts):
                if count:
                    ink = "white" if shares[row, column] > 0.4 else INK
                    axis.text(column, row, str(count), ha="center", va="center", fontsize=8, color=ink)
        bar = axes_at(figure, margin + side + 0.2, margin, 0.16, min(side, 3.0))
        figure.colorbar(picture, cax=bar, format=PercentFormatter(1, decimals=0), ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
        bar.tick_params(length=0, labelsize=7.5)
        bar.spines[:].set_visible(False)
        return save(figure, path)


def _label_classes(axis: Axes, names: Sequence[str], font: float) -> None:
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.xaxis.tick_top()
    axis.xaxis.set_label_position("top")
    flat = all(len(name) < 3 for name in names)
    axis.set_xticks(range(len(names)), names, rotation=0 if flat else 90, fontsize=font)
    axis.set_yticks(range(len(names)), names, fontsize=font)
    axis.set(xlabel="predicted class", ylabel="class")
    axis.tick_params(length=0, pad=3)
    between = np.arange(0.5, len(names) - 1)
    for draw in (axis.hlines, axis.vlines):
        draw(between, -0.5, len(names) - 0.5, color=FAINT, linewidth=0.4)


def plot_class_accuracy(confusion: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Plot the accuracy of each class as bars, the lowest first; with very many classes only the lowest.

    Args:
        confusion: Number of images by their class (rows) and the predicted class (columns).
        path: PNG file to write.
    """
    accuracy = class_accuracy(confusion)[:MOST_BARS]
    names = _shortened(accuracy.index)
    columns = max(1, math.ceil(len(accuracy) / BARS))
    rows = math.ceil(len(accuracy) / columns)
    label, width, top, step = 0.2 + max(map(len, names), default=0) * 0.075, 6.0 if columns == 1 else 1.9, 0.3, 0.21
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(columns * (label + width + 0.5) + 0.1, top + rows * step + 0.45))
        for number in range(columns):
            part = slice(number * rows, (number + 1) * rows)
            left = 0.1 + number * (label + width + 0.5) + label
            axis = axes_at(figure, left, top, width, rows * step)
            _bars(axis, names[part], accuracy.to_numpy()[part], rows)
        return save(figure, path)


def _bars(axis: Axes, names: Sequence[str], accuracy: np.ndarray, rows: int) -> None:
    places = range(len(names))
    axis.barh(places, 100 * accuracy, height=0.72, color="#2563eb")
    for place, value in zip(places, accuracy, strict=True):
        axis.text(100 * value + 0.8, place, f"{value:.1%}", va="center", fontsize=7.5, color=MUTED)
    axis.set(xlim=(0, 100), ylim=(rows - 0.5, -0.5))
    axis.set_yticks(places, names, fontsize=8)
    axis.set_xticks([0, 50, 100], ["0", "50", "100%"], fontsize=7.5)
    axis.grid(False, axis="y")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, pad=3)


def _shortened(names: Sequence[object] | pd.Index, most: int = 24) -> list[str]:
    texts = [" ".join(str(name).split()) for name in names]
    return [text if len(text) <= most else f"{text[: most - 1]}…" for text in texts]
