"""Fixed operations of a space in the form in which users write them (Fine-Tuning DARTS)."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.edges import INPUTS, KINDS, EdgeName, Fixed
from search_spaces.operations import FIXED_OPERATIONS


def parse_fixed(texts: Sequence[str], nodes: int, cells: Sequence[str] = KINDS) -> tuple[Fixed, ...]:
    """Parse the fixed operations of a space.

    Args:
        texts: Each either an operation, which follows every cell (``"squeeze_excitation"``), or an operation and an
            edge of one cell (``"skip_connect normal/0->2"``).
        nodes: Number of intermediate nodes of a cell.
        cells: Labels of the cells, in the order of a genotype.

    Raises:
        ValueError: A text has neither form, or names an operation or an edge that does not exist.
    """
    if isinstance(texts, str):
        raise ValueError(f"fixed: {texts!r} should be a list of fixed operations, such as [squeeze_excitation]")
    return tuple(_parse(text, nodes, cells) for text in texts)


def _parse(text: str, nodes: int, cells: Sequence[str]) -> Fixed:
    words = text.split() if isinstance(text, str) else []
    edge = EdgeName.parse(words[1]) if len(words) == 2 else None
    if len(words) != 1 and edge is None:
        raise ValueError(
            f"fixed: {text!r} should be OPERATION, which follows every cell, or OPERATION CELL/FROM->TO, "
            f"such as skip_connect {cells[0]}/0->2 or skip_connect {cells[-1]}/2->4"
        )
    operation = words[0]
    if operation not in FIXED_OPERATIONS:
        raise ValueError(f"fixed: unknown operation {operation!r}; known are {', '.join(FIXED_OPERATIONS)}")
    if edge is None:
        return Fixed(operation)
    if edge.cell not in cells:
        raise ValueError(f"fixed: {text!r} should name one of the cells {', '.join(cells)}")
    last = INPUTS + nodes - 1
    if not edge.source < edge.target or not INPUTS <= edge.target <= last:
        raise ValueError(f"fixed: {text!r} should lead from a lower node to one of {INPUTS} to {last}")
    return Fixed(operation, list(cells).index(edge.cell), edge.source, edge.target)


def format_fixed(one: Fixed, cells: Sequence[str]) -> str:
    """Return a fixed operation in the form that :func:`parse_fixed` reads.

    Args:
        one: The fixed operation.
        cells: Labels of the cells, in the order of a genotype.
    """
    if one.cell is None or one.source is None or one.target is None:
        return one.operation
    return f"{one.operation} {EdgeName(cells[one.cell], one.source, one.target)}"
