"""The cell space of DARTS (Liu et al. 2019, section 3), as an NNI model space."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.fixed import KINDS
from search_spaces.genotype import MOST_LAYERS, default_reductions
from search_spaces.operations import DARTS_OPERATIONS
from search_spaces.space import CellStack, StackedSpace
from search_spaces.stems import Stem


class DartsSpace(StackedSpace):
    """Networks of one normal and one reduction cell, each repeated.

    Its labels are those of ``nni.nas.hub.pytorch.DARTS`` (``normal/op_2_0``, ``normal/input_2_0``, …):
    a sample of one space freezes the other. ``none`` is no candidate here: the strategies whose
    papers have it add it to the relaxation.

    Args:
        num_classes: classes of the images.
        channels: channels of a node before the first reduction; they double at each.
        layers: the number of cells; those at a third and two thirds of the depth are reductions.
        image_channels: 1 for grey images, 3 for colour.
        stem: a name of :data:`~search_spaces.network.STEMS`: "cifar" keeps the resolution,
            "tiny_imagenet" halves it, "imagenet" divides it by 8; with ``dual_`` before it, two such
            stems make the two inputs of the first cell.
        nodes: intermediate nodes of a cell, each with two inputs.
        operations: the candidates of every edge.
        mlp_width: None for pooling and a linear classifier; a number for the classifier of the
            course project (Table 4) with a first layer of that width.
        image_size: pixels a side of the images; only the course project's classifier needs to know.
        fixed: operations that stand in the supernet and in every derived network, searched by
            nobody: see :func:`~search_spaces.fixed.parse_fixed`.

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
        mlp_width: int | None = None,
        image_size: int = 32,
        fixed: Sequence[str] = (),
    ) -> None:
        check_layers(layers)
        reductions = default_reductions(layers)
        layout = [int(layer in reductions) for layer in range(layers)]
        super().__init__(
            CellStack(KINDS, layout, reductions, nodes, operations, fixed),
            num_classes=num_classes,
            channels=channels,
            image_channels=image_channels,
            stem=stem,
            mlp_width=mlp_width,
            image_size=image_size,
        )


def check_layers(layers: int) -> None:
    """Raise a ValueError where a network is too shallow for two reductions, or deeper than any memory takes."""
    if layers < 3:
        raise ValueError(f"layers: {layers} should be at least 3, for a normal cell and two reductions")
    if layers > MOST_LAYERS:
        raise ValueError(f"layers: {layers} should be at most {MOST_LAYERS}")
