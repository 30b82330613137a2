"""Stop rules: functions of an :class:`~strategies.epoch.Epoch` that end a search early."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from search_spaces.checks import require
from search_spaces.edges import SKIP
from strategies.bn_statistics import by_batch_statistics
from strategies.epoch import AlphaTable, Epoch, StopRule

WEIGHTLESS = ("none", SKIP, "max_pool_3x3", "avg_pool_3x3")
"""Operations that learn no weights, so that their α does not depend on how far the weights are trained."""

EIGENVALUES = "dominant_eigenvalues"
"""Key of :attr:`~strategies.epoch.Epoch.memory` for the eigenvalues so far."""


def either(*rules: StopRule | None) -> StopRule | None:
    """Return the rule that ends a search as soon as one of several rules does, ignoring None; None without a rule."""
    given = [rule for rule in rules if rule is not None]
    # A list and not a generator, because every rule must be called in every epoch.
    return (lambda epoch: any([rule(epoch) for rule in given])) if given else None


def small_change(minimum: float) -> StopRule:
    """Return the rule that ends a search when the sigmoids of α change little in an epoch (DARTOpti).

    Args:
        minimum: Minimum mean of |σ(α) − σ(α before)| over all candidates, above 0.

    Raises:
        ValueError: The minimum is out of range.
    """
    require("min_alpha_change", minimum, minimum > 0, "above 0, or null for a search of all epochs")

    def rule(epoch: Epoch) -> bool:
        changes = [
            abs(math.tanh(alpha / 2) - math.tanh(epoch.before[edge][candidate] / 2)) / 2  # σ(α) = (1 + tanh(α/2)) / 2
            for edge, alphas in epoch.architecture.table().items()
            for candidate, alpha in alphas.items()
        ]
        return sum(changes) / len(changes) < minimum

    return rule


def skip_count(limit: int = 2) -> StopRule:
    """Return the rule that ends a search when a derived cell has many skip connections (DARTS+, criterion 1).

    Reduction cells, whose label begins with ``reduce``, do not count.

    Args:
        limit: Number of ``skip_connect`` in one cell that ends the search, at least 1.

    Raises:
        ValueError: The limit is out of range.
    """
    require("skip_limit", limit, limit >= 1, "at least 1, or null for no such rule")

    def rule(epoch: Epoch) -> bool:
        cells = Counter(label.rpartition("/")[0] for label, choice in epoch.sample.items() if choice == SKIP)
        return any(count >= limit for cell, count in cells.items() if not _is_reduction(cell))

    return rule


def stable_ranks(epochs: int = 10, start: int = 0) -> StopRule:
    """Return the rule that ends a search when the ranks of the learnable operations are stable (DARTS+, criterion 1*).

    The ranks are those of α on each edge, except on edges of reduction cells.

    Args:
        epochs: Number of consecutive epochs after which all ranks were the same, at least 2.
        start: First epoch that counts, for a search that begins without steps of α.

    Raises:
        ValueError: The number of epochs is out of range.
    """
    require("stable_epochs", epochs, epochs >= 2, "at least 2, or null for no such rule")

    def rule(epoch: Epoch) -> bool:
        last = epoch.history[start:][-epochs:]
        ranks = _ranks(last[-1]) if len(last) == epochs else {}
        return any(len(names) > 1 for names in ranks.values()) and all(_ranks(table) == ranks for table in last)

    return rule


def _ranks(table: AlphaTable) -> dict[str, list[Any]]:
    """Return edge -> its learnable operations, the one with the highest α first."""
    return {
        edge: sorted((name for name in alphas if name not in WEIGHTLESS), key=lambda name: -alphas[name])
        for edge, alphas in table.items()
        if not _is_reduction(edge)
    }


def _is_reduction(name: str) -> bool:
    return name.startswith("reduce")


def dominant_eigenvalue(
    factor: float = 1.3, every: int = 2, window: int = 5, distance: int = 4, start: int = 10
) -> StopRule:
    """Return the rule that ends a search when the curvature of the validation loss rises (Zela et al., section 4.3).

    The curvature is the largest eigenvalue of the Hessian for α, see :func:`largest_eigenvalue`. The search ends when
    its local average is more than ``factor`` times what it was ``distance`` values before, and α is reset to the epoch
    in the middle of that earlier average. The defaults are those of the released code.

    Args:
        factor: Rise that ends the search, above 0.
        every: Interval in epochs between two eigenvalues, at least 1.
        window: Number of eigenvalues in a local average, odd.
        distance: Number of eigenvalues between the two averages, at least 1.
        start: First epoch to which α may be reset.

    Raises:
        ValueError: A setting is out of range.
    """
    require("stop_factor", factor, factor > 0, "above 0, or null for a search of all epochs")
    for name, value, least in (("every", every, 1), ("distance", distance, 1), ("start", start, 0)):
        require(name, value, value >= least, f"at least {least}")
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window: {window} should be odd and at least 1")

    def rule(epoch: Epoch) -> bool:
        number = epoch.step.epoch
        if number % every != 0 or number + 1 == epoch.step.epochs:  # the last epoch cannot end early
            return False
        values: list[float] = epoch.memory.setdefault(EIGENVALUES, [])
        values.append(curvature(epoch))
        middle = number - every * (window // 2 + distance)
        if middle < start or rise(values, window, distance) <= factor:
            return False
        epoch.architecture.start(epoch.history[middle])
        return True

    return rule


def rise(values: Sequence[float], window: int = 5, distance: int = 4) -> float:
    """Return the ratio of the local average at the end of a series to an earlier local average.

    Args:
        values: The series, longer than the distance.
        window: Number of values in a local average.
        distance: Number of values between the two averages.
    """
    return _mean(values[-window:]) / _mean(values[:-distance][-window:])


def _mean(values: Sequence[float]) -> float:
    """Return the mean of numbers."""
    return sum(values) / len(values)


def curvature(epoch: Epoch) -> float:
    """Return the largest eigenvalue of the Hessian of the validation loss for all α, at the end of an epoch."""
    with by_batch_statistics(epoch.model):  # as in the released code
        loss = epoch.val_loss()
    return _mean_of_processes(largest_eigenvalue(loss, epoch.architecture.alphas))


def _mean_of_processes(value: Tensor) -> float:
    """Return the mean of a scalar over all processes of a search, each of which has its own images."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(value)
        value = value / distributed.get_world_size()
    return float(value)


def largest_eigenvalue(loss: Tensor, alphas: Mapping[str, Tensor]) -> Tensor:
    """Return the largest eigenvalue (scalar) of the Hessian of a loss (scalar) for all α.

    The largest by value, not by magnitude. The Hessian is computed row by row, one backward pass for each α.

    Args:
        loss: The loss, with its graph.
        alphas: Edge -> α (candidates,).
    """
    wanted = list(alphas.values())
    gradients = torch.autograd.grad(loss, wanted, create_graph=True, materialize_grads=True)
    rows = [
        torch.cat(torch.autograd.grad(derivative, wanted, retain_graph=True, materialize_grads=True))
        for gradient in gradients
        for derivative in gradient
    ]
    return torch.linalg.eigvalsh(torch.stack(rows).double())[-1]
