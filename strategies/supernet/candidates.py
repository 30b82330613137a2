"""The candidates of an edge in a supernet: their first ReLU is shared, and their weight goes into their last
normalization."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def strip_leading_relu(candidate: nn.Module) -> bool:
    """Take the ReLU that a candidate begins with out of it; whether there was one."""
    if _is_chain(candidate) and type(candidate[0]) is nn.ReLU:
        candidate[0] = nn.Identity()
        return True
    return False


def _is_chain(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether it runs its modules one after the other, and nothing else; some are called Sequential and do more."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and len(module) > 0


class WeightedNorm(nn.BatchNorm2d):
    """The batch normalization at the end of a candidate, which also multiplies by the weight of the candidate.

    A scale costs a normalization nothing, and neither does the gradient of it. A product after it
    would be one more pass over the memory forwards and three backwards, and would keep its input.
    """

    weight: Tensor | None  # type: ignore[assignment]  # no parameter, but what the relaxation says

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> WeightedNorm:
        """The same normalization: its buffers, mode and hooks."""
        same = cls.__new__(cls)
        same.__dict__ |= norm.__dict__ | {"_parameters": {"bias": None}, "weight": None}
        return same


def fuse_weight_into_norm(candidate: nn.Module) -> None:
    """Make the normalization that a candidate ends with a weighted one, where it has no scale of its own."""
    *_, parent, last = None, *_endings(candidate)
    if parent is not None and type(last) is nn.BatchNorm2d and not last.affine:
        parent[-1] = WeightedNorm.of(last)


def forward_weighted(candidate: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    """The output of a candidate times a weight."""
    *_, norm = _endings(candidate)
    if not isinstance(norm, WeightedNorm):
        return weight * candidate(x)
    if norm.running_mean is not None:
        weight = weight.to(norm.running_mean.dtype)
    norm.weight = weight.expand(norm.num_features).contiguous()  # PyTorch is slow with an expanded one
    try:
        return candidate(x)
    finally:
        norm.weight = None


class frozen_bn_stats:
    """A context: a second pass over a batch that batch normalizations have counted in their statistics.

    This one does not count. It can be entered again, for as many backward passes as the first pass has.
    """

    def __init__(self, candidates: nn.Module) -> None:
        self.candidates = candidates
        self._before: list[tuple[_BatchNorm, Any, Any]] = []

    def __enter__(self) -> None:
        norms = (m for m in self.candidates.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None)
        self._before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm, _, _ in self._before:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *error: object) -> None:
        for norm, momentum, count in self._before:
            norm.momentum, norm.num_batches_tracked = momentum, count


def _endings(module: nn.Module) -> Iterator[Any]:
    """A module, its last module, the last one of that …"""
    yield module
    while _is_chain(module):
        *_, module = module  # type: ignore[misc]
        yield module
