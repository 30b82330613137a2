"""What an architecture step minimizes: the loss of the evaluator, and losses of the architecture itself.

An objective sees a batch and computes one number. Where every group of α has a loss of its own,
that number stands for all of them: its gradient for the α of a group is that of the group's loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from strategies.supernet.architecture import Architecture


@dataclass(frozen=True)
class ArchitectureBatch:
    """A batch of an architecture step, as an objective sees it.

    Args:
        loss: computes the evaluator's loss on it, by the plan of the architecture; to be called once.
        again: computes that loss once more, for comparison: it counts in no metric.
        architecture: α, and the plan.
        model: the supernet.
        iteration: steps done since the search began.
        log: (name, value): the mean over an epoch appears among the evaluator's metrics.
    """

    loss: Callable[[], Tensor]
    again: Callable[[], Tensor]
    architecture: Architecture
    model: nn.Module
    iteration: int = 0
    log: Callable[[str, Tensor], None] = lambda name, value: None


class Objective(Protocol):
    """The loss that an architecture step minimizes.

    Where each group of α has a loss of its own, the scalar stands for all of them: its gradient for the α of a group
    is that of the loss of the group.

    Example::

        def with_entropy(batch):
            weights = [alpha.softmax(0) for alpha in batch.architecture.alphas.values()]
            return batch.loss() + sum(torch.special.entr(each).sum() for each in weights)
    """

    def __call__(self, batch: ArchitectureBatch, /) -> Tensor:
        """Return the loss of a batch, a scalar."""


class Grouping(Protocol):
    """Divides α into groups, each with an optimizer, or a loss, of its own.

    Example::

        def each_edge(alphas):
            return [[alpha] for alpha in alphas.values()]
    """

    def __call__(self, alphas: Mapping[str, nn.Parameter], /) -> Sequence[Sequence[nn.Parameter]]:
        """Return the groups, given the α (candidates,) of each edge."""


def one_group(alphas: Mapping[str, nn.Parameter]) -> list[list[nn.Parameter]]:
    """All α together."""
    return [list(alphas.values())]


def by_cell(alphas: Mapping[str, nn.Parameter]) -> list[list[nn.Parameter]]:
    """The α of each cell (D-DARTS, section 4.1); what stands in no cell is together."""
    cells: dict[str, list[nn.Parameter]] = {}
    for edge, alpha in alphas.items():
        cells.setdefault(edge.rpartition("/")[0], []).append(alpha)
    return list(cells.values())


def evaluator_loss(batch: ArchitectureBatch) -> Tensor:
    """The evaluator's loss and nothing else."""
    return batch.loss()


def total(*terms: Objective) -> Objective:
    """The sum of objectives, of which one has the evaluator's loss."""

    def objective(batch: ArchitectureBatch) -> Tensor:
        return torch.stack([term(batch) for term in terms]).sum()

    return objective


def zero_one(weight: float, grouping: Grouping = one_group) -> Objective:
    """The zero-one loss times its weight, a term to be added to another (D-DARTS, Eqs. 3 and 4; FairDARTS)::

        L_01 = − mean over α of (σ(α) − 0.5)²

    It is least where every operation is either wholly there or not at all.

    Args:
        weight: w_01.
        grouping: which α are averaged together; the losses of the groups are added.

    Raises:
        ValueError: the weight is negative.
    """
    if not 0 <= weight < float("inf"):
        raise ValueError(f"w_01: {weight} should be at least 0")

    def objective(batch: ArchitectureBatch) -> Tensor:
        groups = grouping(batch.architecture.alphas)
        distances = [(torch.sigmoid(torch.cat(tuple(group))) - 0.5).square().mean() for group in groups]
        return -weight * torch.stack(distances).sum()

    return objective
