"""DARTS: Differentiable Architecture Search (Liu, Simonyan and Yang, ICLR 2019)."""

from __future__ import annotations

from strategies.base import DifferentiableStrategy
from strategies.bilevel import Order, gradient_of
from strategies.composition import Composition, adam
from strategies.relaxation import EveryEdge, softmax


class DARTS(DifferentiableStrategy):
    """Every edge mixes all its candidates by the softmax of its α, which descends the validation loss.

    With no argument it has the settings of the paper (section 3.1 and appendix A.1), first order.

    Args:
        order: "first": the gradient of α at the present weights (ξ = 0). "second": at the weights
            one virtual step on, at about 2.5 times the cost (section 2.3). "one-level": α and the
            weights take one step together on the training images (section 3.3).
        xi: ξ of the second order; None for the learning rate that the weights have at the moment.
        epsilon: of the finite difference of the second order (Eq. 8). In bf16 the weights that it
            compares are hardly apart: use full precision.
        learning_rate: of Adam for α.
        weight_decay: of Adam for α.
        betas: of Adam for α.
        none: add the candidate ``none`` to the edges of cells.
        alpha_scale: standard deviation of the normal distribution that α starts from; 0 for zeros.
        warmup_epochs: epochs in which weights alone are trained.
        gradient_clip_val: the largest norm of the gradient of the weights; None for no limit.
        recompute: compute relaxed edges again in the backward pass: less memory for more time.
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
            )
        )
