"""OLES: Operation-Level Early Stopping for Robustifying Differentiable NAS (Jiang et al., NeurIPS 2023)."""

from __future__ import annotations

from typing import Any

from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, adam
from strategies.operation_stopping import OperationStopping
from strategies.relaxation import EveryEdge, softmax


class OLES(DifferentiableStrategy):
    """The OLES strategy: DARTS that ends the training of each operation when it overfits the training images.

    The weights of an operation are frozen when their gradients on training and on validation images differ in
    direction, on average over ``window`` iterations. The training of α and all other weights continues. The defaults
    are the settings of the released code.

    Args:
        threshold: Mean cosine similarity of the gradients below which an operation is frozen, from −1 to 1.
        window: Number of iterations in the mean, at least 1.
        accumulated: Whether the training gradient is compared with its sum with the validation gradient, as in the
            released code, instead of with the validation gradient alone (the paper). The threshold depends on it.
        learning_rate, weight_decay, betas, none, alpha_scale, warmup_epochs, gradient_clip_val: See
            :class:`~strategies.darts.DARTS`.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        threshold: float = 0.4,
        window: int = 20,
        accumulated: bool = True,
        learning_rate: float = 3e-4,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        none: bool = True,
        alpha_scale: float = 1e-3,
        warmup_epochs: int = 0,
        gradient_clip_val: float | None = 5.0,
        **common: Any,
    ) -> None:
        self.early_stopping = OperationStopping(threshold, window, accumulated)
        super().__init__(
            Composition(
                relaxation=EveryEdge(softmax),
                optimizer=adam(learning_rate, weight_decay, betas),
                gradient=self.early_stopping.gradient,
                candidate=self.early_stopping.watch,
                pruning=self.early_stopping.begin,
                none=none,
                alpha_scale=alpha_scale,
                warmup_epochs=warmup_epochs,
                gradient_clip_val=gradient_clip_val,
            ),
            **common,
        )
