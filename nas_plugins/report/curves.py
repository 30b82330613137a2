"""Pictures of a run's course: accuracy and loss, contributions of cells, distance; and of several runs."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from nas_plugins.report.style import MUTED, SPARE_COLOURS, STYLE, cell_name, save
from nas_plugins.runs.tables import Kind


def plot_contributions(contributions: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """The marginal contribution of every cell over the epochs, lighter the deeper the cell.

    Args:
        contributions: columns epoch, cell and contribution: the loss minus the loss without the cell.
        path: the PNG to write.
    """
    cells = list(contributions.groupby("cell", sort=False))
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(cells)))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.7), layout="constrained")
        axis = figure.subplots()
        axis.axhline(0, color=MUTED, linewidth=1)
        lines = []
        for (cell, history), colour in zip(cells, colours, strict=True):
            _line(axis, history["epoch"], history["contribution"], colour, cell_name(cell))
            lines.append(axis.lines[-1])
        axis.set_ylabel("loss − loss without the cell")
        _epoch_axis(axis, contributions["epoch"])
        figure.legend(handles=lines, loc="outside right upper", ncols=math.ceil(len(lines) / 14))
        return save(figure, path)


def plot_distance(metrics: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """How far a search has moved from its baseline, over the epochs.

    Args:
        metrics: columns epoch, distance (operations) and alpha_distance (mean change of a weight).
        path: the PNG to write.
    """
    lines = (("distance", "operations that differ", "#ea580c"), ("alpha_distance", "mean change of σ(α)", "#2563eb"))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 2.9), layout="constrained")
        for axis, (column, what, colour) in zip(figure.subplots(1, 2), lines, strict=True):
            known = metrics[["epoch", column]].dropna()
            _line(axis, known["epoch"], known[column], colour, what)
            axis.set_ylabel(what)
            axis.set_ylim(0, 1.05 * known[column].max() or 1)  # a search may not have moved
            axis.yaxis.set_major_locator(MaxNLocator(5, integer=column == "distance"))
            _epoch_axis(axis, known["epoch"])
        return save(figure, path)


def plot_progress(metrics: pd.DataFrame, path: str | os.PathLike[str], kind: Kind = "search") -> Path:
    """Accuracies and losses over the epochs.

    Args:
        metrics: the columns of a metrics.csv; empty ones are left out.
        path: the PNG to write.
        kind: a search has a supernet and a derived network, a retraining one network alone.
    """
    who = "supernet, " if kind == "search" else ""
    accuracies = {
        "train_acc": (f"{who}training", "#94a3b8"),
        "val_acc": (f"{who}validation", "#2563eb"),
        "derived_val_acc": ("derived network, validation", "#ea580c"),
    }
    losses = {
        "train_loss": (f"{who}training", "#94a3b8"),
        "val_loss": (f"{who}validation", "#2563eb"),
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        _curves(left, metrics, accuracies, "accuracy (%)", scale=100)
        _curves(right, metrics, losses, "loss", scale=1)
        return save(figure, path)


def _curves(axis: Axes, metrics: pd.DataFrame, lines: Mapping[str, tuple[str, str]], what: str, scale: float) -> None:
    for column, (label, colour) in lines.items():
        known = metrics[["epoch", column]].dropna()
        if len(known):
            final = f"{label} ({scale * known[column].iloc[-1]:.2f})"
            _line(axis, known["epoch"], scale * known[column], colour, final)
    axis.set_ylabel(what)
    _epoch_axis(axis, metrics["epoch"])
    if axis.lines:
        # Above the curves, where it hides none of them.
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1.01), borderaxespad=0, fontsize=8, handlelength=1.4)


def _line(axis: Axes, x: pd.Series, y: pd.Series, colour: Any, label: str, dash: str = "-") -> None:
    marker = "o" if len(x) <= 40 else None
    axis.plot(x, y, color=colour, linestyle=dash, label=label, marker=marker, markersize=2.8)


def _epoch_axis(axis: Axes, epochs: pd.Series) -> None:
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axis.tick_params(length=0)
    if epochs.nunique() == 1:
        axis.set_xticks([epochs.iloc[0]])


def validation_accuracy(metrics: pd.DataFrame) -> pd.DataFrame:
    """Columns epoch and accuracy: the derived network's where it was measured, else the trained network's."""
    derived = metrics["derived_val_acc"].notna().any()
    column = "derived_val_acc" if derived else "val_acc"
    return metrics[["epoch", column]].dropna().rename(columns={column: "accuracy"})


def plot_comparison(
    histories: Mapping[str, pd.DataFrame], searches: Collection[str], path: str | os.PathLike[str]
) -> Path:
    """Several runs in one picture: accuracy over the epochs, and accuracy against the time of the search.

    Args:
        histories: the metrics of each run, by its name; see :func:`validation_accuracy`.
        searches: the names of those that are searches; the others have no search time.
        path: the PNG to write.
    """
    timed = {name: histories[name]["seconds"].sum() for name in histories if name in searches}
    unit, seconds = ("hours", 3600) if max(timed.values(), default=0) > 7200 else ("seconds", 1)
    with matplotlib.rc_context(STYLE):
        panels = 2 if timed else 1
        figure = Figure(figsize=(10.5, 3.6 + 0.22 * math.ceil(len(histories) / 3)), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        for number, (name, metrics) in enumerate(histories.items()):
            colour = SPARE_COLOURS[number % len(SPARE_COLOURS)]
            dash = ("-", "--", ":")[number // len(SPARE_COLOURS) % 3]
            curve = validation_accuracy(metrics)
            _line(axes[0], curve["epoch"] + 1, 100 * curve["accuracy"], colour, name, dash)
            if name in timed and len(curve):
                last = 100 * curve["accuracy"].iloc[-1]
                axes[1].plot(timed[name] / seconds, last, "o", color=colour, markersize=9)
        axes[0].set(xlabel="epochs trained", ylabel="validation accuracy (%)")
        axes[0].xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes[0].tick_params(length=0, which="both")
        lengths = [len(metrics) for metrics in histories.values()]
        if max(lengths) > 4 * min(lengths):
            # Else a retraining of 600 epochs leaves no room for a search of 25.
            axes[0].set_xscale("log")
            axes[0].xaxis.set_major_formatter("{x:g}")
            axes[0].xaxis.set_minor_formatter(NullFormatter())
        if timed:
            axes[1].set(xlabel=f"{unit} of search", ylabel="validation accuracy (%), last epoch")
            axes[1].set_xlim(0, 1.1 * max(timed.values()) / seconds or 1)
            axes[1].tick_params(length=0)
        figure.legend(axes[0].lines, list(histories), loc="outside upper left", ncols=min(3, len(histories)))
        return save(figure, path)
