"""Plot of the measures of a search: the derived operations, and the entropy and stability of α."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nas_plugins.report.curves import epoch_axis, plot_curves
from nas_plugins.report.style import COLOURS, SPARE_COLOURS, STYLE, save
from nas_plugins.runs.tables import EIGENVALUE

BLUE, ORANGE, PURPLE = SPARE_COLOURS[0], SPARE_COLOURS[1], SPARE_COLOURS[3]


def plot_health(measures: pd.DataFrame, metrics: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Plot shares of skip connections, entropy, stability and, where it was measured, the curvature over the epochs.

    Args:
        measures: See :func:`~nas_plugins.doctor.measures.measures`.
        metrics: Columns of a metrics.csv.
        path: PNG file to write.
    """
    panels = [_entropy, _stability]
    if measures["skip_share"].notna().any():
        panels.insert(0, _shares)
    if metrics[EIGENVALUE].notna().any():
        panels.append(_curvature)
    rows, columns = (2, 2) if len(panels) == 4 else (1, len(panels))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.3 * rows), layout="constrained")
        for panel, axis in zip(panels, figure.subplots(rows, columns, squeeze=False).flat, strict=True):
            panel(axis, measures.merge(metrics[["epoch", EIGENVALUE]], on="epoch", how="left"))
        return save(figure, path)


def _shares(axis: Axes, table: pd.DataFrame) -> None:
    lines = {"skip_share": ("skip connections", COLOURS["skip_connect"])}
    if not table["free_share"].equals(table["skip_share"]):  # else one line would hide the other
        lines = {"free_share": ("without weights: skips, pooling", COLOURS["avg_pool_3x3"]), **lines}
    plot_curves(axis, table, lines, "operations of the cells (%)", scale=100)
    axis.set_ylim(-4, 104)


def _entropy(axis: Axes, table: pd.DataFrame) -> None:
    plot_curves(axis, table, {"entropy": ("entropy of the weights", BLUE)}, "0 decided, 1 equal", scale=1)
    axis.set_ylim(-0.04, 1.04)


def _stability(axis: Axes, table: pd.DataFrame) -> None:
    lines = {
        "rank_correlation": ("rank correlation of α", BLUE),
        "share": ("share of operations that changed", ORANGE),
    }
    table = table.assign(share=table["changed"] / table["operations"])
    plot_curves(axis, table, lines, "against the epoch before", scale=1)
    axis.set_ylim(min(0, table["rank_correlation"].min()) - 0.04, 1.04)
    epoch_axis(axis, table["epoch"])


def _curvature(axis: Axes, table: pd.DataFrame) -> None:
    plot_curves(axis, table, {EIGENVALUE: ("curvature of the validation loss", PURPLE)}, "largest eigenvalue", scale=1)
