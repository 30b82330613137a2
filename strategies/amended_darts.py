"""Amended-DARTS: Stabilizing DARTS with Amended Gradient Estimation on Architectural Parameters (Bi et al., 2019)."""

from __future__ import annotations

from functools import partial
from typing import Any

from search_spaces.checks import require
from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, adam
from strategies.hypergradients import implicit, scaled_hessian
from strategies.relaxation import EveryEdge, softmax


class AmendedDARTS(DifferentiableStrategy):
    """The Amended-DARTS strategy: DARTS with an amending term, the implicit gradient with η H in place of H⁻¹.

    Args:
        coefficient: Weight η of the amending term, at least 0; 0 is DARTS with first order.
        epsilon: Step size of both finite differences, above 0; see :func:`~strategies.bilevel.mixed_product`. In bf16
            the compared weights hardly differ, so full precision is needed.
        learning_rate, weight_decay, betas, none, alpha_scale, warmup_epochs, gradient_clip_val: See
            :class:`~strategies.darts.DARTS`.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        coefficient: float = 0.1,
        epsilon: float = 0.01,
        learning_rate: float = 3e-4,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        none: bool = True,
        alpha_scale: float = 1e-3,
        warmup_epochs: int = 0,
        gradient_clip_val: float | None = 5.0,
        **common: Any,
    ) -> None:
        require("coefficient", coefficient, 0 <= coefficient < float("inf"), "at least 0")
        require("epsilon", epsilon, 0 < epsilon < float("inf"), "above 0")
        inverse = partial(scaled_hessian, coefficient=coefficient, epsilon=epsilon)
        super().__init__(
            Composition(
                relaxation=EveryEdge(softmax),
                optimizer=adam(learning_rate, weight_decay, betas),
                gradient=partial(implicit, inverse=inverse, epsilon=epsilon),
                none=none,
                alpha_scale=alpha_scale,
                warmup_epochs=warmup_epochs,
                gradient_clip_val=gradient_clip_val,
            ),
            **common,
        )
