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
    kernels.csv    time of single operations in both memory formats, see gpu_kernels.py
    search/        a search by EDAS with 20 cells, for as many of its 25 epochs as fit into the time, on few enough
                   images for two epochs

Each file is written as soon as its part ends. A part that fails is reported on the page, and the others run.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from gpu_check_results import Machine, Results
from gpu_kernels import SIZES, timings
from launches import count
from measuring import DERIVED, Clock, Setting, measure_apart, run_steps
from methods import WARMUP
from step_cost import SMALL

from nas_plugins.experiment import resume, search
from nas_plugins.report import write_report
from nas_plugins.runs.directory import ALPHAS, GENOTYPE, METRICS
from nas_plugins.training.recorder import peak_memory_mb, reset_peak_memory

EXAMPLES = Path(__file__).parent.parent / "examples"
STRATEGIES = ("NNI DARTS", "DARTS", "FairDARTS", "D-DARTS", "PCDARTS", "GDAS", "EDAS")
SHARES = {"correct": 0.15, "steps": 0.3, "launches": 0.1}
"""Part -> its share of the time. Only the first two settings are measured beyond it. The search gets the rest."""
TINY = {"cells": 3, "channels": 4, "batch": 4, "image": 8}
"""Sizes of network and batch with which a CPU takes only seconds in double precision."""
COMPILED = (DERIVED, "EDAS", "DARTS")
COMPILED_UNTIL = 0.65
"""Share of the time after which nothing is compiled; a compilation that still runs then is stopped."""
SECONDS_TO_START = 20
"""Minimum time that a separate process needs."""
SECONDS_TO_REPORT = 20
"""Time for the report of the search and the page."""
IMAGES, BATCH = 50_000, 64
"""Training images of CIFAR-10, half of which train α, and the size of a batch."""
TITAN_X_HOURS = 3
"""Duration of EDAS' search on CIFAR-10 (its paper, section 4.1)."""


class Interrupt(pl.Callback):
    """Callback that ends a search after an epoch, as a kill would."""

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        raise SystemExit


