"""Stages of a search, between which the candidates are narrowed (P-DARTS, section 3.2.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn import functional

from search_spaces.checks import require
from search_spaces.edges import NONE, SKIP
from search_spaces.extensions import HasStages
from strategies.dropout import ScheduledDropout
from strategies.epoch import Epoch
from strategies.relaxation import Step
from strategies.supernet.architecture import Architecture

DECAY = 0.2
"""Rate per epoch at which the dropout decays while α is trained, as in the released code."""


def begins_second_stage(epoch: Epoch, start: float) -> bool:
    """Return whether a search of two stages enters its second stage now; true once per search.

    Args:
        epoch: The epoch that begins.
        start: Share of the epochs after which the second stage begins.
    """
    begins = epoch.step.progress >= start and not epoch.memory.get("second stage")
    if begins:
        epoch.memory["second stage"] = True
    return begins


def after_either_warmup(epochs: int) -> Callable[[Step], bool]:
    """Return a function that returns whether α is trained: in each half of the search, after the first epochs."""
    return lambda step: step.epoch >= epochs and not 0 <= 2 * step.epoch - (step.epochs or 0) < 2 * epochs


@dataclass(frozen=True)
class Stages:
    """Equal parts of a search, each of which starts with new weights and new α.

    Args:
        keep: Number of candidates with the highest α that an edge keeps, for each stage after the first.
        dropout: Dropout rate at the start of each stage.
        warmup: Share of the epochs at the start of each stage in which only weights are trained.

    Raises:
        ValueError: A setting is out of range.
    """

    keep: Sequence[int]
    dropout: Sequence[float]
    warmup: float

    def __post_init__(self) -> None:
        if not all(count >= 1 for count in self.keep):
            raise ValueError(f"keep: {list(self.keep)} should be numbers of candidates, each at least 1")
        if len(self.dropout) != len(self.keep) + 1 or not all(0 <= rate < 1 for rate in self.dropout):
            stages = len(self.keep) + 1
            raise ValueError(f"dropout: {list(self.dropout)} should be {stages} rates from 0 to below 1, one a stage")
        require("warmup", self.warmup, 0 <= self.warmup < 1, "from 0 to below 1")

    def place(self, step: Step) -> tuple[int, int, int]:
        """Return the index of the stage, the completed epochs of the stage, and all its epochs."""
        if step.epochs is None:  # before a search
            return 0, 0, 1
        count = len(self.dropout)
        stage = step.epoch * count // step.epochs
        start, end = (-(-index * step.epochs // count) for index in (stage, stage + 1))
        return stage, step.epoch - start, end - start

    def begin(self, epoch: Epoch) -> None:
        """Begin a stage in its first epoch; this is a pruning."""
        _ = epoch.step.progress  # raises for a search without a fixed number of epochs
        (stage, completed, _), architecture = self.place(epoch.step), epoch.architecture
        if isinstance(epoch.model, HasStages):
            epoch.model.enter_stage(stage)
        if stage > 0 and completed == 0:
            for edge, alphas in architecture.table().items():
                ranked = sorted(zip(alphas.values(), architecture.living_indices(edge), strict=True), reverse=True)
                kept = [index for _, index in ranked[: self.keep[stage - 1]]]
                if [architecture.candidates[edge][index] for index in kept] == [NONE] and len(ranked) > 1:
                    kept = [ranked[1][1]]  # an edge of a cell needs an operation
                architecture.prune(edge, keep=kept)
            epoch.restart()

    def trains_alphas(self, step: Step) -> bool:
        """Return whether the warm-up of the stage is over, so that α is trained."""
        _, completed, epochs = self.place(step)
        return completed >= round(self.warmup * epochs)

    def dropout_rate(self, step: Step) -> float:
        """Return the dropout rate: linear decay in the warm-up of a stage, then exponential from the start value."""
        stage, completed, epochs = self.place(step)
        searched = completed - round(self.warmup * epochs)
        share = (epochs - completed - 1) / epochs if searched < 0 else math.exp(-DECAY * searched)
        return self.dropout[stage] * share

    def with_dropout(self, name: str, module: nn.Module, architecture: Architecture) -> nn.Module:
        """Return a candidate, followed by dropout if it is an identity (section 3.2.2)."""
        if name != SKIP or not isinstance(module, nn.Identity):
            return module
        return nn.Sequential(module, ScheduledDropout(functional.dropout, self.dropout_rate, architecture))
