"""The space of Fine-Tuning DARTS for Image Classification (Tanveer, Khan and Kyung), with fixed operations."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.darts import DartsSpace
from search_spaces.operations import DARTS_OPERATIONS
from search_spaces.stems import Stem

ATTENTION = ("squeeze_excitation",)
"""Fixed operations of the paper: an attention module behind each cell (section III.C)."""


class FineTunedDartsSpace(DartsSpace):
    """The space of DARTS with a squeeze-and-excitation module behind each cell, which is not searched (Fig. 2).

    The default arguments are those of the paper's search on 32×32 images. For larger images the paper has two stems
    (Fig. 4): ``stem="dual_tiny_imagenet"`` or ``"dual_imagenet"``.

    Args: See :class:`~search_spaces.darts.DartsSpace`; ``fixed`` is the attention module by default.
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
        fixed: Sequence[str] = ATTENTION,
        dense_head: bool = False,
    ) -> None:
        super().__init__(
            num_classes,
            channels,
            layers,
            image_channels,
            stem,
            nodes,
            operations,
            mlp_width,
            image_size,
            fixed,
            dense_head,
        )
