"""Statistics of batch normalizations: measured for one path through a supernet, replaced, or left unchanged.

The running statistics of a supernet average over all paths that were trained and fit none of them. The statistics of a
path are therefore measured on a few training batches before the path is validated (Guo et al., Single Path One-Shot,
section 3.4). The statistics of the validation batches are unsuitable: in an ordered validation set, all images of a
batch may belong to one class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Statistics = dict[_BatchNorm, tuple[Tensor, ...]]
"""Normalization -> mean and variance, each (channels,)."""


def measure_bn_stats(module: nn.Module, run: Callable[[], object]) -> Statistics:
    """Measure the statistics of all batch normalizations over some forward passes.

    The mode and the running statistics of the module are restored.

    Args:
        module: The network, in any mode.
        run: Function that runs the passes, at least one.

    Returns:
        The average over the passes, for each normalization that ran.
    """
    norms = norms_with_stats(module)
    before = [(norm, norm.training, norm.momentum, norm.num_batches_tracked, _state(norm)[:2]) for norm in norms]
    for norm in norms:
        norm.num_batches_tracked = torch.zeros((), dtype=torch.long)  # read in each pass, so not on an accelerator
        norm.reset_running_stats()
        norm.training, norm.momentum = True, None  # None: the plain average over all passes
    try:
        with torch.no_grad():
            run()
        return {norm: _state(norm)[:2] for norm in norms if norm.num_batches_tracked}
    finally:
        for norm, training, momentum, count, statistics in before:
            norm.training, norm.momentum, norm.num_batches_tracked = training, momentum, count
            _restore(norm, statistics)


@contextmanager
def use_bn_stats(statistics: Statistics) -> Iterator[None]:
    """Replace the running statistics by the given ones in this context."""
    before = {norm: _state(norm) for norm in statistics}
    for norm, measured in statistics.items():
        _restore(norm, measured)
    try:
        yield
    finally:
        for norm, state in before.items():
            _restore(norm, state)


@contextmanager
def batch_stats_only(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Normalize by the statistics of the batch, without counting it in the running statistics.

    Restoring the running statistics afterwards is not an option: pending backward passes still reference them.
    """
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def by_batch_statistics(model: nn.Module) -> Iterator[None]:
    """Normalize by the statistics of each batch in this context, also in evaluation mode.

    The running statistics are not changed.
    """
    before = [(norm, norm.running_mean, norm.running_var) for norm in norms_with_stats(model)]
    for norm, _, _ in before:
        norm.running_mean = norm.running_var = None
    try:
        yield
    finally:
        for norm, running_mean, running_var in before:
            norm.running_mean, norm.running_var = running_mean, running_var


class frozen_bn_stats:
    """Freeze the running statistics of batch normalizations in this context.

    Used when a forward pass is recomputed on the same batch. The context can be entered repeatedly, once for each
    backward pass through the first forward pass.

    Args:
        module: The module whose normalizations are frozen.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._before: list[tuple[_BatchNorm, float | None, Tensor | None]] = []

    def __enter__(self) -> None:
        self._before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms_with_stats(self.module)]
        for norm, _, _ in self._before:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *error: object) -> None:
        for norm, momentum, count in self._before:
            norm.momentum, norm.num_batches_tracked = momentum, count


def norms_with_stats(module: nn.Module) -> list[_BatchNorm]:
    """Return the batch normalizations of a module that have running statistics."""
    return [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.running_mean is not None]


def _state(norm: _BatchNorm) -> tuple[Tensor, ...]:
    buffers = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    return tuple(buffer.clone() for buffer in buffers if buffer is not None)


def _restore(norm: _BatchNorm, state: tuple[Tensor, ...]) -> None:
    for buffer, value in zip((norm.running_mean, norm.running_var, norm.num_batches_tracked), state, strict=False):
        if buffer is not None:
            buffer.copy_(value)
