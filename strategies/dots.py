"""DOTS: Decoupling Operation and Topology in Differentiable Architecture Search (Gu et al., CVPR 2021)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from search_spaces.deprecation import argument_aliases
from search_spaces.edges import NONE, CellAlphas, NodeAlphas
from search_spaces.extensions import HasStages
from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, adam
from strategies.derivation import DerivedEdge, keeps_inputs, softmax, strongest
from strategies.epoch import Epoch
from strategies.relaxation import Alphas, Plan, Step
from strategies.supernet.architecture import Architecture
from strategies.topology import is_node, pairs_of_inputs, per_input

Stages = tuple[float, float, float]


class DOTS(DifferentiableStrategy):
    """The DOTS strategy: α decides first on the operation of each edge, and then on the pair of inputs of each node.

    In the first stage, candidates without weights and those with weights are two groups, each mixed by a softmax of
    its own. The second stage starts again with new weights and the best candidate of each group, and anneals one
    softmax over these two, and another over all pairs of inputs of a node.

    The defaults are the settings of the released code.

    Args:
        stages: Shares of the epochs after which α is first trained, the second stage begins, and its α is first
            trained, ascending from 0 to 1. The other epochs of a stage train weights only.
        temperatures: Temperature of the softmax over pairs at the first and at the last epoch of its annealing.
        operation_temperature: Temperature of the softmax over the two candidates of an edge, relative to that over
            pairs.
        learning_rate: Learning rate of the α optimizer (``arc_learning_rate`` in NNI's strategies), at least 0.
        weight_decay: L2 penalty of the α optimizer, at least 0.
        betas: Adam betas of the α optimizer, each from 0 to below 1.
        none: Whether to add the candidate ``none`` to the edges of cells.
        alpha_scale: Standard deviation of the normal distribution that α is initialized from; 0 for zeros.
        gradient_clip_val: Maximum norm of the gradient of the weights. None for no limit.
        recompute: Whether to recompute relaxed edges of cells in the backward pass, for less memory and more time.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    @argument_aliases(arc_learning_rate="learning_rate")
    def __init__(
        self,
        stages: Stages = (15 / 70, 30 / 70, 50 / 70),
        temperatures: tuple[float, float] = (10.0, 0.02),
        operation_temperature: float = 1e-3,
        learning_rate: float = 3e-4,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        none: bool = True,
        alpha_scale: float = 0.0,
        gradient_clip_val: float | None = 5.0,
        recompute: bool = False,
        **common: Any,
    ) -> None:
        if len(stages) != 3 or not 0 <= stages[0] <= stages[1] <= stages[2] <= 1:
            raise ValueError(f"stages: {list(stages)} should be three numbers that ascend from 0 to 1")
        if len(temperatures) != 2 or not 0 < min(temperatures) <= max(temperatures) < float("inf"):
            raise ValueError(f"temperatures: {list(temperatures)} should be two numbers above 0")
        if not operation_temperature > 0:
            raise ValueError(f"operation_temperature: {operation_temperature} should be above 0")
        operations, second, pairs = stages
        super().__init__(
            Composition(
                relaxation=TwoStages(lambda: self.architecture, stages, temperatures, operation_temperature),
                optimizer=adam(learning_rate, weight_decay, betas),
                trains_alphas=lambda step: operations <= step.progress < second or step.progress >= pairs,
                joint=lambda step: step.progress >= second,
                topology=pairs_of_inputs,
                pruning=lambda epoch: begin_second_stage(epoch, second),
                derivation=by_stage,
                none=none,
                alpha_scale=alpha_scale,
                gradient_clip_val=gradient_clip_val,
                recompute=recompute,
            ),
            **common,
        )


class TwoStages:
    """The relaxation of DOTS.

    Args:
        architecture: Returns the architecture, which knows the names of the candidates.
        stages, temperatures, operation_temperature: See :class:`DOTS`.
    """

    activation: Literal["softmax", "sigmoid"] = "softmax"

    def __init__(
        self,
        architecture: Callable[[], Architecture],
        stages: Stages,
        temperatures: tuple[float, float],
        operation_temperature: float,
    ) -> None:
        self.current, self.stages, self.temperatures = architecture, stages, temperatures
        self.operation_temperature = operation_temperature

    def architecture(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of either step: the inputs of nodes have no weights in the first stage."""
        names = self.current().candidates
        if step.progress < self.stages[1]:
            return {edge: softmax_by_group(alpha, names[edge]) for edge, alpha in alphas.items() if not is_node(edge)}
        plan, temperature = {}, self.temperature(step)
        for edge, alpha in alphas.items():
            scale = self.operation_temperature if are_operations(edge, names[edge]) else 1.0
            weights = torch.softmax(alpha / (scale * temperature), dim=0)
            plan[edge] = per_input(weights) if is_node(edge) else weights
        return plan

    weights = architecture

    def evaluation(self, alphas: Alphas) -> Plan:
        """Return the plan by which the supernet is validated."""
        step = self.current().step
        return self.architecture(alphas, step if step.epochs else Step(epochs=1))  # unknown before the first step

    def temperature(self, step: Step) -> float:
        """Return the temperature of an epoch of the second stage, in which it falls by the same factor every epoch."""
        (first, last), start, epoch = self.temperatures, self.stages[2], 1 / (step.epochs or 1)
        done = (step.progress - start) / max(1 - epoch - start, epoch)
        return first * (last / first) ** min(max(done, 0.0), 1.0)


def groups(names: Iterable[Any]) -> list[list[int]]:
    """Return the indices of candidates without weights, as their names say, and those of all others."""
    free = [re.search("none|skip|identity|pool", str(name)) is not None for name in names]
    parts = ([index for index, one in enumerate(free) if one is kind] for kind in (True, False))
    return [part for part in parts if part]


def softmax_by_group(alpha: Tensor, names: Iterable[Any]) -> Tensor:
    """Return the softmax of α (candidates,) within each group."""
    weights: dict[int, Tensor] = {}
    for part in groups(names):
        weights |= zip(part, torch.stack([alpha[index] for index in part]).softmax(dim=0), strict=True)
    return torch.stack([weights[index] for index in range(len(alpha))])


def are_operations(edge: str, names: Iterable[Any]) -> bool:
    """Return whether the candidates of an edge are operations, and not inputs or values."""
    return not is_node(edge) and all(isinstance(name, str) for name in names)


def begin_second_stage(epoch: Epoch, start: float) -> None:
    """Prune every edge to the strongest operation of each group, and restart, once in a search.

    Args:
        epoch: The epoch that begins.
        start: Share of the epochs after which the second stage begins.
    """
    if epoch.step.progress < start:
        return
    if isinstance(epoch.model, HasStages):
        epoch.model.enter_stage(1)
    if epoch.memory.get("second stage"):
        return
    epoch.memory["second stage"] = True
    for edge, alphas in epoch.architecture.table().items():
        if are_operations(edge, alphas):
            names, values, parts = list(alphas), list(alphas.values()), groups(alphas)
            if len(parts) == 1:  # what it keeps will run
                parts = [[index for index in parts[0] if names[index] != NONE]]
            epoch.architecture.prune(edge, [max(part, key=values.__getitem__) for part in parts])
    epoch.restart()


@keeps_inputs
def by_stage(cell: CellAlphas, nodes: NodeAlphas, *, inputs: int = 2) -> list[DerivedEdge]:
    """Return the strongest operations of a cell, in the second stage those of the strongest pair of inputs per node.

    In the first stage the weights are those of the relaxation. In the second, an edge has one operation of each group.

    Args:
        cell: The α of the cell.
        nodes: The α of the pairs of inputs of its nodes.
        inputs: Number of edges kept per node in the first stage; it is 2 in the second.
    """
    if any(len(part) > 1 for alphas in cell.values() for part in groups(alphas)):
        return strongest({edge: _weights_by_group(alphas) for edge, alphas in cell.items()}, inputs)
    pairs = {target: max(alphas, key=alphas.__getitem__).split("+") for target, alphas in nodes.items()}
    # A node with a single input has no pairs.
    kept = [edge for edge in cell if str(edge[0]) in pairs.get(edge[1], [str(edge[0])])]
    return strongest({edge: softmax(cell[edge]) for edge in kept}, 2)


def _weights_by_group(alphas: Mapping[str, float]) -> dict[str, float]:
    names = list(alphas)
    weights: dict[str, float] = {}
    for part in groups(names):
        weights |= softmax({names[index]: alphas[names[index]] for index in part})
    return weights
