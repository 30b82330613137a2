"""The α of a cell extended by its fixed operations (Fine-Tuning DARTS: Tanveer, Khan and Kyung, section III.B)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count, pairwise
from typing import Any

import pandas as pd

from search_spaces.checks import require
from search_spaces.edges import INPUTS, KINDS, EdgeName, Fixed
from search_spaces.fixed import parse_fixed

PARTS = {"squeeze_excitation": ("global_average_pooling", "excitation", "channel_scaling")}
"""Operations of modules that consist of several (section III.C)."""

Alphas = Mapping[Any, Mapping[str, float]]
"""edge -> candidate -> α. Edges are named ``normal/0->2`` in the α of a strategy, and (0, 2) in the α of one cell."""


def extended_alpha(alphas: Alphas, fixed: Sequence[str], cell: str = "normal") -> pd.DataFrame:
    """Return the α of a cell and, below it, the α_F of its fixed operations (Eq. 3).

    A fixed operation has one row per connection, with a 1 at the operation, since it runs in every pass. No search
    changes these rows (Eq. 5). For a cell of DARTS with ``none`` and the attention module the table has 14 + 3 rows and
    8 + 3 columns.

    Args:
        alphas: α of a strategy (``strategy.alphas()``) or of one cell.
        fixed: Fixed operations of the searched space, in the form that :func:`~search_spaces.fixed.parse_fixed` reads;
            :meth:`~search_spaces.space.StackedSpace.extended_alpha` passes those of a space.
        cell: Label of the cell.

    Returns:
        A table of M' rows, indexed by part ("searched" or "fixed") and connection, and N' columns: the N candidates and
        the operations that only the fixed part has (Eq. 4). All other entries are zero.

    Raises:
        ValueError: The cell has no α, or a fixed operation is invalid.
    """
    names = {edge: EdgeName.parse(edge) if isinstance(edge, str) else EdgeName(cell, *edge) for edge in alphas}
    found = dict.fromkeys(name.cell for edge, name in names.items() if name and isinstance(edge, str))
    labels = [*found] or [*KINDS]
    searched = {name: alphas[edge] for edge, name in names.items() if name and name.cell == cell}
    require("cell", repr(cell), cell in labels and bool(searched), f"one of {', '.join(labels)}")
    rows = [("searched", edge.nodes, candidates) for edge, candidates in searched.items()]
    nodes = max(edge.target for edge in searched) + 1 - INPUTS
    numbers = count(1)
    for one in parse_fixed(fixed, nodes, labels):
        if one.cell in (None, labels.index(cell)):
            rows += _fixed_rows(one, numbers)
    index = pd.MultiIndex.from_tuples([row[:2] for row in rows], names=["part", "connection"])
    columns = dict.fromkeys(operation for row in rows for operation in row[2])
    # Filled here and not by fillna, which would turn an α that is NaN into zero as well.
    return pd.DataFrame([{**dict.fromkeys(columns, 0.0), **row[2]} for row in rows], index)


def _fixed_rows(one: Fixed, numbers: Iterator[int]) -> list[tuple[str, str, Mapping[str, float]]]:
    """Return a row for each connection of a fixed operation, numbering the nodes between them."""
    parts = PARTS.get(one.operation, (one.operation,))
    start, end = ("cell", "output") if one.cell is None else (str(one.source), str(one.target))
    nodes = [start, *(f"F{next(numbers)}" for _ in parts[1:]), end]
    return [("fixed", "->".join(ends), {part: 1.0}) for ends, part in zip(pairwise(nodes), parts, strict=True)]
