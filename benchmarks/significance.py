"""Statistics that compare methods over seeds, or over any other paired runs.

Sources: Holm, A simple sequentially rejective multiple test procedure, 1979; Demšar, Statistical comparisons of
classifiers over multiple data sets, JMLR 2006 (average ranks, critical difference, groups).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

RESAMPLES = 9_999


class Interval(NamedTuple):
    """Confidence interval."""

    low: float
    high: float


def bootstrap_interval(differences: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the percentile bootstrap interval of the mean of paired differences, computed with a fixed seed.

    Args:
        differences: One number per pair.
        confidence: Share of intervals that contain the true mean, from 0 to 1.

    Returns:
        The interval; NaN for a single pair.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) == 1:
        return Interval(np.nan, np.nan)
    if np.ptp(values) == 0:
        return Interval(float(values[0]), float(values[0]))
    generator = np.random.default_rng(0)
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=confidence, method="percentile", rng=generator
    )
    return Interval(float(found.confidence_interval.low), float(found.confidence_interval.high))


def permutation_p(differences: ArrayLike) -> float:
    """Return the two-sided p value of the hypothesis that paired differences are symmetric about 0.

    The test flips the signs of the differences and compares their means, with all flips for up to 13 pairs and random
    ones for more. With n pairs p is at least 2 / 2ⁿ: 0.0625 for five, 0.002 for ten.
    """
    values = np.asarray(differences, dtype=float)
    if not values.any():
        return 1.0
    if len(values) == 1:
        return 1.0  # both flips of a single pair are equally far from 0
    found = stats.permutation_test(
        (values, np.zeros_like(values)), lambda a, b, axis: np.mean(a - b, axis=axis), permutation_type="samples",
        vectorized=True, n_resamples=RESAMPLES, rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number by Holm's method, in the same order."""
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1)
    return [float(value) for value in adjusted]


def average_ranks(scores: ArrayLike) -> list[float]:
    """Return the average rank of each method, 1 for the best; equal scores share their ranks.

    Args:
        scores: Scores of shape (blocks, methods), where higher is better. A block is a seed.
    """
    return [float(rank) for rank in stats.rankdata(-np.asarray(scores, dtype=float), axis=1).mean(axis=0)]


def friedman_p(scores: ArrayLike) -> float:
    """Return the p value of the hypothesis that all methods, at least three, are equal: Friedman's test.

    Args:
        scores: Scores of shape (blocks, methods).
    """
    values = np.asarray(scores, dtype=float)
    if (values == values[:, :1]).all():
        return 1.0
    return float(stats.friedmanchisquare(*values.T).pvalue)


def critical_difference(methods: int, blocks: int, significance: float = 0.05) -> float:
    """Return the smallest significant difference between two average ranks, by Nemenyi's test.

    Args:
        methods: Number of methods, at least 2.
        blocks: Number of blocks, such as seeds.
        significance: Probability of an error among equal methods.
    """
    quantile = stats.studentized_range.ppf(1 - significance, methods, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(methods * (methods + 1) / (6 * blocks)))


def groups(ranks: Mapping[str, float], difference: float) -> list[tuple[str, ...]]:
    """Return the largest sets of methods whose average ranks differ by less than a critical difference.

    Args:
        ranks: Method -> average rank.
        difference: The critical difference.

    Returns:
        Sets of at least two methods, each in the order of its ranks.
    """
    names = sorted(ranks, key=lambda name: ranks[name])
    found: list[tuple[str, ...]] = []
    for start, first in enumerate(names):
        within = tuple(name for name in names[start:] if ranks[name] - ranks[first] < difference)
        if len(within) > 1 and not (found and set(within) <= set(found[-1])):
            found.append(within)
    return found
