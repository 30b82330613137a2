"""Plots over the epochs of a run: metric, loss, costs, contributions of cells, distance; a comparison of runs."""

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

from nas_plugins.config.reader import Kind
from nas_plugins.report.style import INK, MUTED, SPARE_COLOURS, STYLE, cell_name, save
from nas_plugins.runs.costs import COST_NAMES, amount
from nas_plugins.tasks import PREFIXES, TASKS, TaskMetric, metric_of


def plot_contributions(contributions: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Plot the marginal contribution of every cell over the epochs; deeper cells have lighter colours.

    Args:
        contributions: Columns epoch, cell and contribution (the loss minus the loss without the cell).
        path: PNG file to write.
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
        epoch_axis(axis, contributions["epoch"])
        figure.legend(handles=lines, loc="outside right upper", ncols=math.ceil(len(lines) / 14))
        return save(figure, path)


def plot_distance(metrics: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Plot the distance of a search from its baseline over the epochs.

    Args:
        metrics: Columns epoch, distance (number of operations) and alpha_distance (mean change of a weight).
        path: PNG file to write.
    """
    lines = (("distance", "operations that differ", "#ea580c"), ("alpha_distance", "mean change of σ(α)", "#2563eb"))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 2.9), layout="constrained")
        for axis, (column, label, colour) in zip(figure.subplots(1, 2), lines, strict=True):
            known = metrics[["epoch", column]].dropna()
            _line(axis, known["epoch"], known[column], colour, label)
            axis.set_ylabel(label)
            axis.set_ylim(0, 1.05 * known[column].max() or 1)  # all distances may be zero
            axis.yaxis.set_major_locator(MaxNLocator(5, integer=column == "distance"))
            epoch_axis(axis, known["epoch"])
        return save(figure, path)


def plot_progress(
    metrics: pd.DataFrame,
    path: str | os.PathLike[str],
    kind: Kind = "search",
    metric: TaskMetric = TASKS["classification"].metric,
) -> Path:
    """Plot a metric, such as the accuracy, losses, and further metrics over the epochs.

    Args:
        metrics: Columns of a metrics.csv; empty ones are left out.
        path: PNG file to write.
        kind: Kind of the run, for the legend: a search has a supernet and a derived network.
        metric: The metric of the first panel.
    """
    network = "supernet, " if kind == "search" else ""
    lines = {
        "train_": (f"{network}training", "#94a3b8"),
        "val_": (f"{network}validation", "#2563eb"),
        "derived_val_": ("derived network, validation", "#ea580c"),
    }
    logged = [(column, prefix) for column in metrics for prefix in PREFIXES if column.startswith(prefix)]
    keys = dict.fromkeys((metric.key, "loss", *(column.removeprefix(prefix) for column, prefix in logged)))
    panels = {
        key: {f"{prefix}{key}": line for prefix, line in lines.items() if f"{prefix}{key}" in metrics} for key in keys
    }
    drawn = {key: panels[key] for key in keys if metrics[list(panels[key])].notna().any(axis=None)} or panels
    with matplotlib.rc_context(STYLE):
        figure, axes = _grid(len(drawn), 3.7)
        for axis, (key, columns) in zip(axes, drawn.items(), strict=False):
            shown = metric_of(key)
            plot_curves(axis, metrics, columns, shown.label, shown.scale)
        return save(figure, path)


def plot_costs(metrics: pd.DataFrame, targets: Mapping[str, float], path: str | os.PathLike[str]) -> Path:
    """Plot expected and derived cost over the epochs with the target, a panel per cost, and the multipliers.

    Args:
        metrics: Columns of a metrics.csv of a search with costs.
        targets: Metric -> the highest cost that the search aims at.
        path: PNG file to write.
    """
    multipliers = {
        f"multiplier_{metric}": (COST_NAMES[metric], colour)
        for metric, colour in zip(targets, SPARE_COLOURS[2:], strict=False)
        if metrics[f"multiplier_{metric}"].notna().any()
    }
    panels = len(targets) + bool(multipliers)
    with matplotlib.rc_context(STYLE):
        figure, axes = _grid(panels, 3.4)
        for axis, (metric, target) in zip(axes, targets.items(), strict=False):
            _cost_panel(axis, metrics, metric, target)
        if multipliers:
            plot_curves(axes[len(targets)], metrics, multipliers, "multiplier", scale=1)
            highest = metrics[list(multipliers)].max().max()
            axes[len(targets)].set_ylim(0, 1.05 * highest or 1)  # all may be zero
        return save(figure, path)


def _grid(panels: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with some panels, two or three a row.

    Args:
        panels: Number of panels.
        height: Height of a row in inches.
    """
    columns = 2 if panels in (2, 4) else min(panels, 3)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(10.5, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[panels:]:
        axis.remove()
    return figure, axes[:panels]


def _cost_panel(axis: Axes, metrics: pd.DataFrame, metric: str, target: float) -> None:
    for kind, label, colour in (("expected", "expected by α", "#2563eb"), ("derived", "derived network", "#ea580c")):
        known = metrics[["epoch", f"{kind}_{metric}"]].dropna()
        if len(known):
            values = known[f"{kind}_{metric}"]
            _line(axis, known["epoch"], values, colour, f"{label} ({amount(metric, values.iloc[-1])})")
    axis.axhline(target, color=INK, linewidth=1.2, linestyle="--", label=f"target ({amount(metric, target)})")
    axis.set_ylabel(COST_NAMES[metric])
    axis.yaxis.set_major_locator(MaxNLocator(6))
    axis.yaxis.set_major_formatter(lambda value, _: amount(metric, value))
    axis.margins(y=0.1)
    epoch_axis(axis, metrics["epoch"])
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1.01), borderaxespad=0, fontsize=8, handlelength=1.8)


def plot_curves(
    axis: Axes, metrics: pd.DataFrame, lines: Mapping[str, tuple[str, str]], ylabel: str, scale: float
) -> None:
    """Plot columns over the epochs, with the last value of each in the legend.

    Args:
        axis: Axes to plot on.
        metrics: Column epoch, and those of the lines; empty ones are left out.
        lines: Column -> its name and colour.
        ylabel: Label of the axis.
        scale: Factor of all values.
    """
    for column, (label, colour) in lines.items():
        known = metrics[["epoch", column]].dropna()
        if len(known):
            last = scale * known[column].iloc[-1]
            final = f"{label} ({last:.2f})" if abs(last) >= 0.1 or not last else f"{label} ({last:.2g})"
            _line(axis, known["epoch"], scale * known[column], colour, final)
    axis.set_ylabel(ylabel)
    epoch_axis(axis, metrics["epoch"])
    if axis.lines:
        # Above the axes, so that the legend hides no curve.
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1.01), borderaxespad=0, fontsize=8, handlelength=1.4)


