"""Operations of the spaces, both candidates and fixed ones: name -> factory(channels, stride, affine, dimensions).

Every operation keeps the number of channels and divides height and width by its stride, rounded up. On series (batch,
channels, steps) it has one dimension instead of two: the kernel of ``sep_conv_5x5`` is five steps long. A genotype can
therefore describe a network for series or for images; the stem decides. With ``affine``, batch normalizations learn a
scale and a shift. Supernets do not use it, because the weights of the relaxation scale the operations; derived networks
do (DARTS, appendix A.1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import SqueezeExcitation

from search_spaces.depthwise import DepthwiseConv2d
from search_spaces.pointwise import PointwiseConv1d, PointwiseConv2d

OperationFactory = Callable[..., nn.Module]
"""(channels, stride, affine, dimensions=2) -> an operation; dimensions are 1 for series, 2 for images."""


class Layers(NamedTuple):
    """The layers that operations are made of, for inputs of one or two dimensions.

    Args:
        conv, norm, max_pool, avg_pool: PyTorch's classes.
        pointwise: A convolution with a kernel of one step or pixel, given input channels, output channels, stride and
            first pixel.
        depthwise: A depthwise convolution, given channels, kernel, stride and dilation.
    """

    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    max_pool: Callable[..., nn.Module]
    avg_pool: Callable[..., nn.Module]
    pointwise: Callable[..., nn.Module]
    depthwise: Callable[[int, int, int, int], nn.Module]


def _depthwise_1d(channels: int, kernel: int, stride: int, dilation: int) -> nn.Module:
    padding = dilation * (kernel // 2)
    return nn.Conv1d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)


LAYERS = {
    1: Layers(nn.Conv1d, nn.BatchNorm1d, nn.MaxPool1d, nn.AvgPool1d, PointwiseConv1d, _depthwise_1d),
    2: Layers(nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, PointwiseConv2d, DepthwiseConv2d),
}
"""Dimensions of the input -> its layers."""


def relu_conv_bn(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, affine: bool = True, dimensions: int = 2
) -> nn.Sequential:
    """Return a ReLU, a convolution and a batch normalization, which keep the resolution at stride 1.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Length of each side of the kernel, odd.
        stride: Stride of the convolution.
        affine: Whether the batch normalization learns a scale and a shift.
        dimensions: 1 for series, 2 for images.
    """
    layers = LAYERS[dimensions]
    convolution = (
        layers.pointwise(in_channels, out_channels, stride)
        if kernel == 1
        else layers.conv(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    )
    return nn.Sequential(nn.ReLU(), convolution, layers.norm(out_channels, affine=affine))


class FactorizedReduce(nn.Module):
    """Two 1×1 convolutions of stride 2, one pixel apart, which halve height and width, or the steps of a series.

    Together they read every second diagonal of the image, whereas a single one would read a quarter of the pixels. This
    is the ``skip_connect`` of stride 2.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        affine: Whether the batch normalization learns a scale and a shift.
        dimensions: 1 for series, 2 for images.
    """

    def __init__(self, in_channels: int, out_channels: int, affine: bool = True, dimensions: int = 2) -> None:
        super().__init__()
        first, layers = out_channels // 2, LAYERS[dimensions]
        self.relu = nn.ReLU()
        self.conv_1 = layers.pointwise(in_channels, first, 2)
        self.conv_2 = layers.pointwise(in_channels, out_channels - first, 2, 1)
        self.bn = layers.norm(out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, ⌈height/2⌉, ⌈width/2⌉), or series likewise."""
        x = self.relu(x)
        sizes = x.shape[2:]
        odd = any(size % 2 for size in sizes)
        even = functional.pad(x, [after for size in reversed(sizes) for after in (0, size % 2)]) if odd else x
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(even)], dim=1))


def _separable(
    channels: int, kernel: int, stride: int, dilation: int, affine: bool, dimensions: int
) -> list[nn.Module]:
    layers = LAYERS[dimensions]
    return [
        nn.ReLU(),
        layers.depthwise(channels, kernel, stride, dilation),
        layers.conv(channels, channels, 1, bias=False),
        layers.norm(channels, affine=affine),
    ]


