"""Style shared by all plots: colours, fonts, positions in inches and atomic PNG output.

Plots use Matplotlib's object interface, so the global state of pyplot does not change. An operation
has the same colour in every plot.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nas_plugins.runs.tables import NO_CELL
from search_spaces.files import write_whole

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
"""Operation -> colour of its line. Other operations take the colours of :data:`SPARE_COLOURS` in turn."""

SPARE_COLOURS = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#dc2626", "#0891b2", "#a16207", "#db2777")

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # the name of a run may contain "$"
    "axes.edgecolor": "#cbd5e1",
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": "#eef2f7",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}


def operation_colours(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each operation; a known operation always has the same one."""
    unknown = [name for name in names if name not in COLOURS]
    spare = {name: SPARE_COLOURS[i % len(SPARE_COLOURS)] for i, name in enumerate(unknown)}
    return {name: COLOURS.get(name) or spare[name] for name in names}


def cell_name(cell: object) -> str:
    """Return the heading of a cell that is named as in a table of α."""
    names = {"normal": "normal cell", "reduce": "reduction cell", NO_CELL: "choices"}
    cell = str(cell).removeprefix("cell_")
    return names.get(str(cell), f"cell {cell}" if str(cell).isdigit() else str(cell))


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes at a position in inches from the upper left corner of the figure."""
    whole = figure.get_size_inches()
    return figure.add_axes((left / whole[0], 1 - (top + height) / whole[1], width / whole[0], height / whole[1]))


def heading(figure: Figure, left: float, top: float, text: str) -> None:
    """Add a heading at a position in inches from the upper left corner of the figure."""
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, text, ha="left", va="center", fontsize=11, fontweight="bold")


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure to a PNG file and return its path."""
    # Very tall figures get a lower resolution, since viewers limit the pixels of a side.
    dpi = min(144.0, 16000 / max(figure.get_size_inches()))
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=dpi, facecolor="white"))
    return Path(path)
