"""Depthwise convolutions that train several times faster on a CPU than PyTorch's, with the same results.

Forward passes are fast everywhere. For backward passes oneDNN, PyTorch's CPU library, has fast kernels for undilated
convolutions only, and for the gradient of the weight only if the kernel has at most three columns and no more rows than
the image. This module reduces all other cases to these.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.pointwise import subsample

COLUMNS = 3
"""Width of the widest kernel for which oneDNN computes the gradient of the weight fast."""


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution without bias that divides the resolution by its stride.

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
        if not self.training:
            return _convolve(x, self.weight, self.stride[0], self.dilation[0])
        return depthwise(x, self.weight, self.stride[0], self.dilation[0])


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """Return the depthwise convolution, which keeps the resolution at stride 1.

    Args:
        x: (batch, channels, height, width).
        weight: (channels, 1, kernel, kernel), with an odd kernel.
        stride: 1 or 2.
        dilation: 1 or 2.
    """
    columns = weight.shape[-1]
    if stride == dilation == 2:  # an undilated convolution of every second pixel
        x, stride, dilation = subsample(x, 2, 2), 1, 1
    # Strided kernels with more than five columns are left to PyTorch.
    slow = dilation > 1 or (columns == 5 if stride == 2 else columns > COLUMNS)
    on_cpu = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if slow and on_cpu and torch.is_grad_enabled() and not is_transformed():
        return _Depthwise.apply(x, weight, stride, dilation)
    return _convolve(x, weight, stride, dilation)


def is_transformed() -> bool:
    """Return whether a forward pass is traced or transformed (``torch.vmap``), which needs PyTorch's own operations.

    An autograd function with a separate ``setup_context``, which transforms require, would take seven times as long to
    call.
    """
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing or torch._C._are_functorch_transforms_active()  # type: ignore[attr-defined, no-any-return]


def _convolve(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    padding = dilation * (weight.shape[-1] // 2)
    return functional.conv2d(x, weight, None, stride, padding, dilation, groups=weight.shape[0])


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution of stride 1, or of stride 2 with five columns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:  # type: ignore[override]
        ctx.stride, ctx.dilation, ctx.size = stride, dilation, x.shape
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        ctx.memory_format = torch.channels_last if last else torch.contiguous_format
        # Only the gradient of the weight needs the input.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return _convolve(x, weight, stride, dilation)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        x_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            if ctx.stride == 1:  # the same convolution with the flipped kernel
                x_gradient = _convolve(gradient, weight.flip(2, 3), 1, ctx.dilation)
            else:
                of_shape = torch.empty(ctx.size, dtype=gradient.dtype, memory_format=ctx.memory_format)
                x_gradient = _aten_gradients(gradient, of_shape, weight, (2, 2), (True, False, False))[0]
        if ctx.needs_input_grad[1]:
            weight_gradient = _weight_gradient(x, gradient, weight.shape[-1], ctx.stride, ctx.dilation)
            if weight.is_contiguous():
                # DistributedDataParallel compares the strides of the two, also that of the dimension of size 1.
                weight_gradient = weight_gradient.contiguous().as_strided(weight.shape, weight.stride())
        return x_gradient, weight_gradient, None, None


def _weight_gradient(x: Tensor, gradient: Tensor, kernel: int, stride: int, dilation: int) -> Tensor:
    """Return the gradient of the weight of a square kernel: (channels, 1, kernel, kernel)."""
    if dilation > 1:
        # Rows with different remainders modulo the dilation never interact, so they become separate, undilated images.
        x, gradient = _rows_apart(x, dilation), _rows_apart(gradient, dilation)
        return _of_columns_apart(x, gradient, dilation, partial(_undilated, kernel=kernel))
    return _undilated(x, gradient, kernel, stride)


def _undilated(x: Tensor, gradient: Tensor, kernel: int, stride: int = 1) -> Tensor:
    columns = [_narrow(x, gradient, (kernel, min(kernel, COLUMNS)), (stride, stride))]
    gradient_of = partial(_narrow, kernel=(kernel, COLUMNS), strides=(stride, 1))
    for distance in range(2, kernel // 2 + 1):  # of the columns on both sides from the middle one
        outer = _of_columns_apart(x, gradient, distance, gradient_of, stride)
        columns = [outer[..., :1], *columns, outer[..., 2:]]
    return torch.cat(columns, dim=3)


def _of_columns_apart(
    x: Tensor, gradient: Tensor, distance: int, gradient_of: Callable[[Tensor, Tensor], Tensor], stride: int = 1
) -> Tensor:
    """Return the gradient of the weights of kernel columns with a given distance from one to the next.

    Image columns with different remainders modulo the distance never interact. The columns of each remainder become a
    separate image, in separate channels.
    """
    channels = x.shape[1]
    x = _columns_apart(x, distance)
    if stride == distance == 2:  # the columns that the stride reads
        return gradient_of(x[:, :channels].contiguous(memory_format=torch.channels_last), gradient)
    weights = gradient_of(x, _columns_apart(gradient, distance))
    return weights.view(distance, channels, *weights.shape[1:]).sum(0)


def _columns_apart(x: Tensor, distance: int) -> Tensor:
    """Return the columns of each remainder as channels: (batch, distance × channels, height, ⌈width / distance⌉).

    Images in channels_last are not copied, except for padding.
    """
    x = _pad(x, 0, -x.shape[-1] % distance).permute(0, 2, 3, 1)
    batch, height, width, channels = x.shape
    return x.reshape(batch, height, width // distance, distance * channels).permute(0, 3, 1, 2)


def _rows_apart(x: Tensor, distance: int) -> Tensor:
    """Return the rows of each remainder as images: (distance × batch, channels, ⌈height / distance⌉, width)."""
    x = _pad(x, -x.shape[-2] % distance, 0).permute(0, 2, 3, 1)
    batch, height, width, channels = x.shape
    rows = x.reshape(batch, height // distance, distance, width, channels).movedim(2, 0)
    return rows.reshape(distance * batch, height // distance, width, channels).permute(0, 3, 1, 2)


def _narrow(x: Tensor, gradient: Tensor, kernel: tuple[int, int], strides: tuple[int, int]) -> Tensor:
    """Return the gradient of the weight of a kernel of at most three columns."""
    x = _pad(x, max(0, kernel[0] - x.shape[-2]), 0)
    gradient = _pad(gradient, -(-x.shape[-2] // strides[0]) - gradient.shape[-2], 0)
    of_shape = x.new_empty(x.shape[1], 1, *kernel)
    return _aten_gradients(gradient, x, of_shape, strides, (False, True, False))[1]


def _pad(x: Tensor, rows: int, columns: int) -> Tensor:
    """Pad images with zeros below and to the right; unlike PyTorch's function, do not copy them without padding."""
    return functional.pad(x, (0, columns, 0, rows)) if rows or columns else x


def _aten_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, strides: tuple[int, int], wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return PyTorch's gradients of the input, the weight and the bias, without dilation."""
    padding = [side // 2 for side in weight.shape[-2:]]
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, strides, padding, [1, 1], False, [0, 0], len(weight), wanted
    )
    return gradients
