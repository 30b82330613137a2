"""Pictures of a run: its cells, its architecture weights and its progress.

Cells are laid out by Graphviz, all else by matplotlib through its objects, so that no global state
of pyplot changes. An operation has the same colour in every picture.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullFormatter

from search_spaces.files import write_whole

Weights = Literal["softmax", "sigmoid"]
Kind = Literal["search", "retrain"]

INK, MUTED, FAINT = "#0f172a", "#64748b", "#e2e8f0"

COLOURS = {
    "sep_conv_3x3": "#1d4ed8",
    "sep_conv_5x5": "#60a5fa",
    "dil_conv_3x3": "#7e22ce",
    "dil_conv_5x5": "#c084fc",
    "max_pool_3x3": "#c2410c",
    "avg_pool_3x3": "#f59e0b",
    "skip_connect": "#16a34a",
    "none": "#94a3b8",
    "simple_conv_1x1": "#67d5d0",
    "simple_conv_3x3": "#0f766e",
    "conv_3x1_1x3": "#9d174d",
    "conv_7x1_1x7": "#f472b6",
    "bottleneck_1x3x1": "#713f12",
}
"""The line of each operation. Others take the next of :data:`SPARE_COLOURS`."""

SPARE_COLOURS = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#dc2626", "#0891b2", "#a16207", "#db2777")

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a run may be called "$x"
    "axes.edgecolor": "#cbd5e1",
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eef2f7",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}


# Architecture weights


def operations_of(alphas: pd.DataFrame) -> list[str]:
    """The columns of an alphas table that are operations."""
    return [column for column in alphas.columns if column not in ("epoch", "cell", "edge")]


def architecture_weights(alphas: pd.DataFrame, weights: Weights) -> pd.DataFrame:
    """The table with every α turned into the weight of its operation on its edge.

    Args:
        alphas: columns epoch, cell, edge and one for each operation.
        weights: "softmax" over the operations of an edge, or "sigmoid" of each.
    """
    names = operations_of(alphas)
    values = alphas[names].to_numpy(dtype=float)
    if weights == "softmax":
        present = ~np.isnan(values).all(axis=1)  # an edge without any value has no weights either
        values = values.copy()
        with np.errstate(invalid="ignore"):  # α of a search that diverged
            values[present] = np.exp(values[present] - np.nanmax(values[present], axis=1, keepdims=True))
            values[present] /= np.nansum(values[present], axis=1, keepdims=True)
    else:
        values = 0.5 * (1 + np.tanh(values / 2))  # the sigmoid, without overflow
    result = alphas.copy()
    result[names] = values
    return result


def plot_alphas(alphas: pd.DataFrame, weights: Weights, path: str | os.PathLike[str]) -> Path:
    """The weight of every operation over the epochs: a panel an edge, grouped by cell.

    Args:
        alphas: columns epoch, cell, edge and one for each operation, with the raw α.
        weights: how α becomes a weight.
        path: the PNG to write.
    """
    table = architecture_weights(alphas, weights)
    names = operations_of(alphas)
    colours = operation_colours(names)
    cells = {cell: list(rows.groupby("edge", sort=False)) for cell, rows in table.groupby("cell", sort=False)}
    columns = min(7, max(len(edges) for edges in cells.values()))
    # Placed by hand, in inches: matplotlib's automatic layout takes minutes for a hundred panels.
    panel_width, panel_height, left, header = 1.5, 0.95, 0.5, 0.56
    step_x, step_y = panel_width + 0.22, panel_height + 0.3
    width = max(left + columns * step_x, 7.0)
    legend_columns = int(width // 1.4)
    legend = 0.1 + 0.2 * math.ceil(len(names) / legend_columns)
    rows = {cell: math.ceil(len(edges) / columns) for cell, edges in cells.items()}
    height = legend + sum(header + n * step_y for n in rows.values()) + 0.1
    limits = _alpha_limits(table)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        lines = [Line2D([], [], color=colour, linewidth=3) for colour in colours.values()]
        figure.legend(
            lines, names, loc="upper left", bbox_to_anchor=((left - 0.06) / width, 1), ncols=legend_columns,
            borderpad=0, borderaxespad=0.6, handlelength=1.2,
        )  # fmt: skip
        top = legend
        for cell, edges in cells.items():
            _heading(figure, left, top + 0.22, _cell_name(cell))
            for place, (edge, history) in enumerate(edges):
                row, column = divmod(place, columns)
                corner = (left + column * step_x, top + header + row * step_y)
                axis = _axes_at(figure, *corner, panel_width, panel_height)
                _edge_panel(axis, str(edge), history, colours, limits)
                axis.tick_params(labelleft=column == 0, labelbottom=place + columns >= len(edges))
            top += header + rows[cell] * step_y
        right = (left + columns * step_x - 0.22) / width
        figure.text(right, 0.04 / height, "epoch", ha="right", va="bottom", color=MUTED, fontsize=7)
        return _save(figure, path)


def _alpha_limits(table: pd.DataFrame) -> tuple[float, float, float, float]:
    """First and last epoch, lowest and highest weight: the same for all panels, so that they compare."""
    first, last = float(table["epoch"].min()), float(table["epoch"].max())
    if first == last:
        first, last = first - 1, last + 1
    values = table[operations_of(table)].to_numpy()
    lowest, highest = float(np.nanmin(values)), float(np.nanmax(values))
    room = max(0.06 * (highest - lowest), 0.005)
    return first, last, max(0.0, lowest - room), min(1.0, highest + room)


def _edge_panel(
    axis: Axes,
    edge: str,
    history: pd.DataFrame,
    colours: Mapping[str, str],
    limits: tuple[float, float, float, float],
) -> None:
    first, last, lowest, highest = limits
    marker = "." if len(history) == 1 else None  # a single epoch makes no line
    for name, colour in colours.items():
        order = 1.5 if name == "none" else 2
        axis.plot(history["epoch"], history[name], color=colour, marker=marker, linewidth=1.3, zorder=order)
    axis.set_title(_edge_name(edge), fontsize=8.5, pad=3)
    axis.set(xlim=(first, last), ylim=(lowest, highest))
    axis.set_xticks([t for t in MaxNLocator(3, integer=True).tick_values(first, last) if first <= t <= last])
    axis.set_yticks([t for t in MaxNLocator(3).tick_values(lowest, highest) if lowest <= t <= highest])
    axis.tick_params(labelsize=7, length=0, pad=3)


def plot_heatmap(alphas: pd.DataFrame, weights: Weights, path: str | os.PathLike[str]) -> Path:
    """The weights of the last epoch, edges × operations, a block a cell.

    The best operation of each edge is framed; ``none`` is not one, as in a derivation.

    Args:
        alphas: columns epoch, cell, edge and one for each operation, with the raw α.
        weights: how α becomes a weight.
        path: the PNG to write.
    """
    table = architecture_weights(alphas, weights)
    epoch = table["epoch"].max()
    last = table[table["epoch"] == epoch]
    names = operations_of(alphas)
    cells = list(last.groupby("cell", sort=False))
    columns = len(cells) if len(cells) < 3 else 2 if len(cells) == 4 else 3
    longest = max(len(rows) for _, rows in cells)
    field, left, header, top = (0.43, 0.23), 0.62, 1.02, 0.42
    block = (left + field[0] * len(names) + 0.55, header + field[1] * longest + 0.25)
    width = block[0] * columns
    height = top + block[1] * math.ceil(len(cells) / columns)
    highest = float(np.nanmax(last[names].to_numpy(), initial=0.2))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        title = f"{weights} weights after epoch {epoch:g}"
        figure.text(0.2 / width, 1 - 0.16 / height, title, va="top", color=MUTED, fontsize=9)
        for place, (cell, rows) in enumerate(cells):
            row, column = divmod(place, columns)
            corner = (column * block[0] + left, top + row * block[1])
            _heading(figure, corner[0] - left + 0.2, corner[1] + 0.08, _cell_name(cell))
            size = (field[0] * len(names), field[1] * len(rows))
            axis = _axes_at(figure, corner[0], corner[1] + header, *size)
            _heat(axis, rows, names, highest)
        return _save(figure, path)


def _heat(axis: Axes, rows: pd.DataFrame, names: Sequence[str], highest: float) -> None:
    values = rows[names].to_numpy(dtype=float)
    axis.imshow(values, cmap="Blues", vmin=0, vmax=highest, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if not np.isnan(value):
            ink = "white" if value > 0.6 * highest else INK
            axis.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7, color=ink)
    eligible = np.where([name == "none" for name in names], np.nan, values)  # as derivations do
    for y, row in enumerate(eligible):
        if not np.isnan(row).all():
            best = int(np.nanargmax(row))
            axis.add_patch(Rectangle((best - 0.47, y - 0.46), 0.94, 0.92, fill=False, edgecolor="#ea580c"))
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.xaxis.tick_top()
    axis.set_xticks(range(len(names)), names, rotation=38, ha="left", rotation_mode="anchor", fontsize=7.5)
    axis.set_yticks(range(len(rows)), [_edge_name(str(edge)) for edge in rows["edge"]], fontsize=7.5)
    axis.tick_params(length=0, pad=4)


def operation_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each operation: the known ones always have the same."""
    unknown = [name for name in names if name not in COLOURS]
    spare = {name: SPARE_COLOURS[i % len(SPARE_COLOURS)] for i, name in enumerate(unknown)}
    return {name: COLOURS.get(name) or spare[name] for name in names}


