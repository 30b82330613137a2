"""Probabilities, computed from α, that the derived network has each candidate."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from search_spaces.edges import NONE, EdgeName, NodeName
from strategies.cost.table import CostTable, Probabilities
from strategies.supernet.architecture import Architecture
from strategies.supernet.cell import MixedCell
from strategies.supernet.choices import MixedLayer
from strategies.topology import per_input

_TINY = 1e-30


class Expectation:
    """The probability that the derived network has each candidate, differentiable in α.

    An edge outside cells has one candidate, by the softmax of α. A node of a cell keeps k of its edges: k of them are
    kept with a probability proportional to the product of their strengths, which are the weights that derivation
    compares (DARTS, section 2.4). A kept edge has one operation, by the softmax of α over all but ``none``. With
    sigmoid weights, each operation is kept with the sigmoid of its α, independently of the others.

    Args:
        supernet: The supernet.
        architecture: α and the living candidates.
        activation: The function that turns α into weights.
    """

    def __init__(
        self, supernet: nn.Module, architecture: Architecture, activation: Literal["softmax", "sigmoid"]
    ) -> None:
        self.architecture, self.activation = architecture, activation
        cells = {module.label: module for module in supernet.modules() if isinstance(module, MixedCell)}
        self.kept = {label: cell.num_ops_per_node for label, cell in cells.items()}
        # Zero operations are not derived (MixedLayer.export), but an identity named none is.
        self.zeros = {m.label for m in supernet.modules() if isinstance(m, MixedLayer) and m.zero}
        self.nodes: dict[tuple[str, int], list[str]] = {}
        self.others: list[str] = []
        for edge in architecture.candidates:
            name = EdgeName.parse(edge)
            if name is not None and name.cell in self.kept:
                self.nodes.setdefault((name.cell, name.target), []).append(edge)
            elif NodeName.parse(edge) is None:
                self.others.append(edge)

    def __call__(self) -> Probabilities:
        """Return edge -> probability (candidates,) of each candidate; 0 for those that were pruned."""
        alphas = self.architecture.alphas
        found: dict[str, Tensor] = {}
        for edge in self.others:
            found[edge] = torch.softmax(alphas[edge] + self._closed(edge, alphas[edge], edge in self.zeros), 0)
        for (cell, target), all_edges in self.nodes.items():
            edges = [edge for edge in all_edges if self.architecture.living_indices(edge)]
            found |= {edge: torch.zeros_like(alphas[edge]) for edge in all_edges if edge not in edges}
            if not edges:
                continue
            stacked = torch.stack([alphas[edge] for edge in edges])
            closed = torch.stack([self._closed(edge, alphas[edge]) for edge in edges])
            names = self.architecture.candidates[edges[0]]
            operations = [index for index, name in enumerate(names) if name != NONE]
            found |= dict(zip(edges, self._node(NodeName(cell, target), operations, stacked, closed), strict=True))
        return found

    def _closed(self, edge: str, alpha: Tensor, without_none: bool = False) -> Tensor:
        """Return −inf for candidates that the derived network cannot have, 0 for all others."""
        names, closed = self.architecture.candidates[edge], torch.zeros_like(alpha)
        living = set(self.architecture.living_indices(edge))
        eligible = {index for index in living if not (without_none and names[index] == NONE)} or living
        dead = [index for index in range(len(names)) if index not in eligible]
        if dead:
            closed[dead] = -torch.inf
        return closed

    def _node(self, node: NodeName, operations: list[int], alphas: Tensor, closed: Tensor) -> Iterable[Tensor]:
        """Return the probabilities (edges, candidates) of the operations on the edges of a node."""
        share = torch.zeros_like(alphas)
        if self.activation == "sigmoid":
            share[:, operations] = torch.sigmoid(alphas + closed)[:, operations]
            return share.unbind()
        weights = torch.softmax(alphas + closed, 1)[:, operations]
        total = weights.sum(1, keepdim=True)
        edges = self._edges(node, weights.max(1).values)
        share[:, operations] = edges[:, None] * weights / total.clamp_min(_TINY)
        return share.unbind()

    def _edges(self, node: NodeName, strengths: Tensor) -> Tensor:
        """Return the probability (edges,) that each edge of a node is kept, given their strengths."""
        kept, count = self.kept[node.cell], len(strengths)
        if count <= kept:
            return torch.full_like(strengths, kept / count)  # edges repeat in a node with fewer
        logs = strengths.clamp_min(_TINY).log()
        inputs = self.architecture.alphas.get(str(node))
        if inputs is not None:
            weights = torch.softmax(inputs, 0)
            if "+" in str(self.architecture.candidates[str(node)][0]):
                return per_input(weights)
            logs = logs + weights.clamp_min(_TINY).log()
        chosen = list(combinations(range(count), kept))
        members = torch.zeros(len(chosen), count, dtype=logs.dtype, device=logs.device)
        members[torch.arange(len(chosen))[:, None], torch.tensor(chosen)] = 1
        return torch.softmax(members @ logs, 0) @ members

    def least(self, table: CostTable) -> float:
        """Return a lower bound of the costs in the space; with sigmoid weights, cells may keep no operation."""
        costs = {edges[0]: cost for edges, cost in table.terms.items() if len(edges) == 1}
        total = float(table.fixed)
        for (cell, _), edges in self.nodes.items() if self.activation == "softmax" else ():
            operations = [i for i, name in enumerate(self.architecture.candidates[edges[0]]) if name != NONE]
            cheapest = sorted(float(costs[edge][operations].min()) for edge in edges if edge in costs)
            total += sum(cheapest[: self.kept[cell]])
        total += sum(float(costs[edge].min()) for edge in self.others if edge in costs)
        several = [cost for edges, cost in table.terms.items() if len(edges) > 1 and set(edges) <= set(self.others)]
        return total + sum(float(cost.min()) for cost in several)
