"""FairDARTS: Eliminating Unfair Advantages in Differentiable Architecture Search (Chu et al., ECCV 2020)."""

from __future__ import annotations

from typing import Any

from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, adam
from strategies.derivation import Method, by_method
from strategies.objective import evaluator_loss, total, zero_one
from strategies.relaxation import EveryEdge, sigmoid


class FairDARTS(DifferentiableStrategy):
    """The FairDARTS strategy: every edge sums its operations, weighted by sigmoids of α that a loss drives to 0 or 1.

    The defaults are the settings of the released code.

    Args:
        w_01: Weight of the zero-one loss (D-DARTS, Eq. 4), at least 0.
        derivation: Operations that a cell keeps. "sparse": those of the two strongest edges per node that reach the
            threshold. "edge": up to two per edge that reach the threshold. "darts": the two strongest edges per node,
            with the best operation of each. "darts" is also the fallback for cells in which no operation reaches the
            threshold, and for cells of third-party spaces.
        threshold: Minimum σ(α) of a kept operation, from 0 to 1; used by "sparse" and "edge".
        learning_rate, weight_decay, betas, alpha_scale, warmup_epochs, gradient_clip_val: See
            :class:`~strategies.darts.DARTS`.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        w_01: float = 10.0,
        derivation: Method = "sparse",
        threshold: float = 0.85,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        alpha_scale: float = 0.0,
        warmup_epochs: int = 0,
        gradient_clip_val: float | None = 5.0,
        **common: Any,
    ) -> None:
        super().__init__(
            Composition(
                relaxation=EveryEdge(sigmoid),
                optimizer=adam(learning_rate, weight_decay, betas),
                objective=total(evaluator_loss, zero_one(w_01)),
                derivation=by_method(derivation, threshold),
                none=False,
                alpha_scale=alpha_scale,
                warmup_epochs=warmup_epochs,
                gradient_clip_val=gradient_clip_val,
            ),
            **common,
        )
