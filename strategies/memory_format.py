"""The memory format of a model on a CPU: channels_last where it pays, contiguous where it corrupts the heap."""

from __future__ import annotations

from typing import Any

import torch
from nni.nas.oneshot.pytorch.supermodule.operation import MixedConv2d
from torch import Tensor, nn

from search_spaces.pointwise import PointwiseConv2d

SAFE_CHANNELS = 8
"""Input channels from which on a strided 1×1 convolution is safe in channels_last."""


def takes_channels_last(space: nn.Module) -> bool:
    """Return whether a space is searched in channels_last, in which convolutions on a CPU are faster.

    The spaces of NNI's hub are. Another space may depend on the order of the dimensions, so its attribute
    ``channels_last`` decides.
    """
    hub = any(kind.__module__.startswith("nni.nas.hub.") for kind in type(space).__mro__)
    return getattr(space, "channels_last", hub)


def avoid_faulty_kernels(model: nn.Module) -> None:
    """Compute those convolutions in contiguous format that could corrupt the heap in channels_last.

    oneDNN's AVX2 kernel for the weight gradient of a strided 1×1 convolution writes beyond its buffer in
    channels_last with fewer than :data:`SAFE_CHANNELS` input channels (docs/cpu_kernels.md). PyTorch chooses the
    format by the input and the weight, so both are made contiguous.

    Args:
        model: The model, after it was moved to its memory format.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _may_be_faulty(module):
            # A 1×1 weight is contiguous in both formats; its strides say which one PyTorch reads it in.
            module.weight.data = module.weight.data.clone(memory_format=torch.contiguous_format)
            module.register_forward_pre_hook(_make_contiguous)


def _make_contiguous(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(one.contiguous() if isinstance(one, Tensor) else one for one in inputs)


def _may_be_faulty(convolution: nn.Conv2d) -> bool:
    if isinstance(convolution, PointwiseConv2d) or max(convolution.stride) == 1:
        return False
    choices = convolution.mutable_arguments if isinstance(convolution, MixedConv2d) else {}
    kernels = choices["kernel_size"].grid() if "kernel_size" in choices else [convolution.kernel_size]
    narrow = "in_channels" in choices or convolution.in_channels < SAFE_CHANNELS
    return narrow and any(kernel in (1, (1, 1)) for kernel in kernels)
