"""Derivations: from the α of a cell to its discrete operations.

They take plain numbers, so they work for a supernet in memory and for a table read from a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, NamedTuple, Protocol

from search_spaces.edges import NONE, CellAlphas

Activation = Callable[[Mapping[str, float]], Mapping[str, float]]
"""Turns the α of one edge, operation -> α, into operation -> weight."""


class DerivedEdge(NamedTuple):
    """A derived operation from node ``source`` to node ``target``, and the weight that it was chosen by."""

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
    """Return the operations that a cell keeps.

    Args:
        cell: The α of the cell.
        method: "darts", "sparse" or "edge", for the function of that name.
        threshold: Minimum σ(α) of a kept operation, from 0 to 1; used by "sparse" and "edge".

    Raises:
        ValueError: The method is unknown, or the threshold is out of range.
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
    """Return :func:`derive` with these settings.

    Raises:
        ValueError: The method is unknown, or the threshold is out of range.
    """
    derive({}, method, threshold)  # raises now instead of at the end of a search
    return darts if method == "darts" else partial(derive, method=method, threshold=threshold)


def darts(cell: CellAlphas, inputs: int = 2) -> list[DerivedEdge]:
    """Return the best operation of each of the strongest edges per node (DARTS, section 2.4).

    The strength of an edge is the weight of its best operation other than ``none``, after the softmax over all
    candidates including ``none``. Of equal edges and operations the first is kept.

    Args:
        cell: The α of the cell.
        inputs: Number of edges kept per node.
    """
    return _strongest(cell, _softmax, inputs)


def sparse(cell: CellAlphas, threshold: float, inputs: int = 2) -> list[DerivedEdge]:
    """Return the operations of :func:`darts`, by the sigmoid of α, that reach the threshold (FairDARTS).

    Args:
        cell: The α of the cell.
        threshold: Minimum σ(α) of a kept operation, from 0 to 1.
        inputs: Maximum number of edges kept per node.
    """
    return [chosen for chosen in _strongest(cell, _sigmoid, inputs) if chosen.weight >= threshold]


def edge(cell: CellAlphas, threshold: float, operations: int = 2) -> list[DerivedEdge]:
    """Return the best operations of every edge that reach the threshold (FairDARTS).

    Args:
        cell: The α of the cell.
        threshold: Minimum σ(α) of a kept operation, from 0 to 1.
        operations: Maximum number of operations kept per edge.
    """
    kept = []
    for (source, target), alphas in sorted(cell.items(), key=lambda item: item[0][::-1]):
        ranked = sorted(_without_none(_sigmoid(alphas)), key=lambda item: -item[1])[:operations]
        kept += [DerivedEdge(name, source, target, weight) for name, weight in ranked if weight >= threshold]
    return kept


def _strongest(cell: CellAlphas, activation: Activation, inputs: int) -> list[DerivedEdge]:
    kept = []
    for node in sorted({target for _, target in cell}):
        best = []
        for (source, target), alphas in sorted(cell.items()):
            if target == node:
                name, weight = max(_without_none(activation(alphas)), key=lambda item: item[1])
                best.append(DerivedEdge(name, source, target, weight))
        kept += sorted(best, key=lambda chosen: -chosen.weight)[:inputs]
    return kept


def _without_none(weights: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(name, weight) for name, weight in weights.items() if name != NONE]


def _softmax(alphas: Mapping[str, float]) -> dict[str, float]:
    highest = max(alphas.values())
    exponentials = {name: math.exp(alpha - highest) for name, alpha in alphas.items()}
    total = sum(exponentials.values())
    return {name: value / total for name, value in exponentials.items()}


def _sigmoid(alphas: Mapping[str, float]) -> dict[str, float]:
    # The hyperbolic form does not overflow for any α.
    return {name: 0.5 * (1 + math.tanh(alpha / 2)) for name, alpha in alphas.items()}
