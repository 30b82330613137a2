"""The ends of a network: stems, the auxiliary head and the classifier of the course project."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

Stem = Literal["cifar", "imagenet", "tiny_imagenet", "dual_cifar", "dual_imagenet", "dual_tiny_imagenet"]
"""The names of the stems, keys of :data:`STEMS`."""


class CifarStem(nn.Module):
    """One convolution: both inputs of the first cell.

    Args:
        image_channels: channels of the images.
        channels: channels of a node of the first cell.
        stride: of the convolution; 1 keeps the resolution.
    """

    def __init__(self, image_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.out_channels = 3 * channels
        self.layers = nn.Sequential(
            nn.Conv2d(image_channels, self.out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(self.out_channels),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, image channels, height, width) -> the inputs s0 and s1 of the first cell."""
        x = self.layers(x)
        return x, x


class ImageNetStem(nn.Module):
    """Three convolutions of stride 2: s0 at a quarter of the resolution, s1 at an eighth."""

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


class DualStem(nn.Module):
    """Two transformations of the image, with weights of their own, in place of one (Fine-Tuning DARTS, Fig. 4).

    Args:
        first, second: two single stems of one kind; s0 is the last output of the first, s1 that of
            the second, and so they have one resolution.
    """

    def __init__(self, first: CifarStem | ImageNetStem, second: CifarStem | ImageNetStem) -> None:
        super().__init__()
        self.out_channels = first.out_channels
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, image channels, height, width) -> the inputs s0 and s1 of the first cell."""
        return self.first(x)[1], self.second(x)[1]


@dataclass(frozen=True)
class StemKind:
    """What a stem does to an image; all that depends on the stem asks here.

    Args:
        single: (image channels, channels) -> a single stem of that kind.
        image_size: pixels a side of the images that it is meant for.
        halvings: how often it halves the resolution, up to s1.
        earlier_before: a single stem takes s0 one halving before s1.
        dual: two single stems with weights of their own.
        least_channels: the least number of channels that it can be made with.
        auxiliary_stride: of the pooling of the auxiliary head, which leaves 2×2 pixels of the
            features behind two reductions.
    """

    single: Callable[[int, int], CifarStem | ImageNetStem]
    image_size: int
    halvings: int
    earlier_before: bool = False
    dual: bool = False
    least_channels: int = 1
    auxiliary_stride: int = 3

    def make(self, image_channels: int, channels: int) -> CifarStem | ImageNetStem | DualStem:
        """The stem of a network."""
        if self.dual:
            return DualStem(self.single(image_channels, channels), self.single(image_channels, channels))
        return self.single(image_channels, channels)

    @property
    def after_reduction(self) -> bool:
        """Whether s0 is twice as large as s1."""
        return self.earlier_before and not self.dual


class AuxiliaryHead(nn.Module):
    """A second classifier at two thirds of the depth, which trains the layers before it better.

    Args:
        channels: channels of its input.
        num_classes: classes.
        stride: of the 5×5 pooling, 3 for the 8×8 features of CIFAR, 2 for the 7×7 of ImageNet.
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
            ValueError: the features are too small to be pooled.
        """
        smallest = 5 + self.stride
        if min(x.shape[-2:]) < smallest:
            raise ValueError(
                f"the auxiliary head needs features of {smallest}×{smallest} pixels at two thirds of the depth and "
                f"gets {x.shape[-2]}×{x.shape[-1]}: use larger images, or no auxiliary head"
            )
        return self.classifier(self.features(x).mean(dim=(2, 3)))


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
}
"""The stems by name. A network behind any of them, on images of its size, has cells of about the same resolutions."""


def mlp_classifier(features: int, width: int, num_classes: int) -> nn.Sequential:
    """The classifier of the course project (Table 4), on the flattened output of the last cell.

    Args:
        features: channels × height × width of that output.
        width: of the first layer; 2048 in the project's search, 4096 in its training.
        num_classes: classes.
    """
    widths = (features, width, 1024, 256)
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], num_classes))
