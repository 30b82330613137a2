"""Faster candidates of an edge: a shared leading ReLU, and a weight that is fused into the last normalization."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

from torch import Tensor, nn


def strip_leading_relu(candidate: nn.Module) -> bool:
    """Remove the ReLU at the beginning of a candidate, and return whether there was one."""
    if _is_chain(candidate) and type(candidate[0]) is nn.ReLU:
        candidate[0] = nn.Identity()
        return True
    return False


def _is_chain(module: nn.Module) -> TypeGuard[nn.Sequential]:
    # Subclasses of Sequential may override forward.
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and len(module) > 0


class WeightedNorm(nn.BatchNorm2d):
    """A batch normalization at the end of a candidate that also multiplies by the weight of the candidate.

    The scale of a normalization and its gradient cost no time. A separate product would cost one more pass over memory
    forwards and three backwards, and would keep its input for the backward pass.
    """

    weight: Tensor | None  # type: ignore[assignment]  # set by the relaxation, not a parameter

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> WeightedNorm:
        """Return a weighted normalization with the buffers, mode and hooks of another."""
        weighted = cls.__new__(cls)
        weighted.__dict__ |= norm.__dict__ | {"_parameters": {"bias": None}, "weight": None}
        return weighted


def fuse_weight_into_norm(candidate: nn.Module) -> None:
    """Replace the normalization at the end of a candidate by a weighted one, unless it is affine."""
    *_, parent, last = None, *_endings(candidate)
    if parent is not None and type(last) is nn.BatchNorm2d and not last.affine:
        parent[-1] = WeightedNorm.of(last)


def forward_weighted(
    candidate: nn.Module, weight: Tensor, x: Tensor, call: Callable[[nn.Module, Tensor], Tensor] = nn.Module.__call__
) -> Tensor:
    """Return the output of a candidate times a weight (scalar); ``call`` returns the output of a module."""
    *_, norm = _endings(candidate)
    if not isinstance(norm, WeightedNorm):
        return weight * call(candidate, x)
    if norm.running_mean is not None:
        weight = weight.to(norm.running_mean.dtype)
    norm.weight = weight.expand(norm.num_features).contiguous()  # PyTorch is slow with an expanded tensor
    try:
        return call(candidate, x)
    finally:
        norm.weight = None


def _endings(module: nn.Module) -> Iterator[Any]:
    """Yield a module, its last submodule, the last submodule of that, and so on through nested chains."""
    yield module
    while _is_chain(module):
        module = module[-1]
        yield module
