"""The space of D-DARTS (Heuillet et al. 2023, section 4.1), with one cell per layer."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.darts import check_layers
from search_spaces.edges import default_reductions
from search_spaces.operations import DARTS_OPERATIONS
from search_spaces.space import CellStack, StackedSpace
from search_spaces.stems import Stem


class DDartsSpace(StackedSpace):
    """Networks in which every layer has its own cell.

    The labels of layer 3 are ``cell_3/op_2_0``, ``cell_3/input_2_0`` and so on. NNI's strategies search cells with two
    operations per node. Cells whose nodes have any other number of operations are points of the space as well; the
    derivations ``sparse`` and ``edge`` find them. Their samples have ``none`` for a missing operation, and
    ``cell_3/op_2_2`` and so on for further ones. ``none`` is not a candidate.

    Args:
        nodes: Intermediate nodes of a cell.
        num_classes, channels, layers, image_channels, stem, operations, fixed, dense_head: See
            :class:`~search_spaces.darts.DartsSpace`.

    Raises:
        ValueError: An argument is out of range, or an operation is unknown.
    """

    def __init__(
        self,
        num_classes: int = 10,
        channels: int = 16,
        layers: int = 8,
        image_channels: int = 3,
        stem: Stem = "cifar",
        nodes: int = 4,
        operations: Sequence[str] = DARTS_OPERATIONS,
        fixed: Sequence[str] = (),
        dense_head: bool = False,
    ) -> None:
        check_layers(layers)
        labels = [f"cell_{layer}" for layer in range(layers)]
        super().__init__(
            CellStack(labels, range(layers), default_reductions(layers), nodes, operations, fixed),
            num_classes=num_classes,
            channels=channels,
            image_channels=image_channels,
            stem=stem,
            dense_head=dense_head,
        )
