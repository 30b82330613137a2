"""Stems, the auxiliary head, the head for dense outputs, and the classifier of the course project."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from search_spaces.operations import LAYERS

Stem = Literal["cifar", "imagenet", "tiny_imagenet", "dual_cifar", "dual_imagenet", "dual_tiny_imagenet", "series"]
"""Names of the stems, the keys of :data:`STEMS`."""


class CifarStem(nn.Module):
    """One convolution, whose output is both inputs of the first cell.

    Args:
        image_channels: Channels of the images.
        channels: Channels of a node of the first cell.
        stride: Stride of the convolution; 1 keeps the resolution.
        dimensions: 1 for series, 2 for images.
    """

    def __init__(self, image_channels: int, channels: int, stride: int = 1, dimensions: int = 2) -> None:
        super().__init__()
        layers, self.out_channels = LAYERS[dimensions], 3 * channels
        self.layers = nn.Sequential(
            layers.conv(image_channels, self.out_channels, 3, stride, padding=1, bias=False),
            layers.norm(self.out_channels),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, image channels, height, width), or series -> the inputs s0 and s1 of the first cell."""
        x = self.layers(x)
        return x, x


class ImageNetStem(nn.Module):
    """Three convolutions of stride 2, with s0 at a quarter of the resolution and s1 at an eighth.

    Args:
        image_channels: Channels of the images.
        channels: Channels of a node of the first cell, at least 2.
    """

    def __init__(self, image_channels: int, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
        self.first = nn.Sequential(
            nn.Conv2d(image_channels, channels // 2, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(),
            nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.second = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, image channels, height, width) -> the inputs s0 and s1 of the first cell."""
        before = self.first(x)
        return before, self.second(before)


SingleStem = CifarStem | ImageNetStem


class DualStem(nn.Module):
    """Two transformations of the image with separate weights (Fine-Tuning DARTS, Fig. 4).

    Both inputs of the first cell have one resolution.

    Args:
        first: Single stem whose last output is s0.
        second: Single stem of the same kind whose last output is s1.
    """

    def __init__(self, first: SingleStem, second: SingleStem) -> None:
        super().__init__()
        self.out_channels = first.out_channels
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, image channels, height, width) -> the inputs s0 and s1 of the first cell."""
        return self.first(x)[1], self.second(x)[1]


@dataclass(frozen=True)
class StemKind:
    """Properties of a stem.

    Args:
        single: (image channels, channels) -> single stem of this kind.
        image_size: Height and width in pixels of the images for which it is meant.
        halvings: Number of times that it halves the resolution up to s1.
        earlier_before: Whether s0 of a single stem is taken one halving before s1.
        dual: Whether there are two single stems with separate weights.
        least_channels: Minimum number of channels.
        auxiliary_stride: Stride of the pooling in the auxiliary head, which leaves 2×2 pixels of the features behind
            two reductions.
        dimensions: 1 for a stem of series, 2 for one of images.
    """

    single: Callable[[int, int], SingleStem]
    image_size: int
    halvings: int
    earlier_before: bool = False
    dual: bool = False
    least_channels: int = 1
    auxiliary_stride: int = 3
    dimensions: int = 2

    def make(self, image_channels: int, channels: int) -> SingleStem | DualStem:
        """Return a new stem.

        Args:
            image_channels: Channels of the images.
            channels: Channels of a node of the first cell.
        """
        if self.dual:
            return DualStem(self.single(image_channels, channels), self.single(image_channels, channels))
        return self.single(image_channels, channels)

    @property
    def after_reduction(self) -> bool:
        """True if s0 is twice as large as s1."""
        return self.earlier_before and not self.dual


class AuxiliaryHead(nn.Module):
    """A second classifier at two thirds of the depth, whose loss improves the training of the layers before it.

    Args:
        channels: Channels of the input.
        num_classes: Number of classes.
        stride: Stride of the 5×5 pooling: 3 for the 8×8 features of CIFAR, 2 for the 7×7 features of ImageNet.
    """

    def __init__(self, channels: int, num_classes: int, stride: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=stride, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
        )
        self.stride = stride
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, classes).

        Raises:
            ValueError: The features are too small for the pooling.
        """
        smallest = 5 + self.stride
        if min(x.shape[-2:]) < smallest:
            raise ValueError(
                f"the auxiliary head needs features of {smallest}×{smallest} pixels at two thirds of the depth and "
                f"gets {x.shape[-2]}×{x.shape[-1]}: use larger images, or no auxiliary head"
            )
        return self.classifier(global_average(self.features(x)))


class DenseHead(nn.Module):
    """A classifier of pixels from the features of two resolutions, as in the decoder of a fully convolutional network.

    Args:
        early: Channels of the features of the higher resolution.
        late: Channels of the features of the last cell.
        num_classes: Number of classes.
    """

    def __init__(self, early: int, late: int, num_classes: int) -> None:
        super().__init__()
        self.early = nn.Conv2d(early, early, 1, bias=False)
        self.late = nn.Conv2d(late, early, 1, bias=False)
        self.bn = nn.BatchNorm2d(early)
        self.classifier = nn.Conv2d(early, num_classes, 1)

    def forward(self, early: Tensor, late: Tensor, size: Sequence[int]) -> Tensor:
        """(batch, early, h, w), (batch, late, h', w'), (height, width) -> logits (batch, classes, height, width)."""
        late = _resized(self.late(late), early.shape[-2:])
        return _resized(self.classifier(self.bn(self.early(early) + late).relu()), size)


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return nn.functional.interpolate(x, [*size], mode="bilinear", align_corners=False)


_CIFAR = StemKind(CifarStem, image_size=32, halvings=0)
_TINY_IMAGENET = StemKind(partial(CifarStem, stride=2), image_size=64, halvings=1)
_IMAGENET = StemKind(
    ImageNetStem, image_size=224, halvings=3, earlier_before=True, least_channels=2, auxiliary_stride=2
)

STEMS: dict[Stem, StemKind] = {
    "cifar": _CIFAR,
    "imagenet": _IMAGENET,
    "tiny_imagenet": _TINY_IMAGENET,
    "dual_cifar": replace(_CIFAR, dual=True),
    "dual_imagenet": replace(_IMAGENET, dual=True),
    "dual_tiny_imagenet": replace(_TINY_IMAGENET, dual=True),
    "series": StemKind(partial(CifarStem, dimensions=1), image_size=64, halvings=0, dimensions=1),
}
"""Stems by name. On images of its size, each gives the cells of a network about the same resolutions."""
IMAGE_STEMS = tuple(name for name, kind in STEMS.items() if kind.dimensions == 2)
"""Names of the stems for images."""


def global_average(x: Tensor) -> Tensor:
    """Return the mean over all pixels or steps: (batch, channels, …) -> (batch, channels).

    For an input in channels_last, its gradient is in channels_last too, unlike that of PyTorch's mean. On a CPU, the
    backward pass of a preceding normalization then takes a fifth of the time.
    """
    if x.requires_grad and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1).mean(dim=(1, 2))
    return x.mean(dim=tuple(range(2, x.dim())))


def mlp_classifier(features: int, width: int, num_classes: int) -> nn.Sequential:
    """Return the classifier of the course project (Table 4), which flattens the output of the last cell.

    Args:
        features: Channels × height × width of that output.
        width: Width of the first layer; 2048 in the project's search, 4096 in its training.
        num_classes: Number of classes.
    """
    widths = (features, width, 1024, 256)
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], num_classes))
