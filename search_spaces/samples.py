"""Samples of NNI's: what was chosen in a space of cells, by label (``normal/op_2_0``, ``normal/input_2_0``, …)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from reprlib import repr as shown
from typing import Any

from search_spaces.edges import INPUTS, Cell, GenotypeError, as_edge

NONE = "none"
"""In a sample: no operation. A genotype does not have it."""


def read_cells(sample: Mapping[str, Any]) -> tuple[dict[str, Cell], int]:
    """The cells of a sample by their labels, and the number of their nodes, inputs included.

    They are ``normal`` and ``reduce``, or ``cell_0``, ``cell_1``, … where the sample has these.

    Raises:
        GenotypeError: it lacks a key, or something in it is no operation or no node.
    """
    own = any(str(key).startswith("cell_0/") for key in sample)
    read = {kind: _read_cell(sample, kind) for kind in (_own_kinds(sample) if own else ("normal", "reduce"))}
    return {kind: cell for kind, (cell, _) in read.items()}, max(end for _, end in read.values())


def sample_of_node(kind: str, node: int, incoming: Sequence[tuple[str, int]], slots: int = 2) -> dict[str, Any]:
    """The part of a sample that says what arrives at a node.

    Args:
        kind: the label of its cell.
        node: the node.
        incoming: (operation, source) of what arrives.
        slots: operations that the space gives every node; those that are missing are ``none``.
    """
    sample: dict[str, Any] = {}
    for slot in range(max(slots, len(incoming))):
        operation, source = incoming[slot] if slot < len(incoming) else (NONE, 0)
        sample[f"{kind}/op_{node}_{slot}"] = operation
        sample[f"{kind}/input_{node}_{slot}"] = [source]
    return sample


def _own_kinds(sample: Mapping[str, Any]) -> list[str]:
    found = {str(key).partition("/")[0] for key in sample if str(key).startswith("cell_")}
    kinds = [f"cell_{layer}" for layer in range(len(found))]
    if set(kinds) != found:
        raise GenotypeError(f"sample: it should have the cells {kinds[0]} to {kinds[-1]}, not {shown(sorted(found))}")
    return kinds


def _read_cell(sample: Mapping[str, Any], kind: str) -> tuple[Cell, int]:
    """The operations of a cell in a sample, and the number of its nodes, inputs included."""
    edges, read = [], 0
    node, slot = INPUTS, 0
    while f"{kind}/op_{node}_{slot}" in sample:
        while (key := f"{kind}/op_{node}_{slot}") in sample:
            source = sample.get(f"{kind}/input_{node}_{slot}")
            if isinstance(source, Sequence) and len(source) == 1:
                source = source[0]
            if not isinstance(source, int):
                raise GenotypeError(f"sample: {kind}/input_{node}_{slot} should be one node, not {shown(source)}")
            edge = as_edge((sample[key], source, node), f"sample: {kind} cell")
            if edge.operation != NONE:
                edges.append(edge)
            slot, read = slot + 1, read + 1
        node, slot = node + 1, 0
    if not read:
        raise GenotypeError(f"sample: no key like '{kind}/op_2_0'; it has {', '.join(map(str, sample))}")
    if sum(str(key).startswith(f"{kind}/") for key in sample) != 2 * read:
        raise GenotypeError(f"sample: the {kind} cell lacks a key between node 2 and its last node")
    return tuple(edges), node
