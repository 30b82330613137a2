"""DrNAS: Dirichlet Neural Architecture Search (Chen et al., ICLR 2021)."""

from __future__ import annotations

from typing import Any, Literal

from search_spaces.checks import require
from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, adam
from strategies.dirichlet import DirichletEdges, dirichlet_kl
from strategies.epoch import Epoch, Pruning
from strategies.noise import chosen_seed
from strategies.objective import evaluator_loss, total
from strategies.relaxation import UnfitSettingError
from strategies.stages import after_either_warmup, begins_second_stage
from strategies.supernet.widening import widen


def progress(keep: int | None, wider: int | None, warmup_epochs: int, seed: int) -> Pruning:
    """Return the pruning after half of the epochs: fewer candidates, more channels; see :class:`DrNAS`."""

    def pruning(epoch: Epoch) -> None:
        architecture, epochs = epoch.architecture, epoch.step.epochs
        if epochs is not None and 2 * warmup_epochs >= epochs > 1:
            raise UnfitSettingError(
                f"warmup_epochs: {warmup_epochs} should be below half of max_epochs, {epochs}: each half has a warm-up"
            )
        if not begins_second_stage(epoch, 0.5):
            return
        for edge, alphas in architecture.table().items():
            best = sorted(alphas, key=alphas.__getitem__, reverse=True)[:keep]
            architecture.prune(edge, keep=map(architecture.candidates[edge].index, best))
        if wider is not None:
            widen(epoch.model, epoch.optimizers, seed, epoch.step)

    return pruning


class DrNAS(DifferentiableStrategy):
    """The DrNAS strategy: the weights of every edge are sampled from a Dirichlet distribution, whose parameters are α.

    The defaults are the settings of the released code on NAS-Bench-201. On the space of DARTS it has ``learning_rate:
    6e-4``, ``partial_channels: 6``, ``wider_partial_channels: 4``, ``keep: 4`` and ``warmup_epochs: 10``, with 36
    channels and 20 layers.

    Args:
        reg_type: Regularization of α towards the uniform distribution. "l2": an L2 penalty of α. "kl": the divergence
            of the distribution of each edge from the uniform one.
        reg_scale: Weight of the regularization, at least 0.
        keep: Number of candidates that every edge keeps after half of the epochs, at least 1. None for all.
        partial_channels: K; candidates run on 1/K of the channels. 1 runs them on all channels.
        wider_partial_channels: K after half of the epochs, smaller than ``partial_channels``. None to keep K.
        learning_rate, betas, alpha_scale: See :class:`~strategies.darts.DARTS`.
        warmup_epochs: Epochs in which only weights are trained, at the start and, if candidates or channels change
            then, after half of the epochs.
        gradient_clip_val: See :class:`~strategies.darts.DARTS`.
        seed: Seed of the samples. None for PyTorch's seed when the strategy is created.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        reg_type: Literal["l2", "kl"] = "l2",
        reg_scale: float = 1e-3,
        keep: int | None = None,
        partial_channels: int = 1,
        wider_partial_channels: int | None = None,
        learning_rate: float = 3e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        alpha_scale: float = 1e-3,
        warmup_epochs: int = 0,
        gradient_clip_val: float | None = 5.0,
        seed: int | None = None,
        **common: Any,
    ) -> None:
        require("reg_type", repr(reg_type), reg_type in ("l2", "kl"), "l2 or kl")
        require("reg_scale", reg_scale, 0 <= reg_scale < float("inf"), "at least 0")
        require("keep", keep, keep is None or keep >= 1, "at least 1, or null for all candidates")
        wider, seed = wider_partial_channels, chosen_seed(seed)
        progressive = keep is not None or wider is not None
        super().__init__(
            Composition(
                relaxation=DirichletEdges(seed),
                optimizer=adam(learning_rate, reg_scale if reg_type == "l2" else 0.0, betas),
                objective=total(evaluator_loss, dirichlet_kl(reg_scale)) if reg_type == "kl" else evaluator_loss,
                none=False,
                alpha_scale=alpha_scale,
                warmup_epochs=warmup_epochs,
                gradient_clip_val=gradient_clip_val,
                partial_channels=partial_channels,
                wider_partial_channels=wider,
                pruning=progress(keep, wider, warmup_epochs, seed) if progressive else None,
                trains_alphas=after_either_warmup(warmup_epochs) if progressive else None,
            ),
            **common,
        )
