"""P-DARTS: Progressive Differentiable Architecture Search (Chen, Xie, Wu and Tian, ICCV 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from search_spaces.deprecation import argument_aliases
from strategies.base import DifferentiableStrategy
from strategies.bilevel import BilevelProblem, Gradients, first_order
from strategies.composition import Composition, adam
from strategies.derivation import ByCell, darts, few_skips
from strategies.relaxation import EveryEdge, softmax
from strategies.stages import Stages


def clipped(problem: BilevelProblem, limit: float | None) -> Gradients:
    """Return the first-order gradient of α, scaled down to a norm of at most ``limit``."""
    gradients = first_order(problem)
    norm = torch.nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])
    scale = 1.0 if limit is None else torch.clamp(limit / (norm + 1e-6), max=1.0)
    return [None if gradient is None else gradient * scale for gradient in gradients]


class PDARTS(DifferentiableStrategy):
    """The P-DARTS strategy: a search in stages, with ever fewer candidates in ever deeper networks.

    Each stage has new weights and new α, trains the weights alone at first, and ends with the weakest candidates of
    every edge removed. Skip connections are dropped at random, and limited in number in the normal cell.

    The defaults are the settings for CIFAR-10 and 75 epochs. The depth grows in
    :class:`~search_spaces.progressive.ProgressiveSpace` only. For CIFAR-100 the paper has ``dropout=[0.1, 0.2, 0.3]``.

    Args:
        keep: Number of candidates that an edge keeps, for each stage after the first.
        dropout: Initial dropout rate behind the skip connections of stride 1, for each stage, from 0 to below 1.
        warmup: Share of the epochs of a stage in which only weights are trained, from 0 to below 1; 10 of 25 epochs.
        skip_connections: Maximum number of skip connections in the derived cell ``normal``. None for no limit.
        learning_rate, weight_decay, betas, none, alpha_scale: See :class:`~strategies.darts.DARTS`.
        gradient_clip_val: Maximum norm of the gradient of the weights, and of that of α. None for no limit.
        mutation_hooks, log_prob_every_n_step: See :class:`~strategies.darts.DARTS`.

    Raises:
        ValueError: A setting is out of range.
    """

    @argument_aliases(arc_learning_rate="learning_rate")
    def __init__(
        self,
        keep: Sequence[int] = (5, 3),
        dropout: Sequence[float] = (0.0, 0.4, 0.7),
        warmup: float = 0.4,
        skip_connections: int | None = 2,
        learning_rate: float = 6e-4,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        none: bool = True,
        alpha_scale: float = 1e-3,
        gradient_clip_val: float | None = 5.0,
        **common: Any,
    ) -> None:
        if skip_connections is not None and skip_connections < 0:
            raise ValueError(f"skip_connections: {skip_connections} should be at least 0, or null for no limit")
        stages = Stages(keep, dropout, warmup)
        super().__init__(
            Composition(
                relaxation=EveryEdge(softmax),
                optimizer=adam(learning_rate, weight_decay, betas),
                gradient=partial(clipped, limit=gradient_clip_val),
                derivation=ByCell({"normal": few_skips(darts, skip_connections)}, darts),
                none=none,
                alpha_scale=alpha_scale,
                gradient_clip_val=gradient_clip_val,
                candidate=stages.with_dropout,
                pruning=stages.begin,
                trains_alphas=stages.trains_alphas,
            ),
            **common,
        )
