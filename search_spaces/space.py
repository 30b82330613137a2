"""Base of the model spaces: stacks of searchable cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import nni.nas.nn.pytorch as nas
import pandas as pd
from nni.mutable.exception import SampleValidationError
from nni.nas.space import current_model
from torch import Tensor, nn

from search_spaces.cell import CellShape, refuse_proxyless, searchable_cell
from search_spaces.checks import require
from search_spaces.edges import INPUTS, Fixed, GenotypeError, after_cells, fixed_edges, smallest_set
from search_spaces.extended_alpha import Alphas, extended_alpha
from search_spaces.fixed import parse_fixed
from search_spaces.genotype import Genotype
from search_spaces.genotype_io import read_cells, sample_of_node
from search_spaces.network import Network
from search_spaces.operations import OPERATIONS

if TYPE_CHECKING:
    from nni.nas.oneshot.pytorch.strategy import OneShotStrategy


@dataclass(frozen=True)
class CellStack:
    """The cells of a space and the cell of each layer.

    Args:
        labels: Labels of the distinct cells, in the order of a genotype. Layers with one label share α.
        layout: Index in ``labels`` of the cell of each layer.
        reductions: Layers that halve the resolution.
        nodes: Intermediate nodes of a cell.
        operations: Candidates of every edge.
        fixed: Operations that are not searched: see :func:`~search_spaces.fixed.parse_fixed`.

    Raises:
        ValueError: An argument is out of range, or an operation is unknown.
    """

    labels: Sequence[str]
    layout: Sequence[int]
    reductions: Sequence[int]
    nodes: int
    operations: Sequence[str]
    fixed: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in self.operations:
            if name not in OPERATIONS:
                raise ValueError(f"operations: unknown operation {name!r}; known are {', '.join(OPERATIONS)}")
        if len(self.operations) < 2 or len(set(self.operations)) < len(self.operations):
            raise ValueError(f"operations: {list(self.operations)} should be at least two different operations")
        require("nodes", self.nodes, self.nodes >= 1, "at least 1")
        parse_fixed(self.fixed, self.nodes, self.labels)

    @property
    def fixed_operations(self) -> tuple[Fixed, ...]:
        """The fixed operations in the form of a genotype."""
        return parse_fixed(self.fixed, self.nodes, self.labels)

    def cell(self, layer: int, shape: CellShape, derived: bool = False) -> tuple[nn.Module, int]:
        """Return the searchable cell of a layer and the channels of its output.

        Args:
            layer: The layer.
            shape: Channels and strides of the cell.
            derived: Whether its operations have the form of derived networks.
        """
        fixed, index = self.fixed_operations, self.layout[layer]
        edges, after = fixed_edges(fixed, index), after_cells(fixed)
        cell = searchable_cell(shape, self.operations, self.nodes, self.labels[index], edges, after, derived)
        return cell, shape.channels * self.nodes

    def genotype(self, sample: Mapping[str, Any]) -> Genotype:
        """Return the genotype of a sample.

        Raises:
            GenotypeError: The sample is not in the space.
        """
        found = {str(key).partition("/")[0] for key in sample if "/op_" in str(key)}
        if found != set(self.labels):
            raise GenotypeError(f"sample: it should have the cells {', '.join(self.labels)}, not {sorted(found)}")
        read, end = read_cells(sample)
        if end - INPUTS != self.nodes:
            raise GenotypeError(f"sample: it has {end - INPUTS} nodes a cell, the space {self.nodes}")
        cells = tuple(read[label] for label in self.labels)
        for edge in (edge for cell in cells for edge in cell):
            if edge.operation not in self.operations:
                raise GenotypeError(
                    f"sample: {edge.operation} is no candidate of the space: {', '.join(self.operations)}"
                )
        return Genotype(
            cells=cells,
            layout=tuple(self.layout),
            reductions=tuple(self.reductions),
            concat=tuple(range(INPUTS, end)),
            operations=smallest_set(cells),
            fixed=self.fixed_operations,
        )

    def sample(self, genotype: Genotype) -> dict[str, Any]:
        """Return the sample of a genotype, the inverse of :meth:`genotype`.

        Raises:
            GenotypeError: The genotype is not in the space.
        """
        sample: dict[str, Any] = {}
        for label, cell in zip(self.labels, genotype.cells, strict=False):
            for node in range(INPUTS, INPUTS + self.nodes):
                incoming = [(edge.operation, edge.source) for edge in cell if edge.target == node]
                sample |= sample_of_node(label, node, incoming)
        if len(genotype.cells) != len(self.labels) or _content(self.genotype(sample)) != _content(genotype):
            raise GenotypeError(
                f"the genotype is no point of the space, which has the layout {list(self.layout)}, the reductions "
                f"{list(self.reductions)}, {self.nodes} nodes and the fixed operations {list(self.fixed)}"
            )
        return sample


def _content(genotype: Genotype) -> tuple[Any, ...]:
    """Return the content of a genotype regardless of the order of its operations."""
    cells = [sorted(cell) for cell in genotype.cells]
    return cells, genotype.layout, genotype.reductions, genotype.concat, genotype.fixed


class StackedSpace(nas.ModelSpace):
    """An NNI model space of stacked cells.

    Args:
        cells: Cells of the space.
        derived: Whether its operations have the form of derived networks, see :meth:`in_derived_form`.
        network: Further arguments of :class:`~search_spaces.network.Network`.

    Raises:
        ValueError: An argument is out of range.
    """

    channels_last = True

    def __init__(self, cells: CellStack, derived: bool = False, **network: Any) -> None:
        super().__init__()
        self.cells = cells
        self._network_arguments = network
        sample = current_model()
        if sample is None:
            make_cell = partial(cells.cell, derived=derived)
            self.network = Network(make_cell, len(cells.layout), cells.reductions, **network)
        else:  # inside a model_context
            self.network = self.freeze(sample)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, image channels, height, width) -> logits (batch, classes)."""
        return self.network(x)

    def extra_oneshot_hooks(self, strategy: OneShotStrategy) -> list[Any]:
        """Return no hooks. NNI calls this before a one-shot strategy mutates the space.

        Raises:
            ValueError: The strategy is NNI's Proxyless, which cannot search cells.
        """
        refuse_proxyless(strategy)
        return []

    @classmethod
    def create_fixed_module(cls, sample: Mapping[str, Any], *args: Any, **kwargs: Any) -> Network:
        """Return the derived network of a sample, which NNI uses in place of the space inside a ``model_context``."""
        space = object.__new__(cls)
        space.__init__(*args, **kwargs)  # type: ignore[misc]
        return space.network

    def freeze(self, sample: Mapping[str, Any]) -> Network:
        """Return the derived network of a sample with new weights, also after a strategy has mutated the space.

        Raises:
            GenotypeError: The sample is not in this space.
        """
        return Network.from_genotype(self.genotype(sample), **self._network_arguments)

    def in_derived_form(self) -> nas.ModelSpace:
        """Return a space with the same choices, whose operations have the form and the cost of derived networks."""
        return StackedSpace(self.cells, derived=True, **self._network_arguments)

    def check_contains(self, sample: Mapping[str, Any]) -> SampleValidationError | None:
        """Return the error of a sample that is not in this space, else None."""
        try:
            self.genotype(sample)
        except GenotypeError as error:
            return SampleValidationError(str(error))
        return None

    def genotype(self, sample: Mapping[str, Any]) -> Genotype:
        """Return the genotype of a sample, with the layout and the fixed operations of this space.

        Raises:
            GenotypeError: The sample is not in this space.
        """
        return self.cells.genotype(sample)

    def sample(self, genotype: Genotype) -> dict[str, Any]:
        """Return the sample that freezes this space to a genotype.

        Raises:
            GenotypeError: The genotype is not in this space.
        """
        return self.cells.sample(genotype)

    def extended_alpha(self, alphas: Alphas, cell: str = "normal") -> pd.DataFrame:
        """Return the α of a cell and, below it, α_F of the fixed operations of this space (Fine-Tuning DARTS, Eq. 3).

        Args:
            alphas: α of a strategy that searched this space (``strategy.alphas()``).
            cell: Label of the cell, for instance "normal" or "cell_0".

        Returns:
            The table of :func:`~search_spaces.extended_alpha.extended_alpha`.

        Raises:
            ValueError: The cell has no α.
        """
        return extended_alpha(alphas, self.cells.fixed, cell)
