"""Sampling of the edges that an iteration of EDAS relaxes, and of the candidates that its other edges run.

A sample depends only on the seed, the iteration and α, so a resumed search and all processes of a distributed search
relax the same edges.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial

from search_spaces.checks import require, require_one_of
from strategies.noise import gumbel
from strategies.relaxation import Alphas, Plan, Step, argmax, rows

Draw = Callable[[Alphas, int], list[str]]
"""Function that returns the relaxed edges, each once, given α and the iteration."""


def uniform(alphas: Alphas, iteration: int, *, seed: int, count: int) -> list[str]:
    """Sample all edges with equal probability, without replacement (EDAS, section 3.2)."""
    return random.Random(f"{seed}/{iteration}").sample(list(alphas), count)


def cyclic(alphas: Alphas, iteration: int, *, seed: int, count: int) -> list[str]:
    """Take the edges in turn, as in coordinate descent: a sweep covers all edges, ``count`` per iteration.

    Each sweep has a random order. In a fixed order an edge could always meet the same sign during the warm-up, which
    flips the sign at every second iteration.
    """
    sweep, part = divmod(iteration, math.ceil(len(alphas) / count))
    order = list(alphas)
    random.Random(f"{seed}/{sweep}").shuffle(order)
    edges = order[part * count : (part + 1) * count]
    return edges + order[: count - len(edges)]  # the last iteration is filled up with the first edges


def by_entropy(alphas: Alphas, iteration: int, *, seed: int, count: int) -> list[str]:
    """Sample edges in proportion to the entropy of the softmax of their α, without replacement.

    The entropy is relative to its maximum, so undecided edges are relaxed more often than decided ones.
    """
    generator = random.Random(f"{seed}/{iteration}")
    # Efraimidis and Spirakis (2006): the edges with the largest log(u) / weight are a weighted sample.
    keys = {
        edge: math.log(1 - generator.random()) / max(_relative_entropy(row), 1e-9)  # 1 − random() is never zero
        for edge, row in rows(alphas).items()
    }
    return sorted(keys, key=keys.__getitem__, reverse=True)[:count]


def _relative_entropy(alpha: list[float]) -> float:
    """Return the entropy of the softmax of α, divided by that of the uniform distribution."""
    highest = max(alpha)
    weights = [math.exp(value - highest) for value in alpha]
    total = sum(weights)
    entropy = -sum(w / total * math.log(w / total) for w in weights if w > 0)
    return entropy / math.log(len(alpha)) if len(alpha) > 1 else 0.0


SAMPLING = {"uniform": uniform, "cyclic": cyclic, "entropy": by_entropy}


def policy(name: str, seed: int, count: int = 1) -> Draw:
    """Return a sampling policy.

    Args:
        name: "uniform" for :func:`uniform`, "cyclic" for :func:`cyclic`, "entropy" for :func:`by_entropy`.
        seed: Seed of the sampling.
        count: Number of edges per iteration, at least 1.

    Raises:
        ValueError: The policy is unknown, or the count is below 1. When called: there are fewer edges than the count.
    """
    require_one_of("sampling", name, SAMPLING)
    require("relaxed_edges", count, count >= 1, "at least 1")
    draw = partial(SAMPLING[name], seed=seed, count=count)

    def checked(alphas: Alphas, iteration: int) -> list[str]:
        if count > len(alphas):
            raise ValueError(f"relaxed_edges: {count} should be at most {len(alphas)}, the edges of the space")
        return draw(alphas, iteration)

    return checked


def strongest_path(alphas: Alphas, step: Step, *, seed: int) -> Plan:
    """Return the plan in which every edge runs its strongest candidate (EDAS, Eq. 2)."""
    return argmax(alphas)


def sampled_path(alphas: Alphas, step: Step, *, seed: int) -> Plan:
    """Return the plan in which every edge runs a candidate that is sampled by the softmax of its α."""
    noise = gumbel(alphas, seed, step, "path")
    return argmax({edge: alpha.detach() + noise[edge] for edge, alpha in alphas.items()})


PATHS = {"strongest": strongest_path, "sampled": sampled_path}


def path_policy(name: str, seed: int) -> Callable[[Alphas, Step], Plan]:
    """Return a policy for the candidates that unrelaxed edges run.

    Args:
        name: "strongest" for :func:`strongest_path`, "sampled" for :func:`sampled_path`.
        seed: Seed of the sampling.

    Raises:
        ValueError: The policy is unknown.
    """
    require_one_of("path", name, PATHS)
    return partial(PATHS[name], seed=seed)
