"""Baselines without a search, against which searches are judged.

random              one architecture drawn uniformly
best of k random    the best by validation accuracy of k random architectures, each trained alone on the images of a
                    search; k such trainings take as long as a search
all 3×3             a 3×3 convolution on every edge, which a user would guess
widest              the architecture with the most parameters
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pandas as pd

RANDOM, BEST, ALL_3X3, WIDEST = "random", "best of k random", "all 3×3", "widest"
OPERATION_3X3 = "conv_3x3"
"""End of the name of a 3×3 convolution."""


def affordable(truth: pd.DataFrame, search_seconds: float) -> int:
    """Return k, the number of trainings of median duration that take as long as a search; 0 if none are known.

    Args:
        truth: One row per architecture, with ``alone`` and ``alone_seconds`` for those that have been trained alone.
        search_seconds: Mean CPU seconds of a search; 0 without searches.
    """
    if "alone" not in truth or truth["alone"].isna().all() or not search_seconds:
        return 0
    return max(1, min(int(truth["alone"].count()), round(search_seconds / truth["alone_seconds"].median())))


def baseline_runs(truth: pd.DataFrame, seeds: Sequence[int], count: int) -> pd.DataFrame:
    """Return the runs of the baselines.

    Args:
        truth: One row per architecture, whose name is the index: ``accuracy`` and, if known, ``alone``,
            ``alone_seconds`` and ``parameters``.
        seeds: Seeds of the random draws, the same as those of the searches.
        count: k of "best of k random", see :func:`affordable`; 0 to leave this baseline out.

    Returns:
        One row per run: method, seed, architecture, accuracy, cpu_seconds. If several architectures are the widest, or
        all 3×3, the accuracy is their mean and the architecture is the first of them.
    """
    rows = [_drawn(truth, seed) for seed in seeds]
    if count:
        rows += [_best_of(truth.dropna(subset=["alone"]), count, seed) for seed in seeds]
    widest = truth[truth["parameters"] == truth["parameters"].max()] if "parameters" in truth else truth[:0]
    conv = truth[[_is_all_3x3(str(name)) for name in truth.index]]
    if len(conv) and conv.index.equals(widest.index):
        rows += _constant(f"{ALL_3X3}, the {WIDEST}", conv, seeds)
    else:
        rows += _constant(ALL_3X3, conv, seeds) + _constant(WIDEST, widest, seeds)
    return pd.DataFrame(rows)


def _drawn(truth: pd.DataFrame, seed: int) -> dict[str, object]:
    name = random.Random(seed).choice(sorted(truth.index))
    return _run(RANDOM, seed, name, truth["accuracy"][name], 0.0)


def _best_of(alone: pd.DataFrame, count: int, seed: int) -> dict[str, object]:
    drawn = alone.loc[random.Random(seed).sample(sorted(alone.index), count)]
    best = drawn["alone"].idxmax()
    return _run(BEST, seed, str(best), drawn["accuracy"][best], count * alone["alone_seconds"].median())


def _constant(method: str, chosen: pd.DataFrame, seeds: Sequence[int]) -> list[dict[str, object]]:
    if chosen.empty:
        return []
    return [_run(method, seed, str(chosen.index[0]), chosen["accuracy"].mean(), 0.0) for seed in seeds]


def _is_all_3x3(name: str) -> bool:
    operations = [part.split("~")[0] for part in name.replace("+", "").split("|") if part]
    return all(operation.endswith(OPERATION_3X3) for operation in operations)


def _run(method: str, seed: int, name: str, accuracy: float, seconds: float) -> dict[str, object]:
    return {
        "method": method, "seed": seed, "architecture": name, "accuracy": float(accuracy),
        "cpu_seconds": round(float(seconds), 1),
    }  # fmt: skip
