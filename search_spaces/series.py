"""The operations for series (batch, channels, steps): name -> factory(channels, stride, affine).

They have the names of the operations on images and one dimension in place of two: the kernel of ``sep_conv_5x5`` is
five steps long. A genotype is thus one of series or of images; the stem of its network makes the difference.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class PointwiseConv1d(nn.Conv1d):
    """A convolution of one step without bias, which reads every ``stride``-th step.

    Like :class:`~search_spaces.pointwise.PointwiseConv2d` it leaves its stride to a view.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Distance between the steps that are read.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, steps) -> (batch, out_channels, ⌈steps/stride⌉)."""
        return functional.conv1d(x[..., :: self.stride[0]], self.weight)


def relu_conv_bn(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, affine: bool = True
) -> nn.Sequential:
    """Return a ReLU, a convolution and a batch normalization, which keep the number of steps at stride 1.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Length of the kernel, odd.
        stride: Stride of the convolution.
        affine: Whether the batch normalization learns a scale and a shift.
    """
    convolution = (
        PointwiseConv1d(in_channels, out_channels, stride)
        if kernel == 1
        else nn.Conv1d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    )
    return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm1d(out_channels, affine=affine))


class FactorizedReduce(nn.Module):
    """Two convolutions of one step and stride 2, one step apart, which halve the number of steps.

    This is the ``skip_connect`` of stride 2.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        affine: Whether the batch normalization learns a scale and a shift.
    """

    def __init__(self, in_channels: int, out_channels: int, affine: bool = True) -> None:
        super().__init__()
        first = out_channels // 2
        self.relu = nn.ReLU()
        self.conv_1 = PointwiseConv1d(in_channels, first, stride=2)
        self.conv_2 = PointwiseConv1d(in_channels, out_channels - first, stride=2)
        self.bn = nn.BatchNorm1d(out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, steps) -> (batch, out_channels, ⌈steps/2⌉)."""
        x = self.relu(x)
        shifted = functional.pad(x, (0, x.shape[-1] % 2))[..., 1:]
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(shifted)], dim=1))


def _separable(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    return [
        nn.ReLU(),
        nn.Conv1d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        PointwiseConv1d(channels, channels),
        nn.BatchNorm1d(channels, affine=affine),
    ]


def _sep_conv(kernel: int) -> Callable[[int, int, bool], nn.Module]:
    """Return two depthwise separable convolutions, of which the first has the stride."""
    return lambda channels, stride, affine: nn.Sequential(
        *_separable(channels, kernel, stride, 1, affine), *_separable(channels, kernel, 1, 1, affine)
    )


def _dil_conv(kernel: int) -> Callable[[int, int, bool], nn.Module]:
    """Return a depthwise separable convolution with dilation 2."""
    return lambda channels, stride, affine: nn.Sequential(*_separable(channels, kernel, stride, 2, affine))


OPERATIONS: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "max_pool_3x3": lambda channels, stride, affine: nn.MaxPool1d(3, stride, 1),
    "avg_pool_3x3": lambda channels, stride, affine: nn.AvgPool1d(3, stride, 1, count_include_pad=False),
    "skip_connect": lambda channels, stride, affine: (
        nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)
    ),
    "sep_conv_3x3": _sep_conv(3),
    "sep_conv_5x5": _sep_conv(5),
    "sep_conv_7x7": _sep_conv(7),
    "dil_conv_3x3": _dil_conv(3),
    "dil_conv_5x5": _dil_conv(5),
    "simple_conv_1x1": lambda channels, stride, affine: relu_conv_bn(channels, channels, 1, stride, affine),
    "simple_conv_3x3": lambda channels, stride, affine: relu_conv_bn(channels, channels, 3, stride, affine),
}
"""Operations that have a form for series."""


class SeriesStem(nn.Module):
    """One convolution of three steps, whose output is both inputs of the first cell.

    Args:
        in_channels: Channels of the series.
        channels: Channels of a node of the first cell.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.out_channels = 3 * channels
        self.layers = nn.Sequential(
            nn.Conv1d(in_channels, self.out_channels, 3, padding=1, bias=False),
            nn.BatchNorm1d(self.out_channels),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, channels of the series, steps) -> the inputs s0 and s1 of the first cell."""
        x = self.layers(x)
        return x, x
