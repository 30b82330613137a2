"""Batch statistics of one path through a supernet.

The running statistics of a supernet average over all paths that trained, and belong to none of
them. Before a path is validated its own are measured on a few training batches (Guo et al.,
Single Path One-Shot, section 3.4). The statistics of the validation batches themselves would not
do: a validation set in order has batches of one class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Statistics = dict[_BatchNorm, tuple[Tensor, ...]]
"""normalization -> mean and variance of each channel."""


def measure_bn_stats(module: nn.Module, run: Callable[[], object]) -> Statistics:
    """The statistics of all batch normalizations over some forward passes; the module stays as it is.

    Args:
        module: the network, in any mode.
        run: makes the passes, at least one.

    Returns:
        The average over the passes, for each normalization that ran.
    """
    norms = _tracking(module)
    before = [(norm, norm.training, norm.momentum, _state(norm)) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.training, norm.momentum = True, None  # None: the plain average over all passes
    try:
        with torch.no_grad():
            run()
        return {norm: _state(norm)[:2] for norm in norms if norm.num_batches_tracked}
    finally:
        for norm, training, momentum, state in before:
            norm.training, norm.momentum = training, momentum
            _restore(norm, state)


@contextmanager
def use_bn_stats(statistics: Statistics) -> Iterator[None]:
    """Normalize by these statistics; afterwards by the ones before."""
    before = {norm: _state(norm) for norm in statistics}
    for norm, measured in statistics.items():
        _restore(norm, measured)
    try:
        yield
    finally:
        for norm, state in before.items():
            _restore(norm, state)


def _tracking(module: nn.Module) -> list[_BatchNorm]:
    return [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.running_mean is not None]


def _state(norm: _BatchNorm) -> tuple[Tensor, ...]:
    buffers = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    return tuple(buffer.clone() for buffer in buffers if buffer is not None)


def _restore(norm: _BatchNorm, state: tuple[Tensor, ...]) -> None:
    for buffer, value in zip((norm.running_mean, norm.running_var, norm.num_batches_tracked), state, strict=False):
        if buffer is not None:
            buffer.copy_(value)
