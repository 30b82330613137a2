"""What the tables of a search leave unsaid, in its search.json: which cell is which, and how α becomes weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nas_plugins.errors import InputError
from nas_plugins.files import read_object
from nas_plugins.runs import directory as runs

FILE = "search.json"
_WEIGHTS = ("softmax", "sigmoid")


@dataclass(frozen=True)
class Metadata:
    """Metadata of a search; an earlier version wrote none of them.

    Args:
        cells: the labels of the cells, in the order of the genotype; empty where the space does not tell.
        weights: what makes weights of α; None where the strategy does not tell.
    """

    cells: tuple[str, ...] = ()
    weights: Literal["softmax", "sigmoid"] | None = None


def write_metadata(run: Path, space: Any, strategy: Any) -> None:
    """Write what the space and the strategy of a search tell of themselves."""
    cells = getattr(getattr(space, "cells", None), "labels", ())
    weights = getattr(getattr(getattr(strategy, "composition", None), "relaxation", None), "activation", None)
    runs.write_json(run / FILE, {"cells": list(map(str, cells)), "weights": weights if weights in _WEIGHTS else None})


def read_metadata(run: Path) -> Metadata:
    """The facts of a search; none where it has no such file.

    Raises:
        InputError: the file is damaged.
    """
    file = run / FILE
    if not file.exists():
        return Metadata()
    values = read_object(file)
    cells, weights = values.get("cells"), values.get("weights")
    if not isinstance(cells, list) or not all(isinstance(cell, str) for cell in cells) or len({*cells}) < len(cells):
        raise InputError(f"{file}: cells is {cells!r:.80}, and should be a list of different labels")
    if weights is not None and weights not in _WEIGHTS:
        raise InputError(f"{file}: weights is {weights!r:.40}, and should be softmax, sigmoid or null")
    return Metadata(tuple(cells), weights)
