"""Fixed operations of a space, as a user writes them (Fine-Tuning DARTS)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from search_spaces.genotype import INPUTS, Fixed
from search_spaces.operations import FIXED_OPERATIONS

KINDS = ("normal", "reduce")
"""The cells of a space that has one for all layers of a kind, in the order of its genotypes."""

_FORM = re.compile(r"(\S+)(?: +(\w+)/(\d{1,9})->(\d{1,9}))?")


def parse_fixed(texts: Sequence[str], nodes: int, cells: Sequence[str] = KINDS) -> tuple[Fixed, ...]:
    """The fixed operations of a space.

    Args:
        texts: each an operation, which then follows every cell (``"squeeze_excitation"``), or an
            operation and an edge of one cell (``"skip_connect normal/0->2"``).
        nodes: intermediate nodes of a cell.
        cells: their labels, in the order of a genotype's.

    Raises:
        ValueError: a text is neither, or names an operation or an edge that does not exist.
    """
    if isinstance(texts, str):
        raise ValueError(f"fixed: {texts!r} should be a list of fixed operations, such as [squeeze_excitation]")
    return tuple(_parse(text, nodes, cells) for text in texts)


def _parse(text: str, nodes: int, cells: Sequence[str]) -> Fixed:
    match = _FORM.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(
            f"fixed: {text!r} should be OPERATION, which follows every cell, or OPERATION CELL/FROM->TO, "
            f"such as skip_connect {cells[0]}/0->2 or skip_connect {cells[-1]}/2->4"
        )
    operation, cell, source, target = match.groups()
    if operation not in FIXED_OPERATIONS:
        raise ValueError(f"fixed: unknown operation {operation!r}; known are {', '.join(FIXED_OPERATIONS)}")
    if cell is None:
        return Fixed(operation)
    if cell not in cells:
        raise ValueError(f"fixed: {text!r} should name one of the cells {', '.join(cells)}")
    last = INPUTS + nodes - 1
    if not int(source) < int(target) or not INPUTS <= int(target) <= last:
        raise ValueError(f"fixed: {text!r} should lead from a lower node to one of {INPUTS} to {last}")
    return Fixed(operation, list(cells).index(cell), int(source), int(target))
