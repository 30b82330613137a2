"""The cell space of DARTS (Liu et al. 2019, section 3), as an NNI model space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from torch import Tensor, nn

from search_spaces.cell import CellShape, refuse_proxyless, searchable_cell
from search_spaces.fixed import KINDS, parse_fixed
from search_spaces.genotype import Genotype, GenotypeError, after_cells, default_reductions, fixed_edges
from search_spaces.network import Network, Stem
from search_spaces.operations import DARTS_OPERATIONS, OPERATIONS


class DartsSpace(ModelSpace):
    """Networks of one normal and one reduction cell, each repeated.

    Its labels are those of ``nni.nas.hub.pytorch.DARTS`` (``normal/op_2_0``, ``normal/input_2_0``, …):
    a sample of one space freezes the other. ``none`` is no candidate here: the strategies whose
    papers have it add it to the relaxation.

    Args:
        num_classes: classes of the images.
        channels: channels of a node before the first reduction; they double at each.
        layers: the number of cells; those at a third and two thirds of the depth are reductions.
        image_channels: 1 for grey images, 3 for colour.
        stem: a name of :data:`~search_spaces.network.STEMS`: "cifar" keeps the resolution,
            "tiny_imagenet" halves it, "imagenet" divides it by 8; with ``dual_`` before it, two such
            stems make the two inputs of the first cell.
        nodes: intermediate nodes of a cell, each with two inputs.
        operations: the candidates of every edge.
        mlp_width: None for pooling and a linear classifier; a number for the classifier of the
            course project (Table 4) with a first layer of that width.
        image_size: pixels a side of the images; only the course project's classifier needs to know.
        fixed: operations that stand in the supernet and in every derived network, searched by
            nobody: see :func:`~search_spaces.fixed.parse_fixed`.

    Raises:
        ValueError: an argument is out of range, or an operation unknown.
    """

    def __init__(
        self,
        num_classes: int = 10,
        channels: int = 16,
        layers: int = 8,
        image_channels: int = 3,
        stem: Stem = "cifar",
        nodes: int = 4,
        operations: Sequence[str] = DARTS_OPERATIONS,
        mlp_width: int | None = None,
        image_size: int = 32,
        fixed: Sequence[str] = (),
    ) -> None:
        super().__init__()
        check_space(layers, nodes, operations)
        self.layers = layers
        self.fixed = parse_fixed(fixed, nodes)
        after = after_cells(self.fixed)

        def make_cell(layer: int, shape: CellShape) -> tuple[nn.Module, int]:
            cell = int(shape.reduction)
            edges = fixed_edges(self.fixed, cell)
            return searchable_cell(shape, operations, nodes, KINDS[cell], edges, after), shape.channels * nodes

        self.network = Network(
            make_cell,
            layers=layers,
            reductions=default_reductions(layers),
            num_classes=num_classes,
            channels=channels,
            image_channels=image_channels,
            stem=stem,
            mlp_width=mlp_width,
            image_size=image_size,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, image channels, height, width) -> logits (batch, classes)."""
        return self.network(x)

    def extra_oneshot_hooks(self, strategy: OneShotStrategy) -> list[Any]:
        """None; NNI asks for them before a one-shot strategy makes the space a supernet.

        Raises:
            ValueError: it is NNI's Proxyless, which cannot.
        """
        refuse_proxyless(strategy)
        return []

    @classmethod
    def create_fixed_module(
        cls,
        sample: Mapping[str, Any],
        num_classes: int = 10,
        channels: int = 16,
        layers: int = 8,
        image_channels: int = 3,
        stem: Stem = "cifar",
        nodes: int = 4,
        operations: Sequence[str] = DARTS_OPERATIONS,
        mlp_width: int | None = None,
        image_size: int = 32,
        fixed: Sequence[str] = (),
    ) -> Network:
        """The derived network of a sample, with new weights: what NNI makes inside a ``model_context``."""
        check_space(layers, nodes, operations)
        genotype = replace(Genotype.from_sample(sample, layers), fixed=parse_fixed(fixed, nodes))
        if len(genotype.concat) != nodes:
            raise GenotypeError(f"sample: it has {len(genotype.concat)} nodes a cell, the space {nodes}")
        for edge in (edge for cell in genotype.cells for edge in cell):
            if edge.operation not in operations:
                raise GenotypeError(f"sample: {edge.operation} is no candidate of the space: {', '.join(operations)}")
        return Network.from_genotype(
            genotype, num_classes, channels, image_channels, stem, mlp_width=mlp_width, image_size=image_size
        )

    def freeze(self, sample: Mapping[str, Any]) -> Network:
        """The derived network of a sample, with new weights, also after a strategy has made this a supernet."""
        return self.create_fixed_module(sample, *self.trace_args, **self.trace_kwargs)

    def genotype(self, sample: Mapping[str, Any]) -> Genotype:
        """The genotype of a sample, with the layout and the fixed operations of this space."""
        return replace(Genotype.from_sample(sample, self.layers), fixed=self.fixed)


def check_space(layers: int, nodes: int, operations: Sequence[str]) -> None:
    """What every space of cells asks of its arguments.

    Raises:
        ValueError: an argument is out of range, or an operation unknown.
    """
    for name in operations:
        if name not in OPERATIONS:
            raise ValueError(f"operations: unknown operation {name!r}; known are {', '.join(OPERATIONS)}")
    if len(operations) < 2 or len(set(operations)) < len(operations):
        raise ValueError(f"operations: {list(operations)} should be at least two different operations")
    if nodes < 1:
        raise ValueError(f"nodes: {nodes} should be at least 1")
    if layers < 3:
        raise ValueError(f"layers: {layers} should be at least 3, for a normal cell and two reductions")
