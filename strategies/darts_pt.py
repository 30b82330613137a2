"""DARTS-PT: Rethinking Architecture Selection in Differentiable NAS (Wang et al., ICLR 2021)."""

from __future__ import annotations

from typing import Any

from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, adam
from strategies.noise import chosen_seed
from strategies.projection import Projection
from strategies.relaxation import EveryEdge, softmax


class DARTSPT(DifferentiableStrategy):
    """The DARTS-PT strategy: DARTS whose operations and edges are chosen by how much the supernet loses without them.

    The choices are made in the last ``projection_epochs``, at regular intervals. Each fixes one random edge of every
    cell to the operation without which the supernet validates worst. After all edges, each choice keeps the two edges
    of a node without which it validates worst. In between, the training of the supernet continues. The defaults are the
    settings of the released code, with one choice every 5 epochs for the 17 choices of a cell of DARTS.

    Args:
        projection_epochs: Number of epochs at the end of the search in which choices are made, at least 1.
        metric: Name of the metric by which choices are made. Lower is better if it ends in ``loss``, ``error``, ``mae``
            or ``mse``, else higher.
        batch_statistics: Whether the choices normalize by the statistics of each validation batch, as in the released
            code, instead of by the running ones. False for validation images that are ordered by class.
        fixed_alphas: Whether α keeps its initial values (the paper's DARTS-PT with fixed α).
        seed: Seed of the order of edges and nodes. None for PyTorch's seed when the strategy is created.
        learning_rate, weight_decay, betas: See :class:`~strategies.darts.DARTS`.
        none: Whether to add the candidate ``none`` to the edges of cells. It is never chosen.
        alpha_scale, gradient_clip_val: See :class:`~strategies.darts.DARTS`.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        projection_epochs: int = 81,
        metric: str = "val_acc",
        batch_statistics: bool = True,
        fixed_alphas: bool = False,
        seed: int | None = None,
        learning_rate: float = 3e-4,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        none: bool = False,
        alpha_scale: float = 1e-3,
        gradient_clip_val: float | None = 5.0,
        **common: Any,
    ) -> None:
        super().__init__(
            Composition(
                relaxation=EveryEdge(softmax),
                optimizer=adam(learning_rate, weight_decay, betas),
                pruning=Projection(projection_epochs, metric, batch_statistics, chosen_seed(seed)),
                trains_alphas=(lambda step: False) if fixed_alphas else None,
                none=none,
                alpha_scale=alpha_scale,
                gradient_clip_val=gradient_clip_val,
            ),
            **common,
        )
