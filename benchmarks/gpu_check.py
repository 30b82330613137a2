"""Check a GPU in a few minutes: agreement with the CPU, the cost of steps, and a real search.

    python benchmarks/gpu_check.py OUTPUT [--images FOLDER] [--minutes N] [--dry]

FOLDER holds the images of CIFAR-10 in train/CLASS/* and test/CLASS/*; without it the search uses the digits of
scikit-learn. --dry runs everything on the CPU with small networks, to try the script. The script writes gpu_check.html
into OUTPUT, and

    correct.csv    the largest difference of α from the CPU after 5 steps in double precision, and whether a search that
                   is interrupted resumes to the same α
    steps.csv      seconds and peak memory of a step with 8 cells, for EDAS also with 20, in 32 bits and in bf16
    compiled.csv   seconds of a step with and without torch.compile; the first step includes the compilation
    launches.csv   operator calls and synchronizations of a step, see launches.py
    search/        a search by EDAS with 20 cells, for as many of its 25 epochs as fit into the time
"""

from __future__ import annotations

import argparse
import logging
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import pytorch_lightning as pl
import torch
from launches import Meter
from measuring import DERIVED, Clock, Setting, measure_apart, run_steps
from step_cost import SMALL

from nas_plugins.experiment import resume, search
from nas_plugins.report import write_report
from nas_plugins.runs.directory import ALPHAS, GENOTYPE, METRICS
from nas_plugins.training.recorder import peak_memory_mb, reset_peak_memory
from search_spaces.files import write_text_whole

EXAMPLES = Path(__file__).parent.parent / "examples"
STRATEGIES = ("NNI DARTS", "DARTS", "FairDARTS", "D-DARTS", "PCDARTS", "GDAS", "EDAS")
SHARES = {"correct": 0.2, "steps": 0.3, "launches": 0.1}
"""Part -> its share of the time. Only the first two strategies are measured beyond it. The search gets the rest."""
TINY = {"cells": 3, "channels": 4, "batch": 4, "image": 8}
"""Sizes of network and batch with which a CPU takes only seconds in double precision."""
COMPILED = (DERIVED, "EDAS", "DARTS")
COMPILED_UNTIL = 0.75
"""Share of the time after which nothing is compiled; a compilation that still runs then is stopped."""
SECONDS_TO_START = 20
"""Minimum time that a separate process needs."""
TITAN_X_HOURS = 3
"""Duration of EDAS' search on CIFAR-10 (its paper, section 4.1)."""


@dataclass(frozen=True)
class Machine:
    """Accelerator and time limit of the check.

    Args:
        accelerator: "gpu" or "cpu".
        dry: Whether networks are small.
        start: Start of the check, by ``time.monotonic``.
        seconds: Length of the whole check.
    """

    accelerator: str
    dry: bool
    start: float
    seconds: float

    def done(self) -> float:
        """Return the share of the time that has passed."""
        return (time.monotonic() - self.start) / self.seconds


class Interrupt(pl.Callback):
    """Callback that ends a search after an epoch, as a kill would."""

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        raise SystemExit


