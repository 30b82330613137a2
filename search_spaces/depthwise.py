"""Depthwise convolutions that train several times faster on a CPU, with the results of PyTorch's.

Forward passes are fast everywhere. For backward passes oneDNN, PyTorch's CPU library, has fast kernels for undilated
convolutions only, and for the gradient of the weight only if the kernel is at most three columns wide. This module
reduces the other cases to these.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

COLUMNS = 3
"""Width of the widest kernel for which oneDNN computes the gradient of the weight fast."""


class DepthwiseConv2d(nn.Conv2d):
    """A convolution of each channel by itself, without bias, that divides the resolution by its stride.

    Args:
        channels: Channels of the input and of the output.
        kernel: Height and width of the kernel, odd.
        stride: 1 or 2.
        dilation: 1 or 2.
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, channels, ⌈height/stride⌉, ⌈width/stride⌉)."""
        stride, dilation = self.stride[0], self.dilation[0]
        if stride == dilation == 2:  # this is an ordinary convolution of every second pixel
            x, stride, dilation = x[..., ::2, ::2], 1, 1
        slow = stride == 1 and (dilation > 1 or self.kernel_size[1] > COLUMNS)
        on_cpu = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if slow and on_cpu and self.training and torch.is_grad_enabled() and not _is_transformed():
            return _Depthwise.apply(x, self.weight, dilation)
        return _convolve(x, self.weight, stride, dilation)


def _is_transformed() -> bool:
    """Return whether a forward pass is traced, or transformed as by ``torch.vmap``, which PyTorch's own operations are.

    A function that separated its context, as transforms ask for, would take seven times as long to call.
    """
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing or torch._C._are_functorch_transforms_active()  # type: ignore[attr-defined, no-any-return]


def _convolve(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    padding = dilation * (weight.shape[-1] // 2)
    return functional.conv2d(x, weight, None, stride, padding, dilation, groups=weight.shape[0])


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution of stride 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:  # type: ignore[override]
        ctx.dilation = dilation
        # Only the gradient of the weight needs the input.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return _convolve(x, weight, 1, dilation)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        x_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:  # the same convolution with the flipped kernel
            x_gradient = _convolve(gradient, weight.flip(2, 3), 1, ctx.dilation)
        if ctx.needs_input_grad[1]:
            weight_gradient = _weight_gradient(x, gradient, weight, ctx.dilation)
        return x_gradient, weight_gradient, None


def _weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor, dilation: int) -> Tensor:
    if dilation == 2 and x.shape[-2] % 2 == x.shape[-1] % 2 == 0:
        # Pixels of different parity never meet, so that the image is four images without dilation.
        x, gradient, dilation = _parities(x), _parities(gradient), 1
    kernel = weight.shape[-1]
    padding = dilation * (kernel // 2)
    if dilation > 1 or kernel <= COLUMNS or x.shape[-1] < kernel:
        return _aten_weight_gradient(x, gradient, weight, (padding, padding), dilation)
    pieces = []
    for first in range(0, kernel, COLUMNS):
        piece = weight[..., first : first + COLUMNS].contiguous()
        left = padding - first
        shifted = functional.pad(x, (left, piece.shape[-1] - 1 - left))
        pieces.append(_aten_weight_gradient(shifted, gradient, piece, (padding, 0), 1))
    return torch.cat(pieces, dim=3)


def _parities(x: Tensor) -> Tensor:
    """Return the pixels of each parity as an image: (4 × batch, channels, height / 2, width / 2)."""
    return torch.cat([x[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)])


def _aten_weight_gradient(
    x: Tensor, gradient: Tensor, weight: Tensor, padding: tuple[int, int], dilation: int
) -> Tensor:
    """Return PyTorch's gradient of the weight, which is used for its shape only."""
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], padding, [dilation] * 2, False, [0, 0], len(weight), [False, True, False]
    )[1]
