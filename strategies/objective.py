"""Objectives of an architecture step: the evaluator's loss, and losses of the architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from search_spaces.checks import require
from strategies.relaxation import Step
from strategies.supernet.architecture import Architecture

Alpha = TypeVar("Alpha", bound=Tensor)


@dataclass(frozen=True)
class ArchitectureBatch:
    """The input of an objective: a batch of an architecture step.

    Args:
        loss: Function that computes the evaluator's loss (scalar) on the batch, by the current plan. It must be called
            once.
        again: Function that computes that loss again, without counting it in any metric.
        architecture: α and the current plan.
        model: The supernet.
        step: The position of the search.
        log: Function that logs a value under a name; its mean over an epoch appears among the evaluator's metrics.
        batch_idx: Index of the batch in the epoch.
    """

    loss: Callable[[], Tensor]
    again: Callable[[], Tensor]
    architecture: Architecture
    model: nn.Module
    step: Step = field(default_factory=Step)
    log: Callable[[str, Tensor], None] = lambda name, value: None
    batch_idx: int = 0

    @property
    def iteration(self) -> int:
        """The number of completed iterations."""
        return self.step.iteration


class Objective(Protocol):
    """The loss that an architecture step minimizes.

    If each group of α has its own loss, the scalar stands for all of them: its gradient for the α of a group is that of
    the loss of the group.

    Example::

        def with_entropy(batch):
            weights = [alpha.softmax(0) for alpha in batch.architecture.living_alphas().values()]
            return batch.loss() + sum(torch.special.entr(each).sum() for each in weights)
    """

    def __call__(self, batch: ArchitectureBatch, /) -> Tensor:
        """Return the loss of a batch, a scalar."""


class Grouping(Protocol):
    """Function that divides α into groups, each with its own optimizer or loss.

    Example::

        def each_edge(alphas):
            return [[alpha] for alpha in alphas.values()]
    """

    def __call__(self, alphas: Mapping[str, Alpha], /) -> Sequence[Sequence[Alpha]]:
        """Return the groups, given the α (candidates,) of each edge."""


def one_group(alphas: Mapping[str, Alpha]) -> list[list[Alpha]]:
    """Return a single group of all α."""
    return [list(alphas.values())]


def by_cell(alphas: Mapping[str, Alpha]) -> list[list[Alpha]]:
    """Return a group for each cell (D-DARTS, section 4.1), and one for all edges outside cells."""
    cells: dict[str, list[Alpha]] = {}
    for edge, alpha in alphas.items():
        cells.setdefault(edge.rpartition("/")[0], []).append(alpha)
    return list(cells.values())


def evaluator_loss(batch: ArchitectureBatch) -> Tensor:
    """Return the evaluator's loss."""
    return batch.loss()


def total(*terms: Objective) -> Objective:
    """Return the sum of objectives, exactly one of which includes the evaluator's loss."""

    def objective(batch: ArchitectureBatch) -> Tensor:
        return torch.stack([term(batch) for term in terms]).sum()

    return objective


def zero_one(weight: float, grouping: Grouping = one_group) -> Objective:
    """Return the zero-one loss as a term of an objective (D-DARTS, Eqs. 3 and 4; FairDARTS)::

        weight · L_01,   L_01 = − mean over α of (σ(α) − 0.5)²

    It drives every σ(α) to 0 or 1.

    Args:
        weight: w_01, at least 0.
        grouping: The mean is taken within each group; the losses of the groups are added.

    Raises:
        ValueError: The weight is negative.
    """
    require("w_01", weight, 0 <= weight < float("inf"), "at least 0")

    def objective(batch: ArchitectureBatch) -> Tensor:
        groups = grouping(batch.architecture.living_alphas())
        distances = [(torch.sigmoid(torch.cat(tuple(group))) - 0.5).square().mean() for group in groups]
        return -weight * torch.stack(distances).sum()

    return objective
