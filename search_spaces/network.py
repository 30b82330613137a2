"""The skeleton that a supernet and a derived network share: stem, a chain of cells, head."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from search_spaces.cell import CellShape, FixedCell
from search_spaces.genotype import Genotype, after_cells

Stem = Literal["cifar", "imagenet", "tiny_imagenet", "dual_cifar", "dual_imagenet", "dual_tiny_imagenet"]
"""The names of the stems, keys of :data:`STEMS`."""
CellFactory = Callable[[int, CellShape], tuple[nn.Module, int]]
"""(layer, shape) -> the cell of that layer, and the number of channels of its output."""


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


class Network(nn.Module):
    """Stem, a chain of cells that each see the two layers before them, and a classifier.

    The number of channels doubles at every reduction (DARTS, section 3).

    Args:
        make_cell: builds the cell of each layer.
        layers: the number of cells.
        reductions: the layers that halve the resolution.
        num_classes: classes of the images.
        channels: channels of a node before the first reduction.
        image_channels: 1 for grey images, 3 for colour.
        stem: "cifar" keeps the resolution, "tiny_imagenet" halves it, "imagenet" divides it by 8;
            with ``dual_`` before it, two such stems make the two inputs of the first cell.
        auxiliary: a second head at two thirds of the depth; it runs in training alone.
        mlp_width: None for pooling and a linear classifier, a number for :func:`mlp_classifier`.
        image_size: pixels a side of the images; only :func:`mlp_classifier` needs to know.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        make_cell: CellFactory,
        layers: int,
        reductions: Collection[int],
        num_classes: int,
        channels: int,
        image_channels: int = 3,
        stem: Stem = "cifar",
        auxiliary: bool = False,
        mlp_width: int | None = None,
        image_size: int = 32,
    ) -> None:
        super().__init__()
        if stem not in STEMS:
            raise ValueError(f"stem: {stem!r} should be one of {', '.join(STEMS)}")
        kind = STEMS[stem]
        for name, value, least in (
            ("layers", layers, 1),
            ("num_classes", num_classes, 2),
            ("channels", channels, kind.least_channels),
            ("image_channels", image_channels, 1),
            ("mlp_width", 1 if mlp_width is None else mlp_width, 1),
            ("image_size", image_size, 1),
        ):
            if value < least:
                raise ValueError(f"{name}: {value} should be at least {least}")
        for layer in reductions:
            if not 0 <= layer < layers:
                raise ValueError(f"reductions: there is no layer {layer}; layers are 0 to {layers - 1}")
        self.stem = kind.make(image_channels, channels)
        before = previous = self.stem.out_channels
        self.auxiliary: AuxiliaryHead | None = None
        self.auxiliary_layer = 2 * layers // 3
        after_reduction = kind.after_reduction
        self.cells = nn.ModuleList()
        for layer in range(layers):
            reduction = layer in reductions
            if reduction:
                channels *= 2
            shape = CellShape(before, previous, channels, reduction, after_reduction)
            cell, out_channels = make_cell(layer, shape)
            self.cells.append(cell)
            before, previous, after_reduction = previous, out_channels, reduction
            if auxiliary and layer == self.auxiliary_layer:
                self.auxiliary = AuxiliaryHead(previous, num_classes, kind.auxiliary_stride)
        self.pooled = mlp_width is None
        if mlp_width is None:
            self.classifier: nn.Module = nn.Linear(previous, num_classes)
        else:
            for _ in range(len(set(reductions)) + kind.halvings):
                image_size = math.ceil(image_size / 2)
            self.classifier = mlp_classifier(previous * image_size**2, mlp_width, num_classes)

    @classmethod
    def from_genotype(
        cls,
        genotype: Genotype,
        num_classes: int = 10,
        channels: int = 36,
        image_channels: int = 3,
        stem: Stem = "cifar",
        auxiliary: bool = False,
        mlp_width: int | None = None,
        image_size: int = 32,
    ) -> Network:
        """The derived network of a genotype; its depth is that of the genotype's layout.

        Args: as for :class:`Network`.
        """

        def make_cell(layer: int, shape: CellShape) -> tuple[nn.Module, int]:
            cell = genotype.whole_cell(genotype.layout[layer])
            outputs = genotype.output_nodes(cell)
            return FixedCell(shape, cell, outputs, after_cells(genotype.fixed)), shape.channels * len(outputs)

        return cls(
            make_cell,
            layers=len(genotype.layout),
            reductions=genotype.reductions,
            num_classes=num_classes,
            channels=channels,
            image_channels=image_channels,
            stem=stem,
            auxiliary=auxiliary,
            mlp_width=mlp_width,
            image_size=image_size,
        )

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(batch, image channels, height, width) -> logits (batch, classes).

        In training, and with an auxiliary head: the pair of the logits and the auxiliary logits.
        """
        auxiliary = None
        before, previous = self.stem(x)
        for layer, cell in enumerate(self.cells):
            before, previous = previous, cell(before, previous)
            if self.training and self.auxiliary is not None and layer == self.auxiliary_layer:
                auxiliary = self.auxiliary(previous)
        logits = self.classifier(previous.mean(dim=(2, 3)) if self.pooled else previous)
        return logits if auxiliary is None else (logits, auxiliary)

    def set_drop_path(self, probability: float) -> None:
        """Set the probability of drop-path of every fixed cell, from 0 to below 1.

        Raises:
            ValueError: it is out of range.
        """
        if not 0 <= probability < 1:
            raise ValueError(f"drop-path: {probability} should be from 0 to below 1")
        for cell in self.cells:
            if isinstance(cell, FixedCell):
                cell.drop_path = probability


def count_parameters(network: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def count_multiply_adds(network: nn.Module, image_channels: int, image_size: int) -> int:
    """Multiplications with an addition in convolutions and linear layers, for one image in evaluation.

    Args:
        network: any network; it is neither changed nor run on real memory.
        image_channels, image_size: the image is (1, image_channels, image_size, image_size).
    """
    shadow = copy.deepcopy(network).to("meta").eval()
    image = torch.empty(1, image_channels, image_size, image_size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(image)
    return counter.get_total_flops() // 2
