"""The cell space of DARTS with networks of growing depth (P-DARTS; Chen et al., ICCV 2019, section 3.2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from nni.nas.space import current_model
from torch import Tensor, nn

from search_spaces.darts import check_layers
from search_spaces.edges import KINDS, darts_layout, default_reductions
from search_spaces.network import Network
from search_spaces.operations import DARTS_OPERATIONS
from search_spaces.space import CellStack, StackedSpace
from search_spaces.stems import Stem


class ProgressiveSpace(StackedSpace):
    """The space of :class:`~search_spaces.darts.DartsSpace`, searched in networks of growing depth.

    All networks exist from the start, with separate weights, and share the two cells and therefore α. The network of
    the current stage runs; a search starts with the shallowest. Samples, genotypes and derived networks are those of
    the deepest network. Strategies without stages search in the shallowest network.

    Args:
        layers: Number of cells in the network of each stage, ascending, each at least 3.
        num_classes, channels, image_channels, stem, nodes, operations, fixed, dense_head: See
            :class:`~search_spaces.darts.DartsSpace`.

    Raises:
        ValueError: An argument is out of range, or an operation is unknown.
    """

    def __init__(
        self,
        num_classes: int = 10,
        channels: int = 16,
        layers: Sequence[int] = (5, 11, 17),
        image_channels: int = 3,
        stem: Stem = "cifar",
        nodes: int = 4,
        operations: Sequence[str] = DARTS_OPERATIONS,
        fixed: Sequence[str] = (),
        dense_head: bool = False,
    ) -> None:
        if not layers or any(deeper <= depth for depth, deeper in pairwise(layers)):
            raise ValueError(f"layers: {list(layers)} should be ascending numbers, one for each stage")
        for depth in layers:
            check_layers(depth)
        network: dict[str, Any] = {
            "num_classes": num_classes,
            "channels": channels,
            "image_channels": image_channels,
            "stem": stem,
            "dense_head": dense_head,
        }
        *earlier, deepest = (
            CellStack(KINDS, darts_layout(depth), default_reductions(depth), nodes, operations, fixed)
            for depth in layers
        )
        super().__init__(deepest, **network)
        if current_model() is not None:  # inside a model_context only the derived network exists
            earlier = []
        self.earlier = nn.ModuleList(
            Network(cells.cell, len(cells.layout), cells.reductions, **network) for cells in earlier
        )
        self.stage = 0

    def enter_stage(self, index: int) -> None:
        """Switch to the network of a stage, or to the deepest network in all stages after the last."""
        self.stage = min(index, len(self.earlier))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, image channels, height, width) -> logits (batch, classes)."""
        return (*self.earlier, self.network)[self.stage](x)