def _line(axis: Axes, x: pd.Series, y: pd.Series, colour: Any, label: str, dash: str = "-") -> None:
    marker = "o" if len(x) <= 40 else None
    axis.plot(x, y, color=colour, linestyle=dash, label=label, marker=marker, markersize=2.8)


def epoch_axis(axis: Axes, epochs: pd.Series) -> None:
    """Mark whole epochs on the horizontal axis."""
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axis.tick_params(length=0)
    if epochs.nunique() == 1:
        axis.set_xticks([epochs.iloc[0]])


def validation_metric(metrics: pd.DataFrame, key: str) -> pd.DataFrame:
    """Return columns epoch and value: of the derived network if it was measured, else of the trained network."""
    derived = metrics[f"derived_val_{key}"].notna().any()
    column = f"derived_val_{key}" if derived else f"val_{key}"
    return metrics[["epoch", column]].dropna().rename(columns={column: "value"})


def plot_comparison(
    histories: Mapping[str, pd.DataFrame],
    searches: Collection[str],
    path: str | os.PathLike[str],
    metric: TaskMetric = TASKS["classification"].metric,
) -> Path:
    """Plot a metric on the validation images over the epochs of several runs, and against the duration of the search.

    Args:
        histories: Name of a run -> its metrics; see :func:`validation_metric` for the values shown.
        searches: Names of the runs that are searches; the other runs have no search time.
        path: PNG file to write.
        metric: The metric.
    """
    label = f"validation {metric.label}"
    timed = {name: histories[name]["seconds"].sum() for name in histories if name in searches}
    unit, seconds = ("hours", 3600) if max(timed.values(), default=0) > 7200 else ("seconds", 1)
    with matplotlib.rc_context(STYLE):
        panels = 2 if timed else 1
        figure = Figure(figsize=(10.5, 3.6 + 0.22 * math.ceil(len(histories) / 3)), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        for number, (name, metrics) in enumerate(histories.items()):
            colour = SPARE_COLOURS[number % len(SPARE_COLOURS)]
            dash = ("-", "--", ":")[number // len(SPARE_COLOURS) % 3]
            curve = validation_metric(metrics, metric.key)
            _line(axes[0], curve["epoch"] + 1, metric.scale * curve["value"], colour, name, dash)
            if name in timed and len(curve):
                last = metric.scale * curve["value"].iloc[-1]
                axes[1].plot(timed[name] / seconds, last, "o", color=colour, markersize=9)
        axes[0].set(xlabel="epochs trained", ylabel=label)
        axes[0].xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes[0].tick_params(length=0, which="both")
        lengths = [len(metrics) for metrics in histories.values()]
        if max(lengths) > 4 * min(lengths):
            # Logarithmic, since a search of 25 epochs would be invisible beside a retraining of 600.
            axes[0].set_xscale("log")
            axes[0].xaxis.set_major_formatter("{x:g}")
            axes[0].xaxis.set_minor_formatter(NullFormatter())
        if timed:
            axes[1].set(xlabel=f"{unit} of search", ylabel=f"{label}, last epoch")
            axes[1].set_xlim(0, 1.1 * max(timed.values()) / seconds or 1)
            axes[1].tick_params(length=0)
        figure.legend(axes[0].lines, list(histories), loc="outside upper left", ncols=min(3, len(histories)))
        return save(figure, path)
