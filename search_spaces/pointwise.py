"""1×1 convolutions that apply their stride before they call PyTorch's CPU library."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PointwiseConv2d(nn.Conv2d):
    """A 1×1 convolution without bias, which reads every ``stride``-th pixel.

    A strided 1×1 convolution equals an unstrided one on the pixels that it reads. It is computed that way because
    oneDNN's kernel for strided ones writes beyond its buffers on processors without AVX-512 (docs/cpu_kernels.md).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Distance in pixels between the pixels that are read, in both directions.
        first: Row and column of the first pixel that is read.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, first: int = 0) -> None:
        super().__init__(in_channels, out_channels, 1, stride, bias=False)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height', width'), rounded up at first = 0."""
        rows, columns = self.stride
        return nn.functional.conv2d(subsample(x, rows, columns, self.first), self.weight)


class PointwiseConv1d(nn.Conv1d):
    """A convolution of one step without bias, which reads every ``stride``-th step.

    Like :class:`PointwiseConv2d`, it applies its stride with a view.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Distance between the steps that are read.
        first: The first step that is read.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, first: int = 0) -> None:
        super().__init__(in_channels, out_channels, 1, stride, bias=False)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, steps) -> (batch, out_channels, steps'), rounded up at first = 0."""
        return nn.functional.conv1d(x[..., self.first :: self.stride[0]], self.weight)


def subsample(x: Tensor, rows: int, columns: int, first: int = 0) -> Tensor:
    """Return every ``rows``-th row and ``columns``-th column of images (…, height, width), as a view.

    Args:
        x: The images.
        rows: Distance of the rows.
        columns: Distance of the columns.
        first: The first row and column.
    """
    if rows == columns == 1 and first == 0:
        return x
    # Slicing creates two views, and the backward pass would fill a gradient for each. as_strided creates the same view
    # in one step, but torch.compile cannot trace its offset.
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[no-untyped-call]
    if not x.requires_grad or traced or 0 in x.stride():
        return x[..., first::rows, first::columns]
    *shape, height, width = x.shape
    *strides, down, right = x.stride()
    shape += [-(-(height - first) // rows), -(-(width - first) // columns)]
    strides += [down * rows, right * columns]
    return x.as_strided(shape, strides, x.storage_offset() + first * (down + right))
