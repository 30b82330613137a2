"""Derivations: from the α of a cell to its discrete operations.

Each works on plain numbers, so that it serves a supernet in memory and a table read from a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Literal, NamedTuple, Protocol

CellAlphas = Mapping[tuple[int, int], Mapping[str, float]]
"""(source node, target node) -> operation -> α, every edge of a cell."""

Weigh = Callable[[Mapping[str, float]], Mapping[str, float]]

NONE = "none"
"""The candidate that computes zero; it is never derived."""


class DerivedEdge(NamedTuple):
    """A derived operation, with the weight for which it was chosen."""

    operation: str
    source: int
    target: int
    weight: float


class Derivation(Protocol):
    """Turns the α of a cell into its discrete operations.

    Example::

        def strongest_per_edge(cell):
            best = {edge: max(alphas, key=alphas.get) for edge, alphas in cell.items()}
            return [DerivedEdge(name, *edge, cell[edge][name]) for edge, name in best.items() if name != "none"]
    """

    def __call__(self, cell: CellAlphas, /) -> list[DerivedEdge]:
        """Return the operations that a cell keeps."""


Method = Literal["darts", "sparse", "edge"]


def derive(cell: CellAlphas, method: Method = "darts", threshold: float = 0.85) -> list[DerivedEdge]:
    """The operations that a cell keeps.

    Args:
        cell: its α.
        method: "darts": :func:`darts`; "sparse" and "edge": :func:`sparse` and :func:`edge`.
        threshold: for the latter two, the least weight of an operation, from 0 to 1.

    Raises:
        ValueError: an unknown method, or a threshold out of range.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: {threshold} should be from 0 to 1")
    if method == "darts":
        return darts(cell)
    if method == "sparse":
        return sparse(cell, threshold)
    if method == "edge":
        return edge(cell, threshold)
    raise ValueError(f"method: {method!r} should be darts, sparse or edge")


def by_method(method: Method, threshold: float = 0.85) -> Derivation:
    """:func:`derive` with settings that are checked at once.

    Raises:
        ValueError: an unknown method, or a threshold out of range.
    """
    derive({}, method, threshold)
    return darts if method == "darts" else partial(derive, method=method, threshold=threshold)


def connected(chosen: Iterable[DerivedEdge], inputs: int = 2) -> list[DerivedEdge]:
    """The operations of a cell that receive something: not those that leave a node which nothing reaches.

    Args:
        chosen: the operations.
        inputs: nodes that are inputs of the cell.
    """
    nodes, kept = set(range(inputs)), []
    for operation in sorted(chosen, key=lambda operation: operation.target):
        if operation.source in nodes:
            nodes.add(operation.target)
            kept.append(operation)
    return kept


def darts(cell: CellAlphas, inputs: int = 2) -> list[DerivedEdge]:
    """For each node the strongest edges, of each the best operation (DARTS, section 2.4).

    An edge is as strong as its best operation other than ``none`` after the softmax over all its
    candidates, ``none`` included. Of equal edges and operations the first is taken.

    Args:
        cell: its α.
        inputs: edges kept for each node.
    """
    return _strongest(cell, _softmax, inputs)


def sparse(cell: CellAlphas, threshold: float, inputs: int = 2) -> list[DerivedEdge]:
    """As :func:`darts`, on the sigmoid of α, of weights that reach the threshold (FairDARTS)."""
    return [chosen for chosen in _strongest(cell, _sigmoid, inputs) if chosen.weight >= threshold]


def edge(cell: CellAlphas, threshold: float, operations: int = 2) -> list[DerivedEdge]:
    """On every edge the best operations whose sigmoid reaches the threshold (FairDARTS)."""
    kept = []
    for (source, target), alphas in sorted(cell.items(), key=lambda item: item[0][::-1]):
        ranked = sorted(_candidates(_sigmoid(alphas)), key=lambda item: -item[1])[:operations]
        kept += [DerivedEdge(name, source, target, weight) for name, weight in ranked if weight >= threshold]
    return kept


def _strongest(cell: CellAlphas, weigh: Weigh, inputs: int) -> list[DerivedEdge]:
    kept = []
    for node in sorted({target for _, target in cell}):
        best = []
        for (source, target), alphas in sorted(cell.items()):
            if target == node:
                name, weight = max(_candidates(weigh(alphas)), key=lambda item: item[1])
                best.append(DerivedEdge(name, source, target, weight))
        kept += sorted(best, key=lambda chosen: -chosen.weight)[:inputs]
    return kept


def _candidates(weights: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(name, weight) for name, weight in weights.items() if name != NONE]


def _softmax(alphas: Mapping[str, float]) -> dict[str, float]:
    highest = max(alphas.values())
    exponentials = {name: math.exp(alpha - highest) for name, alpha in alphas.items()}
    total = sum(exponentials.values())
    return {name: value / total for name, value in exponentials.items()}


def _sigmoid(alphas: Mapping[str, float]) -> dict[str, float]:
    # The hyperbolic form does not overflow for any α.
    return {name: 0.5 * (1 + math.tanh(alpha / 2)) for name, alpha in alphas.items()}
