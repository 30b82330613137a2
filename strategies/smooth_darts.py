"""SmoothDARTS: Stabilizing DARTS via Perturbation-based Regularization (Chen and Hsieh, ICML 2020)."""

from __future__ import annotations

from typing import Any

from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, adam
from strategies.noise import chosen_seed
from strategies.perturbation import Kind, perturbed
from strategies.relaxation import EveryEdge, softmax


class SmoothDARTS(DifferentiableStrategy):
    """The SDARTS strategy: DARTS whose weights train on perturbed softmax weights, which smooths the loss over α.

    The defaults are the settings of the released code for SDARTS-RS.

    Args:
        perturbation: "random": uniform noise (SDARTS-RS). "adversarial": the noise that raises the training loss the
            most, by projected gradient ascent (SDARTS-ADV); a weight step then takes ``attack_steps`` additional
            passes.
        epsilon: Largest change of a softmax weight at the end of the search, at least 0.
        min_epsilon: Largest change at the start of the search, at least 0. In between, it grows linearly over the
            epochs.
        attack_steps: Gradient steps of an adversarial perturbation, at least 1.
        learning_rate, weight_decay, betas, none, alpha_scale, warmup_epochs, gradient_clip_val: See
            :class:`~strategies.darts.DARTS`.
        seed: Seed of the noise. None for PyTorch's seed when the strategy is created.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        perturbation: Kind = "random",
        epsilon: float = 0.3,
        min_epsilon: float = 0.03,
        attack_steps: int = 7,
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
                relaxation=EveryEdge(softmax),
                optimizer=adam(learning_rate, weight_decay, betas),
                perturbation=perturbed(perturbation, epsilon, min_epsilon, attack_steps, chosen_seed(seed)),
                none=none,
                alpha_scale=alpha_scale,
                warmup_epochs=warmup_epochs,
                gradient_clip_val=gradient_clip_val,
            ),
            **common,
        )