class UntilLate(pl.Callback):
    """Callback that ends a search after the epoch in which the time runs out."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        trainer.should_stop |= self.machine.done() > 0.95


def main() -> None:
    """Run all parts, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="images of CIFAR-10, by class")
    parser.add_argument("--minutes", type=float, default=8, metavar="N", help="length of the check; default: 8")
    parser.add_argument("--dry", action="store_true", help="on the CPU, small")
    options = parser.parse_args()
    if not options.dry and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU; --dry tries the script on the CPU")
    machine = Machine("cpu" if options.dry else "gpu", options.dry, time.monotonic(), 60 * options.minutes)
    if options.output.exists() and (not options.output.is_dir() or any(options.output.iterdir())):
        parser.error(f"{options.output}: it should be an empty folder, or none yet")
    if options.images is not None and not (options.images / "train").is_dir():
        parser.error(f"--images {options.images}: it should have the folders train and test, with a folder per class")
    options.output.mkdir(parents=True, exist_ok=True)
    for logger in ("nni", "pytorch_lightning"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    tables = {
        "correct": pd.DataFrame(correct(machine, options.output)),
        "steps": pd.DataFrame(steps(machine)),
        "launches": pd.DataFrame(launches(machine)),
        "compiled": pd.DataFrame(compiled(machine)),
    }
    for name, table in tables.items():
        write_text_whole(options.output / f"{name}.csv", table.to_csv(index=False))
    found = real_search(machine, options.output, options.images)
    write_text_whole(options.output / "gpu_check.html", page(machine, tables, found))
    print(f"{options.output / 'gpu_check.html'} after {machine.done() * options.minutes:.1f} minutes")


def correct(machine: Machine, output: Path) -> Iterator[dict[str, Any]]:
    """Yield the differences between CPU and GPU, and between an uninterrupted search and a resumed one."""
    for name in ("DARTS", "EDAS"):
        tables = [
            run_steps(Setting(name, **TINY, steps=5, accelerator=accelerator, precision="64-true"), Clock())
            for accelerator in ("cpu", machine.accelerator)
        ]
        pairs = [pair for edge in tables[0] for pair in zip(tables[0][edge], tables[1][edge], strict=True)]
        largest = max(abs(one - other) for one, other in pairs)
        yield {"check": f"{name}: α after 5 steps in double precision, largest difference", "found": f"{largest:.1e}"}
    same = resumed_alike(machine, output)
    yield {"check": "EDAS: a search that was interrupted resumes to the same α and genotype", "found": same}


def resumed_alike(machine: Machine, output: Path) -> str:
    """Return whether a search that is interrupted after an epoch and resumed ends like an uninterrupted one."""
    config, options = EXAMPLES / "edas" / "digits.yaml", ["--compute.accelerator", machine.accelerator]
    options += ["--training.epochs", "2", "--strategy.sign_flip_epochs", "1", "--data.train_images", "400"]
    whole = search(config, output / "whole", options)
    try:
        search(config, output / "resumed", options, [Interrupt()])
    except SystemExit:
        resume(output / "resumed")
    files = [(whole / name, output / "resumed" / name) for name in (ALPHAS, GENOTYPE)]
    return "bit for bit" if all(one.read_bytes() == other.read_bytes() for one, other in files) else "no"


def steps(machine: Machine) -> Iterator[dict[str, Any]]:
    """Yield the time and the memory of a step of each strategy."""
    size = SMALL if machine.dry else {"cells": 8}
    settings = [Setting(name, **size, precision=p) for p, name in product(("32-true", "bf16-mixed"), STRATEGIES)]
    if not machine.dry:
        settings[1:1] = [Setting("EDAS", cells=20, precision=precision) for precision in ("32-true", "bf16-mixed")]
    first: dict[str, float] = {}
    for index, setting in enumerate(settings):
        if index > 1 and machine.done() > SHARES["correct"] + SHARES["steps"]:
            return
        clock = Clock()
        reset_peak_memory()
        run_steps(on(machine, setting), clock)
        seconds = statistics.median(clock.seconds[1:])
        first.setdefault(setting.precision, seconds)
        yield {
            "strategy": setting.what,
            "cells": setting.cells,
            "precision": setting.precision,
            "seconds": round(seconds, 4),
            "to NNI DARTS": round(seconds / first[setting.precision], 3),
            "peak MB": round(peak_memory_mb(not machine.dry)),
        }


def launches(machine: Machine) -> Iterator[dict[str, Any]]:
    """Yield the operator calls and synchronizations of a step of each strategy."""
    for index, name in enumerate(STRATEGIES):
        if index > 1 and machine.done() > sum(SHARES.values()):
            return
        meter = Meter()
        run_steps(on(machine, Setting(name, **(SMALL if machine.dry else {"cells": 8}), steps=1)), meter)
        yield {"strategy": name, **meter.row()}


def compiled(machine: Machine) -> Iterator[dict[str, Any]]:
    """Yield the time of a step without and with ``torch.compile``, or a note if the compilation takes too long."""
    size = SMALL if machine.dry else {"cells": 8}
    for way, name in product((False, True), COMPILED):
        row = {"strategy": name, "compiled": "yes" if way else "no"}
        left = (COMPILED_UNTIL - machine.done()) * machine.seconds
        try:
            if left < SECONDS_TO_START:
                raise TimeoutError
            found = measure_apart(on(machine, Setting(name, **size, compiled=way)), left)
        except TimeoutError:
            yield row | {"first step, s": "not in the time that was left", "seconds": ""}
        else:
            seconds = statistics.median(found["seconds"])
            yield row | {"first step, s": f"{found['first_seconds']:.1f}", "seconds": f"{seconds:.4f}"}


def on(machine: Machine, setting: Setting) -> Setting:
    """Return a setting for the accelerator of the check."""
    return replace(setting, accelerator=machine.accelerator)


def real_search(machine: Machine, output: Path, images: Path | None) -> dict[str, Any]:
    """Search until the time runs out, and return the accuracies and an estimate of the time for all epochs."""
    options = ["--compute.accelerator", machine.accelerator]
    if images is not None:
        options += ["--data.dataset", "folder", "--data.root", str(images), "--data.flip", "true"]
        options += ["--data.crop_padding", "4", "--data.workers", "8"]
    if machine.dry:
        options += ["--space.layers", "5", "--space.channels", "4", "--data.train_images", "400"]
        options += ["--training.epochs", "2", "--strategy.sign_flip_epochs", "1"]
    if images is None:
        options += ["--data.dataset", "digits"]
    run = search(EXAMPLES / "edas" / "cifar10.yaml", output / "search", options, [UntilLate(machine)])
    write_report([run])
    metrics = pd.read_csv(run / METRICS)
    seconds = metrics["seconds"].iloc[1:].median() if len(metrics) > 1 else metrics["seconds"].iloc[0]
    return {
        "images": "CIFAR-10" if images is not None else "the digits of scikit-learn",
        "epochs": len(metrics),
        "seconds an epoch": round(float(seconds), 1),
        "minutes for 25 epochs": round(25 * float(seconds) / 60, 1),
        "hours in the paper, on a Titan X": TITAN_X_HOURS,
        "supernet, validation accuracy": round(float(metrics["val_acc"].iloc[-1]), 4),
        "derived network on its weights": round(float(metrics["derived_val_acc"].iloc[-1]), 4),
    }


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>GPU check</title><style>
body { margin: 0; background: #f8fafc; color: #0f172a; font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 18px; margin: 0 0 8px; }
p { color: #64748b; margin: 0 0 14px; }
section { background: #fff; border: 1px solid #e2e8f0; border-radius: 10px; padding: 18px; margin: 16px 0; }
section { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th { text-align: left; color: #64748b; border-bottom: 1px solid #cbd5e1; }
th, td { padding: 5px 14px 5px 0; vertical-align: top; }
</style></head><body><main>
<h1>GPU check</h1><p>{{ device }} · PyTorch {{ torch }} · Python {{ python }}</p>
{% for title, about, table in parts %}
<section><h2>{{ title }}</h2><p>{{ about }}</p>{{ table | safe }}</section>
{% endfor %}
</main></body></html>
"""
TITLES = {
    "correct": ("Correctness", "Against the CPU, and against a search without interruption."),
    "steps": ("Cost of a step", "An architecture step and a weight step: the median of three."),
    "compiled": ("Compiled", "The same by torch.compile, in a process of its own; the first step compiles."),
    "launches": ("Launches", "What a step asks of the device; values that Python asks for are waits."),
}


def page(machine: Machine, tables: dict[str, pd.DataFrame], found: dict[str, Any]) -> str:
    """Return the HTML page of all parts."""
    parts = [(*TITLES[name], table.to_html(index=False, border=0)) for name, table in tables.items()]
    searched = pd.DataFrame({"": list(found), "EDAS, 20 cells": [str(value) for value in found.values()]})
    parts.append(("A real search", "The rest of the time.", searched.to_html(index=False, border=0)))
    return (
        jinja2.Environment(autoescape=True)
        .from_string(PAGE)
        .render(
            parts=parts,
            device="CPU, a dry run on small networks" if machine.dry else torch.cuda.get_device_name(),
            torch=torch.__version__,
            python=platform.python_version(),
        )
    )


if __name__ == "__main__":
    main()
