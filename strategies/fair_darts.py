"""FairDARTS: Eliminating Unfair Advantages in Differentiable Architecture Search (Chu et al., ECCV 2020)."""

from __future__ import annotations

from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, adam
from strategies.derivation import Method, by_method
from strategies.objective import evaluator_loss, total, zero_one
from strategies.relaxation import EveryEdge, sigmoid


class FairDARTS(DifferentiableStrategy):
    """Every edge adds all its operations, each by the sigmoid of its α, which a loss drives to zero or one.

    With no argument it has the settings of the released code.

    Args:
        w_01: weight of the zero-one loss (D-DARTS, Eq. 4).
        derivation: "sparse": of the two strongest operations a node those that reach the threshold; "edge": up to
            two operations on every edge that reach it; "darts": two operations a node, as are derived, too, a cell of
            which nothing reaches it, and cells of other spaces than ours.
        threshold: from 0 to 1.
        learning_rate: of Adam for α.
        weight_decay: of Adam for α.
        betas: of Adam for α.
        alpha_scale: standard deviation of the normal distribution that α starts from; 0 for zeros.
        warmup_epochs: epochs in which weights alone are trained.
        gradient_clip_val: the largest norm of the gradient of the weights; None for no limit.
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
            )
        )
