"""The cell space of DARTS (Liu et al. 2019, section 3) as an NNI model space."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.checks import require
from search_spaces.edges import KINDS, darts_layout, default_reductions
from search_spaces.genotype import MOST_LAYERS
from search_spaces.operations import DARTS_OPERATIONS
from search_spaces.space import CellStack, StackedSpace
from search_spaces.stems import Stem


class DartsSpace(StackedSpace):
    """Networks of one normal and one reduction cell, each repeated.

    Labels are those of ``nni.nas.hub.pytorch.DARTS`` (``normal/op_2_0``, ``normal/input_2_0``, …), so that a sample of
    one space freezes the other. ``none`` is not a candidate of the space; strategies whose papers include it add it to
    the relaxation.

    Args:
        num_classes: Number of classes.
        channels: Channels of a node before the first reduction. They double at each reduction.
        layers: Number of cells, at least 3. Those at a third and two thirds of the depth are reduction cells.
        image_channels: 1 for grey images, 3 for colour.
        stem: A key of :data:`~search_spaces.stems.STEMS`. "cifar" keeps the resolution, "tiny_imagenet" halves it,
            "imagenet" divides it by 8; with the prefix ``dual_``, two such stems make the two inputs of the first cell.
        nodes: Intermediate nodes of a cell, each with two inputs.
        operations: Candidates of every edge.
        mlp_width: Width of the first layer of the course project's classifier (Table 4); None for global pooling and a
            linear classifier.
        image_size: Height and width of the images in pixels, used by the course project's classifier only.
        fixed: Operations of the supernet and of every derived network that are not searched: see
            :func:`~search_spaces.fixed.parse_fixed`.
        dense_head: Whether there are outputs for each pixel, see :class:`~search_spaces.network.Network`.

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
        mlp_width: int | None = None,
        image_size: int = 32,
        fixed: Sequence[str] = (),
        dense_head: bool = False,
    ) -> None:
        check_layers(layers)
        super().__init__(
            CellStack(KINDS, darts_layout(layers), default_reductions(layers), nodes, operations, fixed),
            num_classes=num_classes,
            channels=channels,
            image_channels=image_channels,
            stem=stem,
            mlp_width=mlp_width,
            image_size=image_size,
            dense_head=dense_head,
        )


def check_layers(layers: int) -> None:
    """Raise a ValueError for a network too shallow for two reductions or too deep for the memory."""
    require("layers", layers, layers >= 3, "at least 3, for a normal cell and two reductions")
    require("layers", layers, layers <= MOST_LAYERS, f"at most {MOST_LAYERS}")
