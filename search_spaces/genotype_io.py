"""Text forms of a genotype (JSON files and published code) and its form as an NNI sample.

Readers return the arguments of :class:`~search_spaces.genotype.Genotype`, which checks their values.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from inspect import Parameter, Signature
from reprlib import repr as shown
from typing import TYPE_CHECKING, Any

from search_spaces.edges import (
    INPUTS,
    KINDS,
    NONE,
    Cell,
    GenotypeError,
    as_edge,
    as_integers,
    darts_layout,
    default_reductions,
    smallest_set,
)

if TYPE_CHECKING:
    from search_spaces.genotype import Genotype

FORMAT = "nas-plugins/genotype"
VERSION = 1
_KEYS = ("operations", "cells", "layout", "reductions", "concat")

_MAX_JSON, _MAX_PUBLISHED = 10_000_000, 1_000_000
"""Characters of a text that is read. Python's parser takes up to a thousand bytes for each."""

_MAX_VALUES = 10_000
"""Largest integer and longest list in a published genotype; list arithmetic could fill the memory."""

_PUBLISHED = {
    "Genotype": ("normal", "normal_concat", "reduce", "reduce_concat"),
    "Genotype_nested": ("genes", "concat", "reductions"),
    "Genotype_opt": ("genes", "seq", "concat", "reductions"),
}
"""The published forms and their fields, each a list."""

_FORM = f"the text should be one call of the form {', '.join(f'{name}(…)' for name in _PUBLISHED)}"


# JSON


def write_json(genotype: Genotype) -> str:
    """Return the text of a genotype file, one cell a line."""
    cells = ",\n  ".join(json.dumps({"edges": [list(edge) for edge in cell]}) for cell in genotype.cells)
    fixed = [[one.operation] if one.cell is None else list(one) for one in genotype.fixed]
    return (
        f'{{"format": "{FORMAT}", "version": {VERSION}, "operations": {json.dumps(genotype.operations)},\n'
        f' "cells": [\n  {cells}],\n'
        f' "layout": {list(genotype.layout)}, "reductions": {list(genotype.reductions)}, '
        f'"concat": {list(genotype.concat)}' + (f',\n "fixed": {json.dumps(fixed)}}}\n' if fixed else "}\n")
    )


def read_json(text: str) -> dict[str, Any]:
    """Read the text of a genotype file.

    Returns:
        The arguments of a genotype.

    Raises:
        GenotypeError: The text is not JSON of this format and version, or has other keys.
    """
    _check_length(text, _MAX_JSON)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GenotypeError(f"not JSON: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise GenotypeError(f'"format" should be "{FORMAT}", not {shown(found)}')
    if data.get("version") != VERSION:
        raise GenotypeError(f'"version" should be {VERSION}, not {shown(data.get("version"))}')
    for key in _KEYS:
        if key not in data:
            raise GenotypeError(f'"{key}" is missing')
    for key in data:
        if key not in (*_KEYS, "fixed", "format", "version"):
            raise GenotypeError(f"unknown key {shown(key)}; known are {', '.join(_KEYS)}, fixed")
    cells = data["cells"]
    if not isinstance(cells, list) or not all(
        isinstance(cell, dict) and cell.keys() == {"edges"} and isinstance(cell["edges"], list) for cell in cells
    ):
        raise GenotypeError('"cells" should be a list of {"edges": [[operation, from, to], …]}')
    fields = {key: data[key] for key in (*_KEYS, "fixed") if key in data}
    return {**fields, "cells": [cell["edges"] for cell in cells]}


def _check_length(text: str, longest: int) -> None:
    if len(text) > longest:
        raise GenotypeError(f"the text has {len(text):,} characters, more than the {longest:,} it may have")


# Published code


def read_published(text: str) -> dict[str, Any]:
    """Read a genotype as its authors print it, without running it: see :meth:`Genotype.parse`.

    Returns:
        The arguments of a genotype.

    Raises:
        GenotypeError: The text is in no known form.
    """
    try:
        _check_length(text, _MAX_PUBLISHED)
        name, fields = _read_call(text)
    except (SyntaxError, RecursionError, MemoryError):
        raise GenotypeError(f"not a published genotype: {_FORM}") from None
    except ValueError as error:
        raise GenotypeError(f"not a published genotype: {error}") from None
    return _from_darts(fields) if name == "Genotype" else _from_d_darts(fields)


def _read_call(text: str) -> tuple[str, dict[str, list[Any]]]:
    """Return the name and the fields of one call, ``[NAME =] Call(field=[…], …)``."""
    match ast.parse(text.strip()).body:
        case [
            ast.Expr(value=ast.Call(func=ast.Name(id=name)) as call)
            | ast.Assign(targets=[ast.Name()], value=ast.Call(func=ast.Name(id=name)) as call)
        ] if name in _PUBLISHED:
            known = _PUBLISHED[name]
        case _:
            raise ValueError(_FORM)
    values = [_literal(value) for value in call.args]
    named = {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
    try:
        fields = Signature([Parameter(key, Parameter.POSITIONAL_OR_KEYWORD) for key in known]).bind(*values, **named)
    except TypeError as error:
        raise ValueError(f"{name} has the fields {', '.join(known)}: {error}") from None
    for key, value in fields.arguments.items():
        if not isinstance(value, list):
            raise ValueError(f"{name}: {key} should be a list")
    return name, fields.arguments


def _literal(node: ast.expr) -> Any:
    """Evaluate numbers, strings, lists, tuples, ``range``, and sums and multiples of lists."""
    match node:
        case ast.Constant(value=str() as value):
            return value
        case ast.Constant(value=int() as value) if value <= _MAX_VALUES:
            return value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item) for item in items]
        case ast.Call(func=ast.Name(id="range"), args=[_, *_] as arguments, keywords=[]) if len(arguments) <= 3:
            bounds = [_literal(argument) for argument in arguments]
            if all(isinstance(bound, int) for bound in bounds) and bounds[2:] != [0]:
                return list(range(*bounds))
        case ast.BinOp(op=ast.Add()):
            left, right = _literal(node.left), _literal(node.right)
            if isinstance(left, list) and isinstance(right, list) and _size(left) + _size(right) <= _MAX_VALUES:
                return left + right
        case ast.BinOp(op=ast.Mult()):
            left, right = _literal(node.left), _literal(node.right)
            if isinstance(left, list) and isinstance(right, int) and _size(left) * right <= _MAX_VALUES:
                return left * right
    raise ValueError(f"cannot read {ast.unparse(node)[:60]!r}")


