"""What a search step costs: NNI's DARTS, our DARTS of each order and our EDAS, on one space, in one run.

    python benchmarks/step_cost.py [--small] [--rounds N] [--strategies NAME ...] [--output step_cost.csv]

A step is an architecture step and a weight step, through NNI's experiment and Lightning. Every
measurement is a process of its own; the strategies alternate, so that a machine that slows down
slows all of them. Memory is the peak of the whole process, or of the accelerator where there is one.
Ratios are to the first strategy that is measured.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

FULL = {"cells": 8, "channels": 16, "batch": 64, "image": 32}
SMALL = {"cells": 3, "channels": 8, "batch": 16, "image": 16}
STRATEGIES = ("NNI DARTS", "DARTS", "DARTS one-level", "DARTS second order", "EDAS")


def measure(name: str, size: dict[str, int], steps: int, threads: int | None) -> dict[str, float]:
    """Median seconds of a step, after one that is not counted, and the peak memory in MB."""
    warnings.filterwarnings("ignore")
    for logger in ("nni", "pytorch_lightning"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    import nni.nas.strategy
    import torch
    from nni.nas.evaluator.pytorch import DataLoader, Lightning, Trainer
    from nni.nas.experiment import NasExperiment
    from pytorch_lightning.callbacks import Callback
    from torch.utils.data import TensorDataset

    from nas_plugins import DARTS, EDAS, DartsSpace
    from nas_plugins.config import Training
    from nas_plugins.fitting import ImageClassification, peak_memory_mb

    class Timer(Callback):
        def __init__(self) -> None:
            self.times = [0.0]

        def on_train_batch_start(self, *_: object) -> None:
            self.started = time.perf_counter()

        def on_train_batch_end(self, *_: object) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.times.append(time.perf_counter() - self.started)

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    strategies = {
        "NNI DARTS": nni.nas.strategy.DARTS,
        "DARTS": DARTS,
        "DARTS one-level": partial(DARTS, order="one-level"),
        "DARTS second order": partial(DARTS, order="second"),
        "EDAS": EDAS,
    }
    images = size["batch"] * (steps + 1)
    data = TensorDataset(torch.randn(images, 3, size["image"], size["image"]), torch.randint(0, 10, (images,)))
    timer = Timer()
    evaluator = Lightning(
        ImageClassification(10, Training(epochs=1)),
        Trainer(
            max_epochs=1,
            callbacks=[timer],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        ),
        train_dataloaders=DataLoader(data, batch_size=size["batch"]),
        val_dataloaders=DataLoader(data, batch_size=size["batch"]),
    )
    space = DartsSpace(channels=size["channels"], layers=size["cells"])
    experiment = NasExperiment(space, evaluator, strategies[name]())
    experiment.run()
    experiment.stop()
    return {"seconds": statistics.median(timer.times[2:]), "memory_mb": peak_memory_mb(torch.cuda.is_available())}


def main() -> None:
    """Measure all strategies in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="3 cells, 8 channels, batch 16, 16×16")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each strategy")
    parser.add_argument("--steps", type=int, default=3, help="counted steps in a measurement")
    parser.add_argument("--threads", type=int, help="of PyTorch; default: its own")
    parser.add_argument(
        "--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES, metavar="NAME", help=", ".join(STRATEGIES)
    )
    parser.add_argument("--output", type=Path, help="CSV file with every measurement")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = SMALL if options.small else FULL
    if options.measure:
        print(json.dumps(measure(options.measure, size, options.steps, options.threads)))
        return

    import pandas as pd
    from tqdm import tqdm

    rows = []
    jobs = [(number, name) for number in range(options.rounds) for name in options.strategies]
    for number, name in tqdm(jobs, desc="measuring", unit="process"):
        answer = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--measure", name], check=False, capture_output=True, text=True
        )
        if answer.returncode:
            sys.exit(answer.stderr)
        rows.append({"round": number, "strategy": name, **json.loads(answer.stdout.splitlines()[-1])})
    table = pd.DataFrame(rows)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(options.output, index=False)
    print(", ".join(f"{key} {value}" for key, value in size.items()))
    print(summary(table).to_string(index=False))


def summary(table):
    """A row a strategy: medians, and the ratio to the first strategy in the same round with its range."""
    names = list(table["strategy"].unique())
    base = table[table["strategy"] == names[0]].set_index("round")
    rows = []
    for name in names:
        mine = table[table["strategy"] == name].set_index("round")
        row = {"strategy": name}
        for key, unit in (("seconds", "s/step"), ("memory_mb", "MB")):
            ratio = mine[key] / base[key]
            row[unit] = f"{mine[key].median():.3f}" if unit == "s/step" else f"{mine[key].median():.0f}"
            row[f"ratio {unit}"] = f"{ratio.median():.3f} ({ratio.min():.3f} to {ratio.max():.3f})"
        rows.append(row)
    import pandas as pd

    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
