"""Random draws that can be undone, and drawn again: of the generators of Python, NumPy and PyTorch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

Generators = tuple[Any, ...]
"""Where all generators stand."""


def generators() -> Generators:
    """Where all generators stand now, those of every accelerator among them."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), devices


def _restore(stood: Generators) -> None:
    python, numpy_, torch_, devices = stood
    random.setstate(python)
    np.random.set_state(numpy_)
    torch.set_rng_state(torch_)
    if devices:
        torch.cuda.set_rng_state_all(devices)


@contextmanager
def isolate_rng() -> Iterator[None]:
    """The generators stand afterwards where they stood before."""
    before = generators()
    try:
        yield
    finally:
        _restore(before)


@contextmanager
def replay_rng(since: Generators) -> Iterator[None]:
    """Meanwhile the draws are those that were made since then; afterwards the generators stand where they stood."""
    with isolate_rng():
        _restore(since)
        yield
