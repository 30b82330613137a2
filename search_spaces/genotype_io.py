"""A genotype as JSON and as a sample of NNI.

Readers return the arguments of :class:`~search_spaces.genotype.Genotype`, which checks their values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from reprlib import repr as shown
from typing import TYPE_CHECKING, Any

from search_spaces.edges import (
    INPUTS,
    KINDS,
    NONE,
    Cell,
    GenotypeError,
    as_edge,
    darts_layout,
    default_reductions,
    smallest_set,
)

if TYPE_CHECKING:
    from search_spaces.genotype import Genotype

FORMAT = "nas-plugins/genotype"
VERSION = 1


# JSON


def write_json(genotype: Genotype) -> str:
    """Return the text of a genotype file, with one cell per line."""
    cells = ",\n  ".join(json.dumps({"edges": [list(edge) for edge in cell]}) for cell in genotype.cells)
    fixed = [[one.operation] if one.cell is None else list(one) for one in genotype.fixed]
    optional = {"fixed": fixed or None, "max_skips": genotype.max_skips}
    rest = "".join(f',\n "{key}": {json.dumps(value)}' for key, value in optional.items() if value is not None)
    return (
        f'{{"format": "{FORMAT}", "version": {VERSION}, "operations": {json.dumps(genotype.operations)},\n'
        f' "cells": [\n  {cells}],\n'
        f' "layout": {list(genotype.layout)}, "reductions": {list(genotype.reductions)}, '
        f'"concat": {list(genotype.concat)}{rest}}}\n'
    )


def read_json(text: str) -> dict[str, Any]:
    """Read the text of a genotype file, or a sample of NNI.

    Returns:
        The arguments of a genotype.

    Raises:
        GenotypeError: The text is neither.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GenotypeError(f"not JSON: {error}") from None
    return read_data(data)


def read_data(data: Any) -> dict[str, Any]:
    """Read the values of a genotype file, or a sample of NNI, alone or in a list.

    Returns:
        The arguments of a genotype.

    Raises:
        GenotypeError: The value is neither.
    """
    if isinstance(data, list) and len(data) == 1:  # NNI exports a list of models
        data = data[0]
    if isinstance(data, dict) and any("/op_" in str(key) for key in data):
        return read_sample(data)
    if not isinstance(data, dict) or (data.get("format"), data.get("version")) != (FORMAT, VERSION):
        raise GenotypeError(
            f'"format" should be "{FORMAT}" and "version" {VERSION}, or the keys those of a sample of NNI, such as '
            '"normal/op_2_0"'
        )
    try:
        cells = [list(cell["edges"]) for cell in data["cells"]]
        fields = {key: data[key] for key in ("operations", "layout", "reductions", "concat")}
        return {**fields, "cells": cells, "fixed": list(data.get("fixed", ())), "max_skips": data.get("max_skips")}
    except KeyError as error:
        raise GenotypeError(f"{error} is missing") from None
    except TypeError:
        raise GenotypeError('"cells" should be a list of {"edges": [[operation, from, to], …]}') from None


# NNI samples


def read_sample(sample: Mapping[str, Any], layers: int | None = None) -> dict[str, Any]:
    """Read a sample of a space of cells: see :meth:`Genotype.from_sample`.

    Returns:
        The arguments of a genotype.

    Raises:
        GenotypeError: The value is not such a sample, or does not have this number of layers.
    """
    read, end = read_cells(sample)
    cells = tuple(read.values())
    by_layer = "normal" not in read
    if by_layer and (len(cells) < 3 or layers not in (None, len(cells))):
        raise GenotypeError(
            f"sample: it has {len(cells)} cells, not one a layer; space.genotype(sample) knows the layers"
        )
    depth = len(cells) if by_layer else 8 if layers is None else layers
    return {
        "cells": cells,
        "layout": range(depth) if by_layer else darts_layout(depth),
        "reductions": default_reductions(depth),
        "concat": range(INPUTS, end),
        "operations": smallest_set(cells),
    }