class UntilLate(pl.Callback):
    """Callback that ends a search if the time does not suffice for another epoch."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.started = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        trainer.should_stop |= time.monotonic() - self.started > self.machine.left() - SECONDS_TO_REPORT


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
    results = Results(options.output, machine)
    results.add("correct", lambda: correct(machine, options.output))
    results.add("steps", lambda: steps(machine))
    results.add("kernels", lambda: kernels(machine))
    results.add("launches", lambda: launches(machine))
    results.add("compiled", lambda: compiled(machine))
    per_step = seconds_of_edas(results.tables["steps"])
    results.add("search", lambda: real_search(machine, options.output, options.images, per_step))
    print(f"{options.output / 'gpu_check.html'} after {machine.done() * options.minutes:.1f} minutes")
    sys.exit(int(results.failed))


def correct(machine: Machine, output: Path) -> Iterator[dict[str, Any]]:
    """Yield the differences between CPU and GPU, and between an uninterrupted search and a resumed one."""
    for name in ("DARTS", "EDAS"):
        tables = [
            run_steps(Setting(name, **TINY, steps=5, accelerator=accelerator, precision="64-true"), Clock())
            for accelerator in ("cpu", machine.accelerator)
        ]
        one, other = (torch.tensor([value for row in table.values() for value in row]) for table in tables)
        largest = (one - other).abs().max()  # NaN if any is
        yield {"check": f"{name}: α after 5 steps in double precision, largest difference", "found": f"{largest:.1e}"}
    try:
        same = resumed_alike(machine, output)
    finally:
        torch.use_deterministic_algorithms(False)  # searches of this project turn it on, NNI's strategies do not
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
    settings = [
        Setting(name, **SMALL, precision=precision)
        if machine.dry
        else Setting(name, precision=precision, steps=10, warmup=WARMUP.get(name, 4))
        for precision, name in product(("32-true", "bf16-mixed"), STRATEGIES)
    ]
    settings[1:1] = [replace(setting, cells=20) for setting in settings if setting.what == "EDAS" and not machine.dry]
    first: dict[str, float] = {}
    for index, setting in enumerate(settings):
        if index > 1 and machine.done() > SHARES["correct"] + SHARES["steps"]:
            return
        clock = Clock()
        free_memory()
        reset_peak_memory()
        run_steps(on(machine, setting), clock)
        seconds = statistics.median(clock.seconds[setting.warmup :])
        if setting.what == "NNI DARTS":
            first[setting.precision] = seconds
        base = first.get(setting.precision) if setting.cells == settings[0].cells else None
        yield {
            "strategy": setting.what,
            "cells": setting.cells,
            "precision": setting.precision,
            "seconds": round(seconds, 4),
            "to NNI DARTS": "" if base is None else round(seconds / base, 3),
            "peak MB": round(peak_memory_mb(not machine.dry)),
        }


def free_memory() -> None:
    """Free the memory of earlier measurements, some of which is held by reference cycles."""
    gc.collect()
    torch.cuda.empty_cache()


def seconds_of_edas(table: pd.DataFrame) -> float | None:
    """Return the seconds of a step by EDAS with 20 cells, in 32 bits, if it was measured."""
    if "cells" not in table:
        return None
    rows = table[(table["strategy"] == "EDAS") & (table["cells"] == 20) & (table["precision"] == "32-true")]
    return None if rows.empty else float(rows["seconds"].iloc[0])


def kernels(machine: Machine) -> Iterator[dict[str, Any]]:
    """Yield the time of single operations."""
    return timings("cpu", {16: 8}, repetitions=1) if machine.dry else timings("cuda", SIZES)


def launches(machine: Machine) -> Iterator[dict[str, Any]]:
    """Yield the operator calls and synchronizations of a step of each strategy."""
    for index, name in enumerate(STRATEGIES):
        if index > 1 and machine.done() > sum(SHARES.values()):
            return
        free_memory()
        yield count(on(machine, Setting(name, **(SMALL if machine.dry else {}), grouped=True)))


def compiled(machine: Machine) -> Iterator[dict[str, Any]]:
    """Yield the time of a step without and with ``torch.compile``, or a note if the compilation takes too long."""
    size = SMALL if machine.dry else {"cells": 8}
    counts = {} if machine.dry else {"steps": 20, "warmup": 30}
    for name, way in product(COMPILED, (False, True)):
        row = {"strategy": name, "compiled": "yes" if way else "no"}
        left = (COMPILED_UNTIL - machine.done()) * machine.seconds
        try:
            if left < SECONDS_TO_START:
                raise TimeoutError
            found = measure_apart(on(machine, Setting(name, **size, **counts, compiled=way)), left)
        except TimeoutError:
            yield row | {"first step, s": "not in the time that was left"}
        except SystemExit as error:
            yield row | {"what": f"failed: {str(error).strip()[-200:]}"}
        else:
            yield row | {
                "first step, s": f"{found['first_seconds']:.1f}",
                "seconds": f"{statistics.median(found['seconds']):.4f}",
                "fastest": f"{min(found['seconds']):.4f}",
                "what": found["compilation"],
            }


def on(machine: Machine, setting: Setting) -> Setting:
    """Return a setting for the accelerator of the check."""
    return replace(setting, accelerator=machine.accelerator)


def real_search(
    machine: Machine, output: Path, images: Path | None, per_step: float | None
) -> Iterator[dict[str, Any]]:
    """Search until the time runs out, and yield the accuracies and an estimate of the time for all epochs.

    Args:
        machine: The machine that is checked.
        output: Folder for the search.
        images: Folder of the images of CIFAR-10; None for the digits.
        per_step: Estimated seconds of a step; None if it is unknown.
    """
    options = ["--compute.accelerator", machine.accelerator]
    if images is not None:
        used = sum(1 for _ in images.glob("train/*/*"))
        options += ["--data.dataset", "folder", "--data.root", str(images), "--data.flip", "true"]
        options += ["--data.crop_padding", "4"]
        if per_step is not None:  # two epochs, a third of whose time is for validation and for loading images
            steps_per_epoch = (machine.left() - SECONDS_TO_REPORT) / 3 / per_step
            fitting = max(10, round(steps_per_epoch)) * 2 * BATCH
            if fitting < used:
                used = fitting
                options += ["--data.train_images", str(used)]
    if machine.dry:
        used = 400
        options += ["--space.layers", "5", "--space.channels", "4", "--data.train_images", str(used)]
        options += ["--training.epochs", "2", "--strategy.sign_flip_epochs", "1"]
    if images is None:
        options += ["--data.dataset", "digits"]
    run = search(EXAMPLES / "edas" / "cifar10.yaml", output / "search", options, [UntilLate(machine)])
    write_report([run])
    metrics = pd.read_csv(run / METRICS)
    seconds = metrics["seconds"].iloc[1:].median() if len(metrics) > 1 else metrics["seconds"].iloc[0]
    found = {
        "images": "the digits of scikit-learn" if images is None else f"{used} of CIFAR-10",
        "cells": 5 if machine.dry else 20,
        "epochs": len(metrics),
        "seconds an epoch": round(float(seconds), 1),
        "supernet, validation accuracy": round(float(metrics["val_acc"].iloc[-1]), 4),
        "derived network on its weights": round(float(metrics["derived_val_acc"].iloc[-1]), 4),
    }
    if images is not None:
        found["minutes for 25 epochs of 50,000 images"] = round(25 * IMAGES / used * float(seconds) / 60, 1)
        found["hours in the paper, on a Titan X"] = TITAN_X_HOURS
    for name, value in found.items():
        yield {"": name, "EDAS": str(value)}


if __name__ == "__main__":
    main()
