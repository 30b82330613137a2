"""iDARTS: Differentiable Architecture Search with Stochastic Implicit Gradients (Zhang et al., ICML 2021)."""

from __future__ import annotations

from functools import partial
from typing import Any

from search_spaces.checks import require
from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, adam
from strategies.hypergradients import implicit, neumann_series
from strategies.relaxation import EveryEdge, softmax


class IDARTS(DifferentiableStrategy):
    """The iDARTS strategy: DARTS with the implicit gradient of α, whose inverse Hessian is a short Neumann series.

    The defaults are the settings of the released code.

    Args:
        terms: Number K of products with the Hessian in the series, at least 0. With 0 the gradient is that of DARTS'
            second order, taken at the current weights instead of those after a virtual step.
        weight_steps: Number T of weight steps for each architecture step, at least 1.
        epsilon: Step size of the finite difference that follows the series, above 0; see
            :func:`~strategies.bilevel.mixed_product`. In bf16 the compared weights hardly differ, so full precision is
            needed.
        learning_rate, weight_decay, betas, none, alpha_scale, warmup_epochs, gradient_clip_val: See
            :class:`~strategies.darts.DARTS`.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        terms: int = 2,
        weight_steps: int = 4,
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
        require("terms", terms, terms >= 0, "at least 0")
        require("epsilon", epsilon, 0 < epsilon < float("inf"), "above 0")
        super().__init__(
            Composition(
                relaxation=EveryEdge(softmax),
                optimizer=adam(learning_rate, weight_decay, betas),
                gradient=partial(implicit, inverse=partial(neumann_series, terms=terms), epsilon=epsilon),
                weight_steps=weight_steps,
                none=none,
                alpha_scale=alpha_scale,
                warmup_epochs=warmup_epochs,
                gradient_clip_val=gradient_clip_val,
            ),
            **common,
        )
