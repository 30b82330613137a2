"""CSV tables of a run, with one row per epoch, per epoch and cell, or per epoch and edge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from nas_plugins.errors import InputError
from nas_plugins.files import one_line, read_text
from search_spaces.files import write_text_whole

Kind = Literal["search", "retrain"]
"""Task of a run."""
Weights = Literal["softmax", "sigmoid"]
"""Function that turns α into the weights of operations."""

LOGGED_METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "derived_val_acc")
"""Columns of metrics.csv that the training logs; accuracies are fractions from 0 to 1."""
DISTANCES = ("distance", "alpha_distance")
"""Columns of metrics.csv for a search that starts from a baseline: operations that differ from it, and change of α."""
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
        texts: Columns that hold text; these and ``epoch`` have no empty fields.

    Raises:
        InputError: The file is not such a table; the message names the place.
    """
    text = read_text(path)
    try:
        # As text, because pandas before 3.1 rounds numbers. Only empty fields are missing: an edge may be called "NA".
        table = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    except ValueError as error:  # the base class of pandas' parser errors
        raise InputError(f"{path}: is no CSV table: {one_line(error)}") from None
    if not text.endswith("\n"):  # a number that is cut is still a number
        raise InputError(f"{path}: has no newline at its end: its last line may be cut; put back the whole file")
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes an excess first field as the name of a row
        raise InputError(f"{path}: a line has more fields than columns are named in the first")
    missing = [column for column in required if column not in table]
    if missing:
        raise InputError(f"{path}: has no column {missing[0]!r}; there should be {', '.join(required)}")
    for column in table.columns.difference(texts):
        values = table[column]
        foreign = values[pd.to_numeric(values, errors="coerce").isna() & values.notna()]
        if len(foreign):
            raise InputError(f"{path}: {column} of line {foreign.index[0] + 2} is {foreign.iloc[0]!r}, no number")
        table[column] = values.astype(float)
    for column in ("epoch", *texts):
        if table[column].isna().any():
            raise InputError(f"{path}: {column} of line {int(table[column].isna().argmax()) + 2} is empty")
    return table


def append_epoch(path: Path, epoch: int, rows: list[dict[str, Any]]) -> None:
    """Add the rows of an epoch to a table, replacing rows of this and later epochs.

    Raises:
        InputError: The existing file is not such a table.
    """
    table = pd.DataFrame(rows)
    texts = [column for column, value in rows[0].items() if isinstance(value, str)]
    if path.exists():
        before = read_table(path, ["epoch", *texts], texts)
        before = before[before["epoch"] < epoch].astype({"epoch": int})
        table = pd.concat([before, table]) if len(before) else table
    write_text_whole(path, table.to_csv(index=False))


def check_epochs(path: Path, epochs: int, required: Sequence[str], rows: Sequence[tuple[str, ...]] = ((),)) -> None:
    """Check that a table has each row of the epochs 0 to ``epochs - 1`` exactly once; later epochs are ignored.

    Args:
        path: The table; it may be missing if there are no epochs.
        epochs: Number of epochs.
        required: Columns of the table: the epoch, then those of the texts in ``rows``, then numbers.
        rows: Texts of each row of an epoch, for example cell and edge.

    Raises:
        InputError: The table is damaged.
    """
    if epochs == 0 and not path.exists():
        return
    texts = required[1 : 1 + len(rows[0])]
    table = read_table(path, required, texts)
    for epoch in range(epochs):
        found = table.loc[table["epoch"] == epoch, ["epoch", *texts]].itertuples(index=False, name=None)
        if sorted(found) != sorted((epoch, *row) for row in rows):
            raise InputError(f"{path}: not all rows of epoch {epoch} are there once, which the checkpoint is beyond")


def operations_of(alphas: pd.DataFrame) -> list[str]:
    """Return the columns of an alphas table that are operations."""
    return [column for column in alphas.columns if column not in ALPHA_KEYS]
