"""DARTS+: Improved Differentiable Architecture Search with Early Stopping (Liang et al., 2019)."""

from __future__ import annotations

from typing import Any

from strategies.base import DifferentiableStrategy
from strategies.bilevel import Order, gradient_of
from strategies.composition import Composition, adam
from strategies.relaxation import EveryEdge, softmax
from strategies.stop_rules import either, skip_count, stable_ranks


class DARTSPlus(DifferentiableStrategy):
    """The DARTS+ strategy: DARTS that ends before skip connections take over.

    The search ends after the first epoch in which one of two criteria holds: the derived normal cell has ``skip_limit``
    or more skip connections (criterion 1), or the ranks of its learnable operations have been stable for
    ``stable_epochs`` (criterion 1*). All else is first-order DARTS, with the settings of the DARTS paper.

    Args:
        skip_limit: Number of skip connections in a derived normal cell that ends the search, at least 1. None to
            disable this criterion.
        stable_epochs: Number of epochs with the same ranks that ends the search, at least 2. None to disable this
            criterion.
        order: Approximation of the architecture gradient, see :class:`~strategies.darts.DARTS`.
        xi: Step size ξ of the second order, at least 0. None for the current learning rate of the weights.
        epsilon: Step size of the finite difference of the second order, above 0.
        learning_rate, weight_decay, betas, none, alpha_scale: See :class:`~strategies.darts.DARTS`.
        warmup_epochs: Epochs in which only weights are trained; neither criterion counts them.
        gradient_clip_val, recompute: See :class:`~strategies.darts.DARTS`.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        skip_limit: int | None = 2,
        stable_epochs: int | None = 10,
        order: Order = "first",
        xi: float | None = None,
        epsilon: float = 0.01,
        learning_rate: float = 3e-4,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        none: bool = True,
        alpha_scale: float = 1e-3,
        warmup_epochs: int = 0,
        gradient_clip_val: float | None = 5.0,
        recompute: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(
            Composition(
                relaxation=EveryEdge(softmax),
                optimizer=adam(learning_rate, weight_decay, betas),
                gradient=gradient_of(order, xi, epsilon),
                stop=either(
                    None if skip_limit is None else skip_count(skip_limit),
                    None if stable_epochs is None else stable_ranks(stable_epochs, start=warmup_epochs),
                ),
                none=none,
                alpha_scale=alpha_scale,
                warmup_epochs=warmup_epochs,
                gradient_clip_val=gradient_clip_val,
                recompute=recompute,
            ),
            **common,
        )