def _edge_name(edge: str) -> str:
    return edge.replace("->", " → ")


def _cell_name(cell: object) -> str:
    names = {"normal": "normal cell", "reduce": "reduction cell"}
    cell = str(cell).removeprefix("cell_")
    return names.get(str(cell), f"cell {cell}" if str(cell).isdigit() else str(cell))


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
            _line(axis, history["epoch"], history["contribution"], colour, _cell_name(cell))
            lines.append(axis.lines[-1])
        axis.set_ylabel("loss − loss without the cell")
        _epoch_axis(axis, contributions["epoch"])
        figure.legend(handles=lines, loc="outside right upper", ncols=math.ceil(len(lines) / 14))
        return _save(figure, path)


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
        return _save(figure, path)


# Progress


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
        return _save(figure, path)


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
        return _save(figure, path)


# Figures


def _axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches, from the upper left corner of the figure."""
    whole = figure.get_size_inches()
    return figure.add_axes((left / whole[0], 1 - (top + height) / whole[1], width / whole[0], height / whole[1]))


def _heading(figure: Figure, left: float, top: float, text: str) -> None:
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, text, ha="left", va="center", fontsize=11, fontweight="bold")


def _save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    FigureCanvasAgg(figure)
    # Very tall figures get fewer pixels an inch: no side above what programs show.
    dpi = min(144.0, 16000 / max(figure.get_size_inches()))
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes, and no reason to warn.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        write_whole(path, lambda file: figure.savefig(file, format="png", dpi=dpi, facecolor="white"))
    return Path(path)
