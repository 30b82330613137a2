"""Arms of the experiments of claims.py: searches on noisy digits, whose networks are trained from scratch.

The space is a chain of four cells with two nodes, three operations and four channels, searched for 30 epochs of four
steps. Layers of a kind share a cell, or every layer has its own.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from claims import DARTOPTI, SETTINGS, START, WIDENED
from exhaustive import BATCH, accuracy, train_network
from exhaustive_images import load
from exhaustive_space import CLASSES, IMAGE_CHANNELS, NODES, OPERATIONS
from nasbench201_runs import run_file
from nasbench201_search import Recipe, make_trainer, run
from nni.nas.evaluator.pytorch import Lightning
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy

from nas_plugins import DARTS, DDARTS, FairDARTS
from nas_plugins.training.trainer import quiet
from search_spaces.complexity import count_parameters
from search_spaces.d_darts import DDartsSpace
from search_spaces.dartopti import DartOptiSpace
from search_spaces.darts import DartsSpace
from search_spaces.edges import Edge
from search_spaces.files import write_text_whole
from search_spaces.genotype import Genotype
from search_spaces.network import Network
from search_spaces.space import StackedSpace

NETWORK: dict[str, Any] = {"num_classes": CLASSES, "channels": SETTINGS["channels"], "image_channels": IMAGE_CHANNELS}
CELLS: dict[str, Any] = {**NETWORK, "layers": SETTINGS["layers"], "nodes": NODES, "operations": OPERATIONS}
PACE: dict[str, Any] = {"learning_rate": 0.05, "min_learning_rate": 0.02}
"""Learning rates of α from examples/d_darts/study.py, whose searches have as few steps."""

RESIDUAL = Genotype(
    cells=((Edge("simple_conv_3x3", 1, 2), Edge("simple_conv_3x3", 2, 3), Edge("skip_connect", 1, 3)),),
    layout=(0,) * SETTINGS["layers"],
    reductions=(1, 2),
    concat=(2, 3),
    operations="dartopti",
)
"""Baseline that DARTOpti starts from: a residual block of two convolutions per layer."""


class Arm(NamedTuple):
    """Space and the strategy that searches it."""

    space: Callable[[], StackedSpace]
    strategy: Callable[[], OneShotStrategy]


def shared() -> StackedSpace:
    """Return the space whose layers of a kind share a cell."""
    return DartsSpace(**CELLS)


def own() -> StackedSpace:
    """Return the space in which every layer has its own cell."""
    return DDartsSpace(**CELLS)


def around_residual() -> StackedSpace:
    """Return the space of DARTOpti around the residual network."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "residual.json"
        RESIDUAL.save(path)
        return DartOptiSpace(baseline=str(path), operations=OPERATIONS, **NETWORK)


ARMS = {
    "DARTS": Arm(shared, lambda: DARTS(learning_rate=0.05)),
    "FairDARTS": Arm(shared, lambda: FairDARTS(learning_rate=0.05, derivation="darts")),
    "FairDARTS, sparse": Arm(shared, lambda: FairDARTS(learning_rate=0.05)),
    "D-DARTS": Arm(own, lambda: DDARTS(w_abl=0.0, derivation="darts", **PACE)),
    "D-DARTS, sparse": Arm(own, lambda: DDARTS(w_abl=0.0, **PACE)),
    "D-DARTS, ablation gradient": Arm(own, lambda: DDARTS(ablation_gradient=True, derivation="darts", **PACE)),
    "DARTS, a cell a layer": Arm(own, lambda: DARTS(learning_rate=0.05)),
    DARTOPTI: Arm(
        around_residual,
        lambda: DDARTS(
            w_abl=0.0,
            derivation="edge",
            learning_rate=0.2,
            min_learning_rate=0.08,
            warmup_epochs=SETTINGS["epochs"] // 4,
        ),
    ),
}
"""Arms by name; the learning rates are those of examples/d_darts/study.py."""


def search(arm: Arm, seed: int) -> Genotype:
    """Return the genotype that a search finds."""
    pl.seed_everything(seed, verbose=False)
    images, _ = load(SETTINGS["train_images"])
    half = SETTINGS["train_images"] // 2
    space = arm.space()
    evaluator = Lightning(
        Recipe(SETTINGS["epochs"]),
        make_trainer(SETTINGS["epochs"]),
        train_dataloaders=images.part(0, half).loader(BATCH),
        val_dataloaders=images.part(half).loader(BATCH),
    )
    return space.genotype(run(space, evaluator, arm.strategy()))


def widened(found: Genotype, seed: int) -> Genotype:
    """Return the residual network with random further operations, up to the number of operations of a genotype."""
    generator = random.Random(seed)
    cells = []
    for start, cell in zip(RESIDUAL.cells, found.cells, strict=True):
        ends = [(source, target) for target in found.concat for source in range(target)]
        free = [edge for name in OPERATIONS for end in ends if (edge := Edge(name, *end)) not in start]
        cells.append((*start, *generator.sample(free, max(0, len(cell) - len(start)))))
    return replace(RESIDUAL, cells=tuple(cells))


def worth(genotype: Genotype, seed: int) -> list[float]:
    """Return the test accuracies in percent of several trainings of a network; all arms use the same seeds."""
    images, held_out = load(SETTINGS["train_images"])
    found = []
    for number in range(SETTINGS["trainings"]):
        torch.manual_seed(SETTINGS["trainings"] * seed + number)
        network = Network.from_genotype(genotype, **NETWORK)
        train_network(network, images, SETTINGS["training_epochs"])
        found.append(round(100 * accuracy(network, held_out), 3))
    return found


def answer(name: str, seed: int, folder: Path) -> Genotype:
    """Return the genotype of an arm; the random one has the size of that of a finished run of DARTOpti."""
    if name == START:
        return RESIDUAL
    if name == WIDENED:
        finished = json.loads(run_file(folder, DARTOPTI, seed).read_text(encoding="utf-8"))
        return widened(Genotype.from_json(finished["genotype"]), seed)
    return search(ARMS[name], seed)


def main(folder: str, arm: str, seeds: Sequence[int]) -> None:
    """Run an arm with one seed after another, and write each result atomically."""
    torch.set_num_threads(1)
    for seed in seeds:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            genotype = answer(arm, seed, Path(folder))
            accuracies = worth(genotype, seed)
        found: dict[str, Any] = {
            "strategy": arm,
            "seed": seed,
            "settings": SETTINGS,
            "genotype": genotype.to_json(),
            "edges": sum(len(genotype.cells[index]) for index in genotype.layout),
            "parameters": count_parameters(Network.from_genotype(genotype, **NETWORK)),
            "accuracies": accuracies,
        }
        write_text_whole(run_file(Path(folder), arm, seed), json.dumps(found, indent=1))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
