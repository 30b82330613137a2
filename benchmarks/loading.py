"""Measure an epoch of training images without a network: reading, augmentation and normalization.

    python benchmarks/loading.py [--images FOLDER] [--train-images N] [--workers N] [--output CSV]

FOLDER holds images of 32×32 pixels in train/CLASS/* and test/CLASS/*; without it only the digits are measured, which
are in memory from the start. Each row is measured in a separate process with one loader. The first epoch includes the
reading of images that are held in memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

RECIPES: dict[str, dict[str, Any]] = {
    "normalization": {"flip": False},
    "crop, flip, cutout": {"crop_padding": 4, "flip": True, "cutout": 8},
    "crop, flip, erasing": {"crop_padding": 4, "flip": True, "random_erasing": 0.5},
}


def main() -> None:
    """Measure all recipes with and without the cache, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="images by class")
    parser.add_argument("--train-images", type=int, metavar="N", help="number of images of the folder; default: all")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="also with this many workers; default: 2")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each loader")
    parser.add_argument("--caches", nargs="+", default=["false", "true"], help="values of data.cache")
    parser.add_argument("--output", type=Path, metavar="CSV", help="file for the table")
    options = parser.parse_args()
    sources: list[dict[str, Any]] = [{"dataset": "digits"}]
    if options.images is not None:
        few = {"train_images": options.train_images} if options.train_images else {}
        sources.append({"dataset": "folder", "root": str(options.images), **few})
    jobs = []
    for source in sources:
        for recipe in RECIPES:
            jobs += [(source, recipe, {"cache": cache}) for cache in options.caches]
            if source["dataset"] == "folder" and options.workers:
                jobs.append((source, recipe, {"cache": options.caches[0], "workers": options.workers}))
    rows = []
    for source, recipe, how in tqdm(jobs, desc="measuring", unit="process"):
        settings = {**source, **RECIPES[recipe], **how, "val_fraction": 0.0, "batch_size": 96}
        found = measure_apart({**settings, "epochs": options.epochs})
        rows.append({"images": source["dataset"], "augmentation": recipe, "workers": 0, **how, **found})
    table = pd.DataFrame(rows)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(options.output, index=False)
    print(table.to_string(index=False))


def measure_apart(settings: dict[str, Any]) -> dict[str, float]:
    """Run :func:`measure` in a new process, and return its result."""
    call = [sys.executable, __file__, json.dumps(settings)]
    answer = subprocess.run(call, check=False, capture_output=True, text=True)
    if answer.returncode:
        sys.exit(answer.stderr)
    return json.loads(answer.stdout.splitlines()[-1])


def measure(settings: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of the first epoch and of the fastest later one, and the images per CPU second of the latter.

    CPU seconds are summed over all threads and workers.
    """
    from nas_plugins.data import ImageData

    epochs = settings.pop("epochs")
    cache = settings.pop("cache")
    settings |= {} if cache == "none" else {"cache": {"true": True, "false": False}.get(cache, cache)}
    data = ImageData(**settings)
    data.prepare()
    seconds, cpu_seconds, count = [], [], 0
    for _ in range(epochs):
        started, cpu_started = time.perf_counter(), _cpu_seconds()
        count = sum(len(labels) for _, labels in data.train_dataloader())
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(_cpu_seconds() - cpu_started)
    return {
        "first epoch, s": round(seconds[0], 2),
        "epoch, s": round(min(seconds[1:]), 3),
        "first epoch, CPU s": round(cpu_seconds[0], 2),
        "epoch, CPU s": round(min(cpu_seconds[1:]), 4),
        "images/CPU s": round(count / min(cpu_seconds[1:])),
    }


def _cpu_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        print(json.dumps(measure(json.loads(sys.argv[1]))))
    else:
        main()
