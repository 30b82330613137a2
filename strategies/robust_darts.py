"""RobustDARTS: Understanding and Robustifying Differentiable Architecture Search (Zela et al., ICLR 2020)."""

from __future__ import annotations

from typing import Any

from torch import nn

from search_spaces.checks import require
from strategies.base import DifferentiableStrategy
from strategies.bilevel import Order, gradient_of
from strategies.composition import Composition, adam
from strategies.dropout import ScheduledDropout, drop_paths, linear_rate
from strategies.relaxation import EveryEdge, softmax
from strategies.stop_rules import dominant_eigenvalue
from strategies.supernet.architecture import Architecture


class RobustDARTS(DifferentiableStrategy):
    """The RobustDARTS strategy: DARTS that ends when the curvature of the validation loss rises, with drop-path.

    The curvature is the largest eigenvalue of the Hessian of the validation loss for α. When its local average rises by
    ``stop_factor``, the search ends, and the α from before the rise are derived (DARTS-ES). The defaults are the
    settings of the released code. R-DARTS (DP) sets ``drop_path``; R-DARTS (L2) is the weight decay of the evaluator.

    Args:
        stop_factor: Rise of the local average that ends the search, above 0. None for a search of all epochs.
        every: Interval in epochs between two eigenvalues, at least 1.
        window: Number of eigenvalues in a local average, odd.
        distance: Number of eigenvalues between the two averages that are compared, at least 1.
        start: First epoch to which α may be reset.
        drop_path: Probability of dropping a candidate in the last epoch, from 0 to below 1; it grows linearly from 0.
        order: Approximation of the architecture gradient, see :class:`~strategies.darts.DARTS`.
        xi: Step size ξ of the second order, at least 0. None for the current learning rate of the weights.
        epsilon: Step size of the finite difference of the second order, above 0.
        learning_rate, weight_decay, betas, none, alpha_scale, gradient_clip_val: See :class:`~strategies.darts.DARTS`.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        stop_factor: float | None = 1.3,
        every: int = 2,
        window: int = 5,
        distance: int = 4,
        start: int = 10,
        drop_path: float = 0.0,
        order: Order = "second",
        xi: float | None = None,
        epsilon: float = 0.01,
        learning_rate: float = 3e-4,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        none: bool = True,
        alpha_scale: float = 1e-3,
        gradient_clip_val: float | None = 5.0,
        **common: Any,
    ) -> None:
        require("drop_path", drop_path, 0 <= drop_path < 1, "from 0 to below 1")
        if stop_factor is not None and order == "one-level":
            raise ValueError("order: 'one-level' should be 'first' or 'second': the stop needs validation batches")
        stop = None if stop_factor is None else dominant_eigenvalue(stop_factor, every, window, distance, start)

        def dropped(name: str, module: nn.Module, architecture: Architecture) -> nn.Module:
            return nn.Sequential(module, ScheduledDropout(drop_paths, linear_rate(drop_path), architecture))

        super().__init__(
            Composition(
                relaxation=EveryEdge(softmax),
                optimizer=adam(learning_rate, weight_decay, betas),
                gradient=gradient_of(order, xi, epsilon),
                stop=stop,
                candidate=dropped if drop_path else None,
                none=none,
                alpha_scale=alpha_scale,
                gradient_clip_val=gradient_clip_val,
            ),
            **common,
        )
