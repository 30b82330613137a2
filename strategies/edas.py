"""EDAS: Efficient and Differentiable Architecture Search (Hong, Ahn and Kim)."""

from __future__ import annotations

import torch
from nni.nas.nn.pytorch import ModelSpace

from search_spaces.deprecation import renamed_arguments
from strategies.base import DifferentiableStrategy
from strategies.bilevel import Order, gradient_of
from strategies.composition import Composition, adam
from strategies.relaxation import SampledEdges
from strategies.sampling import policy


class EDAS(DifferentiableStrategy):
    """One edge, drawn at random in each iteration, is relaxed; every other runs its strongest candidate.

    The supernet costs little more than a derived network, so that it can be as deep (section 3.2),
    and what is validated as the supernet is the path of the strongest candidates.

    With no argument it is the variant with warm-up of section 4.1 ("EDAS warmup", "EDAS-inv");
    ``sign_flip_epochs=0`` is the plain one.

    Args:
        learning_rate: of Adam for α.
        weight_decay: of Adam for α, on the relaxed edge alone. None for the paper's: 1e-3 with
            warm-up, 0 without.
        betas: of Adam for α.
        sign_flip_epochs: Epochs in which every second iteration sees −α in place of α, the warm-up of Eq. 3.
        alpha_max: the ablation of section 5.3: no edge is relaxed for the weights.
        sampling: which edge is relaxed: "uniform" (the paper), "cyclic" (each in turn) or "entropy"
            (the more often the less its α has decided).
        relaxed_edges: edges that are relaxed in an iteration; 1 is the paper's.
        none: add the candidate ``none`` to the edges of cells.
        gradient_clip_val: the largest norm of the gradient of the weights; None for no limit.
        recompute: compute relaxed edges again in the backward pass: less memory for more time.
        seed: of the draws; None for the seed that PyTorch has when the strategy is made.
        order: of the gradient of α, as of :class:`DARTS`: "first" is the paper's. "one-level" takes it from the
            weights' own pass, at 0.6 of the time; whether it finds better networks is open (docs/quality.md).

    Raises:
        ValueError: a setting is out of its range.
    """

    @renamed_arguments(warmup_epochs="sign_flip_epochs")
    def __init__(
        self,
        learning_rate: float = 0.025,
        weight_decay: float | None = None,
        betas: tuple[float, float] = (0.5, 0.999),
        sign_flip_epochs: int = 10,
        alpha_max: bool = False,
        sampling: str = "uniform",
        relaxed_edges: int = 1,
        none: bool = True,
        gradient_clip_val: float | None = 5.0,
        recompute: bool = False,
        seed: int | None = None,
        order: Order = "first",
    ) -> None:
        if sign_flip_epochs < 0:
            raise ValueError(f"sign_flip_epochs: {sign_flip_epochs} should be at least 0")
        if alpha_max and order == "one-level":
            raise ValueError(
                "alpha_max: true should be false: with order 'one-level' α learns from the pass of the weights, in "
                "which alpha_max relaxes no edge"
            )
        if weight_decay is None:
            weight_decay = 1e-3 if sign_flip_epochs > 0 else 0.0
        super().__init__(
            Composition(
                relaxation=SampledEdges(
                    draw=policy(sampling, torch.initial_seed() if seed is None else seed, relaxed_edges),
                    sign_flip_epochs=sign_flip_epochs,
                    relax_weights=not alpha_max,
                ),
                optimizer=adam(learning_rate, weight_decay, betas),
                gradient=gradient_of(order),
                none=none,
                gradient_clip_val=gradient_clip_val,
                recompute=recompute,
            )
        )

    def mutate_model(self, model: ModelSpace) -> ModelSpace:
        """Make the model space a supernet, in place.

        Raises:
            TypeError: an input choice takes more than one input.
        """
        model = super().mutate_model(model)
        for label in sorted(self.architecture.multi_input_choices):
            raise TypeError(
                f"the input choice {label!r} takes more than one input, and a path of EDAS runs one candidate an edge: "
                "n_chosen should be 1"
            )
        return model
