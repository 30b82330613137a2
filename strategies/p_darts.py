"""P-DARTS: Progressive Differentiable Architecture Search (Chen, Xie, Wu and Tian, ICCV 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, adam, clipped
from strategies.derivation import ByCell, darts, few_skips
from strategies.relaxation import EveryEdge, softmax
from strategies.stages import Stages


class PDARTS(DifferentiableStrategy):
    """The P-DARTS strategy: a search in stages, with ever fewer candidates in ever deeper networks.

    Each stage has new weights and new α, trains the weights alone at first, and ends with the weakest candidates of
    every edge removed. Skip connections are dropped at random, and limited in number in the normal cell.

    The defaults are the settings for CIFAR-10 and 75 epochs. The depth grows in
    :class:`~search_spaces.progressive.ProgressiveSpace` only. For CIFAR-100 the paper uses ``dropout=[0.1, 0.2, 0.3]``.

    Args:
        keep: Number of candidates that an edge keeps, for each stage after the first.
        dropout: Initial dropout rate behind the skip connections of stride 1, for each stage, from 0 to below 1.
        warmup: Share of the epochs of a stage in which only weights are trained, from 0 to below 1; 10 of 25 epochs.
        skip_connections: Maximum number of skip connections in the derived cell ``normal``. None for no limit.
        learning_rate, weight_decay, betas, none, alpha_scale: See :class:`~strategies.darts.DARTS`.
        gradient_clip_val: Maximum norm of the gradient of the weights, and of that of α. None for no limit.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

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
        stages = Stages(keep, dropout, warmup)
        super().__init__(
            Composition(
                relaxation=EveryEdge(softmax),
                optimizer=clipped(adam(learning_rate, weight_decay, betas), gradient_clip_val),
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
