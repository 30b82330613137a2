"""D-DARTS: Distributed Differentiable Architecture Search (Heuillet et al., Pattern Recognition Letters 2023)."""

from __future__ import annotations

import torch
from nni.nas.nn.pytorch import ModelSpace

from search_spaces.deprecation import renamed_arguments
from strategies.ablation import Ablation, AblationMode, CellChain
from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, adam, cosine
from strategies.derivation import Method, by_method
from strategies.objective import by_cell, evaluator_loss, total, zero_one
from strategies.relaxation import EveryEdge, sigmoid


class DDARTS(DifferentiableStrategy):
    """Every cell has its own α, loss, optimizer and schedule; its loss tells how much the cell contributes.

    The loss of cell i is that of the evaluator, plus the zero-one loss of its α, minus the ablation
    loss (Eq. 8, with the sign of the released code); it reaches the α of cell i alone. It searches
    any of our spaces that is a chain of cells; in DDartsSpace every layer has its own.

    With no argument it has the settings of section 5 and of the released code.

    DARTOpti (section 4.4) is this with ``warmup_epochs=5``, searching
    :class:`~search_spaces.dartopti.DartOptiSpace`, whose identical cells share α, loss and optimizer.

    Args:
        w_abl: weight of the ablation loss (section 5.2.1); 0 leaves it out, as in the paper's searches with
            L_F, and searches any space.
        w_01: weight of the zero-one loss (section 5.2.1).
        ablation_mode: what stands for a cell that is left out (Eq. 6): "random": its operations with random
            weights, as released; "skip": the output of the layer before it.
        ablation_gradient: differentiate the ablation loss. The released code does not: it measures
            the contributions, and they move no α.
        derivation: "sparse" or "edge" (section 5.1), or "darts"; see :class:`~strategies.fair_darts.FairDARTS`.
        threshold: of the former two, from 0 to 1.
        learning_rate: of Adam for α, in the first epoch.
        min_learning_rate: where the cosine schedule ends.
        weight_decay: of Adam for α.
        betas: of Adam for α.
        warmup_epochs: epochs in which weights alone are trained.
        gradient_clip_val: the largest norm of the gradient of the weights; None for no limit.
        min_alpha_change: Early stopping: the search ends after an epoch in which the sigmoids of α changed by less
            than this on average, from 0 to 1. None disables it.
        seed: of the random weights; None for the seed that PyTorch has when the strategy is made.
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
    ) -> None:
        ablation = Ablation(w_abl, ablation_mode, ablation_gradient, torch.initial_seed() if seed is None else seed)
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
                min_alpha_change=min_alpha_change,
            )
        )

    def mutate_model(self, model: ModelSpace) -> ModelSpace:
        """Make the model space a supernet, in place.

        Raises:
            ValueError: it is no chain of cells, which the ablation loss needs.
        """
        model = super().mutate_model(model)
        if self.w_abl > 0:
            CellChain(model)  # raises, before any long work
        return model
