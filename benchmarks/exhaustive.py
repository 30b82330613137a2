"""Train every architecture of a small space, and write the table of the exhaustive benchmark.

    python benchmarks/exhaustive.py OUTPUT [--jobs 2]                     the table, OUTPUT/exhaustive.csv
    python benchmarks/exhaustive.py OUTPUT --fixed squeeze_excitation --only 60    OUTPUT/exhaustive_fixed.csv

Each of the 207 networks is trained on all training images with three seeds, which gives its true test accuracies, and
once ("alone") on one half of them with the other half for validation, as a random search on the same images would do.
All networks are trained with one seed before the next. Finished trainings are not repeated. The script writes into
OUTPUT

    trainings/*.csv      one row per finished training, one file per process
    exhaustive.csv       one row per architecture, with its finished trainings; other numbers of epochs have separate
                         tables, for example exhaustive_40_epochs.csv
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from exhaustive_images import Images, load
from exhaustive_space import IMAGE_CHANNELS, IMAGE_SIZE, every_name, network_of
from nasbench201_runs import apart
from torch.nn.functional import cross_entropy

from nas_plugins.errors import InputError
from nas_plugins.parallel_runs import in_parallel
from search_spaces.complexity import count_multiply_adds, count_parameters
from search_spaces.files import write_text_whole

TRAIN_IMAGES, CHANNELS, BATCH, EPOCHS, LEARNING_RATE = 400, 4, 50, 10, 0.05
ALONE = "alone"
KINDS = ("0", ALONE, "1", "2")
"""Trainings of an architecture in their order: three seeds, and the training on half of the images."""
COLUMNS = ["epochs", "fixed", "architecture", "kind", "accuracy", "cpu_seconds"]
Training = tuple[int, str, str, str]
"""Epochs, fixed operation, architecture and kind: the first columns of a row."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the trainings that have not finished, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time; each takes one core")
    parser.add_argument("--only", type=int, metavar="N", help="N random architectures instead of all")
    parser.add_argument("--fixed", default="", metavar="OPERATION", help="follows each cell: squeeze_excitation")
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help=f"of a training; default: {EPOCHS}")
    options = parser.parse_args(arguments)
    try:
        for name in ("jobs", "only", "epochs"):
            if (value := getattr(options, name)) is not None and value < 1:
                raise InputError(f"--{name} {value}: it should be at least 1")
        if options.fixed not in ("", "squeeze_excitation"):
            raise InputError(f"--fixed {options.fixed}: it should be squeeze_excitation")
        train_all(options)
        summarize(options.output, options.epochs, options.fixed)
    except InputError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def train_all(options: argparse.Namespace) -> None:
    """Run the unfinished trainings in n = ``--jobs`` processes, each of which takes every n-th training."""
    shared = {key: getattr(options, key) for key in ("output", "fixed", "only", "epochs")}
    parts = [{"part": part, "parts": options.jobs, **shared} for part in range(options.jobs)]
    if any(left(**part) for part in parts):
        in_parallel(options.jobs, [partial(apart, __file__, part) for part in parts])


def left(output: Path, epochs: int, fixed: str, only: int | None, part: int, parts: int) -> list[Training]:
    """Return the trainings of one process that have not finished.

    Args:
        output: Folder of the benchmark.
        epochs: Passes over the images of a training.
        fixed: An operation that follows each cell, or an empty string.
        only: Number of random architectures; None for all.
        part: Index of the process.
        parts: Number of processes.
    """
    names = every_name()
    random.Random(0).shuffle(names)
    wanted = [(epochs, fixed, name, kind) for kind in KINDS for name in names[:only]]
    done = set(finished(output)[COLUMNS[:4]].itertuples(index=False, name=None))
    return [one for one in wanted[part::parts] if one not in done]


