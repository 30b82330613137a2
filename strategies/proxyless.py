"""ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware (Cai, Zhu and Han, ICLR 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, OptimizerFactory, adam
from strategies.gumbel import BinaryGates
from strategies.noise import chosen_seed


def rescaled(make: OptimizerFactory) -> OptimizerFactory:
    """Return a factory of optimizers that keep the probabilities of candidates that were not sampled (section 3.2.1).

    After a step, the α with a gradient are shifted so that the sum of their exponentials is that before the step. All
    other α keep their values, regardless of momentum and weight decay.
    """

    def factory(alphas: Sequence[nn.Parameter]) -> Optimizer:
        optimizer, before = make(alphas), list[tuple[nn.Parameter, Tensor, Tensor]]()

        def remember(*_: object) -> None:
            before[:] = [(alpha, alpha.detach().clone(), alpha.grad != 0) for alpha in alphas if alpha.grad is not None]

        @torch.no_grad()
        def rescale(*_: object) -> None:
            for alpha, old, sampled in before:
                growth = _logsumexp(alpha, sampled) - _logsumexp(old, sampled)
                alpha.copy_(torch.where(sampled, alpha - growth, old))

        optimizer.register_step_pre_hook(remember)
        optimizer.register_step_post_hook(rescale)
        return optimizer

    return factory


def _logsumexp(alpha: Tensor, sampled: Tensor) -> Tensor:
    return alpha.masked_fill(~sampled, -torch.inf).logsumexp(0)


class Proxyless(DifferentiableStrategy):
    """The ProxylessNAS strategy: every edge runs one sampled candidate, and an architecture step compares two.

    It searches cells too, unlike NNI's Proxyless. The supernet is validated as the path of the strongest candidates.
    The latency term of the paper is not included.

    Args:
        weight_steps: Number of weight steps for each architecture step, at least 1.
        learning_rate, weight_decay, betas, none, alpha_scale, warmup_epochs, gradient_clip_val: See
            :class:`~strategies.darts.DARTS`.
        seed: Seed of the samples. None for PyTorch's seed when the strategy is created.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        weight_steps: int = 5,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.0, 0.999),
        none: bool = True,
        alpha_scale: float = 1e-3,
        warmup_epochs: int = 40,
        gradient_clip_val: float | None = None,
        seed: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(
            Composition(
                relaxation=BinaryGates(chosen_seed(seed)),
                optimizer=rescaled(adam(learning_rate, weight_decay, betas)),
                none=none,
                alpha_scale=alpha_scale,
                warmup_epochs=warmup_epochs,
                gradient_clip_val=gradient_clip_val,
                single_path=True,
                weight_steps=weight_steps,
            ),
            **common,
        )
