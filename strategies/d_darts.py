"""D-DARTS: Distributed Differentiable Architecture Search (Heuillet et al., Pattern Recognition Letters 2023)."""

from __future__ import annotations

from typing import Any

from nni.nas.nn.pytorch import ModelSpace

from search_spaces.deprecation import renamed_arguments
from strategies.ablation import Ablation, AblationMode, CellChain
from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, adam, cosine
from strategies.derivation import Method, by_method
from strategies.noise import chosen_seed
from strategies.objective import by_cell, evaluator_loss, total, zero_one
from strategies.relaxation import EveryEdge, sigmoid
from strategies.stop_rules import small_change


class DDARTS(DifferentiableStrategy):
    """The D-DARTS strategy: every cell has its own α, loss, optimizer and schedule.

    The loss of cell i is the evaluator's loss plus the zero-one loss of its α minus its ablation loss (Eq. 8, with the
    sign of the released code), which measures the contribution of the cell. Its gradient reaches the α of cell i only.
    With the ablation loss, only spaces that are a chain of cells can be searched; in
    :class:`~search_spaces.d_darts.DDartsSpace` every layer has its own cell.

    The defaults are the settings of section 5 and of the released code. DARTOpti (section 4.4) is this strategy with
    ``warmup_epochs=5`` on :class:`~search_spaces.dartopti.DartOptiSpace`, whose identical cells share α, loss and
    optimizer.

    Args:
        w_abl: Weight of the ablation loss (section 5.2.1), at least 0. With 0, as in the paper's searches with L_F,
            there is no ablation loss and any space can be searched. It affects α only with ``ablation_gradient=True``.
        w_01: Weight of the zero-one loss (section 5.2.1), at least 0.
        ablation_mode: Replacement of an ablated cell (Eq. 6). "random": its operations with random weights, as in the
            released code. "skip": the output of the layer before it.
        ablation_gradient: Whether to differentiate the ablation loss. The released code only measures contributions.
        derivation, threshold: See :class:`~strategies.fair_darts.FairDARTS`; section 5.1.
        learning_rate: Learning rate of the α optimizer in the first epoch, at least 0.
        min_learning_rate: Learning rate at the end of the cosine schedule, at least 0.
        weight_decay, betas, warmup_epochs, gradient_clip_val: See :class:`~strategies.darts.DARTS`.
        min_alpha_change: Early stopping: the search ends after an epoch in which the sigmoids of α changed by less
            than this on average, above 0. None disables it.
        seed: Seed of the random weights. None for PyTorch's seed when the strategy is created.
        contribution_interval: Interval in batches between two measurements of the contributions, at least 1. A
            measurement takes one pass per cell; the first one is on the first batch of each epoch.
            ``ablation_gradient=True`` needs every step.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    @renamed_arguments(absent="ablation_mode", still="min_alpha_change")
    def __init__(
        self,
        w_abl: float = 0.5,
        w_01: float = 7.0,
        ablation_mode: AblationMode = "random",
        ablation_gradient: bool = False,
        derivation: Method = "sparse",
        threshold: float = 0.85,
        learning_rate: float = 3e-3,
        min_learning_rate: float = 1e-3,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        warmup_epochs: int = 0,
        gradient_clip_val: float | None = 5.0,
        min_alpha_change: float | None = None,
        seed: int | None = None,
        contribution_interval: int = 50,
        **common: Any,
    ) -> None:
        ablation = Ablation(w_abl, ablation_mode, ablation_gradient, chosen_seed(seed), contribution_interval)
        self.w_abl = w_abl
        super().__init__(
            Composition(
                relaxation=EveryEdge(sigmoid),
                optimizer=adam(learning_rate, weight_decay, betas),
                objective=total(ablation if w_abl > 0 else evaluator_loss, zero_one(w_01, by_cell)),
                grouping=by_cell,
                schedule=cosine(min_learning_rate),
                derivation=by_method(derivation, threshold),
                none=False,
                alpha_scale=0.0,
                warmup_epochs=warmup_epochs,
                gradient_clip_val=gradient_clip_val,
                stop=None if min_alpha_change is None else small_change(min_alpha_change),
            ),
            **common,
        )

    def mutate_model(self, model: ModelSpace) -> ModelSpace:
        """Turn the model space into a supernet, in place; raise a ValueError if a needed chain of cells is missing."""
        model = super().mutate_model(model)
        if self.w_abl > 0:
            CellChain(model)  # raises now instead of at the first architecture step
        return model