def _sep_conv(kernel: int) -> OperationFactory:
    """Return two depthwise separable convolutions, of which the first has the stride."""
    return lambda channels, stride, affine, dimensions=2: nn.Sequential(
        *_separable(channels, kernel, stride, 1, affine, dimensions),
        *_separable(channels, kernel, 1, 1, affine, dimensions),
    )


def _dil_conv(kernel: int) -> OperationFactory:
    """Return a depthwise separable convolution with dilation 2."""
    return lambda channels, stride, affine, dimensions=2: nn.Sequential(
        *_separable(channels, kernel, stride, 2, affine, dimensions)
    )


def _simple_conv(kernel: int) -> OperationFactory:
    """Return a ReLU, an ordinary convolution and a batch normalization."""
    return lambda channels, stride, affine, dimensions=2: relu_conv_bn(
        channels, channels, kernel, stride, affine, dimensions
    )


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
    "max_pool_3x3": lambda channels, stride, affine, dimensions=2: LAYERS[dimensions].max_pool(3, stride, 1),
    "avg_pool_3x3": lambda channels, stride, affine, dimensions=2: LAYERS[dimensions].avg_pool(
        3, stride, 1, count_include_pad=False
    ),
    "skip_connect": lambda channels, stride, affine, dimensions=2: (
        nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine, dimensions)
    ),
    "sep_conv_3x3": _sep_conv(3),
    "sep_conv_5x5": _sep_conv(5),
    "dil_conv_3x3": _dil_conv(3),
    "dil_conv_5x5": _dil_conv(5),
    "conv_3x1_1x3": _crossed_conv(3),
    "conv_7x1_1x7": _crossed_conv(7),
    "simple_conv_1x1": _simple_conv(1),
    "simple_conv_3x3": _simple_conv(3),
    "bottleneck_1x3x1": _bottleneck,
}
"""Operations that a search can choose."""

FIXED_OPERATIONS: dict[str, OperationFactory] = {
    **OPERATIONS,
    "sep_conv_7x7": _sep_conv(7),
    "squeeze_excitation": _squeeze_excitation,
}
"""Operations that can be fixed: all candidates, ``sep_conv_7x7`` of NASNet's published cells, and attention."""

DARTS_OPERATIONS = tuple(OPERATIONS)[:7]
"""The seven candidates of DARTS in the order of NNI's hub. Only strategies add ``none``."""

OPERATION_SETS: dict[str, tuple[str, ...]] = {
    "darts": DARTS_OPERATIONS,
    "dartopti": tuple(OPERATIONS),
    "nasnet": (*OPERATIONS, "sep_conv_7x7"),
}
"""Sets of operations by their name in a genotype, from small to large."""


IMAGES_ONLY = ("conv_3x1_1x3", "conv_7x1_1x7", "bottleneck_1x3x1", "squeeze_excitation")
"""Operations without a form for series."""


def _make(name: str, channels: int, stride: int, affine: bool, dimensions: int) -> nn.Module:
    if dimensions == 2:
        return FIXED_OPERATIONS[name](channels, stride, affine)
    if name in IMAGES_ONLY:
        known = ", ".join(one for one in FIXED_OPERATIONS if one not in IMAGES_ONLY)
        raise ValueError(f"operations: {name} has no form for series; {known} have one")
    return FIXED_OPERATIONS[name](channels, stride, affine, dimensions)


def searchable(name: str, channels: int, stride: int, dimensions: int = 2) -> nn.Module:
    """Return an operation for a supernet, searched or fixed, whose normalizations learn no scale.

    A batch normalization follows pooling, so that its output is on the scale of the other candidates (DARTS, released
    code).
    """
    operation = _make(name, channels, stride, False, dimensions)
    if "pool" in name:
        operation = nn.Sequential(operation, LAYERS[dimensions].norm(channels, affine=False))
    return operation


def derived_operation(name: str, channels: int, stride: int, dimensions: int = 2) -> nn.Module:
    """Return an operation for a derived network, whose normalizations learn a scale and a shift."""
    return _make(name, channels, stride, True, dimensions)
