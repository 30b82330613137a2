"""Building blocks of an exported Python file, which contains the source of those that it uses.

They compute the same as the operations of :mod:`search_spaces.operations` in derived networks, but in plain PyTorch,
without the code for training on a CPU. A block may use the blocks above it, and lines have at most 88 characters.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

import torch
from torch import Tensor, nn


def conv_bn(in_channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
    """Return a 3x3 convolution and a batch normalization."""
    return [
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
    ]


def relu_conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
) -> nn.Sequential:
    """Return a ReLU, a convolution and a batch normalization."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class FactorizedReduce(nn.Module):
    """Two 1x1 convolutions of stride 2, one pixel apart, which halve the resolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        first = out_channels // 2
        self.conv_1 = nn.Conv2d(in_channels, first, 1, bias=False)
        self.conv_2 = nn.Conv2d(in_channels, out_channels - first, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = nn.functional.pad(x.relu(), (0, width % 2, 0, height % 2))
        halves = [self.conv_1(x[:, :, ::2, ::2]), self.conv_2(x[:, :, 1::2, 1::2])]
        return self.bn(torch.cat(halves, dim=1))


def max_pool(kernel: int, stride: int = 1) -> nn.MaxPool2d:
    """Return a maximum over square windows."""
    return nn.MaxPool2d(kernel, stride, kernel // 2)


def avg_pool(kernel: int, stride: int = 1) -> nn.AvgPool2d:
    """Return a mean over square windows, without the pixels beyond the border."""
    return nn.AvgPool2d(kernel, stride, kernel // 2, count_include_pad=False)


def skip_connect(channels: int, stride: int = 1) -> nn.Module:
    """Return the identity, or what stands in its place where the resolution halves."""
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)


def separable(
    channels: int,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
) -> list[nn.Module]:
    """Return a depthwise separable convolution between a ReLU and a normalization."""
    padding = dilation * (kernel // 2)
    return [
        nn.ReLU(),
        nn.Conv2d(
            channels,
            channels,
            kernel,
            stride,
            padding,
            dilation,
            groups=channels,
            bias=False,
        ),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    ]


def sep_conv(channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return two depthwise separable convolutions; the first has the stride."""
    return nn.Sequential(
        *separable(channels, kernel, stride),
        *separable(channels, kernel),
    )


def dil_conv(channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a depthwise separable convolution with dilation 2."""
    return nn.Sequential(*separable(channels, kernel, stride, dilation=2))


def crossed_conv(channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution of one row and one of one column."""
    pad = kernel // 2
    row, column = (1, kernel), (kernel, 1)
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, row, (1, stride), (0, pad), bias=False),
        nn.Conv2d(channels, channels, column, (stride, 1), (pad, 0), bias=False),
        nn.BatchNorm2d(channels),
    )


def bottleneck(channels: int, stride: int = 1) -> nn.Sequential:
    """Return the residual block of ResNet-50 without its skip connection."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, 4 * channels, 1, bias=False),
        nn.BatchNorm2d(4 * channels),
        nn.ReLU(),
        nn.Conv2d(4 * channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


class SqueezeExcitation(nn.Module):
    """Attention that scales every channel by a weight from 0 to 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 16)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True)
        return x * self.fc2(self.fc1(mean).relu()).sigmoid()


def squeeze_excitation(channels: int, stride: int = 1) -> nn.Module:
    """Return channel attention, behind a reduction where it has a stride."""
    attention = SqueezeExcitation(channels)
    if stride == 1:
        return attention
    return nn.Sequential(FactorizedReduce(channels, channels), attention)


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return features or logits of another resolution."""
    return nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)


class DenseHead(nn.Module):
    """A classifier of pixels from the features of two resolutions."""

    def __init__(self, early: int, late: int, classes: int) -> None:
        super().__init__()
        self.early = nn.Conv2d(early, early, 1, bias=False)
        self.late = nn.Conv2d(late, early, 1, bias=False)
        self.bn = nn.BatchNorm2d(early)
        self.classifier = nn.Conv2d(early, classes, 1)

    def forward(self, early: Tensor, late: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = early.shape[-2:]
        late = resized(self.late(late), (height, width))
        features = self.bn(self.early(early) + late).relu()
        return resized(self.classifier(features), size)


_BLOCKS: dict[str, Callable[..., object]] = {
    block.__name__: block
    for block in (
        conv_bn,
        relu_conv_bn,
        FactorizedReduce,
        max_pool,
        avg_pool,
        skip_connect,
        separable,
        sep_conv,
        dil_conv,
        crossed_conv,
        bottleneck,
        SqueezeExcitation,
        squeeze_excitation,
        resized,
        DenseHead,
    )
}
_CALLS = {
    "max_pool_3x3": "max_pool(3, {stride})",
    "avg_pool_3x3": "avg_pool(3, {stride})",
    "skip_connect": "skip_connect({channels}, {stride})",
    "sep_conv_3x3": "sep_conv({channels}, 3, {stride})",
    "sep_conv_5x5": "sep_conv({channels}, 5, {stride})",
    "sep_conv_7x7": "sep_conv({channels}, 7, {stride})",
    "dil_conv_3x3": "dil_conv({channels}, 3, {stride})",
    "dil_conv_5x5": "dil_conv({channels}, 5, {stride})",
    "conv_3x1_1x3": "crossed_conv({channels}, 3, {stride})",
    "conv_7x1_1x7": "crossed_conv({channels}, 7, {stride})",
    "simple_conv_1x1": "relu_conv_bn({channels}, {channels}, {stride})",
    "simple_conv_3x3": "relu_conv_bn({channels}, {channels}, 3, {stride})",
    "bottleneck_1x3x1": "bottleneck({channels}, {stride})",
    "squeeze_excitation": "squeeze_excitation({channels}, {stride})",
}
"""Name of an operation -> the expression that makes it."""

_CALLS_AT_STRIDE = {
    ("skip_connect", "2"): "FactorizedReduce({channels}, {channels})",
    ("squeeze_excitation", "1"): "SqueezeExcitation({channels})",
}
"""Shorter expressions for a fixed stride."""

OPERATIONS = tuple(_CALLS)
"""Names of the operations that have a block."""


def expression(operation: str, channels: str, stride: str) -> str:
    """Return the expression that makes an operation.

    Args:
        operation: One of :data:`OPERATIONS`.
        channels: Expression of its channels.
        stride: ``"1"``, ``"2"`` or the name of a variable.
    """
    call = _CALLS_AT_STRIDE.get((operation, stride), _CALLS[operation])
    if stride == "1":  # the default of every block
        call = call.replace(", {stride}", "")
    return call.format(channels=channels, stride=f"stride={stride}")


def sources(text: str) -> list[str]:
    """Return the source of the blocks that a text uses, directly or indirectly, each after those that it uses."""
    found: list[str] = []
    for name, block in reversed(_BLOCKS.items()):
        if any(re.search(rf"\b{name}\(", user) for user in (text, *found)):
            found.insert(0, inspect.getsource(block).rstrip())
    return found
