"""Which edges an iteration of EDAS relaxes.

A draw is a function of the seed, the iteration and α, so that a resumed search, and every process
of a distributed one, relaxes the same edges.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial

from strategies.relaxation import Alphas, rows

Draw = Callable[[Alphas, int], list[str]]
"""(α, iteration) -> the edges that are relaxed, each once."""


def uniform(alphas: Alphas, iteration: int, *, seed: int, count: int) -> list[str]:
    """Every edge is as likely as any other (EDAS, section 3.2)."""
    return random.Random(f"{seed}/{iteration}").sample(list(alphas), count)


def cyclic(alphas: Alphas, iteration: int, *, seed: int, count: int) -> list[str]:
    """Every edge in turn, as in coordinate descent: a sweep takes all of them, ``count`` an iteration.

    The order of each sweep is drawn: in a fixed one an edge would meet the same sign in every
    iteration of a warm-up, which flips it at every second one.
    """
    sweep, part = divmod(iteration, math.ceil(len(alphas) / count))
    order = list(alphas)
    random.Random(f"{seed}/{sweep}").shuffle(order)
    edges = order[part * count : (part + 1) * count]
    return edges + order[: count - len(edges)]  # the last part of a sweep is filled up from its first


def by_entropy(alphas: Alphas, iteration: int, *, seed: int, count: int) -> list[str]:
    """An edge is drawn in proportion to how open it is: the entropy of the softmax of its α, over the largest possible.

    Edges that have decided are seldom relaxed, and those that have not more often.
    """
    generator = random.Random(f"{seed}/{iteration}")
    # Efraimidis and Spirakis (2006): the largest log(u) / weight are a draw without replacement.
    keys = {
        edge: math.log(1 - generator.random()) / max(_openness(row), 1e-9)  # 1 − u is never zero
        for edge, row in rows(alphas).items()
    }
    return sorted(keys, key=keys.__getitem__, reverse=True)[:count]


def _openness(alpha: list[float]) -> float:
    highest = max(alpha)
    weights = [math.exp(value - highest) for value in alpha]
    total = sum(weights)
    entropy = -sum(w / total * math.log(w / total) for w in weights if w > 0)
    return entropy / math.log(len(alpha)) if len(alpha) > 1 else 0.0


SAMPLING = {"uniform": uniform, "cyclic": cyclic, "entropy": by_entropy}


def policy(name: str, seed: int, count: int = 1) -> Draw:
    """A policy by its name.

    Args:
        name: "uniform", "cyclic" or "entropy": :func:`uniform`, :func:`cyclic`, :func:`by_entropy`.
        seed: of the draws.
        count: edges an iteration, at least 1.

    Raises:
        ValueError: an unknown policy or a count below 1; when drawing, more edges than there are.
    """
    if name not in SAMPLING:
        raise ValueError(f"sampling: {name!r} should be one of {', '.join(SAMPLING)}")
    if count < 1:
        raise ValueError(f"relaxed_edges: {count} should be at least 1")
    draw = partial(SAMPLING[name], seed=seed, count=count)

    def checked(alphas: Alphas, iteration: int) -> list[str]:
        if count > len(alphas):
            raise ValueError(f"relaxed_edges: {count} should be at most {len(alphas)}, the edges of the space")
        return draw(alphas, iteration)

    return checked
