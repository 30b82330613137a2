"""Operations of the spaces, both candidates and fixed ones: name -> factory(channels, stride, affine).

Every operation keeps the number of channels and divides height and width by its stride, rounded up. With ``affine``,
batch normalizations learn a scale and a shift. Supernets go without, since the weights of the relaxation scale the
operations; derived networks have it (DARTS, appendix A.1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import SqueezeExcitation

from search_spaces import series
from search_spaces.depthwise import DepthwiseConv2d
from search_spaces.pointwise import PointwiseConv2d

OperationFactory = Callable[[int, int, bool], nn.Module]


def relu_conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    affine: bool = True,
) -> nn.Sequential:
    """Return a ReLU, a convolution and a batch normalization, which keep the resolution at stride 1.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Height and width of the kernel, odd.
        stride: Stride of the convolution.
        affine: Whether the batch normalization learns a scale and a shift.
    """
    convolution = (
        PointwiseConv2d(in_channels, out_channels, stride)
        if kernel == 1
        else nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    )
    return nn.Sequential(
        nn.ReLU(),
        convolution,
        nn.BatchNorm2d(out_channels, affine=affine),
    )


class FactorizedReduce(nn.Module):
    """Two 1×1 convolutions of stride 2, one pixel apart, which halve height and width.

    Together they read every second diagonal of the image, where a single one would read a quarter of the pixels. This
    is the ``skip_connect`` of stride 2.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        affine: Whether the batch normalization learns a scale and a shift.
    """

    def __init__(self, in_channels: int, out_channels: int, affine: bool = True) -> None:
        super().__init__()
        first = out_channels // 2
        self.relu = nn.ReLU()
        self.conv_1 = PointwiseConv2d(in_channels, first, stride=2)
        self.conv_2 = PointwiseConv2d(in_channels, out_channels - first, stride=2, first=1)
        self.bn = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, ⌈height/2⌉, ⌈width/2⌉)."""
        x = self.relu(x)
        height, width = x.shape[-2:]
        even = functional.pad(x, (0, width % 2, 0, height % 2)) if height % 2 or width % 2 else x
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(even)], dim=1))


def _separable(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    return [
        nn.ReLU(),
        DepthwiseConv2d(channels, kernel, stride, dilation),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


def _sep_conv(kernel: int) -> OperationFactory:
    """Return two depthwise separable convolutions, of which the first has the stride."""
    return lambda channels, stride, affine: nn.Sequential(
        *_separable(channels, kernel, stride, 1, affine),
        *_separable(channels, kernel, 1, 1, affine),
    )


def _dil_conv(kernel: int) -> OperationFactory:
    """Return a depthwise separable convolution with dilation 2."""
    return lambda channels, stride, affine: nn.Sequential(*_separable(channels, kernel, stride, 2, affine))


def _crossed_conv(kernel: int) -> OperationFactory:
    """Return a 1×k and a k×1 convolution, with a k×k receptive field at 2k weights instead of k²."""
    pad = kernel // 2
    return lambda channels, stride, affine: nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, (1, kernel), (1, stride), (0, pad), bias=False),
        nn.Conv2d(channels, channels, (kernel, 1), (stride, 1), (pad, 0), bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


def _bottleneck(channels: int, stride: int, affine: bool) -> nn.Module:
    """Return the residual block of ResNet-50 with as many output as input channels (D-DARTS)."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
        nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
        nn.Conv2d(channels, 4 * channels, 1, bias=False),
        nn.BatchNorm2d(4 * channels, affine=affine),
        nn.ReLU(),
        nn.Conv2d(4 * channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


REDUCTION_RATIO = 16
"""Channels per hidden unit of the squeeze-and-excitation module, r (Fine-Tuning DARTS, section III.C)."""


def _squeeze_excitation(channels: int, stride: int, affine: bool) -> nn.Module:
    """Return the attention module of Fine-Tuning DARTS (Fig. 3; Hu et al., Squeeze-and-Excitation Networks).

    torchvision's module has the parts of the figure: global average pooling, FC, ReLU, FC, sigmoid, channel-wise
    scaling. Its 1×1 convolutions are fully connected layers, as they read one pixel. Below 16 channels there is one
    hidden unit. Attention keeps the resolution; for a stride it follows the strided ``skip_connect``.
    """
    attention = SqueezeExcitation(channels, max(1, channels // REDUCTION_RATIO))
    return attention if stride == 1 else nn.Sequential(FactorizedReduce(channels, channels, affine), attention)


OPERATIONS: dict[str, OperationFactory] = {
    "max_pool_3x3": lambda channels, stride, affine: nn.MaxPool2d(3, stride, 1),
    "avg_pool_3x3": lambda channels, stride, affine: nn.AvgPool2d(3, stride, 1, count_include_pad=False),
    "skip_connect": lambda channels, stride, affine: (
        nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)
    ),
    "sep_conv_3x3": _sep_conv(3),
    "sep_conv_5x5": _sep_conv(5),
    "dil_conv_3x3": _dil_conv(3),
    "dil_conv_5x5": _dil_conv(5),
    "conv_3x1_1x3": _crossed_conv(3),
    "conv_7x1_1x7": _crossed_conv(7),
    "simple_conv_1x1": lambda channels, stride, affine: relu_conv_bn(channels, channels, 1, stride, affine),
    "simple_conv_3x3": lambda channels, stride, affine: relu_conv_bn(channels, channels, 3, stride, affine),
    "bottleneck_1x3x1": _bottleneck,
}
"""Operations that a search can choose."""

FIXED_OPERATIONS: dict[str, OperationFactory] = {
    **OPERATIONS,
    "sep_conv_7x7": _sep_conv(7),
    "squeeze_excitation": _squeeze_excitation,
}
"""Operations that no search chooses: its candidates, that of NASNet's published cells, and attention."""

DARTS_OPERATIONS = tuple(OPERATIONS)[:7]
"""The seven candidates of DARTS in the order of NNI's hub. Only strategies add ``none``."""

OPERATION_SETS: dict[str, tuple[str, ...]] = {
    "darts": DARTS_OPERATIONS,
    "dartopti": tuple(OPERATIONS),
    "nasnet": (*OPERATIONS, "sep_conv_7x7"),
}
"""Sets of operations by their name in a genotype, the smaller first."""


BY_DIMENSIONS = {1: series.OPERATIONS, 2: FIXED_OPERATIONS}
"""Dimensions of the input (1 for series, 2 for images) -> its operations by name."""

_BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}


def _make(name: str, channels: int, stride: int, affine: bool, dimensions: int) -> nn.Module:
    known = BY_DIMENSIONS[dimensions]
    if name not in known:
        raise ValueError(f"operations: {name} has no form for series; {', '.join(known)} have one")
    return known[name](channels, stride, affine)


def searchable(name: str, channels: int, stride: int, dimensions: int = 2) -> nn.Module:
    """Return an operation for a supernet, searched or fixed, whose normalizations learn no scale.

    A batch normalization follows pooling, so that its output is on the scale of the other candidates (DARTS, released
    code).
    """
    operation = _make(name, channels, stride, False, dimensions)
    if "pool" in name:
        operation = nn.Sequential(operation, _BATCH_NORMS[dimensions](channels, affine=False))
    return operation


def derived_operation(name: str, channels: int, stride: int, dimensions: int = 2) -> nn.Module:
    """Return an operation for a derived network, whose normalizations learn a scale and a shift."""
    return _make(name, channels, stride, True, dimensions)
