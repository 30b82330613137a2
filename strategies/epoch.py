"""State of a search between two epochs, for the parts that run there: pruning and stop rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from strategies.relaxation import Plan, Step
from strategies.supernet.architecture import Architecture

AlphaTable = Mapping[str, Mapping[Any, float]]
"""Edge -> candidate -> α."""


@dataclass(frozen=True)
class Epoch:
    """State of a search between two epochs.

    Args:
        architecture: α, the living candidates, and the current plan.
        step: The position of the search: the epoch that begins, for a pruning; the epoch that ended, for a stop rule.
        sample: The sample of the network that would be derived now.
        before: α at the start of the epoch.
        history: α at the end of each completed epoch.
        memory: Plain values that a part keeps between epochs; checkpoints include them.
        validate: Function that returns the metrics of the evaluator on all validation images, by the names under which
            it logs them, given a plan of the living candidates. The model is in evaluation mode; nothing else of the
            search changes.
        val_loss: Function that computes the evaluator's loss (scalar) on the last batch of an architecture step by the
            relaxation's plan of such a step. Available only at the end of an epoch in which α was stepped.
        restart: Function that resets α to its initial values and the trained weights to new random ones, if their
            modules have a ``reset_parameters``, and clears the state of all optimizers. Schedules continue.
        model: The supernet.
        optimizers: The optimizers of the weights and of α.
    """

    architecture: Architecture
    step: Step
    sample: Mapping[str, Any]
    before: AlphaTable
    history: Sequence[AlphaTable]
    memory: dict[str, Any]
    validate: Callable[[Plan], dict[str, float]]
    val_loss: Callable[[], Tensor]
    restart: Callable[[], None]
    model: nn.Module
    optimizers: Sequence[Optimizer]


class Pruning(Protocol):
    """Function that narrows the candidates of edges at the start of an epoch, or otherwise begins a stage of a search.

    It must depend on the state of the search alone, so that a resumed search is pruned in the same way.

    Example::

        def weakest(epoch):
            for edge, alphas in epoch.architecture.table().items():
                if epoch.step.epoch == 25:
                    epoch.architecture.prune(edge, keep=strongest(alphas, 5))
    """

    def __call__(self, epoch: Epoch, /) -> None:
        """Prune the architecture."""


class StopRule(Protocol):
    """Rule that ends a search early. It may reset α to those of an earlier epoch, which are then derived.

    Example::

        def two_skips(epoch):
            return sum(choice == "skip_connect" for choice in epoch.sample.values()) >= 2
    """

    def __call__(self, epoch: Epoch, /) -> bool:
        """Return whether the search ends after an epoch."""
