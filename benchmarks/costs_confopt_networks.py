"""Networks of :mod:`costs_confopt`: supernets of automl/ConfigurableOptimizer, and the same networks as spaces of NNI.

ConfigurableOptimizer is imported late, because its folder is an argument of the script.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nni.nas.nn.pytorch as nas
import torch
from torch import Tensor, nn

from nas_plugins import DARTS
from strategies.cost import CostTable

PIXELS, CLASSES = 8, 10


@dataclass(frozen=True)
class Size:
    """Size of a network: nodes per cell, names of the candidates, and channels."""

    nodes: int
    names: Sequence[str]
    channels: int


SMALL = Size(3, ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"), 4)
"""Three edges with all candidates of NAS-Bench-201: 125 architectures."""
TWO_KERNELS = Size(2, ("nor_conv_7x7", "nor_conv_3x3"), 8)
"""One edge with two candidates, which only their cost tells apart on random images."""


def count_convolutions(counted: bool) -> None:
    """Add a rule for the convolutions of ConfigurableOptimizer to thop, or remove it."""
    from confopt.searchspace.common import Conv2DLoRA

    def rule(module: nn.Module, _: Any, output: Tensor) -> None:
        module.total_ops += output.numel() * module.weight[0].numel()

    import thop

    rules = sys.modules[thop.profile.__module__].register_hooks  # thop.profile is the function, not its module
    rules.pop(Conv2DLoRA, None)
    if counted:
        rules[Conv2DLoRA] = rule


def their_supernet(size: Size, weight: float = 1.0) -> tuple[Any, Any]:
    """Return a supernet of ConfigurableOptimizer after a forward pass, which its FLOPs term needs, and its handler.

    Args:
        size: Size of the network.
        weight: Weight of the FLOPs term.
    """
    from confopt.oneshot import FLOPSRegularizationTerm, Regularizer
    from confopt.searchspace import NASBench201SearchSpace

    torch.manual_seed(0)
    given = {"C": size.channels, "N": 1, "max_nodes": size.nodes, "search_space": list(size.names)}
    space = NASBench201SearchSpace(num_classes=CLASSES, **given)
    return space, adapted(space, Regularizer([FLOPSRegularizationTerm()], [weight], 1.0))


def adapted(space: Any, regularizer: Any = None) -> Any:
    """Adapt a supernet for a search by DARTS, run a forward pass, and return the handler of the search."""
    from confopt.oneshot.archsampler import DARTSSampler
    from confopt.train.search_space_handler import SearchSpaceHandler

    handler = SearchSpaceHandler(sampler=DARTSSampler(space.arch_parameters), regularizer=regularizer)
    handler.adapt_search_space(space)
    space(torch.zeros(1, 3, PIXELS, PIXELS))
    return handler


class Space(nas.ModelSpace):
    """The same network for NNI: modules of ConfigurableOptimizer, with one choice per edge shared by all cells.

    Args:
        size: Size of the network.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        from confopt.searchspace.nb201.core.operations import OPS, ResNetBasicblock

        channels = size.channels
        self.nodes = size.nodes
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.cells = nn.ModuleList()
        for stage in range(3):
            width = channels * 2**stage
            if stage:
                self.cells.append(ResNetBasicblock(width // 2, width, 2))
            self.cells.append(nn.ModuleDict({
                f"{i}<-{j}": nas.LayerChoice(
                    {name: OPS[name](width, width, 1, False, False) for name in size.names}, label=f"{i}<-{j}"
                )
                for i in range(1, size.nodes)
                for j in range(i)
            }))  # fmt: skip
        self.last = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        feature = self.stem(images)
        for cell in self.cells:
            feature = self.through(cell, feature) if isinstance(cell, nn.ModuleDict) else cell(feature)
        return self.head(self.last(feature).mean((2, 3)))

    def through(self, cell: nn.ModuleDict, feature: Tensor) -> Tensor:
        """Return the output of the last node of a cell."""
        nodes = [feature]
        for i in range(1, self.nodes):
            nodes.append(sum(cell[f"{i}<-{j}"](nodes[j]) for j in range(i)))
        return nodes[-1]


def expected_cost(size: Size) -> CostTable:
    """Return the cost table of this project for the multiply-adds of the network."""
    images = torch.zeros(1, 3, PIXELS, PIXELS)
    return DARTS().profiler(Space(size))(((images,), {})).counted()["multiply_adds"]
