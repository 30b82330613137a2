"""DARTS: Differentiable Architecture Search (Liu, Simonyan and Yang, ICLR 2019)."""

from __future__ import annotations

from typing import Any

from strategies.base import DifferentiableStrategy
from strategies.bilevel import Order, gradient_of
from strategies.composition import Composition, adam
from strategies.relaxation import EveryEdge, softmax


class DARTS(DifferentiableStrategy):
    """The DARTS strategy: every edge mixes its candidates with the softmax of α, and α minimizes the validation loss.

    The defaults are the settings of the paper (section 3.1 and appendix A.1) with first order.

    Args:
        order: Approximation of the architecture gradient. "first": at the current weights (ξ = 0). "second": at the
            weights after one virtual step, for about 2.5 times the cost (section 2.3). "one-level": α and the weights
            take one step together on the training images (section 3.3).
        xi: Step size ξ of the second order, at least 0. None for the current learning rate of the weights.
        epsilon: Step size of the finite difference of the second order (Eq. 8), above 0. In bf16 the compared weights
            hardly differ, so full precision is needed.
        learning_rate: Learning rate of the α optimizer (``arc_learning_rate`` in NNI's strategies), at least 0.
        weight_decay: L2 penalty of the α optimizer, at least 0.
        betas: Adam betas of the α optimizer, each from 0 to below 1.
        none: Whether to add the candidate ``none`` to the edges of cells.
        alpha_scale: Standard deviation of the normal distribution that α is initialized from; 0 for zeros.
        warmup_epochs: Epochs in which only weights are trained.
        gradient_clip_val: Maximum norm of the gradient of the weights. None for no limit.
        recompute: Whether to recompute relaxed edges of cells in the backward pass, for less memory and more time.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
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
                none=none,
                alpha_scale=alpha_scale,
                warmup_epochs=warmup_epochs,
                gradient_clip_val=gradient_clip_val,
                recompute=recompute,
            ),
            **common,
        )
