"""CSV tables of a run, with one row per epoch, per epoch and cell, or per epoch and edge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from nas_plugins.errors import InputError
from nas_plugins.files import one_line, read_text
from search_spaces.files import write_text_whole

Weights = Literal["softmax", "sigmoid"]
"""Function that turns α into the weights of operations."""

DISTANCES = ("distance", "alpha_distance")
"""Columns of metrics.csv for a search that starts from a baseline: operations that differ from it, and change of α."""
COSTS = ("parameters", "multiply_adds", "activations", "latency")
"""Metrics of cost, latency in milliseconds for one image."""
COST_COLUMNS = tuple(f"{kind}_{metric}" for metric in COSTS for kind in ("expected", "derived", "multiplier"))
"""Columns of metrics.csv for a search with costs: expected by α, of the derived network, and the multiplier."""
EIGENVALUE = "dominant_eigenvalue"
"""Column of metrics.csv for a search that measures the curvature of the validation loss, empty in most epochs."""
ALPHA_KEYS = ("epoch", "cell", "edge")
"""Columns of alphas.csv other than those of the operations."""
CONTRIBUTION_COLUMNS = ("epoch", "cell", "contribution")
"""Columns of contributions.csv."""
NO_CELL = "-"
"""Cell of a choice outside all cells, in alphas.csv."""


def read_table(path: Path, required: Sequence[str], texts: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV table of numbers, exactly as they were written.

    Args:
        path: The file.
        required: Columns that the table must have.
        texts: Columns that hold text.

    Raises:
        InputError: The file is not such a table, or its end is missing.
    """
    if not read_text(path).endswith("\n"):  # a truncated number is still a valid number
        raise InputError(f"{path}: has no newline at its end: its last line may be cut; put back the whole file")
    try:
        # As text, because pandas before 3.1 rounds numbers. Only empty fields are missing: an edge may be called "NA".
        table = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
        numbers = table.columns.difference(texts)
        table[numbers] = table[numbers].astype(float)
    except ValueError as error:  # the base class of pandas' parser errors
        raise InputError(f"{path}: is no CSV table: {one_line(error)}") from None
    absent = [column for column in required if column not in table]
    if absent:
        raise InputError(f"{path}: has no column {absent[0]!r}; there should be {', '.join(required)}")
    return table


def append_epoch(path: Path, epoch: int, rows: list[dict[str, Any]]) -> None:
    """Add the rows of an epoch to a table, replacing rows of this and later epochs.

    Raises:
        InputError: The existing file is not such a table.
    """
    table = pd.DataFrame(rows)
    if path.exists():
        texts = [column for column, value in rows[0].items() if isinstance(value, str)]
        before = read_table(path, ["epoch"], texts)
        before = before[before["epoch"] < epoch].astype({"epoch": int})
        table = pd.concat([before, table]) if len(before) else table
    write_text_whole(path, table.to_csv(index=False))


def operations_of(alphas: pd.DataFrame) -> list[str]:
    """Return the columns of an alphas table that are operations."""
    return [column for column in alphas.columns if column not in ALPHA_KEYS]