def _size(value: Any) -> int:
    """Return the number of values in a nested list, lists included."""
    return 1 + sum(map(_size, value)) if isinstance(value, list) else 1


def _from_darts(fields: Mapping[str, list[Any]]) -> dict[str, Any]:
    concat = as_integers(fields["normal_concat"], "normal_concat")
    if concat != as_integers(fields["reduce_concat"], "reduce_concat"):
        raise GenotypeError("normal_concat and reduce_concat differ; a genotype here has one concat for all cells")
    cells = []
    for kind in KINDS:
        pairs = fields[kind]
        if len(pairs) % 2 or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise GenotypeError(f"{kind}: should hold two (operation, from node) for each node")
        cells.append(tuple(as_edge((op, source, INPUTS + i // 2), kind) for i, (op, source) in enumerate(pairs)))
    return {
        "cells": cells,
        "layout": darts_layout(8),
        "reductions": default_reductions(8),
        "concat": concat,
        "operations": smallest_set(cells),
    }


def _from_d_darts(fields: Mapping[str, list[Any]]) -> dict[str, Any]:
    cells = []
    for i, gene in enumerate(fields["genes"]):
        if not isinstance(gene, list) or not all(isinstance(item, list) and len(item) == 3 for item in gene):
            raise GenotypeError("genes: each cell should be a list of (operation, to node, from node)")
        cells.append(tuple(as_edge((op, source, target), f"genes: cell {i}") for op, target, source in gene))
    return {
        "cells": cells,
        "layout": fields.get("seq", range(len(cells))),
        "reductions": fields["reductions"],
        "concat": fields["concat"],
        "operations": smallest_set(cells),
    }


# NNI samples


def read_sample(sample: Mapping[str, Any], layers: int | None = None) -> dict[str, Any]:
    """Read a sample of a space of cells: see :meth:`Genotype.from_sample`.

    Returns:
        The arguments of a genotype.

    Raises:
        GenotypeError: The value is no such sample, or not for so many layers.
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
        GenotypeError: The sample lacks a key, or has something that is no operation or no node.
    """
    labels = list(KINDS)
    if any(str(key).startswith("cell_0/") for key in sample):
        found = {str(key).partition("/")[0] for key in sample if str(key).startswith("cell_")}
        labels = [f"cell_{index}" for index in range(len(found))]
        if set(labels) != found:
            raise GenotypeError(
                f"sample: it should have the cells {labels[0]} to {labels[-1]}, not {shown(sorted(found))}"
            )
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
