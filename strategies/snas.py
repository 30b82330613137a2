"""SNAS: Stochastic Neural Architecture Search (Xie, Zheng, Liu and Lin, ICLR 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from search_spaces.deprecation import argument_aliases
from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, OptimizerFactory, adam
from strategies.gumbel import ConcreteEdges


def clipped(make: OptimizerFactory, limit: float | None) -> OptimizerFactory:
    """Return a factory of optimizers that first clip the norm of the gradient of all their α."""
    if limit is None:
        return make
    if not limit > 0:
        raise ValueError(f"alpha_clip_val: {limit} should be above 0, or null for no limit")

    def factory(alphas: Sequence[nn.Parameter]) -> Optimizer:
        optimizer = make(alphas)

        def clip(*_: object) -> None:
            nn.utils.clip_grad_norm_(alphas, limit)

        optimizer.register_step_pre_hook(clip)
        return optimizer

    return factory


class SNAS(DifferentiableStrategy):
    """The SNAS strategy: every edge mixes its candidates with weights that are sampled and approach one-hot vectors.

    α and the weights take one step together on the training images; the validation images only validate. The supernet
    is validated as the path of the strongest candidates. The resource constraint of the paper is not part of this.

    The defaults are those of the paper (section 3.1), which names no temperatures; these are the authors'.

    Args:
        initial_temperature: Temperature of the concrete distribution in the first epoch.
        final_temperature: Temperature at the end of the search, above 0; it falls linearly.
        learning_rate: Learning rate of the α optimizer (``arc_learning_rate`` in NNI's strategies), at least 0.
        weight_decay: L2 penalty of the α optimizer, at least 0.
        betas: Adam betas of the α optimizer, each from 0 to below 1.
        none: Whether to add the candidate ``none`` to the edges of cells.
        alpha_scale: Standard deviation of the normal distribution that α is initialized from; 0 for zeros.
        alpha_clip_val: Maximum norm of the gradient of α. None for no limit.
        warmup_epochs: Epochs in which only weights are trained.
        gradient_clip_val: Maximum norm of the gradient of the weights. None for no limit.
        recompute: Whether to recompute relaxed edges of cells in the backward pass, for less memory and more time.
        seed: Seed of the samples. None for PyTorch's seed when the strategy is created.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    @argument_aliases(arc_learning_rate="learning_rate")
    def __init__(
        self,
        initial_temperature: float = 1.0,
        final_temperature: float = 0.03,
        learning_rate: float = 3e-4,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        none: bool = True,
        alpha_scale: float = 0.01,
        alpha_clip_val: float | None = 10.0,
        warmup_epochs: int = 0,
        gradient_clip_val: float | None = 5.0,
        recompute: bool = False,
        seed: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(
            Composition(
                relaxation=ConcreteEdges(
                    torch.initial_seed() if seed is None else seed, initial_temperature, final_temperature
                ),
                optimizer=clipped(adam(learning_rate, weight_decay, betas), alpha_clip_val),
                gradient=None,
                none=none,
                alpha_scale=alpha_scale,
                warmup_epochs=warmup_epochs,
                gradient_clip_val=gradient_clip_val,
                recompute=recompute,
            ),
            **common,
        )
