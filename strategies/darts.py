"""DARTS: Differentiable Architecture Search (Liu, Simonyan and Yang, ICLR 2019)."""

from __future__ import annotations

from strategies.base import DifferentiableStrategy, adam
from strategies.relaxation import Softmax


class DARTS(DifferentiableStrategy):
    """Every edge mixes all its candidates by the softmax of its α; first-order gradient of α.

    With no argument it has the settings of the paper (section 3.1 and appendix A.1).

    Args:
        learning_rate: of Adam for α.
        weight_decay: of Adam for α.
        betas: of Adam for α.
        none: add the candidate ``none`` to the edges of cells.
        warmup_epochs: epochs in which weights alone are trained.
        gradient_clip_val: the largest norm of the gradient of the weights; None for no limit.
    """

    def __init__(
        self,
        learning_rate: float = 3e-4,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        none: bool = True,
        warmup_epochs: int = 0,
        gradient_clip_val: float | None = 5.0,
    ) -> None:
        super().__init__(
            relaxation=Softmax(),
            optimizer=adam(learning_rate, weight_decay, betas),
            none=none,
            weights_first=warmup_epochs,
            gradient_clip_val=gradient_clip_val,
        )
