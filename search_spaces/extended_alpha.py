"""α of a cell with its fixed operations, as Fine-Tuning DARTS writes it (Tanveer, Khan and Kyung, section III.B)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count, pairwise
from typing import Any

import pandas as pd

from search_spaces.fixed import KINDS, parse_fixed
from search_spaces.genotype import INPUTS, Fixed

PARTS = {"squeeze_excitation": ("global_average_pooling", "excitation", "channel_scaling")}
"""The operations of a module that has several (section III.C): attention squeezes, excites and scales."""

Alphas = Mapping[Any, Mapping[str, float]]
"""edge -> candidate -> α: of a strategy, where an edge is "normal/0->2", or of one cell, where it is (0, 2)."""


def extended_alpha(alphas: Alphas, fixed: Sequence[str], cell: str = "normal") -> pd.DataFrame:
    """α of a cell and, below it, α_F of its fixed operations (Eq. 3).

    A fixed operation has a row for each of its connections, with a 1 at its operation: it runs, whole,
    in every pass. Of these rows no search owns anything (Eq. 5). For a cell of DARTS with ``none``
    and the attention module the table has 14 + 3 rows and 8 + 3 columns.

    Args:
        alphas: α of the cell, or of a strategy (``strategy.alphas()``).
        fixed: the fixed operations of the space that was searched, as it takes them; a space of ours
            knows them itself (:meth:`~search_spaces.space.StackedSpace.extended_alpha`).
        cell: which cell, such as "normal" or "cell_0".

    Returns:
        M' rows, indexed by part ("searched" or "fixed") and connection, and N' columns, named by
        operation: N candidates, then what the fixed operations add to them (Eq. 4). Zeros
        elsewhere.

    Raises:
        ValueError: the cell has no α, or a fixed operation is none.
    """
    labels = _labels(alphas)
    searched = _of_cell(alphas, cell, labels)
    rows = [("searched", edge, candidates) for edge, candidates in searched.items()]
    last = max(int(edge.rpartition(">")[2]) for edge in searched)
    numbers = count(1)
    for one in parse_fixed(fixed, last + 1 - INPUTS, labels):
        if one.cell in (None, labels.index(cell)):
            rows += _fixed_rows(one, numbers)
    index = pd.MultiIndex.from_tuples([row[:2] for row in rows], names=["part", "connection"])
    columns = dict.fromkeys(operation for row in rows for operation in row[2])
    # Zeros where Eq. 3 has them: an α that is no number stays one.
    return pd.DataFrame([{**dict.fromkeys(columns, 0.0), **row[2]} for row in rows], index)


def _fixed_rows(one: Fixed, numbers: Iterator[int]) -> list[tuple[str, str, Mapping[str, float]]]:
    """A row for each connection of a fixed operation; ``numbers`` names the nodes between them."""
    parts = PARTS.get(one.operation, (one.operation,))
    start, end = ("cell", "output") if one.cell is None else (str(one.source), str(one.target))
    nodes = [start, *(f"F{next(numbers)}" for _ in parts[1:]), end]
    return [("fixed", "->".join(ends), {part: 1.0}) for ends, part in zip(pairwise(nodes), parts, strict=True)]


def _labels(alphas: Alphas) -> list[str]:
    """The cells of a strategy's α, or those of DARTS for the α of one cell."""
    found = dict.fromkeys(edge.rpartition("/")[0] for edge in alphas if isinstance(edge, str))
    return [*found] or [*KINDS]


def _of_cell(alphas: Alphas, cell: str, labels: Sequence[str]) -> dict[str, Mapping[str, float]]:
    """Edge, such as 0->2, to candidate to α of one cell."""
    found = {}
    for edge, candidates in alphas.items():
        if isinstance(edge, tuple):
            found["->".join(map(str, edge))] = candidates
        elif edge.startswith(f"{cell}/"):
            found[edge.removeprefix(f"{cell}/")] = candidates
    if cell not in labels or not found:
        raise ValueError(f"cell: {cell!r} should be one of {', '.join(labels)}")
    return found
