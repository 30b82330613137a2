"""Script of :mod:`costs` that runs one search of NAS-Bench-201's space with a cost target."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nasbench201_search import EDGES, PROTOCOLS, STRATEGIES, Protocol, architecture, make_space, search

from nas_plugins import DARTS
from nas_plugins.training.trainer import quiet
from search_spaces.files import write_text_whole
from strategies.base import DifferentiableStrategy
from strategies.between_epochs import BetweenEpochs
from strategies.cost import Cost, CostTable

METRIC = "multiply_adds"
SEARCHED, TABLE = "searched", "table"
"""Networks whose cost can set the target: the searched one, and that of the benchmark's table."""
SHARE = 0.5
"""Target as a share of the multiply-adds of the network with a 3×3 convolution on every edge."""


def network_of(which: str, protocol: Protocol) -> Protocol:
    """Return the size of the network whose cost sets the target.

    Args:
        which: ``searched`` or ``table``.
        protocol: The protocol of the search.
    """
    return protocol if which == SEARCHED else PROTOCOLS["full"]


def cost_table(network: Protocol) -> CostTable:
    """Return the multiply-adds of the candidates in a network of the given size."""
    image = torch.zeros(1, 3, network.image_size, network.image_size)
    return DARTS().profiler(make_space(network, 10))(((image,), {})).counted()[METRIC]


def cost_of(table: CostTable, sample: Mapping[str, Any]) -> float:
    """Return the multiply-adds of an architecture, given as a sample of NNI."""
    return table.of_plan({edge: (names.index(sample[edge]),) for edge, names in table.candidates.items()})


def target_of(table: CostTable) -> float:
    """Return the target, a share of the cost of the network of 3×3 convolutions."""
    return SHARE * cost_of(table, {f"cell/{source}_{target}": "conv_3x3" for source, target in EDGES})


def limited(made: list[DifferentiableStrategy], name: str, which: str, protocol: Protocol) -> DifferentiableStrategy:
    """Return a strategy of the benchmark with a target.

    Args:
        made: List to which the strategy is appended.
        name: Name of the strategy.
        which: See :func:`network_of`.
        protocol: The protocol of the search.
    """
    strategy = STRATEGIES[name](protocol)
    assert isinstance(strategy, DifferentiableStrategy)
    table = cost_table(network_of(which, protocol))
    # Without a table, the search counts the multiply-adds of its own network, as it does for a user.
    strategy.cost = (Cost(METRIC, target_of(table), table=None if which == SEARCHED else table),)
    made.append(strategy)
    return strategy


def main(output: str, images: str, settings: dict[str, int], strategy: str, which: str, seed: int) -> None:
    """Search, and write the result atomically.

    Args:
        output: File to write.
        images: File of :func:`nasbench201_images.prepare`.
        settings: The fields of the protocol.
        strategy: Name of the strategy.
        which: See :func:`network_of`.
        seed: Seed of the search.
    """
    torch.set_num_threads(1)
    made: list[DifferentiableStrategy] = []
    name = f"{strategy}, target"
    STRATEGIES[name] = partial(limited, made, strategy, which)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = search(name, seed, Protocol(**settings), Path(images))
        module = made[0].oneshot_module
        found |= {"strategy": strategy, "target": made[0].cost[0].target, "which": which}
        found["unshifted"] = architecture(BetweenEpochs.export(module))
        found["multiplier"] = module.costs.multipliers[0]
        found["alphas"] = made[0].alphas()
    write_text_whole(output, json.dumps(found, indent=1))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
