"""Metadata of a search that its tables lack: order of the cells, function from α to weights, number of classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_plugins.files import read_object
from nas_plugins.runs.directory import METADATA, write_json
from nas_plugins.runs.tables import Weights


@dataclass(frozen=True)
class Metadata:
    """Metadata of a search.

    Args:
        cells: Labels of the cells in the order of the genotype; empty for third-party spaces.
        weights: Function that turns α into weights; None for third-party strategies that do not name one.
        classes: Number of classes of the images; None for runs of earlier versions.
    """

    cells: tuple[str, ...] = ()
    weights: Weights | None = None
    classes: int | None = None


def write_metadata(run: Path, space: Any, strategy: Any, classes: int | None) -> None:
    """Write the metadata of a search to its search.json."""
    cells = getattr(getattr(space, "cells", None), "labels", ())
    weights = getattr(getattr(getattr(strategy, "composition", None), "relaxation", None), "activation", None)
    known = weights if weights in ("softmax", "sigmoid") else None
    write_json(run / METADATA, {"cells": list(map(str, cells)), "weights": known, "classes": classes})


def read_metadata(run: Path) -> Metadata:
    """Return the metadata of a search; the defaults if it has not written them yet.

    Raises:
        InputError: The file is damaged.
    """
    file = run / METADATA
    values = read_object(file) if file.exists() else {}
    return Metadata(tuple(values.get("cells", ())), values.get("weights"), values.get("classes"))
