"""Candidates that get more channels in the second half of a search (DrNAS, progressive scheme)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from strategies.noise import generator
from strategies.relaxation import Step
from strategies.supernet.architecture import Architecture
from strategies.supernet.partial_channels import CONVOLUTIONS, NORMS, narrow

Draw = Callable[[int, int], Tensor]
"""Function that returns the channel that each new channel repeats, given the numbers of channels before and after."""

Take = Callable[[Tensor], Tensor]
"""Function that returns a wider tensor, given one of the shape of a weight."""


def in_second_half(step: Step) -> bool:
    """Return whether half of the epochs are completed."""
    return step.epochs is not None and 2 * step.epoch >= step.epochs


class Widening(nn.Module):
    """A candidate on a part of the channels, which becomes larger after half of the epochs.

    Both stages have separate weights from the start, so that the set of weights in optimizers, checkpoints and
    distributed searches does not change. The weights of the second stage are set by :func:`widen`.

    Args:
        candidate: The candidate with all channels.
        parts: K of the first half of the epochs.
        wider: K of the second half.
        architecture: The architecture, which holds the position of the search.
    """

    def __init__(self, candidate: nn.Module, parts: int, wider: int, architecture: Architecture) -> None:
        super().__init__()
        self.stages = nn.ModuleList([candidate, copy.deepcopy(candidate)])
        for stage, count in zip(self.stages, (parts, wider), strict=True):
            narrow(stage, count)
        self._architecture = (architecture,)  # in a tuple, so that α is not among the parameters of the network

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (batch, part of the channels, …) of the current stage."""
        out: Tensor = self.stages[in_second_half(self._architecture[0].step)](x)
        return out


def widen(model: nn.Module, optimizers: Iterable[Optimizer], seed: int, step: Step) -> None:
    """Begin the second half of a search: each wider candidate repeats random channels of the one before.

    The state of the optimizers is repeated with the weights, as in the released code.

    Args:
        model: The supernet.
        optimizers: The optimizers of the search.
        seed: Seed of the channels.
        step: The position of the search.
    """
    random = generator(seed, step, "widening")

    def draw(before: int, after: int) -> Tensor:
        return torch.randint(before, (after - before,), generator=random)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Widening):
                for weight, wider, take in repetitions(module.stages[0], module.stages[1], draw):
                    wider.copy_(take(weight))
                    for optimizer in optimizers:
                        for name, value in optimizer.state.get(weight, {}).items():
                            same = isinstance(value, Tensor) and value.shape == weight.shape
                            optimizer.state[wider][name] = take(value) if same else copy.deepcopy(value)


def repetitions(candidate: nn.Module, wider: nn.Module, draw: Draw) -> Iterator[tuple[Tensor, Tensor, Take]]:
    """Yield each weight and running statistic of a candidate, its counterpart in the wider one, and how to widen it.

    A convolution repeats output channels at random, and input channels at random or, after a depthwise convolution, as
    that convolution does. A normalization repeats the channels of the convolution before it.
    """
    outputs = inputs = None  # channels of the last convolution, and of the last one if it is depthwise
    for module, new in zip(candidate.modules(), wider.modules(), strict=True):
        if isinstance(module, CONVOLUTIONS) and isinstance(new, CONVOLUTIONS):
            before, after = module.weight.shape, new.weight.shape
            depthwise = new.groups == new.in_channels > 1
            columns = inputs if inputs is not None and not depthwise else _channels(before[1], after[1], draw)
            outputs = _channels(before[0], after[0], draw)
            inputs = outputs if depthwise else None
            yield module.weight, new.weight, partial(_taken, outputs, columns)
            if module.bias is not None and new.bias is not None:
                yield module.bias, new.bias, partial(_taken, outputs, None)
        elif isinstance(module, NORMS) and isinstance(new, NORMS):
            rows, count = outputs, new.num_features
            if rows is None or len(rows) != count:  # after pooling, or after two parallel convolutions
                rows = _channels(module.num_features, count, draw)
            for name in ("weight", "bias", "running_mean", "running_var"):
                if getattr(module, name) is not None:
                    yield getattr(module, name), getattr(new, name), partial(_taken, rows, None)


def _channels(before: int, after: int, draw: Draw) -> Tensor:
    """Return the source of each channel: old channels keep theirs, new ones repeat a drawn channel."""
    return torch.cat([torch.arange(before), draw(before, after)])


def _taken(rows: Tensor, columns: Tensor | None, x: Tensor) -> Tensor:
    return x[rows] if columns is None else x[rows][:, columns]
