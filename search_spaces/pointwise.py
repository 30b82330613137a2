"""1×1 convolutions whose stride does not reach the CPU library of PyTorch."""

from __future__ import annotations

from torch import Tensor, nn


class PointwiseConv2d(nn.Conv2d):
    """A 1×1 convolution without bias, which reads every ``stride``-th pixel.

    A strided 1×1 convolution is an ordinary one of the pixels that it reads. It is computed that way because oneDNN's
    kernel for a strided one writes beyond its buffers on processors without AVX-512 (docs/cpu_kernels.md).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Distance in pixels between the pixels that are read, in both directions.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, ⌈height/stride⌉, ⌈width/stride⌉)."""
        rows, columns = self.stride
        return nn.functional.conv2d(x if rows == columns == 1 else subsample(x, rows, columns), self.weight)


class PointwiseConv1d(nn.Conv1d):
    """A convolution of one step without bias, which reads every ``stride``-th step.

    Like :class:`PointwiseConv2d` it leaves its stride to a view.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Distance between the steps that are read.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, steps) -> (batch, out_channels, ⌈steps/stride⌉)."""
        return nn.functional.conv1d(x[..., :: self.stride[0]], self.weight)


def subsample(x: Tensor, rows: int, columns: int) -> Tensor:
    """Return every ``rows``-th row and ``columns``-th column of images (…, height, width), as a view."""
    view = x[..., ::rows, ::columns]
    # Slicing is two views, and the backward pass would fill a gradient for each; this is the same view as one.
    return x.as_strided(view.shape, view.stride()) if x.requires_grad else view
