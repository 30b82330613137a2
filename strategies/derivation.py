"""Derivations: from the α of a cell to its discrete operations.

Derivations take plain numbers, so they work for a supernet in memory and for a table read from a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from search_spaces.checks import require
from search_spaces.edges import NONE, SKIP, CellAlphas, NodeAlphas


class DerivedEdge(NamedTuple):
    """A derived operation from node ``source`` to node ``target``, and the weight by which it was chosen."""

    operation: str
    source: int
    target: int
    weight: float


class Derivation(Protocol):
    """Function that turns the α of a cell into its discrete operations.

    A derivation for a search with a topology (:mod:`strategies.topology`) is also given the α of the inputs of nodes. A
    derivation marked by :func:`keeps_inputs` is also given the number of edges to keep per node.

    Example::

        def strongest_per_edge(cell):
            best = {edge: max(alphas, key=alphas.get) for edge, alphas in cell.items()}
            return [DerivedEdge(name, *edge, cell[edge][name]) for edge, name in best.items() if name != "none"]
    """

    def __call__(self, cell: CellAlphas, /, *nodes: Any, **inputs: Any) -> list[DerivedEdge]:
        """Return the operations that a cell keeps."""


_KEEPS_INPUTS: set[object] = set()

Marked = TypeVar("Marked", bound=Derivation)


def keeps_inputs(derivation: Marked) -> Marked:
    """Mark a derivation that keeps exactly ``inputs`` edges per node (keyword, 2 by default), one operation each.

    Cells of third-party spaces can be derived only by such a derivation.
    """
    _KEEPS_INPUTS.add(derivation)
    return derivation


@dataclass(frozen=True)
class ByCell:
    """Derivation that differs between cells, chosen by the label of the cell.

    Args:
        derivations: Label of a cell -> its derivation.
        others: The derivation of all other cells.
    """

    derivations: Mapping[str, Derivation]
    others: Derivation

    def of(self, label: str) -> Derivation:
        """Return the derivation of a cell."""
        return self.derivations.get(label, self.others)

    def __call__(self, cell: CellAlphas, /, *nodes: Any, **inputs: Any) -> list[DerivedEdge]:
        """Return the operations that a cell without an entry in ``derivations`` keeps."""
        return self.others(cell, *nodes, **inputs)


def derive_cell(
    derivation: Derivation, label: str, cell: CellAlphas, nodes: NodeAlphas | None = None, inputs: int = 2
) -> list[DerivedEdge]:
    """Return the operations that a cell keeps.

    Args:
        derivation: The derivation.
        label: Label of the cell.
        cell: The α of the cell.
        nodes: The α of the inputs of its nodes; None for a search without a topology.
        inputs: Number of edges to keep per node, for a derivation that keeps that many.
    """
    if isinstance(derivation, ByCell):
        derivation = derivation.of(label)
    given = () if nodes is None else (nodes,)
    return derivation(cell, *given, inputs=inputs) if has_fixed_inputs(derivation) else derivation(cell, *given)


def has_fixed_inputs(derivation: Derivation) -> bool:
    """Return whether a derivation, or each derivation of a :class:`ByCell`, is marked by :func:`keeps_inputs`."""
    if isinstance(derivation, ByCell):
        return all(map(has_fixed_inputs, (*derivation.derivations.values(), derivation.others)))
    return derivation in _KEEPS_INPUTS


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
    require("threshold", threshold, 0 <= threshold <= 1, "from 0 to 1")
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
    return darts if method == "darts" else _ByMethod(method, threshold)


@dataclass(frozen=True)
class _ByMethod:
    """The function :func:`derive` with its settings; the α of nodes are not used."""

    method: Method
    threshold: float

    def __call__(self, cell: CellAlphas, /, *nodes: Any, **inputs: Any) -> list[DerivedEdge]:
        return derive(cell, self.method, self.threshold)


@keeps_inputs
def darts(cell: CellAlphas, /, *nodes: Any, inputs: int = 2) -> list[DerivedEdge]:
    """Return the best operation of each of the strongest edges per node (DARTS, section 2.4).

    The strength of an edge is the weight of its best operation other than ``none``, after the softmax over all
    candidates including ``none``. Of equal edges or operations, the first is kept.

    Args:
        cell: The α of the cell.
        nodes: The α of the inputs of its nodes, which are not used.
        inputs: Number of edges kept per node.
    """
    return strongest({edge: softmax(alphas) for edge, alphas in cell.items()}, inputs)


def sparse(cell: CellAlphas, threshold: float, inputs: int = 2) -> list[DerivedEdge]:
    """Return the operations of :func:`darts`, by the sigmoid of α, that reach the threshold (FairDARTS).

    Args:
        cell: The α of the cell.
        threshold: Minimum σ(α) of a kept operation, from 0 to 1.
        inputs: Maximum number of edges kept per node.
    """
    weights = {edge: _sigmoid(alphas) for edge, alphas in cell.items()}
    return [chosen for chosen in strongest(weights, inputs) if chosen.weight >= threshold]


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


@dataclass(frozen=True)
class FewSkips:
    """Derivation that limits the number of skip connections in a cell (P-DARTS, section 3.2.2).

    While the cell has more, the weakest skip connection gets the weight 0 and the cell is derived again, so that its
    edge competes with its next best operation. The weights of all other operations stay the same. An edge without
    another operation keeps its skip connection if the derivation needs that edge.

    Args:
        derivation: The derivation of the cell.
        skips: Maximum number of skip connections, at least 0.
    """

    derivation: Derivation
    skips: int

    def __call__(self, cell: CellAlphas, /, *nodes: Any, **inputs: Any) -> list[DerivedEdge]:
        """Return the operations that the cell keeps."""
        limited = dict(cell)
        while True:
            chosen = self.derivation(limited, *nodes, **inputs)
            found = {(one.source, one.target): one.weight for one in chosen if one.operation == SKIP}
            with_weight = [edge for edge in found if limited[edge][SKIP] > -math.inf]
            if len(with_weight) <= self.skips:
                return chosen
            weakest = min(with_weight, key=found.__getitem__)
            limited[weakest] = _without_skip(limited[weakest])


def _without_skip(alphas: Mapping[str, float]) -> dict[str, float]:
    """Return the α of an edge with the softmax weight of its skip connection moved to ``none``."""
    lower, higher = sorted((alphas[SKIP], alphas.get(NONE, -math.inf)))
    others = {name: alpha for name, alpha in alphas.items() if name not in (SKIP, NONE)}
    rest = {**others, NONE: higher + math.log1p(math.exp(lower - higher))}
    return rest if others else {**rest, SKIP: -math.inf}


def few_skips(derivation: Derivation, skips: int | None) -> Derivation:
    """Return a derivation with at most ``skips`` skip connections per cell, None for no limit: see :class:`FewSkips`.

    In a :class:`ByCell`, each derivation is limited separately.
    """
    if skips is None:
        return derivation
    require("skip_connections", skips, skips >= 0, "at least 0, or null for no limit")
    if isinstance(derivation, ByCell):
        by_cell = {label: few_skips(own, skips) for label, own in derivation.derivations.items()}
        return ByCell(by_cell, few_skips(derivation.others, skips))
    limited = FewSkips(derivation, skips)
    return keeps_inputs(limited) if has_fixed_inputs(derivation) else limited


def strongest(weights: CellAlphas, inputs: int = 2) -> list[DerivedEdge]:
    """Return the best operation, other than ``none``, of each of the strongest edges per node.

    Args:
        weights: (source node, target node) -> operation -> weight. Of equal weights, the first is kept.
        inputs: Number of edges kept per node.
    """
    kept = []
    for node in sorted({target for _, target in weights}):
        best = []
        for (source, target), by_operation in sorted(weights.items()):
            if target == node and _without_none(by_operation):
                name, weight = max(_without_none(by_operation), key=lambda item: item[1])
                best.append(DerivedEdge(name, source, target, weight))
        kept += sorted(best, key=lambda chosen: -chosen.weight)[:inputs]
    return kept


def _without_none(weights: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(name, weight) for name, weight in weights.items() if name != NONE]


def softmax(alphas: Mapping[str, float]) -> dict[str, float]:
    """Return the softmax of α by candidate."""
    highest = max(alphas.values())
    exponentials = {name: math.exp(alpha - highest) for name, alpha in alphas.items()}
    total = sum(exponentials.values())
    return {name: value / total for name, value in exponentials.items()}


def _sigmoid(alphas: Mapping[str, float]) -> dict[str, float]:
    # The hyperbolic form does not overflow for any α.
    return {name: 0.5 * (1 + math.tanh(alpha / 2)) for name, alpha in alphas.items()}
