"""Count the operator calls, the nodes of autograd graphs, and the synchronizations of a search step.

    python benchmarks/launches.py [--small] [--cells N] [--one-by-one] [--strategies NAME ...] [--output CSV]

A step consists of an architecture step and a weight step, run by NNI's experiment and Lightning, with candidates of one
kind computed together, as on an accelerator. There each operator call launches one or more kernels, and a
synchronization waits until all of them have ended. The table has the columns

    operators   operator calls of PyTorch, forward and backward, optimizers included
    launching   those that compute, in a kernel on an accelerator, rather than return a view or new memory
    nodes       nodes of the autograd graphs that backward passes evaluate
    waits       tensor values that Python reads, each of which is a synchronization on an accelerator
    where       functions of this project, NNI or Lightning that read them
    kernels     launched kernels, on a GPU only; there the column synchronizations counts those of which PyTorch warns
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from dispatches import Launches
from measuring import BARE_LOOP, CELL_LOSSES, DERIVED, SPARING, STRATEGIES, Setting, run_steps
from methods import METHODS, UNEVEN, WARMUP
from step_cost import SMALL
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

KNOWN = (*STRATEGIES, *SPARING, *CELL_LOSSES, *METHODS, BARE_LOOP, DERIVED)
DEFAULT = ("NNI DARTS", "DARTS", "FairDARTS", "D-DARTS", "EDAS", *METHODS, DERIVED)

SAMPLED_STEPS = 20
"""Counted steps of strategies that run few candidates, whose steps differ."""


class Meter:
    """Counter of what happens in steps.

    Args:
        warmup: Number of steps before the first one that is counted; the first one includes setup.
    """

    def __init__(self, warmup: int = 1) -> None:
        self.steps = -warmup
        self.launches = Launches()
        self.nodes = self.kernels = 0
        self._running: ExitStack | None = None

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._running is not None:  # a step failed
            self._running.close()

    def start(self) -> None:
        """Begin a step."""
        self.steps += 1
        if self.steps > 0:
            self._running = ExitStack()
            self._profile = self._running.enter_context(profile(activities=_activities()))
            self._running.enter_context(self.launches.counting())

    def stop(self) -> None:
        """End a step."""
        if self._running is None:
            return
        self._running.close()
        self._running = None
        for event in self._profile.profiler.kineto_results.events():  # the parsed events take a hundred times as long
            self.nodes += event.name().startswith("autograd::engine::evaluate_function")
            on_gpu = event.device_type() == torch.autograd.DeviceType.CUDA
            self.kernels += on_gpu and not event.is_user_annotation() and not event.name().startswith("Mem")

    def row(self) -> dict[str, Any]:
        """Return the counts per step, averaged over all counted steps."""
        where = ", ".join(f"{name} ×{count / self.steps:g}" for name, count in self.launches.waits.most_common())
        counts = {
            "operators": self.launches.operators,
            "launching": self.launches.launching,
            "nodes": self.nodes,
            "waits": self.launches.waits.total(),
        }
        if torch.cuda.is_available():
            counts |= {"synchronizations": self.launches.synchronizations, "kernels": self.kernels}
        return {**{name: round(value / self.steps) for name, value in counts.items()}, "where": where}


def _activities() -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]


def count(setting: Setting) -> dict[str, Any]:
    """Return the row of the table for a setting, in which the numbers of steps are chosen here."""
    warmup = WARMUP.get(setting.what, 1)
    steps = max(UNEVEN.get(setting.what, 1), SAMPLED_STEPS if setting.what in WARMUP else 1)
    with Meter(warmup) as meter:
        run_steps(replace(setting, steps=steps, warmup=warmup), meter)
    return {"strategy": setting.what, **meter.row()}


def _without_cpu_kernels() -> Any:
    """Return a context in which depthwise convolutions have PyTorch's own gradients, as on an accelerator."""
    return patch("search_spaces.depthwise.is_transformed", return_value=True)


def main() -> None:
    """Count the steps of each strategy, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="3 cells, 8 channels, batch 16, 16×16")
    parser.add_argument("--cells", type=int, help="in place of 8")
    parser.add_argument("--one-by-one", action="store_true", help="candidates are computed one by one, as on a CPU")
    parser.add_argument("--strategies", nargs="+", default=DEFAULT, choices=KNOWN, metavar="NAME")
    parser.add_argument("--output", type=Path, metavar="CSV", help="file for the table")
    options = parser.parse_args()
    size = (SMALL if options.small else {}) | ({"cells": options.cells} if options.cells else {})
    size |= {"grouped": not options.one_by_one}
    rows = []
    for name in tqdm(options.strategies, desc="counting", unit="strategy"):
        with nullcontext() if options.one_by_one else _without_cpu_kernels():
            rows.append(count(Setting(name, **size)))
    table = pd.DataFrame(rows)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(options.output, index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
