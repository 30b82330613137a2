"""Ranking by a proxy: random architectures, each trained alone for a few epochs, compared with the table."""

from __future__ import annotations

import json
import random
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from nasbench201_images import halves
from nasbench201_runs import apart, results
from nasbench201_search import DEVICE, Protocol, Recipe, accuracy, architecture, every_sample, make_space, make_trainer

from nas_plugins.parallel_runs import in_parallel
from nas_plugins.report.style import STYLE
from nas_plugins.training.trainer import quiet
from search_spaces.files import write_text_whole, write_whole


def finished(output: Path, protocol: Protocol) -> list[dict[str, Any]]:
    """Return the finished trainings; the epochs of the protocol are those of the training of one architecture.

    Raises:
        InputError: The trainings have another protocol.
    """
    return results(output / "alone", asdict(protocol))


def draw(count: int) -> list[dict[str, str]]:
    """Return the first ``count`` architectures of a fixed random order."""
    samples = every_sample()
    random.Random(0).shuffle(samples)
    return samples[:count]


def train_all(samples: Sequence[dict[str, str]], protocol: Protocol, images: Path, output: Path, jobs: int) -> None:
    """Train architectures alone, each for the epochs of the protocol, ``jobs`` at a time."""
    shared = {"settings": asdict(protocol), "images": images, "output": output / "alone"}
    parts = [samples[start::jobs] for start in range(min(jobs, len(samples)))]
    in_parallel(jobs, [partial(apart, __file__, {**shared, "samples": part}) for part in parts])


def train(sample: Mapping[str, str], protocol: Protocol, images: Path) -> dict[str, Any]:
    """Train one architecture on one half of the images.

    Returns:
        {"architecture", "settings", "val_acc": on the other half, from 0 to 1, "seconds"}
    """
    pl.seed_everything(0, verbose=False)
    started = time.perf_counter()
    weights, held_out = halves(images)
    recipe = Recipe(protocol.epochs)
    recipe.set_model(make_space(protocol, int(weights.labels.max()) + 1).freeze(dict(sample)))
    make_trainer(protocol.epochs).fit(recipe, weights.loader(protocol.batch_size))
    return {
        "architecture": architecture(sample),
        "settings": asdict(protocol),
        "val_acc": accuracy(recipe.model.to(DEVICE), held_out),
        "seconds": round(time.perf_counter() - started, 1),
    }


def compare(found: Sequence[Mapping[str, Any]], table: pd.Series, output: Path) -> pd.DataFrame:
    """Write ranks.csv and ranks.png, and return both accuracies of each architecture in percent."""
    ranks = pd.DataFrame(
        {
            "architecture": [one["architecture"] for one in found],
            "alone": [100 * one["val_acc"] for one in found],
            "table": [table[one["architecture"]] for one in found],
            "seconds": [one["seconds"] for one in found],
        }
    )
    write_text_whole(output / "ranks.csv", ranks.to_csv(index=False))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 4.4), layout="constrained")
        axis = figure.subplots()
        axis.scatter(ranks["alone"], ranks["table"], s=16, color="#2563eb", alpha=0.7, linewidth=0)
        axis.set(
            xlabel="trained alone by the proxy, validation (%)", ylabel="table, test (%)", title=correlations(ranks)
        )
        axis.tick_params(length=0)
        write_whole(output / "ranks.png", lambda file: figure.savefig(file, dpi=160, format="png"))
    return ranks


def correlations(ranks: pd.DataFrame) -> str:
    """Return Kendall's τ and Spearman's ρ as text."""
    tau, rho = (ranks["alone"].corr(ranks["table"], method=kind) for kind in ("kendall", "spearman"))  # type: ignore[arg-type]
    return f"{len(ranks)} architectures: Kendall's τ {tau:.2f}, Spearman's ρ {rho:.2f}"


def main(samples: list[dict[str, str]], settings: dict[str, int], images: str, output: str) -> None:
    """Train architectures in turn, and write each result atomically."""
    torch.set_num_threads(1)
    for sample in samples:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = train(sample, Protocol(**settings), Path(images))
        write_text_whole(Path(output) / f"{'-'.join(sample.values())}.json", json.dumps(found, indent=1))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
