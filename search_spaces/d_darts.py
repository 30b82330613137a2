"""The space of D-DARTS (Heuillet et al. 2023, section 4.1): every layer has a cell of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nni.mutable.exception import SampleValidationError
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from torch import Tensor, nn

from search_spaces.cell import CellShape, refuse_proxyless, searchable_cell
from search_spaces.darts import check_space
from search_spaces.genotype import Genotype, GenotypeError, default_reductions
from search_spaces.network import Network, Stem
from search_spaces.operations import DARTS_OPERATIONS


class DDartsSpace(ModelSpace):
    """Networks in which every layer has a cell of its own.

    The labels of layer 3 are ``cell_3/op_2_0``, ``cell_3/input_2_0``, …: NNI's strategies search
    cells with two operations a node. Cells in which a node has none, one or many are points of the
    space too, which the derivations ``sparse`` and ``edge`` find: ``none`` stands for an operation
    that a node lacks, and further ones are ``cell_3/op_2_2``, … . ``none`` is no candidate.

    Args:
        num_classes: classes of the images.
        channels: channels of a node before the first reduction; they double at each.
        layers: the number of cells; those at a third and two thirds of the depth are reductions.
        image_channels: 1 for grey images, 3 for colour.
        stem: a name of :data:`~search_spaces.network.STEMS`.
        nodes: intermediate nodes of a cell.
        operations: the candidates of every edge.

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
    ) -> None:
        super().__init__()
        check_space(layers, nodes, operations)
        self.layers, self.nodes, self.operations = layers, nodes, tuple(operations)

        def make_cell(layer: int, shape: CellShape) -> tuple[nn.Module, int]:
            return searchable_cell(shape, operations, nodes, f"cell_{layer}"), shape.channels * nodes

        self.network = Network(
            make_cell,
            layers=layers,
            reductions=default_reductions(layers),
            num_classes=num_classes,
            channels=channels,
            image_channels=image_channels,
            stem=stem,
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
    ) -> Network:
        """The derived network of a sample, with new weights: what NNI makes inside a ``model_context``."""
        check_space(layers, nodes, operations)
        return Network.from_genotype(
            _genotype(sample, layers, nodes, operations), num_classes, channels, image_channels, stem
        )

    def freeze(self, sample: Mapping[str, Any]) -> Network:
        """The derived network of a sample, with new weights, also after a strategy has made this a supernet."""
        return self.create_fixed_module(sample, *self.trace_args, **self.trace_kwargs)

    def check_contains(self, sample: Mapping[str, Any]) -> SampleValidationError | None:
        """What is wrong with a sample, if anything."""
        try:
            self.genotype(sample)
        except GenotypeError as error:
            return SampleValidationError(str(error))
        return None

    def genotype(self, sample: Mapping[str, Any]) -> Genotype:
        """The genotype of a sample.

        Raises:
            GenotypeError: the sample is no point of this space.
        """
        return _genotype(sample, self.layers, self.nodes, self.operations)


def _genotype(sample: Mapping[str, Any], layers: int, nodes: int, operations: Sequence[str]) -> Genotype:
    genotype = Genotype.from_sample(sample)
    if genotype.layout != tuple(range(layers)):
        raise GenotypeError(f"sample: it should have the cells cell_0 to cell_{layers - 1}, one for every layer")
    if len(genotype.concat) != nodes:
        raise GenotypeError(f"sample: it has {len(genotype.concat)} nodes a cell, the space {nodes}")
    for edge in (edge for cell in genotype.cells for edge in cell):
        if edge.operation not in operations:
            raise GenotypeError(f"sample: {edge.operation} is no candidate of the space: {', '.join(operations)}")
    return genotype
