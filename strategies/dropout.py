"""Dropout behind a candidate, whose rate depends on the position of the search."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from strategies.relaxation import Step
from strategies.supernet.architecture import Architecture


class ScheduledDropout(nn.Module):
    """Dropout with a scheduled rate: in training, zero a part of the input and scale up the rest.

    Args:
        drop: Function that drops a part, given the input and the rate.
        rate: Function that returns the rate at a position of the search.
        architecture: The architecture, which holds the position.
    """

    def __init__(
        self, drop: Callable[[Tensor, float], Tensor], rate: Callable[[Step], float], architecture: Architecture
    ) -> None:
        super().__init__()
        self.drop, self.rate = drop, rate
        self._architecture = (architecture,)  # in a tuple, so that α is not among the parameters of the network

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape (batch, …)."""
        return self.drop(x, self.rate(self._architecture[0].step)) if self.training else x


def drop_paths(x: Tensor, probability: float) -> Tensor:
    """Replace the output of a candidate by zeros for random images of a batch, and scale up the others."""
    return stochastic_depth(x, probability, "row")


def linear_rate(last: float) -> Callable[[Step], float]:
    """Return a rate that grows linearly from 0 in the first epoch to ``last`` in the last one."""
    return lambda step: last * min(step.epoch / max((step.epochs or 1) - 1, 1), 1)
