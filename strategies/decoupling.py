"""Search for the operations first, and for the pair of inputs of each node afterwards (DOTS, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from search_spaces.edges import CellAlphas, NodeAlphas
from search_spaces.extensions import HasStages
from strategies.derivation import DerivedEdge, keeps_inputs, softmax, strongest
from strategies.epoch import Epoch
from strategies.groups import are_operations, groups, keep_strongest, softmax_by_group, weights_by_group
from strategies.relaxation import Alphas, Plan, Step
from strategies.stages import begins_second_stage
from strategies.supernet.architecture import Architecture
from strategies.topology import is_node, per_input

Stages = tuple[float, float, float]


class TwoStages:
    """The relaxation of DOTS.

    Args:
        architecture: Function that returns the architecture, which holds the names of the candidates.
        stages, temperatures, operation_temperature: See :class:`~strategies.dots.DOTS`.
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
        """Return the plan of either kind of step; in the first stage, the inputs of nodes have no weights."""
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
        """Return the temperature of an epoch of the second stage, which decreases by the same factor every epoch."""
        (first, last), start, epoch = self.temperatures, self.stages[2], 1 / (step.epochs or 1)
        done = (step.progress - start) / max(1 - epoch - start, epoch)
        return first * (last / first) ** min(max(done, 0.0), 1.0)


def begin_second_stage(epoch: Epoch, start: float) -> None:
    """Prune every edge to the strongest operation of each group, and restart, once per search.

    Args:
        epoch: The epoch that begins.
        start: Share of the epochs after which the second stage begins.
    """
    if isinstance(epoch.model, HasStages) and epoch.step.progress >= start:
        epoch.model.enter_stage(1)  # in every epoch, because a resumed search needs it
    if begins_second_stage(epoch, start):
        keep_strongest(epoch.architecture)
        epoch.restart()


@keeps_inputs
def by_stage(cell: CellAlphas, nodes: NodeAlphas, *, inputs: int = 2) -> list[DerivedEdge]:
    """Return the strongest operations of a cell; in the second stage, those on the strongest pair of inputs per node.

    In the first stage the weights are those of the relaxation. In the second, an edge has one operation of each group.

    Args:
        cell: The α of the cell.
        nodes: The α of the pairs of inputs of its nodes.
        inputs: Number of edges kept per node in the first stage; it is 2 in the second.
    """
    if any(len(part) > 1 for alphas in cell.values() for part in groups(alphas)):
        return strongest({edge: weights_by_group(alphas) for edge, alphas in cell.items()}, inputs)
    pairs = {target: max(alphas, key=alphas.__getitem__).split("+") for target, alphas in nodes.items()}
    # A node with a single input has no pairs.
    kept = [edge for edge in cell if str(edge[0]) in pairs.get(edge[1], [str(edge[0])])]
    return strongest({edge: softmax(cell[edge]) for edge in kept}, 2)
