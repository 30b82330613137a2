"""β-DARTS: Beta-Decay Regularization for Differentiable Architecture Search (Ye et al., CVPR 2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from search_spaces.checks import require
from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, Objective, adam
from strategies.objective import ArchitectureBatch, evaluator_loss, total
from strategies.relaxation import EveryEdge, softmax


def beta_decay(weight: float) -> Objective:
    """Return the β-decay as a term of an objective::

        λ · mean over edges of log Σ exp(α),   λ = weight · (share of the epochs that are done)

    The logarithm is a smooth maximum of the α of an edge. Its gradient is their softmax, the weights β of DARTS: the
    stronger a candidate, the more its α is lowered.

    Args:
        weight: λ at the end of the search, at least 0.

    Raises:
        ValueError: The weight is negative.
    """
    require("weight", weight, 0 <= weight < float("inf"), "at least 0")

    def objective(batch: ArchitectureBatch) -> Tensor:
        alphas = batch.architecture.living_alphas().values()
        maxima = [torch.logsumexp(alpha, dim=0) for alpha in alphas]
        return weight * batch.step.progress * torch.stack(maxima).mean()

    return objective


class BetaDARTS(DifferentiableStrategy):
    """The β-DARTS strategy: DARTS, with a loss that grows with the epochs and keeps the softmaxes of α close together.

    The defaults are the settings of the released code. :func:`beta_decay` can be added to the objective of any other
    strategy.

    Args:
        weight: Weight λ of the β-decay at the end of the search, at least 0. It grows linearly from 0.
        learning_rate, weight_decay, betas, none, alpha_scale, warmup_epochs, gradient_clip_val, recompute: See
            :class:`~strategies.darts.DARTS`.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        weight: float = 50.0,
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
                objective=total(evaluator_loss, beta_decay(weight)),
                none=none,
                alpha_scale=alpha_scale,
                warmup_epochs=warmup_epochs,
                gradient_clip_val=gradient_clip_val,
                recompute=recompute,
            ),
            **common,
        )
