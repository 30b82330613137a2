"""The network of a supernet and of a derived network: stem, chain of cells, head."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import Tensor, nn

from search_spaces.cell import CellShape, DiscreteCell
from search_spaces.checks import require, require_one_of
from search_spaces.edges import after_cells
from search_spaces.genotype import Genotype
from search_spaces.stems import STEMS, AuxiliaryHead, DenseHead, Stem, StemKind, global_average, mlp_classifier

CellFactory = Callable[[int, CellShape], tuple[nn.Module, int]]
"""(layer, shape) -> the cell of the layer and the number of channels of its output."""


class Network(nn.Module):
    """A stem, a chain of cells that each read the two layers before them, and a classifier.

    The number of channels doubles at every reduction (DARTS, section 3).

    Args:
        make_cell: Function that builds the cell of each layer.
        layers: Number of cells.
        reductions: Layers that halve the resolution.
        num_classes: Number of classes, or of other outputs.
        channels: Channels of a node before the first reduction.
        image_channels: 1 for grey images, 3 for colour.
        stem: A key of :data:`~search_spaces.stems.STEMS`. "cifar" keeps the resolution, "tiny_imagenet" halves it,
            "imagenet" divides it by 8; with the prefix ``dual_``, two such stems make the two inputs of the first cell.
            "series" is for inputs (batch, channels, steps) in place of images.
        auxiliary: Whether to add a second head at two thirds of the depth, which is used in training only.
        mlp_width: Width of the first layer of :func:`~search_spaces.stems.mlp_classifier`; None for global pooling and
            a linear classifier.
        image_size: Height and width of the images in pixels, used by :func:`~search_spaces.stems.mlp_classifier` only.
        dense_head: Whether a :class:`~search_spaces.stems.DenseHead` gives outputs for each pixel of an image.

    Raises:
        ValueError: An argument is out of range, or cannot be combined with a dense head.
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
        dense_head: bool = False,
    ) -> None:
        super().__init__()
        require_one_of("stem", stem, STEMS)
        kind = STEMS[stem]
        _check_minimum("layers", layers, 1)
        _check_minimum("num_classes", num_classes, 1)
        _check_minimum("channels", channels, kind.least_channels)
        _check_minimum("image_channels", image_channels, 1)
        _check_minimum("mlp_width", 1 if mlp_width is None else mlp_width, 1)
        _check_minimum("image_size", image_size, 1)
        _check_heads(stem, auxiliary, mlp_width, dense_head)
        for layer in reductions:
            if not 0 <= layer < layers:
                raise ValueError(f"reductions: there is no layer {layer}; layers are 0 to {layers - 1}")
        self.stem = kind.make(image_channels, channels)
        self.dimensions = kind.dimensions
        self.auxiliary_layer = 2 * layers // 3
        # The last layer with the resolution of the stem; -1 is the stem itself.
        self.early_layer = min(reductions, default=layers) - 1
        self.auxiliary: AuxiliaryHead | None = None
        auxiliary_classes = num_classes if auxiliary else None
        outputs = self._add_cells(make_cell, layers, reductions, channels, kind, auxiliary_classes)
        self.pooled = mlp_width is None
        self.classifier: nn.Module
        if dense_head:
            self.classifier = DenseHead(outputs[self.early_layer], outputs[layers - 1], num_classes)
        elif mlp_width is None:
            self.classifier = nn.Linear(outputs[layers - 1], num_classes)
        else:
            side = -(-image_size // 2 ** (len(set(reductions)) + kind.halvings))  # every halving rounds up
            self.classifier = mlp_classifier(outputs[layers - 1] * side**self.dimensions, mlp_width, num_classes)

    def _add_cells(
        self,
        make_cell: CellFactory,
        layers: int,
        reductions: Collection[int],
        channels: int,
        kind: StemKind,
        auxiliary_classes: int | None,
    ) -> dict[int, int]:
        """Make the cells, and the auxiliary head if it has a number of classes.

        Returns:
            Layer -> its number of output channels; the stem is the layer −1.
        """
        outputs = {-1: self.stem.out_channels}
        before, after_reduction = outputs[-1], kind.after_reduction
        self.cells = nn.ModuleList()
        for layer in range(layers):
            reduction = layer in reductions
            channels = 2 * channels if reduction else channels
            shape = CellShape(before, outputs[layer - 1], channels, reduction, after_reduction, self.dimensions)
            cell, outputs[layer] = make_cell(layer, shape)
            self.cells.append(cell)
            before, after_reduction = outputs[layer - 1], reduction
            if auxiliary_classes is not None and layer == self.auxiliary_layer:
                self.auxiliary = AuxiliaryHead(outputs[layer], auxiliary_classes, kind.auxiliary_stride)
        return outputs

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
        dense_head: bool = False,
    ) -> Network:
        """Return the derived network of a genotype, with the depth of its layout.

        Args: See :class:`Network`.
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
            dense_head=dense_head,
        )

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(batch, image channels, height, width), or (batch, channels, steps) of series -> logits (batch, classes).

        With a dense head the logits are those of each pixel, (batch, classes, height, width).

        Returns:
            The logits; in training with an auxiliary head, the logits and those of the auxiliary head.
        """
        auxiliary = None
        before, previous = self.stem(x)
        early = previous
        for layer, cell in enumerate(self.cells):
            before, previous = previous, cell(before, previous)
            if layer == self.early_layer:
                early = previous
            if self.training and self.auxiliary is not None and layer == self.auxiliary_layer:
                auxiliary = self.auxiliary(previous)
        if isinstance(self.classifier, DenseHead):
            return self.classifier(early, previous, x.shape[-2:])
        logits = self.classifier(global_average(previous) if self.pooled else previous)
        return logits if auxiliary is None else (logits, auxiliary)

    def set_drop_path(self, probability: float) -> None:
        """Set the drop-path probability of every discrete cell, from 0 to below 1.

        Raises:
            ValueError: The probability is out of range.
        """
        if not 0 <= probability < 1:
            raise ValueError(f"drop-path: {probability} should be from 0 to below 1")
        for cell in self.cells:
            if isinstance(cell, DiscreteCell):
                cell.drop_path = probability


def _check_minimum(name: str, value: int, minimum: int) -> None:
    require(name, value, value >= minimum, f"at least {minimum}")


def _check_heads(stem: Stem, auxiliary: bool, mlp_width: int | None, dense_head: bool) -> None:
    if dense_head and (auxiliary or mlp_width is not None):
        key = "auxiliary" if auxiliary else "mlp_width"
        raise ValueError(f"{key}: is for a classifier, and this network has a head for each pixel")
    if STEMS[stem].dimensions == 1 and (auxiliary or dense_head):
        head = "auxiliary head" if auxiliary else "head for each pixel"
        raise ValueError(f"stem: {stem} is for series, and the {head} for images: leave it out")
