"""Measure how the cost of a search step of DARTS and EDAS grows with the number of cells and with the batch size.

    python benchmarks/scaling.py OUTPUT [--small] [--rounds N] [--what NAME ...] [--threads N]

The script writes a CSV file with one row per measurement, and a plot of it, into OUTPUT. On a CPU the times are CPU
seconds, by default of one thread, on which other work on the machine has little effect. The network that is derived
from the same α is measured for comparison. Its training step has one forward and backward pass, a search step has two,
so slopes are compared with one and with two such passes. Measurements that are already in the CSV file are not
repeated.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from measuring import DERIVED, Setting, measure_apart
from tqdm import tqdm

WHAT = {"DARTS": ("#64748b", 1), "EDAS": ("#ea580c", 10), "EDAS recomputing": ("#16a34a", 10), DERIVED: ("#2563eb", 6)}
"""Name of a measured step -> its colour and the number of steps; EDAS relaxes another edge in each."""
UNITS = {"seconds": "s", "memory_mb": "MB"}
KEYS = ["round", "what", "cells", "batch"]


def main() -> None:
    """Measure, write the table and the picture, and print the slopes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder")
    parser.add_argument("--small", action="store_true", help="8 channels, 16×16, smaller batches")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each setting")
    parser.add_argument("--what", nargs="+", default=list(WHAT), choices=WHAT, help="default: all")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; default: 1")
    options = parser.parse_args()
    cells, batches, usual = (4, 8, 12, 16, 20), (16, 32, 64, 128), 64
    size: dict[str, int] = {}
    if options.small:
        batches, usual, size = (4, 8, 16, 32), 16, {"channels": 8, "image": 16}
    sizes = [(n, usual) for n in cells] + [(8, batch) for batch in batches if batch != usual]

    options.output.mkdir(parents=True, exist_ok=True)
    name = f"scaling{'-small' if options.small else ''}-{options.threads}-threads"  # settings that must not be mixed
    path = options.output / f"{name}.csv"
    table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=[*KEYS, "seconds", "memory_mb"])
    jobs = [(number, what, *size_) for number in range(options.rounds) for size_ in sizes for what in options.what]
    known = set(table[KEYS].itertuples(index=False, name=None))
    for number, what, n, batch in tqdm([job for job in jobs if job not in known], desc="measuring", unit="process"):
        found = measure_apart(Setting(what, n, batch=batch, steps=WHAT[what][1], threads=options.threads, **size))
        seconds = found["seconds" if torch.cuda.is_available() else "cpu_seconds"]
        table.loc[len(table)] = [number, what, n, batch, statistics.mean(seconds), found["memory_mb"]]
        table.to_csv(path, index=False)
    table = table.groupby(KEYS[1:], as_index=False)[["seconds", "memory_mb"]].min()
    print(table.to_string(index=False))
    print(slopes(table[table["batch"] == usual]).to_string(index=False))
    draw(table, usual, path.with_suffix(".png"))


def slopes(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method: slope and R² over its sizes, and the ratio of its slope to the derived network's."""
    rows = []
    measured = [what for what in WHAT if (table["what"] == what).any()]
    fits = {(what, key): _line(table[table["what"] == what], key) for what in measured for key in UNITS}
    for what in measured:
        row: dict[str, object] = {"what": what}
        for key, unit in UNITS.items():
            slope, _, explained = fits[what, key]
            row[f"{unit} a cell"] = f"{slope:.3g}"
            row[f"R² {unit}"] = f"{explained:.4f}"
            if DERIVED in measured:
                row[f"{unit} to derived"] = f"{slope / fits[DERIVED, key][0]:.2f}"
        if DERIVED in measured:
            row["s to two passes"] = f"{fits[what, 'seconds'][0] / fits[DERIVED, 'seconds'][0] / 2:.2f}"
        rows.append(row)
    return pd.DataFrame(rows)


def _line(rows: pd.DataFrame, key: str) -> tuple[float, float, float]:
    """Return slope, intercept and R² of a line over the number of cells."""
    x, y = rows["cells"].astype(float), rows[key].astype(float)
    slope, intercept = np.polyfit(x, y, 1)
    return slope, intercept, float(np.corrcoef(x, y)[0, 1] ** 2)


def draw(table: pd.DataFrame, usual: int, path: Path) -> None:
    """Plot time and memory over the number of cells and over the batch size."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 6.4), layout="constrained", sharex="col", sharey="row")
    by_cells, by_batch = table[table["batch"] == usual], table[table["cells"] == 8]
    for row, (key, label, factor) in enumerate((("seconds", "seconds a step", 1), ("memory_mb", "peak GB", 1e-3))):
        _panel(axes[row, 0], by_cells, "cells", key, factor)
        _panel(axes[row, 1], by_batch, "batch", key, factor)
        axes[row, 0].set_ylabel(label)
    axes[1, 0].set_xlabel(f"cells (batch {usual})")
    axes[1, 1].set_xlabel("batch (8 cells)")
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def _panel(axis: Axes, table: pd.DataFrame, x: str, y: str, factor: float) -> None:
    for what, (colour, _) in WHAT.items():
        rows = table[table["what"] == what].sort_values(x)
        if len(rows):
            axis.plot(rows[x], factor * rows[y], "o-", color=colour, label=what, markersize=4)
    axis.set_ylim(bottom=0)
    axis.set_xticks(sorted(table[x].unique()))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#eef2f7")


if __name__ == "__main__":
    main()
