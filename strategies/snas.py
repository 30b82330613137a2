"""SNAS: Stochastic Neural Architecture Search (Xie, Zheng, Liu and Lin, ICLR 2019)."""

from __future__ import annotations

from typing import Any

import torch

from search_spaces.checks import require
from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, adam, clipped
from strategies.gumbel import SampledPath
from strategies.noise import chosen_seed
from strategies.relaxation import Alphas, Plan, Step


class ConcreteEdges(SampledPath):
    """Relaxation of every edge with a sample of the concrete distribution of its α (SNAS, section 2.2)::

        softmax((α + noise) / temperature)

    Args: See :class:`SNAS`.
    """

    def __init__(self, seed: int, initial_temperature: float = 1.0, final_temperature: float = 0.03) -> None:
        super().__init__(seed)
        first, last = initial_temperature, final_temperature
        expected = f"above 0 and at most initial_temperature, {first}"
        require("final_temperature", last, 0 < last <= first < float("inf"), expected)
        self.initial, self.final = first, last

    def temperature(self, step: Step) -> float:
        """Return the temperature of an epoch."""
        return self.initial - (self.initial - self.final) * step.progress

    def architecture(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of a step; gradients reach all α."""
        temperature = self.temperature(step)
        return {edge: torch.softmax(noisy / temperature, dim=0) for edge, noisy in self.noisy(alphas, step).items()}

    weights = architecture


class SNAS(DifferentiableStrategy):
    """The SNAS strategy: every edge mixes its candidates with weights that are sampled and approach one-hot vectors.

    α and the weights take one step together on the training images; the validation images are used for validation only.
    The supernet is validated as the path of the strongest candidates. The resource constraint of the paper is not
    included.

    The defaults are those of the paper (section 3.1). It names no temperatures; these defaults are those of the
    authors.

    Args:
        initial_temperature: Temperature of the concrete distribution in the first epoch.
        final_temperature: Temperature at the end of the search, above 0; it falls linearly.
        learning_rate, weight_decay, betas, none, alpha_scale: See :class:`~strategies.darts.DARTS`.
        alpha_clip_val: Maximum norm of the gradient of α. None for no limit.
        warmup_epochs, gradient_clip_val, recompute: See :class:`~strategies.darts.DARTS`.
        seed: Seed of the samples. None for PyTorch's seed when the strategy is created.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

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
        limit = alpha_clip_val
        require("alpha_clip_val", limit, limit is None or limit > 0, "above 0, or null for no limit")
        super().__init__(
            Composition(
                relaxation=ConcreteEdges(chosen_seed(seed), initial_temperature, final_temperature),
                optimizer=clipped(adam(learning_rate, weight_decay, betas), limit),
                gradient=None,
                none=none,
                alpha_scale=alpha_scale,
                warmup_epochs=warmup_epochs,
                gradient_clip_val=gradient_clip_val,
                recompute=recompute,
            ),
            **common,
        )
