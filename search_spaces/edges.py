"""The parts of a genotype: operations on the edges of cells, searched and fixed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from reprlib import repr as shown
from typing import Any, NamedTuple

from search_spaces.operations import OPERATION_SETS

INPUTS = 2
"""Nodes 0 and 1 of every cell are its inputs: the outputs of the two layers before it."""


class GenotypeError(ValueError):
    """A genotype is not what the format allows; the message says where and what would be right."""


class Edge(NamedTuple):
    """One operation, from node ``source`` to node ``target`` of a cell."""

    operation: str
    source: int
    target: int


Cell = tuple[Edge, ...]


class Fixed(NamedTuple):
    """A fixed operation: no search chose it, and none drops it (Fine-Tuning DARTS, section III.B).

    Args:
        operation: a name of :data:`~search_spaces.operations.FIXED_OPERATIONS`.
        cell, source, target: the cell, by its index, and its two nodes between which the operation
            stands; all None for an operation that follows every cell.
    """

    operation: str
    cell: int | None = None
    source: int | None = None
    target: int | None = None


def fixed_edges(fixed: Iterable[Fixed], cell: int) -> Cell:
    """The fixed operations that stand on edges of a cell."""
    return tuple(
        Edge(one.operation, one.source, one.target)
        for one in fixed
        if one.cell == cell and one.source is not None and one.target is not None
    )


def after_cells(fixed: Iterable[Fixed]) -> tuple[str, ...]:
    """The fixed operations that follow every cell, in the order in which they run."""
    return tuple(one.operation for one in fixed if one.cell is None)


def as_edge(edge: Any, where: str) -> Edge:
    """What a file or a user gives as an edge; ``where`` begins the message of the GenotypeError where it is none."""
    if not isinstance(edge, (list, tuple)) or len(edge) != 3:
        raise GenotypeError(f"{where}: {shown(edge)} should be [operation, from node, to node]")
    operation, source, target = edge
    if not isinstance(operation, str):
        raise GenotypeError(f"{where}: {shown(operation)} should be the name of an operation")
    for node in (source, target):
        if isinstance(node, bool) or not isinstance(node, int) or node < 0:
            raise GenotypeError(f"{where}: node {shown(node)} of {shown(operation)} should be an integer from 0 on")
    return Edge(operation, source, target)


def as_fixed(values: Any) -> Fixed:
    """What a file or a user gives as a fixed operation, checked like :func:`as_edge`."""
    if not isinstance(values, (list, tuple)) or len(values) not in (1, 4):
        raise GenotypeError(f"fixed: {shown(values)} should be [operation] or [operation, cell, from node, to node]")
    if len(values) == 1 or tuple(values[1:]) == (None, None, None):
        if not isinstance(values[0], str):
            raise GenotypeError(f"fixed: {shown(values[0])} should be the name of an operation")
        return Fixed(values[0])
    operation, cell, source, target = values
    if isinstance(cell, bool) or not isinstance(cell, int):
        raise GenotypeError(f"fixed: cell {shown(cell)} of {shown(operation)} should be an integer from 0 on")
    operation, source, target = as_edge((operation, source, target), "fixed")
    return Fixed(operation, cell, source, target)


def as_integers(values: Any, name: str) -> tuple[int, ...]:
    """What a file or a user gives as a list of integers, checked like :func:`as_edge`."""
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes, Mapping)):
        raise GenotypeError(f"{name}: {shown(values)} should be a list of integers")
    values = tuple(values)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int):
            raise GenotypeError(f"{name}: {shown(value)} should be an integer")
    return values


def smallest_set(cells: Iterable[Iterable[Edge]]) -> str:
    """The name of the smallest set of operations that these cells are made of.

    Raises:
        GenotypeError: an operation is in none.
    """
    used = {edge.operation for cell in cells for edge in cell}
    for name, operations in OPERATION_SETS.items():
        if used <= set(operations):
            return name
    known = OPERATION_SETS[name]
    unknown = ", ".join(sorted(shown(operation) for operation in used - set(known)))
    raise GenotypeError(f"unknown operation {unknown}; known are {', '.join(known)}")
