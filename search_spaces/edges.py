"""Parts of a genotype: operations on the edges of cells, the names of edges, and the usual layout of cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from reprlib import repr as shown
from typing import Any, NamedTuple, Protocol, TypeVar

from search_spaces.operations import OPERATION_SETS

INPUTS = 2
"""Number of input nodes. Nodes 0 and 1 of every cell are the outputs of the two layers before it."""

KINDS = ("normal", "reduce")
"""Labels of the two cells of a DARTS space, in the order of its genotypes."""

NONE = "none"
"""The operation that computes zero. Searches and samples may contain it, genotypes never do."""

SKIP = "skip_connect"
"""The operation that returns its input."""

CellAlphas = Mapping[tuple[int, int], Mapping[str, float]]
"""(source node, target node) -> operation -> α, for every edge of a cell."""

NodeAlphas = Mapping[int, Mapping[str, float]]
"""Node -> candidate -> α of its inputs, for every node of a cell, in a search that weights the inputs of nodes."""


class GenotypeError(ValueError):
    """Error for a value that is not a valid genotype; its one-line message names the place and the expected value."""


class Edge(NamedTuple):
    """An operation from node ``source`` to node ``target`` of a cell."""

    operation: str
    source: int
    target: int


Cell = tuple[Edge, ...]


class EdgeName(NamedTuple):
    """The name of an edge in a supernet, written ``normal/0->2``.

    Args:
        cell: Label of the cell.
        source: Node that the edge leaves.
        target: Node that the edge reaches.
    """

    cell: str
    source: int
    target: int

    def __str__(self) -> str:
        return f"{self.cell}/{self.nodes}"

    @property
    def nodes(self) -> str:
        """The name within the cell, written ``0->2``."""
        return f"{self.source}->{self.target}"

    @classmethod
    def parse(cls, text: str) -> EdgeName | None:
        """Return the edge that a text names, or None for any other text."""
        match = re.fullmatch(r"(.+)/(\d{1,9})->(\d{1,9})", text)
        return None if match is None else cls(match[1], int(match[2]), int(match[3]))


class NodeName(NamedTuple):
    """The name of the weighted inputs of a node, written ``normal/node_3``.

    Args:
        cell: Label of the cell.
        target: The node.
    """

    cell: str
    target: int

    def __str__(self) -> str:
        return f"{self.cell}/node_{self.target}"

    @classmethod
    def parse(cls, text: str) -> NodeName | None:
        """Return the node that a text names, or None for any other text."""
        match = re.fullmatch(r"(.+)/node_(\d{1,9})", text)
        return None if match is None else cls(match[1], int(match[2]))


class Fixed(NamedTuple):
    """A fixed operation, which no search chooses or drops (Fine-Tuning DARTS, section III.B).

    Args:
        operation: A key of :data:`~search_spaces.operations.FIXED_OPERATIONS`.
        cell: Index of the cell; None for an operation that follows every cell.
        source: Node that the operation reads; None for an operation that follows every cell.
        target: Node to which its output is added; None for an operation that follows every cell.
    """

    operation: str
    cell: int | None = None
    source: int | None = None
    target: int | None = None


class _Directed(Protocol):
    @property
    def source(self) -> int: ...

    @property
    def target(self) -> int: ...


_AnyEdge = TypeVar("_AnyEdge", bound=_Directed)


def existing_edges(edges: Iterable[_AnyEdge], inputs: int = INPUTS) -> tuple[_AnyEdge, ...]:
    """Return the operations of a cell that receive an input, in topological order.

    Operations that read a node without incoming operations are left out, as are those that depend only on them.

    Args:
        edges: Operations of the cell.
        inputs: Number of input nodes.
    """
    nodes, kept = set(range(inputs)), []
    for edge in sorted(edges, key=lambda edge: edge.target):
        if edge.source in nodes:
            nodes.add(edge.target)
            kept.append(edge)
    return tuple(kept)


def fixed_edges(fixed: Iterable[Fixed], cell: int) -> Cell:
    """Return the fixed operations on the edges of a cell."""
    return tuple(
        Edge(one.operation, one.source, one.target)
        for one in fixed
        if one.cell == cell and one.source is not None and one.target is not None
    )


def after_cells(fixed: Iterable[Fixed]) -> tuple[str, ...]:
    """Return the names of the fixed operations that follow every cell, in their order."""
    return tuple(one.operation for one in fixed if one.cell is None)


def default_reductions(layers: int) -> tuple[int, ...]:
    """Return the layers at a third and two thirds of the depth, which halve the resolution (DARTS, section 3)."""
    return tuple(sorted({layers // 3, 2 * layers // 3}))


def darts_layout(layers: int) -> tuple[int, ...]:
    """Return the cell of each layer of a DARTS network: 1 at :func:`default_reductions`, 0 elsewhere."""
    reductions = default_reductions(layers)
    return tuple(int(layer in reductions) for layer in range(layers))


def smallest_set(cells: Iterable[Iterable[Edge]]) -> str:
    """Return the name of the smallest set of operations that contains those of the cells.

    Raises:
        GenotypeError: An operation is in none of the sets.
    """
    return set_of({edge.operation for cell in cells for edge in cell})


def set_of(operations: Set[str]) -> str:
    """Return the name of the smallest set that contains these operations.

    Raises:
        GenotypeError: An operation is in none of the sets.
    """
    for name, known in OPERATION_SETS.items():
        if operations <= set(known):
            return name
    unknown = ", ".join(sorted(shown(operation) for operation in operations - set(known)))
    raise GenotypeError(f"unknown operation {unknown}; known are {', '.join(known)}")


def as_edge(edge: Any, where: str) -> Edge:
    """Convert a value from a file or a user to an edge.

    Args:
        edge: A list or tuple of operation, source and target.
        where: Start of the error message.

    Raises:
        GenotypeError: The value is not an edge.
    """
    match edge:
        case [str(operation), int(source), int(target)]:
            return Edge(operation, source, target)
    raise GenotypeError(f"{where}: {shown(edge)} should be [operation, from node, to node]")


def as_fixed(values: Any) -> Fixed:
    """Convert a value from a file or a user to a fixed operation.

    Args:
        values: A list or tuple, either of the operation or of operation, cell, source and target.

    Raises:
        GenotypeError: The value is not a fixed operation.
    """
    match values:
        case [str(operation)] | [str(operation), None, None, None]:
            return Fixed(operation)
        case [str(operation), int(cell), int(source), int(target)]:
            return Fixed(operation, cell, source, target)
    raise GenotypeError(f"fixed: {shown(values)} should be [operation] or [operation, cell, from node, to node]")


def as_integers(values: Any, name: str) -> tuple[int, ...]:
    """Convert a value from a file or a user to a tuple of integers.

    Args:
        values: A list, tuple or range of integers.
        name: Start of the error message.

    Raises:
        GenotypeError: The value is not such a list.
    """
    match values:
        case [*integers] if all(isinstance(value, int) for value in integers):
            return tuple(integers)
    raise GenotypeError(f"{name}: {shown(values)} should be a list of integers")
