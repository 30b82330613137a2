"""Tables of costs: the cost of an architecture as a function of the probabilities of its candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor

Edges = tuple[str, ...]

Probabilities = Mapping[str, Tensor]
"""Edge -> probability (candidates,) that the derived network has each candidate."""


@dataclass(frozen=True)
class CostTable:
    """The expected cost of an architecture, multilinear in the probabilities of its candidates.

    If every probability is 0 or 1, it is the cost of the derived network.

    Args:
        candidates: Edge -> names of its candidates, for the edges that the cost depends on.
        terms: Edges -> cost of each combination of their candidates, of shape (candidates of the first edge, candidates
            of the second, …). The key without edges stands for the part that all architectures share.
    """

    candidates: Mapping[str, tuple[str, ...]]
    terms: Mapping[Edges, Tensor]

    @cached_property
    def _single(self) -> tuple[list[str], Tensor]:
        edges = [edges[0] for edges in self.terms if len(edges) == 1]
        costs = [self.terms[edge,] for edge in edges]
        return edges, torch.cat(costs) if costs else torch.zeros(0, dtype=torch.float64)

    @property
    def fixed(self) -> Tensor:
        """The cost that all architectures share, a scalar."""
        return self.terms.get((), torch.zeros((), dtype=torch.float64))

    def expected(self, probabilities: Probabilities) -> Tensor:
        """Return the expected cost (scalar), differentiable in the probabilities."""
        edges, costs = self._single
        total = self.fixed.to(next(iter(probabilities.values()))) if probabilities else self.fixed
        if edges:
            joined = torch.cat([probabilities[edge] for edge in edges])
            total = total + joined @ costs.to(joined)
        for several in (edges for edges in self.terms if len(edges) > 1):
            factors = [probabilities[edge] for edge in several]
            total = total + reduce(lambda cost, p: torch.tensordot(p, cost, 1), factors, self.terms[several].to(total))
        return total

    def of_plan(self, plan: Mapping[str, Sequence[int]]) -> float:
        """Return the cost of a derived network.

        Args:
            plan: Edge -> indices of the candidates that it has; the index after the last stands for ``none``.
        """
        return float(self.expected({edge: self._counts(edge, plan.get(edge, ())) for edge in self.candidates}))

    def _counts(self, edge: str, indices: Sequence[int]) -> Tensor:
        counts = torch.zeros(len(self.candidates[edge]), dtype=torch.float64)
        for index in indices:
            counts[index] += 1
        return counts

    def marginal(self, probabilities: Probabilities) -> dict[str, Tensor]:
        """Return edge -> change of the expected cost (candidates,) with the probability of each candidate."""
        found = {edge: torch.zeros(len(names), dtype=torch.float64) for edge, names in self.candidates.items()}
        known = {edge: probabilities[edge].detach().to("cpu", torch.float64) for edge in self.candidates}
        for edges, cost in self.terms.items():
            for axis, edge in enumerate(edges):
                rest = cost.movedim(axis, -1)
                for other in (*edges[:axis], *edges[axis + 1 :]):
                    rest = torch.tensordot(known[other], rest, 1)
                found[edge] += rest
        return found

    def fits(self, candidates: Mapping[str, Sequence[Any]]) -> bool:
        """Return whether this is a table of a space with these candidates, by edge."""
        names = {edge: tuple(map(str, candidates[edge])) for edge in self.candidates if edge in candidates}
        return names == dict(self.candidates)

    def to_json(self) -> dict[str, Any]:
        """Return the table in plain JSON types."""
        terms = [{"edges": list(edges), "cost": cost.tolist()} for edges, cost in self.terms.items()]
        return {"candidates": {edge: list(names) for edge, names in self.candidates.items()}, "terms": terms}

    @classmethod
    def from_json(cls, values: Any) -> CostTable:
        """Return the table from the output of :meth:`to_json`.

        Raises:
            ValueError: The value is not a table of costs.
        """
        try:
            candidates = {str(edge): tuple(map(str, names)) for edge, names in values["candidates"].items()}
            terms = {
                tuple(map(str, term["edges"])): torch.tensor(term["cost"], dtype=torch.float64)
                for term in values["terms"]
            }
            fits = all(
                cost.shape == tuple(len(candidates[edge]) for edge in edges) and bool(cost.isfinite().all())
                for edges, cost in terms.items()
            )
            fits = fits and bool(terms)
        except (KeyError, TypeError, ValueError, AttributeError):
            fits = False
        if not fits:
            raise ValueError("is no table of costs") from None
        return cls(candidates, terms)


class TableBuilder:
    """Builder that adds up the costs of modules to a table.

    Args:
        candidates: Edge -> its candidates.
    """

    def __init__(self, candidates: Mapping[str, Sequence[Any]]) -> None:
        self.candidates = candidates
        self._terms: dict[Edges, Tensor] = {}

    def add(self, edges: Edges, cost: Tensor) -> None:
        """Add a cost that depends on some edges; see :class:`CostTable`."""
        if edges in self._terms:
            self._terms[edges] += cost
        else:
            self._terms[edges] = cost.to(torch.float64).clone()

    def table(self) -> CostTable:
        """Return the table of all added costs, without terms that are zero."""
        terms = {edges: cost for edges, cost in self._terms.items() if bool(cost.any())}
        used = {edge for edges in terms for edge in edges}
        return CostTable({e: tuple(map(str, names)) for e, names in self.candidates.items() if e in used}, terms)