def finished(output: Path) -> pd.DataFrame:
    """Return the finished trainings of a folder, one row each.

    Raises:
        InputError: A file is not a table of trainings.
    """
    tables = []
    for path in sorted((output / "trainings").glob("*.csv")):
        try:
            table = pd.read_csv(path, dtype={"kind": str, "epochs": int}, keep_default_na=False)
            tables.append(table[COLUMNS].astype({"accuracy": float, "cpu_seconds": float}))
        except (OSError, ValueError, LookupError):
            raise InputError(f"{path}: no table of trainings; delete it, and they run again") from None
    if not tables:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(tables, ignore_index=True).drop_duplicates(COLUMNS[:4])  # two commands at once may overlap


def train(name: str, fixed: str, kind: str, epochs: int) -> float:
    """Train a network from random weights, and return its accuracy in percent.

    Args:
        name: The architecture.
        fixed: An operation that follows each cell, or an empty string.
        kind: One of :data:`KINDS`: a seed for a training on all training images and the accuracy on the test images; or
            "alone" for a training on the first half of the training images and the accuracy on the second.
        epochs: Passes over the images.
    """
    images, held_out = load(TRAIN_IMAGES)
    if kind == ALONE:
        images, held_out = images.part(0, TRAIN_IMAGES // 2), images.part(TRAIN_IMAGES // 2)
    torch.manual_seed(0 if kind == ALONE else int(kind))
    network = network_of(name, CHANNELS, (fixed,) if fixed else ())
    train_network(network, images, epochs)
    return 100 * accuracy(network, held_out)


def train_network(network: torch.nn.Module, images: Images, epochs: int) -> None:
    """Train a network, and leave it in evaluation mode.

    Args:
        network: The network with random weights.
        images: The training images.
        epochs: Passes over the images.
    """
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    batches = images.loader(BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    for _ in range(epochs):
        for pixels, labels in batches:
            optimizer.zero_grad()
            cross_entropy(network(pixels), labels).backward()
            optimizer.step()
            schedule.step()
    network.eval()


@torch.no_grad()
def accuracy(network: torch.nn.Module, images: Images) -> float:
    """Return the share of images that a network classifies correctly."""
    return float((network(images.pixels).argmax(1) == images.labels).float().mean())


def summarize(output: Path, epochs: int, fixed: str = "") -> pd.DataFrame:
    """Write the table of the finished trainings, and return it.

    Args:
        output: Folder of the benchmark.
        epochs: Number of epochs of the trainings to include.
        fixed: Fixed operation of the trainings to include; an empty string for those without any.
    """
    done = finished(output)
    done = done[(done["fixed"] == fixed) & (done["epochs"] == epochs)]
    table = done.pivot(index="architecture", columns="kind", values="accuracy").reindex(columns=list(KINDS))
    seconds = done.pivot(index="architecture", columns="kind", values="cpu_seconds").reindex(columns=[ALONE])
    table = table.rename(columns={kind: f"seed_{kind}" for kind in KINDS if kind != ALONE}).round(2)
    table = table[["seed_0", "seed_1", "seed_2", ALONE]]
    table["alone_cpu_seconds"] = seconds[ALONE]
    networks = [network_of(str(name), CHANNELS, (fixed,) if fixed else ()) for name in table.index]
    table["parameters"] = [count_parameters(network) for network in networks]
    table["multiply_adds"] = [count_multiply_adds(network, IMAGE_CHANNELS, IMAGE_SIZE) for network in networks]
    length = "" if epochs == EPOCHS else f"_{epochs}_epochs"
    write_text_whole(output / f"exhaustive{'_fixed' if fixed else ''}{length}.csv", table.to_csv())
    return table


def work(output: str, **part: Any) -> None:
    """Run the trainings of one process in turn, and rewrite its file after each."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    path = Path(output) / "trainings" / f"{time.time_ns()}.csv"
    for epochs, fixed, name, kind in left(Path(output), **part):
        started = time.process_time()
        found = train(name, fixed, kind, epochs)
        took = round(time.process_time() - started, 2)
        rows.append(dict(zip(COLUMNS, (epochs, fixed, name, kind, round(found, 4), took), strict=True)))
        write_text_whole(path, pd.DataFrame(rows).to_csv(index=False))


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        work(**json.loads(sys.argv[1]))
    else:
        main()
