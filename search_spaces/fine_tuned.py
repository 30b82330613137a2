"""The space of Fine-Tuning DARTS for Image Classification (Tanveer, Khan and Kyung), with fixed operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from search_spaces.darts import DartsSpace

ATTENTION = ("squeeze_excitation",)
"""Fixed operations of the paper: an attention module behind each cell (section III.C)."""


class FineTunedDartsSpace(DartsSpace):
    """The space of DARTS with a squeeze-and-excitation module behind each cell, which is not searched (Fig. 2).

    The default arguments are those of the paper's search on 32×32 images. For larger images the paper has two stems
    (Fig. 4): ``stem="dual_tiny_imagenet"`` or ``"dual_imagenet"``.

    Args:
        fixed: Operations that are not searched, see :func:`~search_spaces.fixed.parse_fixed`.
        space: Further arguments of :class:`~search_spaces.darts.DartsSpace`.
    """

    def __init__(self, *args: Any, fixed: Sequence[str] = ATTENTION, **space: Any) -> None:
        super().__init__(*args, fixed=fixed, **space)  # type: ignore[misc]  # args end before it
