"""Partial channels: candidates that run on a part of the channels of their input (PC-DARTS, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional


class NarrowError(ValueError):
    """A candidate cannot run on a part of the channels."""


def narrow(candidate: nn.Module, parts: int) -> None:
    """Give a candidate 1/K of its channels, in place, with new weights.

    Args:
        candidate: A module whose only weights are those of convolutions and batch normalizations.
        parts: K.

    Raises:
        NarrowError: A module of the candidate has other weights, or K does not divide its channels.
    """
    for module in candidate.modules():
        if isinstance(module, nn.Conv2d):
            _narrow_convolution(module, parts)
        elif isinstance(module, nn.BatchNorm2d):
            _narrow_norm(module, parts)
        elif next(module.parameters(recurse=False), None) is not None:
            raise NarrowError(f"{type(module).__name__} cannot run on 1/{parts} of its channels")


def keeps_channels(candidates: Iterable[nn.Module]) -> bool:
    """Return whether the first and the last convolution of every candidate have the same number of channels."""
    for candidate in candidates:
        convolutions = [module for module in candidate.modules() if isinstance(module, nn.Conv2d)]
        if convolutions and convolutions[0].in_channels != convolutions[-1].out_channels:
            return False
    return True


def run_on_part(run: Callable[[Tensor], Tensor], x: Tensor, parts: int) -> Tensor:
    """Return the output of an edge that runs on the first 1/K of the channels, while the others are passed on.

    What is passed on is pooled to the resolution of the output. The channels are shuffled, so that the next edge runs
    on others (as in the released code of PC-DARTS).

    Args:
        run: Returns the sum of the candidates on a part of the channels.
        x: Input (batch, channels, height, width); K divides the channels.
        parts: K.
    """
    width = x.shape[1] // parts
    out, passed = run(x[:, :width]), x[:, width:]
    if out.shape[2:] != passed.shape[2:]:
        passed = functional.max_pool2d(passed, 2, 2, ceil_mode=True)
    return functional.channel_shuffle(torch.cat([out, passed], dim=1), parts)


def _narrow_convolution(module: nn.Conv2d, parts: int) -> None:
    depthwise = module.groups == module.in_channels > 1
    module.in_channels = _part(module, module.in_channels, parts)
    module.out_channels = _part(module, module.out_channels, parts)
    if depthwise:
        module.groups = module.in_channels
    inputs = module.in_channels // module.groups
    module.weight = nn.Parameter(module.weight.new_empty(module.out_channels, inputs, *module.kernel_size))
    if module.bias is not None:
        module.bias = nn.Parameter(module.bias.new_empty(module.out_channels))
    module.reset_parameters()


def _narrow_norm(module: nn.BatchNorm2d, parts: int) -> None:
    module.num_features = _part(module, module.num_features, parts)
    for name in ("weight", "bias"):
        if getattr(module, name) is not None:
            setattr(module, name, nn.Parameter(getattr(module, name).new_empty(module.num_features)))
    if module.running_mean is not None and module.running_var is not None:
        module.running_mean = module.running_mean.new_zeros(module.num_features)
        module.running_var = module.running_var.new_ones(module.num_features)
    module.reset_parameters()


def _part(module: nn.Module, channels: int, parts: int) -> int:
    if channels % parts:
        raise NarrowError(f"{channels} channels of {type(module).__name__} are not divisible by {parts}")
    return channels // parts
