"""Seeded noise of an iteration: the same in all its passes, in all processes, and after a resume."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from strategies.relaxation import Alphas, Step


def chosen_seed(seed: int | None) -> int:
    """Return a seed, or PyTorch's if it is None."""
    return torch.initial_seed() if seed is None else seed


def generator(seed: int, step: Step, name: str = "") -> torch.Generator:
    """Return a generator on the CPU, determined by the seed, the iteration and the name.

    Args:
        seed: Seed of the search.
        step: Position of the search; only the iteration is used.
        name: Name that distinguishes several uses in an iteration.
    """
    return torch.Generator().manual_seed(random.Random(f"{seed}/{step.iteration}/{name}").getrandbits(63))


def uniform(alphas: Alphas, seed: int, step: Step, name: str = "") -> dict[str, Tensor]:
    """Return noise for each α, uniform strictly between 0 and 1.

    Args:
        alphas: Edge -> α.
        seed, step, name: See :func:`generator`.

    Returns:
        Edge -> noise with the shape, data type and device of its α.
    """
    if not alphas:
        return {}
    sizes, like = [alpha.numel() for alpha in alphas.values()], next(iter(alphas.values()))
    # Drawn in double precision on the CPU, so that every device and precision sees the same numbers.
    drawn = torch.rand(sum(sizes), generator=generator(seed, step, name), dtype=torch.float64)
    noise = drawn.to(like, non_blocking=like.is_cuda)
    limits = torch.finfo(noise.dtype)
    return dict(zip(alphas, torch.split(noise.clamp(limits.tiny, 1 - limits.eps), sizes), strict=True))


def gumbel(alphas: Alphas, seed: int, step: Step, name: str = "") -> dict[str, Tensor]:
    """Return finite standard Gumbel noise for each α.

    Args and result: See :func:`uniform`.
    """
    return {edge: -(-noise.log()).log() for edge, noise in uniform(alphas, seed, step, name).items()}
