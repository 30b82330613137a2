"""The cell space of DARTS for series, for example sensor readings, sound or prices."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.darts import DartsSpace
from search_spaces.operations import DARTS_OPERATIONS


class Cell1dSpace(DartsSpace):
    """Networks of one normal and one reduction cell for inputs (batch, channels, steps).

    The cells are those of :class:`~search_spaces.darts.DartsSpace` with the operations of
    :mod:`search_spaces.operations` for one dimension. A reduction cell halves the number of steps.

    Args:
        num_classes: Number of outputs: classes, or values that a regression predicts.
        image_channels: Channels of the series.
        operations: Candidates of every edge, which must have a form for series.
        channels, layers, nodes: See :class:`~search_spaces.darts.DartsSpace`.

    Raises:
        ValueError: An argument is out of range, or an operation is unknown or has no form for series.
    """

    channels_last = False

    def __init__(
        self,
        num_classes: int = 10,
        channels: int = 16,
        layers: int = 8,
        image_channels: int = 1,
        nodes: int = 4,
        operations: Sequence[str] = DARTS_OPERATIONS,
    ) -> None:
        super().__init__(num_classes, channels, layers, image_channels, "series", nodes, operations)
