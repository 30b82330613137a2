"""GDAS: Searching for a Robust Neural Architecture in Four GPU Hours (Dong and Yang, CVPR 2019)."""

from __future__ import annotations

from typing import Any

import torch

from strategies.base import DifferentiableStrategy
from strategies.bilevel import BilevelProblem, Gradients, first_order
from strategies.composition import Composition, adam
from strategies.gumbel import HardGumbelSoftmax
from strategies.noise import chosen_seed


def first_order_of_all(problem: BilevelProblem) -> Gradients:
    """Return the first-order gradient, with zeros for edges that run ``none``, so that Adam steps all α together."""
    return [
        torch.zeros_like(alpha) if gradient is None else gradient
        for alpha, gradient in zip(problem.alphas, first_order(problem), strict=True)
    ]


class GDAS(DifferentiableStrategy):
    """The GDAS strategy: every edge runs one candidate, sampled by hard Gumbel-softmax.

    A step costs as much as one of a derived network with all edges. The supernet is validated as the path of the
    strongest candidates. The defaults are the settings of the paper (section 4).

    Args:
        tau_max: Temperature τ of the Gumbel-softmax in the first epoch.
        tau_min: τ in the last epoch, above 0; it falls linearly.
        learning_rate, weight_decay, betas, none, alpha_scale, warmup_epochs, gradient_clip_val: See
            :class:`~strategies.darts.DARTS`.
        seed: Seed of the samples. None for PyTorch's seed when the strategy is created.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        tau_max: float = 10.0,
        tau_min: float = 0.1,
        learning_rate: float = 3e-4,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        none: bool = True,
        alpha_scale: float = 1e-3,
        warmup_epochs: int = 0,
        gradient_clip_val: float | None = 5.0,
        seed: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(
            Composition(
                relaxation=HardGumbelSoftmax(chosen_seed(seed), tau_max, tau_min),
                optimizer=adam(learning_rate, weight_decay, betas),
                gradient=first_order_of_all,
                none=none,
                alpha_scale=alpha_scale,
                warmup_epochs=warmup_epochs,
                gradient_clip_val=gradient_clip_val,
                single_path=True,
            ),
            **common,
        )
