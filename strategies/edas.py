"""EDAS: Efficient and Differentiable Architecture Search (Hong, Ahn and Kim)."""

from __future__ import annotations

from typing import Any

from search_spaces.checks import require
from search_spaces.deprecation import renamed_arguments
from strategies.base import DifferentiableStrategy
from strategies.bilevel import Order, gradient_of
from strategies.composition import Composition, adam
from strategies.noise import chosen_seed
from strategies.relaxation import Flip, SampledEdges
from strategies.sampling import path_policy, policy


class EDAS(DifferentiableStrategy):
    """The EDAS strategy: each iteration relaxes one random edge, and every other edge runs its strongest candidate.

    The supernet costs little more than a derived network, so it can be as deep (section 3.2). It is validated as the
    path of the strongest candidates.

    The defaults are the variant with warm-up of section 4.1 ("EDAS warmup", "EDAS-inv"); ``sign_flip_epochs=0`` is the
    plain variant.

    Args:
        weight_decay: L2 penalty of the α optimizer, at least 0; it applies to relaxed edges only. None for the values
            of the paper: 1e-3 with warm-up, 0 without.
        sign_flip_epochs: Epochs in which every second iteration uses −α instead of α (see ``flip``), the warm-up of
            Eq. 3.
        alpha_max: Whether to relax no edge in weight steps, the ablation of section 5.3.
        sampling: Distribution of the relaxed edge: "uniform" (the paper), "cyclic" (each in turn) or "entropy"
            (in proportion to the entropy of the softmax of its α).
        relaxed_edges: Number of edges that an iteration relaxes, at least 1; 1 in the paper.
        learning_rate, betas, none, gradient_clip_val, recompute: See :class:`~strategies.darts.DARTS`.
        seed: Seed of the sampling. None for PyTorch's seed when the strategy is created.
        order: Approximation of the architecture gradient, see :class:`~strategies.darts.DARTS`; "first" in the paper.
            "one-level" takes 0.6 of the time.
        flip: Steps that use −α during the warm-up: "weights" for weight steps, or "both" for architecture steps too,
            which reverses the sign of their gradient. None for "weights", or for "both" with the order "one-level", in
            which α and the weights share a pass.
        weights_first_epochs: Epochs at the start in which only weights are trained, with every edge relaxed; 0 in the
            paper. These epochs take as much time and memory as DARTS.
        path: Candidates that unrelaxed edges run: "strongest" (the paper), or "sampled" by the softmax of α, so that a
            short search does not settle on its initial candidates (docs/quality.md). Without ``weights_first_epochs``,
            "sampled" favours operations without weights.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    warmup_argument = "weights_first_epochs"

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
        flip: Flip | None = None,
        weights_first_epochs: int = 0,
        path: str = "strongest",
        **common: Any,
    ) -> None:
        require("sign_flip_epochs", sign_flip_epochs, sign_flip_epochs >= 0, "at least 0")
        require("weights_first_epochs", weights_first_epochs, weights_first_epochs >= 0, "at least 0")
        joint = order == "one-level"
        no_joint = "false: with order 'one-level' α learns from the pass of the weights, in which it relaxes no edge"
        no_first = "false: weights_first_epochs relaxes every edge in weight steps"
        both = "'both': with order 'one-level' α and the weights share a pass"
        require("alpha_max", "true", not (alpha_max and joint), no_joint)
        require("alpha_max", "true", not (alpha_max and weights_first_epochs), no_first)
        require("flip", "'weights'", not (flip == "weights" and joint), both)
        if weight_decay is None:
            weight_decay = 1e-3 if sign_flip_epochs > 0 else 0.0
        seed = chosen_seed(seed)
        super().__init__(
            Composition(
                relaxation=SampledEdges(
                    draw=policy(sampling, seed, relaxed_edges),
                    sign_flip_epochs=sign_flip_epochs,
                    flip=flip or ("both" if joint else "weights"),
                    relax_weights=not alpha_max,
                    weights_first_epochs=weights_first_epochs,
                    path=path_policy(path, seed),
                ),
                optimizer=adam(learning_rate, weight_decay, betas),
                gradient=gradient_of(order),
                none=none,
                warmup_epochs=weights_first_epochs,
                gradient_clip_val=gradient_clip_val,
                single_path=True,
                recompute=recompute,
            ),
            **common,
        )
