"""The CSV tables of a run, a row an epoch, or a row an epoch and edge; and its small JSON files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from nas_plugins.errors import InputError
from nas_plugins.files import one_line, read_text
from search_spaces.files import write_text_whole

Kind = Literal["search", "retrain"]
"""What a run does."""
Weights = Literal["softmax", "sigmoid"]
"""The function that turns α into the weights of operations."""

_EVERY_BIT: dict[str, Any] = (
    {"float_precision": "round_trip"} if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1) else {}
)
"""How pandas reads numbers exactly; from 3.1 on it does so unasked, and warns of being asked."""


ALPHA_KEYS = ("epoch", "cell", "edge")
"""The columns of alphas.csv beside those of the operations."""


NO_CELL = "-"
"""The cell of a choice that stands in no cell, in alphas.csv."""


def read_table(path: Path, required: Sequence[str], texts: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV file with these columns, all numbers but the texts; numbers keep every bit.

    Raises:
        InputError: the file is something else; the message names the place.
    """
    text = read_text(path)
    try:
        # Only an empty field is missing: an edge may be called "NA".
        table = pd.read_csv(path, dtype=dict.fromkeys(texts, str), keep_default_na=False, na_values=[""], **_EVERY_BIT)
    except ValueError as error:  # of pandas, all of them
        raise InputError(f"{path}: is no CSV table: {one_line(error)}") from None
    if not text.endswith("\n"):  # half a number is one too
        raise InputError(f"{path}: has no newline at its end: its last line may be cut; put back the whole file")
    if not isinstance(table.index, pd.RangeIndex):  # pandas would take the first field as a row's name
        raise InputError(f"{path}: a line has more fields than columns are named in the first")
    missing = [column for column in required if column not in table]
    if missing:
        raise InputError(f"{path}: has no column {missing[0]!r}; there should be {', '.join(required)}")
    for column in table.columns.difference(texts):
        numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
        foreign = table[column][numbers.isna() & table[column].notna()]
        if len(foreign):
            line = foreign.index[0] + 2
            raise InputError(f"{path}: {column} of line {line} is {foreign.iloc[0]!r}, no number")
        table[column] = numbers
    for column in ("epoch", *texts):
        if table[column].isna().any():
            raise InputError(f"{path}: {column} of line {int(table[column].isna().argmax()) + 2} is empty")
    if len(table) and table["epoch"].abs().max() > 1e9:
        raise InputError(f"{path}: epoch is {table['epoch'].abs().max()}, no number of an epoch")
    return table


def append_epoch(path: Path, epoch: int, rows: list[dict[str, Any]]) -> None:
    """Add the rows of an epoch to a table, in place of any of that epoch or a later one.

    Raises:
        InputError: the file is there and is no such table.
    """
    table = pd.DataFrame(rows)
    texts = [column for column, value in rows[0].items() if isinstance(value, str)]
    if path.exists():
        before = read_table(path, ["epoch", *texts], texts)
        before = before[before["epoch"] < epoch].astype({"epoch": int})
        table = pd.concat([before, table]) if len(before) else table
    write_text_whole(path, table.to_csv(index=False))


def check_epochs(path: Path, epochs: int, required: Sequence[str], rows: Sequence[tuple[str, ...]] = ((),)) -> None:
    """Check that a table has each row of the epochs 0 to ``epochs - 1`` once; later ones may be there.

    Args:
        path: the table; where there are no epochs, it may be missing.
        epochs: how many there are.
        required: its columns: epoch, one for each text of a row, numbers.
        rows: the texts of the rows of each epoch, such as of the columns cell and edge.

    Raises:
        InputError: it is damaged.
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
    """The columns of an alphas table that are operations."""
    return [column for column in alphas.columns if column not in ("epoch", "cell", "edge")]
