"""Discretization of a supernet by the validation loss of its parts (DARTS-PT, Algorithm 1)."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from search_spaces.checks import require
from search_spaces.edges import NONE, EdgeName
from strategies.bn_statistics import by_batch_statistics
from strategies.epoch import Epoch
from strategies.noise import generator
from strategies.relaxation import PlanEntry, Step, UnfitSettingError, WeightedOps, softmax
from strategies.supernet.architecture import Architecture
from strategies.validation import score


class Projection:
    """Pruning that makes the choices of DARTS-PT (Algorithm 1).

    Args: See :class:`~strategies.darts_pt.DARTSPT`.

    Raises:
        ValueError: The number of epochs is out of range.
    """

    def __init__(self, epochs: int, metric: str, batch_statistics: bool, seed: int) -> None:
        require("projection_epochs", epochs, epochs >= 1, "at least 1")
        self.epochs, self.metric, self.batch_statistics, self.seed = epochs, metric, batch_statistics, seed

    def __call__(self, epoch: Epoch) -> None:
        """Make the choices of an epoch; choice k of n is at epoch ⌊k · (epochs − 1) / (n − 1)⌋ of the projection."""
        total = epoch.step.epochs
        if total is None or total < self.epochs:
            raise UnfitSettingError(
                f"projection_epochs: {self.epochs} should be at most max_epochs: {total} of the evaluator"
            )
        if epoch.step.epoch == 0:  # fail in the first epoch, not at the end, if the metric is missing
            score(epoch.validate(softmax(epoch.architecture.living_alphas())), self.metric)
        cells = self.choices(epoch.architecture)
        last = max(map(len, cells), default=0) - 1
        for number in range(last + 1):
            if total - self.epochs + number * (self.epochs - 1) // max(last, 1) == epoch.step.epoch:
                for edges in (choices[number] for choices in cells if number < len(choices)):
                    if len(edges) == 1:
                        self._keep_operation(epoch, edges[0])
                    else:
                        self._keep_two(epoch, edges)

    def choices(self, architecture: Architecture) -> list[list[list[str]]]:
        """Return the choices of each cell in order: [edge] per edge, then the edges of each node with more than two.

        All edges outside cells are treated as one cell without nodes.
        """
        cells: dict[str, dict[object, list[str]]] = {}
        for edge in architecture.candidates:
            name = EdgeName.parse(edge)
            if edge not in architecture.multi_input_choices:
                cell, node = (name.cell, name.target) if name else ("", edge)
                cells.setdefault(cell, {}).setdefault(node, []).append(edge)
        return [
            self._shuffled([[edge] for edges in nodes.values() for edge in edges], f"{cell}/edges")
            + self._shuffled([edges for edges in nodes.values() if len(edges) > 2], f"{cell}/nodes")
            for cell, nodes in cells.items()
        ]

    def _shuffled(self, choices: list[list[str]], name: str) -> list[list[str]]:
        order = torch.randperm(len(choices), generator=generator(self.seed, Step(), name))
        return [choices[index] for index in order.tolist()]

    def _keep_operation(self, epoch: Epoch, edge: str) -> None:
        architecture = epoch.architecture
        weights, names = architecture.living_alphas()[edge].softmax(0), architecture.living_candidates(edge)

        def without(index: int) -> float:
            others = tuple(other for other in range(len(names)) if other != index)
            return self._validate(epoch, edge, WeightedOps(others, weights[list(others)]))  # not renormalized

        in_cell = EdgeName.parse(edge) is not None  # in other spaces none is an ordinary candidate
        eligible = [index for index, name in enumerate(names) if not (in_cell and name == NONE)]
        chosen = min(eligible, key=without) if len(eligible) > 1 else eligible[0]
        architecture.prune(edge, keep=[architecture.living_indices(edge)[chosen]])

    def _keep_two(self, epoch: Epoch, edges: list[str]) -> None:
        without = {edge: self._validate(epoch, edge, ()) for edge in edges}
        for edge in sorted(edges, key=without.__getitem__)[2:]:
            epoch.architecture.prune(edge, keep=())

    @torch.no_grad()
    def _validate(self, epoch: Epoch, edge: str, entry: PlanEntry) -> float:
        """Return the validation score of the supernet with another entry for an edge; higher is better."""
        with by_batch_statistics(epoch.model) if self.batch_statistics else nullcontext():
            metrics = epoch.validate({**softmax(epoch.architecture.living_alphas()), edge: entry})
        return score(metrics, self.metric)
