"""The skeleton that a supernet and a derived network share: stem, a chain of cells, head."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from torch import Tensor, nn

from search_spaces.cell import CellShape, DiscreteCell
from search_spaces.genotype import Genotype, after_cells
from search_spaces.stems import STEMS, AuxiliaryHead, Stem, mlp_classifier

CellFactory = Callable[[int, CellShape], tuple[nn.Module, int]]
"""(layer, shape) -> the cell of that layer, and the number of channels of its output."""


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
            cell = genotype.edges_with_fixed(genotype.layout[layer])
            outputs = genotype.output_nodes(cell)
            return DiscreteCell(shape, cell, outputs, after_cells(genotype.fixed)), shape.channels * len(outputs)

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
            if isinstance(cell, DiscreteCell):
                cell.drop_path = probability