def write_sample(genotype: Genotype) -> dict[str, Any]:
    """Return the sample of a genotype: see :meth:`Genotype.to_sample`.

    Raises:
        GenotypeError: No sample describes the genotype.
    """
    depth = len(genotype.layout)
    by_layer = genotype.layout == tuple(range(depth)) and genotype.reductions == default_reductions(depth)
    cells = {f"cell_{layer}": layer for layer in range(depth)} if by_layer else genotype.kinds()
    if cells is None or not (by_layer or cells.keys() == set(KINDS)):
        raise GenotypeError(
            "a sample has a normal and a reduction cell, or one for every layer; this genotype has others"
        )
    nodes = genotype.concat
    targets = {edge.target for index in cells.values() for edge in genotype.cells[index]}
    if nodes != tuple(range(INPUTS, INPUTS + len(nodes))) or not targets <= set(nodes):
        raise GenotypeError("a sample concatenates all nodes, in order")
    sample: dict[str, Any] = {}
    for label, index in cells.items():
        for node in nodes:
            incoming = [(edge.operation, edge.source) for edge in genotype.cells[index] if edge.target == node]
            if not by_layer and len(incoming) != 2:
                raise GenotypeError(
                    f"a sample has two operations a node; node {node} of the {label} cell has {len(incoming)}"
                )
            sample |= sample_of_node(label, node, incoming)
    return sample


def read_cells(sample: Mapping[str, Any]) -> tuple[dict[str, Cell], int]:
    """Read the cells of a sample.

    Returns:
        The cells by label, which are ``normal`` and ``reduce``, or ``cell_0``, ``cell_1`` and so on; and the number of
        nodes of the largest, inputs included.

    Raises:
        GenotypeError: The sample lacks a key, or has an invalid operation or node.
    """
    labels = list(KINDS)
    if any(str(key).startswith("cell_0/") for key in sample):
        found = {str(key).partition("/")[0] for key in sample if str(key).startswith("cell_")}
        labels = [f"cell_{index}" for index in range(len(found))]
    read = {label: _read_cell(sample, label) for label in labels}
    return {label: cell for label, (cell, _) in read.items()}, max(end for _, end in read.values())


def _read_cell(sample: Mapping[str, Any], label: str) -> tuple[Cell, int]:
    """Return the operations of a cell in a sample, and the number of its nodes, inputs included."""
    edges, read = [], 0
    node, slot = INPUTS, 0
    while f"{label}/op_{node}_{slot}" in sample:
        while (key := f"{label}/op_{node}_{slot}") in sample:
            source = sample.get(f"{label}/input_{node}_{slot}")
            if isinstance(source, Sequence) and len(source) == 1:
                source = source[0]
            if not isinstance(source, int):
                raise GenotypeError(f"sample: {label}/input_{node}_{slot} should be one node, not {shown(source)}")
            edge = as_edge((sample[key], source, node), f"sample: {label} cell")
            if edge.operation != NONE:
                edges.append(edge)
            slot, read = slot + 1, read + 1
        node, slot = node + 1, 0
    if not read:
        raise GenotypeError(f"sample: no key like '{label}/op_2_0'; it has {', '.join(map(str, sample))}")
    if sum(str(key).startswith(f"{label}/") for key in sample) != 2 * read:
        raise GenotypeError(f"sample: the {label} cell lacks a key between node 2 and its last node")
    return tuple(edges), node


def sample_of_node(label: str, node: int, incoming: Sequence[tuple[str, int]], slots: int = 2) -> dict[str, Any]:
    """Return the part of a sample for the operations that lead to a node.

    Args:
        label: Label of the cell.
        node: Number of the node.
        incoming: (operation, source) of each operation.
        slots: Number of operations that every node has in the space; missing ones become ``none``.
    """
    sample: dict[str, Any] = {}
    for slot in range(max(slots, len(incoming))):
        operation, source = incoming[slot] if slot < len(incoming) else (NONE, 0)
        sample[f"{label}/op_{node}_{slot}"] = operation
        sample[f"{label}/input_{node}_{slot}"] = [source]
    return sample
