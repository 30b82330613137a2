"""Isolation and replay of the random generators of Python, NumPy and PyTorch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

Generators = tuple[Any, ...]
"""The states of all generators."""


def generators() -> Generators:
    """Return the current states of all generators, including those of every CUDA device."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), devices


def _restore(states: Generators) -> None:
    python, numpy_, torch_, devices = states
    random.setstate(python)
    np.random.set_state(numpy_)
    torch.set_rng_state(torch_)
    if devices:
        torch.cuda.set_rng_state_all(devices)


@contextmanager
def isolate_rng() -> Iterator[None]:
    """Restore all generators at the end of this context."""
    before = generators()
    try:
        yield
    finally:
        _restore(before)


@contextmanager
def replay_rng(since: Generators) -> Iterator[None]:
    """Replay the draws that followed earlier states within this context, then restore the current states.

    Args:
        since: The earlier states, from :func:`generators`.
    """
    with isolate_rng():
        _restore(since)
        yield
