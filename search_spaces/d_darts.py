"""The space of D-DARTS (Heuillet et al. 2023, section 4.1): every layer has a cell of its own."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.darts import check_layers
from search_spaces.genotype import default_reductions
from search_spaces.operations import DARTS_OPERATIONS
from search_spaces.space import CellStack, StackedSpace
from search_spaces.stems import Stem


class DDartsSpace(StackedSpace):
    """Networks in which every layer has a cell of its own.

    The labels of layer 3 are ``cell_3/op_2_0``, ``cell_3/input_2_0``, …: NNI's strategies search
    cells with two operations a node. Cells in which a node has none, one or many are points of the
    space too, which the derivations ``sparse`` and ``edge`` find: ``none`` stands for an operation
    that a node lacks, and further ones are ``cell_3/op_2_2``, … . ``none`` is no candidate.

    Args:
        num_classes: classes of the images.
        channels: channels of a node before the first reduction; they double at each.
        layers: the number of cells; those at a third and two thirds of the depth are reductions.
        image_channels: 1 for grey images, 3 for colour.
        stem: a name of :data:`~search_spaces.network.STEMS`.
        nodes: intermediate nodes of a cell.
        operations: the candidates of every edge.
        fixed: operations that stand in the supernet and in every derived network, searched by nobody:
            see :func:`~search_spaces.fixed.parse_fixed`.

    Raises:
        ValueError: an argument is out of range, or an operation unknown.
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
    ) -> None:
        check_layers(layers)
        own = [f"cell_{layer}" for layer in range(layers)]
        super().__init__(
            CellStack(own, range(layers), default_reductions(layers), nodes, operations, fixed),
            num_classes=num_classes,
            channels=channels,
            image_channels=image_channels,
            stem=stem,
        )
