"""DARTS-PT: Rethinking Architecture Selection in Differentiable NAS (Wang et al., ICLR 2021)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from search_spaces.deprecation import argument_aliases
from search_spaces.edges import NONE, EdgeName
from strategies.base import DifferentiableStrategy
from strategies.bn_statistics import by_batch_statistics
from strategies.composition import Composition, adam
from strategies.epoch import Epoch
from strategies.noise import generator
from strategies.relaxation import EveryEdge, PlanEntry, Step, UnfitSettingError, WeightedOps, softmax
from strategies.supernet.architecture import Architecture
from strategies.validation import lower_is_better


class DARTSPT(DifferentiableStrategy):
    """The DARTS-PT strategy: DARTS whose operations and edges are chosen by how much the supernet loses without them.

    The choices are made in the last ``projection_epochs``, at regular distances. Each fixes one random edge of every
    cell to the operation without which the supernet validates worst. After all edges, each choice keeps the two edges
    of a node without which it validates worst. In between, the supernet is trained on. The defaults are the settings of
    the released code, with one choice every 5 epochs for the 17 choices of a cell of DARTS.

    Args:
        projection_epochs: Number of last epochs in which choices are made, at least 1.
        metric: Name of the metric that choices are made by. Lower is better if it ends in ``loss``, ``error``, ``mae``
            or ``mse``, else higher.
        batch_statistics: Whether the choices normalize by the statistics of each validation batch, as in the released
            code, instead of by the running ones. False for validation images that are ordered by class.
        fixed_alphas: Whether α keeps its initial values (the paper's DARTS-PT with fixed α).
        seed: Seed of the order of edges and nodes. None for PyTorch's seed when the strategy is created.
        learning_rate: Learning rate of the α optimizer (``arc_learning_rate`` in NNI's strategies), at least 0.
        weight_decay: L2 penalty of the α optimizer, at least 0.
        betas: Adam betas of the α optimizer, each from 0 to below 1.
        none: Whether to add the candidate ``none`` to the edges of cells. It is never chosen.
        alpha_scale: Standard deviation of the normal distribution that α is initialized from; 0 for zeros.
        gradient_clip_val: Maximum norm of the gradient of the weights. None for no limit.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    @argument_aliases(arc_learning_rate="learning_rate")
    def __init__(
        self,
        projection_epochs: int = 81,
        metric: str = "val_acc",
        batch_statistics: bool = True,
        fixed_alphas: bool = False,
        seed: int | None = None,
        learning_rate: float = 3e-4,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        none: bool = False,
        alpha_scale: float = 1e-3,
        gradient_clip_val: float | None = 5.0,
        **common: Any,
    ) -> None:
        seed = torch.initial_seed() if seed is None else seed
        super().__init__(
            Composition(
                relaxation=EveryEdge(softmax),
                optimizer=adam(learning_rate, weight_decay, betas),
                pruning=Projection(projection_epochs, metric, batch_statistics, seed),
                trains_alphas=(lambda step: False) if fixed_alphas else None,
                none=none,
                alpha_scale=alpha_scale,
                gradient_clip_val=gradient_clip_val,
            ),
            **common,
        )


class Projection:
    """Makes the choices of DARTS-PT (Algorithm 1); a pruning part of a composition.

    Args: See :class:`DARTSPT`.

    Raises:
        ValueError: The number of epochs is out of range.
    """

    def __init__(self, epochs: int, metric: str, batch_statistics: bool, seed: int) -> None:
        if epochs < 1:
            raise ValueError(f"projection_epochs: {epochs} should be at least 1")
        self.epochs, self.metric, self.batch_statistics, self.seed = epochs, metric, batch_statistics, seed

    def __call__(self, epoch: Epoch) -> None:
        """Make the choices of an epoch: number k of n at epoch ⌊k · (epochs − 1) / (n − 1)⌋ of the projection."""
        total = epoch.step.epochs
        if total is None or total < self.epochs:
            raise UnfitSettingError(
                f"projection_epochs: {self.epochs} should be at most max_epochs: {total} of the evaluator"
            )
        if epoch.step.epoch == 0:  # that what the last epochs need is there is found in the first
            self._metric_of(epoch.validate(softmax(epoch.architecture.living_alphas())))
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
        """Return the choices of each cell in order: first [edge] for each edge, then the edges of each node of several.

        All edges outside cells are those of one cell without nodes.
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

        in_cell = EdgeName.parse(edge) is not None  # elsewhere, none is an operation of the space
        eligible = [index for index, name in enumerate(names) if not (in_cell and name == NONE)]
        chosen = min(eligible, key=without) if len(eligible) > 1 else eligible[0]
        architecture.prune(edge, keep=[architecture.living_indices(edge)[chosen]])

    def _keep_two(self, epoch: Epoch, edges: list[str]) -> None:
        without = {edge: self._validate(epoch, edge, ()) for edge in edges}
        for edge in sorted(edges, key=without.__getitem__)[2:]:
            epoch.architecture.prune(edge, keep=())

    @torch.no_grad()
    def _validate(self, epoch: Epoch, edge: str, entry: PlanEntry) -> float:
        """Return how well the supernet validates with another entry for an edge: higher is better."""
        with by_batch_statistics(epoch.model) if self.batch_statistics else nullcontext():
            metrics = epoch.validate({**softmax(epoch.architecture.living_alphas()), edge: entry})
        return self._metric_of(metrics)

    def _metric_of(self, metrics: dict[str, float]) -> float:
        if self.metric not in metrics:
            known = ", ".join(metrics) or "what validation_step logs, which is nothing"
            raise UnfitSettingError(f"metric: {self.metric!r} should be one of {known}")
        return -metrics[self.metric] if lower_is_better(self.metric) else metrics[self.metric]
