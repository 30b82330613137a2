"""DOTS: Decoupling Operation and Topology in Differentiable Architecture Search (Gu et al., CVPR 2021)."""

from __future__ import annotations

from typing import Any

from search_spaces.checks import require
from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, adam
from strategies.decoupling import Stages, TwoStages, begin_second_stage, by_stage
from strategies.topology import pairs_of_inputs


class DOTS(DifferentiableStrategy):
    """The DOTS strategy: α decides first on the operation of each edge, and then on the pair of inputs of each node.

    In the first stage, candidates without weights and those with weights are two groups, each mixed by a separate
    softmax. The second stage starts again with new weights and the best candidate of each group, and anneals one
    softmax over these two, and another over all pairs of inputs of a node.

    The defaults are the settings of the released code.

    Args:
        stages: Shares of the epochs after which α is first trained, the second stage begins, and its α is first
            trained, ascending from 0 to 1. The other epochs of a stage train weights only.
        temperatures: Temperature of the softmax over pairs at the first and at the last epoch of its annealing.
        operation_temperature: Temperature of the softmax over the two candidates of an edge, relative to that over
            pairs.
        learning_rate, weight_decay, betas, none, alpha_scale, gradient_clip_val, recompute: See
            :class:`~strategies.darts.DARTS`.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

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
        ascending = len(stages) == 3 and [0, *stages, 1] == sorted([0, *stages, 1])
        require("stages", list(stages), ascending, "three numbers that ascend from 0 to 1")
        positive = len(temperatures) == 2 and 0 < min(temperatures) <= max(temperatures) < float("inf")
        require("temperatures", list(temperatures), positive, "two numbers above 0")
        require("operation_temperature", operation_temperature, operation_temperature > 0, "above 0")
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
