"""Plots of the architecture weights: over the epochs, and of the last epoch as a heat map."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from nas_plugins.report.style import INK, MUTED, STYLE, axes_at, cell_name, heading, operation_colours, save
from nas_plugins.runs.alphas import architecture_weights
from nas_plugins.runs.tables import Weights, operations_of
from search_spaces.edges import NodeName


def plot_alphas(alphas: pd.DataFrame, weights: Weights, path: str | os.PathLike[str]) -> Path:
    """Plot the weight of every operation over the epochs, with one panel per edge, grouped by cell.

    Args:
        alphas: Raw α, with columns epoch, cell, edge and one per operation.
        weights: Function that turns α into weights.
        path: PNG file to write.
    """
    alphas = _with_named_inputs(alphas)
    table = architecture_weights(alphas, weights)
    names = operations_of(alphas)
    colours = operation_colours(names)
    cells = {cell: list(rows.groupby("edge", sort=False)) for cell, rows in table.groupby("cell", sort=False)}
    columns = min(7, max(len(edges) for edges in cells.values()))
    # Placed explicitly, in inches, since matplotlib's automatic layout takes minutes for a hundred panels.
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
            heading(figure, left, top + 0.22, cell_name(cell))
            for place, (edge, history) in enumerate(edges):
                row, column = divmod(place, columns)
                corner = (left + column * step_x, top + header + row * step_y)
                axis = axes_at(figure, *corner, panel_width, panel_height)
                _edge_panel(axis, str(edge), history, colours, limits)
                axis.tick_params(labelleft=column == 0, labelbottom=place + columns >= len(edges))
            top += header + rows[cell] * step_y
        right = (left + columns * step_x - 0.22) / width
        figure.text(right, 0.04 / height, "epoch", ha="right", va="bottom", color=MUTED, fontsize=7)
        return save(figure, path)


def _alpha_limits(table: pd.DataFrame) -> tuple[float, float, float, float]:
    """Return first and last epoch, lowest and highest weight: axis limits shared by all panels."""
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
    marker = "." if len(history) == 1 else None  # a single epoch gives no visible line
    for name, colour in colours.items():
        order = 1.5 if name == "none" else 2
        axis.plot(history["epoch"], history[name], color=colour, marker=marker, linewidth=1.3, zorder=order)
    axis.set_title(_edge_name(edge), fontsize=8.5, pad=3)
    axis.set(xlim=(first, last), ylim=(lowest, highest))
    epochs = history["epoch"]
    ticks = MaxNLocator(3, integer=True).tick_values(first, last)
    axis.set_xticks([t for t in ticks if epochs.min() <= t <= epochs.max()])
    axis.set_yticks([t for t in MaxNLocator(3).tick_values(lowest, highest) if lowest <= t <= highest])
    axis.tick_params(labelsize=7, length=0, pad=3)


def plot_heatmap(alphas: pd.DataFrame, weights: Weights, path: str | os.PathLike[str]) -> Path:
    """Plot the weights of the last epoch as a heat map, edges × operations, with one block per cell.

    The strongest operation of each edge except ``none`` is framed, as a derivation would choose it.

    Args:
        alphas: Raw α, with columns epoch, cell, edge and one per operation.
        weights: Function that turns α into weights.
        path: PNG file to write.
    """
    alphas = _with_named_inputs(alphas)
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
            heading(figure, corner[0] - left + 0.2, corner[1] + 0.08, cell_name(cell))
            size = (field[0] * len(names), field[1] * len(rows))
            axis = axes_at(figure, corner[0], corner[1] + header, *size)
            _heat(axis, rows, names, highest)
        return save(figure, path)


def _heat(axis: Axes, rows: pd.DataFrame, names: Sequence[str], highest: float) -> None:
    values = rows[names].to_numpy(dtype=float)
    axis.imshow(values, cmap="Blues", vmin=0, vmax=highest, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if not np.isnan(value):
            ink = "white" if value > 0.6 * highest else INK
            axis.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7, color=ink)
    eligible = np.where([name == "none" for name in names], np.nan, values)
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


def _edge_name(edge: str) -> str:
    node = NodeName.parse(f"cell/{edge}")
    return edge.replace("->", " → ") if node is None else f"into {node.target}"


def _with_named_inputs(alphas: pd.DataFrame) -> pd.DataFrame:
    """Return a table of α in which the candidates of nodes are called "input 0", or "inputs 0+1" for a pair."""
    elsewhere = alphas[[NodeName.parse(f"cell/{edge}") is None for edge in alphas["edge"]]]
    inputs = [name for name in operations_of(alphas) if re.fullmatch(r"\d+(\+\d+)?", name)]
    return alphas.rename(
        columns={name: f"input{'s' if '+' in name else ''} {name}" for name in inputs if elsewhere[name].isna().all()}
    )
