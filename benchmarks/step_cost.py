"""Measure a search step of NNI's DARTS, our DARTS of each order, our EDAS and other methods on one space in one run.

    python benchmarks/step_cost.py [--small] [--rounds N] [--strategies NAME ...] [--spaces NAME ...] [--compiled]
        [--output F]

A step consists of an architecture step and a weight step, run by NNI's experiment and Lightning; "EDAS, bare loop" is
EDAS without these two. The strategies alternate, so that a machine that slows down slows all of them. CPU seconds are
summed over all threads, and other work on the machine has little effect on them. Memory is the peak of the whole
process, or of the accelerator if there is one. Ratios are relative to the first strategy that is measured. The time of
a method with several weight steps per architecture step is the mean over whole cycles; that of all others is the median
over steps.
"""

from __future__ import annotations

import argparse
import statistics
from itertools import product
from pathlib import Path

import pandas as pd
from measuring import BARE_LOOP, CELL_LOSSES, DERIVED, SPARING, STRATEGIES, Setting, measure_apart
from methods import METHODS, UNEVEN, WARMUP
from tqdm import tqdm

SMALL = {"cells": 3, "channels": 8, "batch": 16, "image": 16}
KNOWN = (*STRATEGIES, *SPARING, *CELL_LOSSES, *METHODS, BARE_LOOP, DERIVED)


def main() -> None:
    """Measure all strategies in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="3 cells, 8 channels, batch 16, 16×16")
    parser.add_argument("--cells", type=int, help="in place of 8")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each strategy")
    parser.add_argument("--steps", type=int, default=3, help="counted steps in a measurement")
    parser.add_argument("--threads", type=int, help="of PyTorch; default: its own")
    parser.add_argument(
        "--strategies", nargs="+", default=STRATEGIES, choices=KNOWN, metavar="NAME", help=", ".join(KNOWN)
    )
    parser.add_argument("--spaces", nargs="+", default=["DartsSpace"], metavar="NAME", help="spaces of nas_plugins")
    parser.add_argument("--compiled", action="store_true", help="also with compute.compile")
    parser.add_argument("--output", type=Path, help="CSV file with every measurement")
    options = parser.parse_args()
    size = SMALL if options.small else {}
    size |= {"cells": options.cells} if options.cells else {}

    rows = []
    ways = (False, True) if options.compiled else (False,)
    jobs = list(product(range(options.rounds), options.spaces, options.strategies, ways))
    for number, space, name, compiled in tqdm(jobs, desc="measuring", unit="process"):
        cycle = UNEVEN.get(name, 1)
        steps = -(-options.steps // cycle) * cycle
        counts = {"steps": steps, "warmup": WARMUP.get(name, 1)}
        setting = Setting(name, threads=options.threads, space=space, compiled=compiled, **counts, **size)
        found = measure_apart(setting)
        average = statistics.median if cycle == 1 else statistics.mean
        middle = {key: average(found[key]) for key in ("seconds", "cpu_seconds")}
        shown = (name if len(options.spaces) == 1 else f"{name} on {space}") + (", compiled" if compiled else "")
        others = {key: found[key] for key in ("first_seconds", "memory_mb")}
        rows.append({"round": number, "strategy": shown, **middle, **others})
    table = pd.DataFrame(rows)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(options.output, index=False)
    print(f"{setting.cells} cells, {setting.channels} channels, batch {setting.batch}, {setting.image}×{setting.image}")
    print(summary(table).to_string(index=False))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per strategy: medians, and the ratio to the first strategy in the same round with its range."""
    names = list(table["strategy"].unique())
    base = table[table["strategy"] == names[0]].set_index("round")
    rows = []
    for name in names:
        mine = table[table["strategy"] == name].set_index("round")
        row: dict[str, object] = {"strategy": name}
        for key, unit, shown in (
            ("seconds", "s/step", ".3f"),
            ("cpu_seconds", "CPU s", ".3f"),
            ("first_seconds", "first step, s", ".1f"),
            ("memory_mb", "MB", ".0f"),
        ):
            ratio = mine[key] / base[key]
            row[unit] = f"{mine[key].median():{shown}}"
            row[f"ratio {unit}"] = f"{ratio.median():.3f} ({ratio.min():.3f} to {ratio.max():.3f})"
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
