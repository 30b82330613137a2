"""Groups of candidates: those without weights, and those with weights (DOTS, section 3.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from search_spaces.edges import NONE
from strategies.derivation import softmax
from strategies.supernet.architecture import Architecture
from strategies.supernet.candidates import indices
from strategies.topology import is_node


def groups(names: Iterable[Any]) -> list[list[int]]:
    """Return the indices of candidates without weights, known by their names, and those of all others."""
    free = [re.search("none|skip|identity|pool", str(name)) is not None for name in names]
    parts = ([index for index, one in enumerate(free) if one is kind] for kind in (True, False))
    return [part for part in parts if part]


def softmax_by_group(alpha: Tensor, names: Iterable[Any]) -> Tensor:
    """Return the softmax of α (candidates,) within each group."""
    parts = groups(names)
    order = [index for part in parts for index in part]
    inverse = sorted(range(len(order)), key=order.__getitem__)
    softmaxes = [_select(alpha, part).softmax(dim=0) for part in parts]
    return _select(torch.cat(softmaxes), inverse)


def _select(values: Tensor, positions: list[int]) -> Tensor:
    return values.index_select(0, indices(tuple(positions), values.device))


def weights_by_group(alphas: Mapping[str, float]) -> dict[str, float]:
    """Return candidate -> softmax of its α within its group."""
    names, weights = list(alphas), dict[str, float]()
    for part in groups(names):
        weights |= softmax({names[index]: alphas[names[index]] for index in part})
    return weights


def are_operations(edge: str, names: Iterable[Any]) -> bool:
    """Return whether the candidates of an edge are operations, and not inputs or values."""
    return not is_node(edge) and all(isinstance(name, str) for name in names)


def keep_strongest(architecture: Architecture) -> None:
    """Prune every edge with operations to the strongest candidate of each group."""
    for edge, alphas in architecture.table().items():
        if are_operations(edge, alphas):
            names, values, parts = list(alphas), list(alphas.values()), groups(alphas)
            if len(parts) == 1:  # the kept candidate runs, so it cannot be none
                parts = [[index for index in parts[0] if names[index] != NONE]]
            architecture.prune(edge, [max(part, key=values.__getitem__) for part in parts])
