"""Script that searches the exhaustive benchmark's space with one method, without access to the benchmark's table.

SGD, its schedule and clipping are those of the NAS-Bench-201 searches; the images are the training images of the table,
half of them for the weights and half for the architecture.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from exhaustive import BATCH, CHANNELS, TRAIN_IMAGES
from exhaustive_images import load
from exhaustive_space import IMAGE_SIZE, LAYERS, ExhaustiveSpace, name_of
from methods import make
from nasbench201_runs import run_file
from nasbench201_search import STRATEGIES, Curve, Protocol, Recipe, make_trainer, paced, run
from nni.nas.evaluator.pytorch import Lightning
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy

from nas_plugins import DARTS, DDARTS, FairDARTS
from nas_plugins.training.trainer import quiet
from search_spaces.files import write_text_whole

METHODS: dict[str, Callable[[Protocol], OneShotStrategy]] = {
    **STRATEGIES,
    # The default derivations of these two keep fewer operations, so that their networks are not in the table.
    "FairDARTS": lambda protocol: FairDARTS(derivation="darts"),
    "DDARTS, w_abl=0": lambda protocol: DDARTS(w_abl=0.0, derivation="darts"),
    "DARTS, second order, paced": lambda protocol: DARTS(order="second", learning_rate=paced(protocol)),
    "PCDARTS": lambda protocol: make("PCDARTS", protocol.epochs, partial_channels=CHANNELS // 2),
}
"""Name -> function from a protocol to the strategy."""


def search(method: str, seed: int, epochs: int) -> dict[str, Any]:
    """Search, and return the result in the form of :func:`nasbench201_search.search`.

    Args:
        method: Key of :data:`METHODS`.
        seed: Seed of everything but the images.
        epochs: Epochs of the search.
    """
    protocol = Protocol(LAYERS, CHANNELS, IMAGE_SIZE, TRAIN_IMAGES, BATCH, epochs)
    pl.seed_everything(seed, verbose=False)
    images, _ = load(TRAIN_IMAGES)
    half = TRAIN_IMAGES // 2
    space = ExhaustiveSpace(CHANNELS)
    curve = Curve(lambda sample: name_of(space.genotype(sample)))
    evaluator = Lightning(
        Recipe(epochs),
        make_trainer(epochs, callbacks=[curve]),
        train_dataloaders=images.part(0, half).loader(BATCH),
        val_dataloaders=images.part(half).loader(BATCH),
    )
    started = time.perf_counter(), time.process_time()
    sample = run(space, evaluator, METHODS[method](protocol))
    took = time.perf_counter() - started[0], time.process_time() - started[1]
    return {
        "strategy": method,
        "seed": seed,
        "settings": asdict(protocol),
        "architecture": name_of(space.genotype(sample)),
        "curve": dict(enumerate(curve.architectures)),
        "seconds": round(took[0], 1),
        "cpu_seconds": round(took[1], 1),
    }


def main(folder: str, method: str, seeds: Sequence[int], epochs: int) -> None:
    """Search with one seed after another, and write each result atomically."""
    torch.set_num_threads(1)
    for seed in seeds:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = search(method, seed, epochs)
        write_text_whole(run_file(Path(folder), method, seed), json.dumps(found, indent=1))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
