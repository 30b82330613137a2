"""Genotypes as their authors publish them, in code, logs and prose. The text is parsed, and never run."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from reprlib import repr as shown
from typing import Any

from search_spaces.edges import (
    INPUTS,
    NONE,
    Cell,
    Edge,
    GenotypeError,
    as_integers,
    darts_layout,
    default_reductions,
    set_of,
    smallest_set,
)
from search_spaces.genotype_io import read_data

_DARTS = (
    ("normal", "normal_concat", "reduce", "reduce_concat"),
    ("normal_0", "normal_0_concat", "reduce_1", "reduce_1_concat"),  # aw_nas
)
_D_DARTS = ("genes", "seq", "concat", "reductions")
_FIELDS = {*_DARTS[0], *_DARTS[1], *_D_DARTS, "recurrent"}
_POSITIONAL = {"Genotype_nested": ("genes", "concat", "reductions"), "Genotype_opt": _D_DARTS}
"""Order of the fields without a keyword, by the name of the call; :data:`_DARTS` for other names."""

_TYPES = {"int", "int32", "int64", "float", "float32", "float64", "str_", "tensor", "array", "list", "tuple"}
"""Types of Python, NumPy and PyTorch around a value."""

_LONGEST, _MOST = 100_000, 10_000
"""Limits of the characters in a statement (Python's parser takes up to 1 KB for each), and of integers and lists."""

_CALL = re.compile(r"(?<!class )Genotype\w{0,20}\(")
_NAME = re.compile(r"""(\w+)['"]?\s*[=:]\s*['"]?[\w.]*$""")
_ALIAS = re.compile(r"(?m)^(\w+)[ \t]*=[ \t]*(\w+)[ \t]*(?:#.*)?$")
_TOKEN = re.compile(r"""#.*|'[^'\n]*'|"[^"\n]*"|[()\[\]{}]""")


def find_published(text: str) -> dict[str, str]:
    """Find the genotypes in Python code, a log or prose.

    Returns:
        The statements by the name that they are assigned to; by ``line N`` without an assignment. The last statement of
        a name counts, as in Python.
    """
    found: dict[str, str] = {}
    for call in _CALL.finditer(text):
        arguments = _brackets(text, call.end() - 1)
        if re.search(r"""[(\[]\s*['"]""", arguments):  # code that constructs genotypes has no operations in its call
            line = text[text.rfind("\n", 0, call.start()) + 1 : call.start()]
            match = _NAME.search(line[-200:])
            name = match[1] if match else f"line {text.count(chr(10), 0, call.start()) + 1}"
            if not line.lstrip().startswith("#") or name not in found:  # a comment replaces no statement
                found[name] = call[0][:-1] + arguments
    for name, same in _ALIAS.findall(text):
        if same in found:
            found[name] = found[same]
    return found


def _brackets(text: str, start: int) -> str:
    """Return the text from an opening bracket to the one that closes it, or nothing if none does."""
    depth = 0
    for token in _TOKEN.finditer(text, start, start + _LONGEST):
        depth += (token[0] in "([{") - (token[0] in ")]}")
        if depth == 0:
            return text[start : token.end()]
    return ""


def read_published(text: str, name: str | None = None) -> dict[str, Any]:
    """Read a published genotype: see :meth:`Genotype.parse <search_spaces.genotype.Genotype.parse>`.

    Returns:
        The arguments of a genotype.

    Raises:
        GenotypeError: The text has no such genotype, or it is not a network of cells with known operations.
    """
    found = find_published(text)
    if not found and text.lstrip().startswith(("{", "[")):
        found = {"line 1": text.strip()}
    if name is None and len(set(found.values())) == 1:
        name = next(iter(found))
    if name not in found:
        names = ", ".join([*found][:20]) or "none, such as Genotype(normal=[('sep_conv_3x3', 0), …], …)"
        raise GenotypeError(f"{'choose one of' if name is None else f'{name!r} is not among'} the genotypes: {names}")
    try:
        if found[name].startswith(("{", "[")):
            return _read_data(found[name])
        expression = _expression(found[name])
        assert isinstance(expression, ast.Call)
        return _arguments(_fields(expression, text))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise GenotypeError(f"{name}: {error or type(error).__name__}") from None


def _read_data(text: str) -> dict[str, Any]:
    """Read a genotype file, NNI's sample, or the fields of a statement, as JSON or as Python prints a dictionary."""
    try:
        data = json.loads(text)
    except ValueError:
        data = _literal(_expression(text))
    fields = isinstance(data, dict) and {"normal", "genes"} & data.keys()
    return _arguments({key: value for key, value in data.items() if value is not None}) if fields else read_data(data)


# Values


def _expression(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError:  # a terminal may have broken a line within a word
        return ast.parse(text.replace("\n", ""), mode="eval").body


def _fields(call: ast.Call, text: str) -> dict[str, Any]:
    """Return the values of the known fields of a call, without those that are None."""
    order = _POSITIONAL.get(ast.unparse(call.func), _DARTS[0])
    given = dict(zip(order, call.args, strict=False)) | {str(one.arg): one.value for one in call.keywords}
    unknown = [key for key, value in given.items() if key not in _FIELDS and isinstance(value, (ast.List, ast.Tuple))]
    if unknown:  # others, such as layout='cell', do not change the network
        raise GenotypeError(f"unknown field {shown(unknown[0])}")
    values = {key: _literal(value, text) for key, value in given.items() if key in _FIELDS}
    return {key: value for key, value in values.items() if value is not None}


def _literal(node: ast.expr, text: str = "") -> Any:
    """Return the value of an expression of numbers, texts, lists and dictionaries, with tuples as lists.

    Args:
        node: The expression.
        text: Code with ``NAME = [ … ]`` for the names in the expression.
    """
    match node:
        case ast.Constant(value=str() | float() | None as value):
            return value
        case ast.Constant(value=int() as value) if value <= _MOST:
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand) if isinstance(value := _literal(operand), (int, float)):
            return -value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item, text) for item in items]
        case ast.Dict(keys=keys, values=items):
            return {_literal(key): _literal(item) for key, item in zip(keys, items, strict=True) if key is not None}
        case ast.Name(id=name) if start := re.search(rf"(?m)^{name}\s*=\s*(?=\[)", text):
            return _literal(_expression(_brackets(text, start.end())))
        case ast.Call(func=ast.Name(id="range"), args=[_, *_] as bounds):
            return list(range(*(min(_literal(bound), _MOST) for bound in bounds)))
        case ast.Call(func=ast.Name(id=kind) | ast.Attribute(attr=kind), args=[item]) if kind in _TYPES:
            return _literal(item)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return [*_literal(left, text), *_literal(right, text)]
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            repeated = as_integers(_literal(left), "list")
            return list(repeated) * min(_literal(right), _MOST // max(1, len(repeated)))
    raise GenotypeError(f"cannot read {shown(ast.unparse(node))}")


# Forms


def _arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a genotype from the fields of a statement."""
    if "recurrent" in values:
        raise GenotypeError("a recurrent cell; a genotype here is a convolutional network")
    form = next((form for form in (_D_DARTS, *_DARTS) if form[0] in values), _DARTS[0])
    cell_fields = form[:1] if form == _D_DARTS else form[::2]
    set_of(_names([values.get(key) for key in cell_fields]) - {NONE})  # a more helpful error than a missing field
    for key in form:
        if key not in values and key != "seq":
            raise GenotypeError(f"{key}: is missing")
    if form == _D_DARTS:
        concat = as_integers(values["concat"], "concat")
        cells = [_cell(items, concat, f"genes: cell {i}") for i, items in enumerate(values["genes"])]
        layout, reductions = values.get("seq", range(len(cells))), values["reductions"]
    else:
        concats = [as_integers(values[key], key) for key in form[1::2]]
        cells = [_cell(values[key], concat, key) for key, concat in zip(cell_fields, concats, strict=True)]
        cells, concat = _same_concat(cells, concats)
        layout, reductions = darts_layout(8), default_reductions(8)
    return {
        "cells": cells,
        "layout": layout,
        "reductions": reductions,
        "concat": concat,
        "operations": smallest_set(cells),
    }


def _names(items: Any) -> set[str]:
    """Return all texts in nested lists."""
    if isinstance(items, list):
        return set().union(*map(_names, items))
    return {items} if isinstance(items, str) else set()


def _cell(items: Any, concat: tuple[int, ...], where: str) -> Cell:
    """Read the operations of a cell: one list, with two per node if they name no target, or one list per node."""
    match items:
        case [*nodes] if all(isinstance(node, list) and all(isinstance(one, list) for one in node) for node in nodes):
            edges = [_edge(one, INPUTS + i, where) for i, node in enumerate(nodes) for one in node]
        case [[_, int(), int()], *_]:
            edges = [_edge(one, None, where) for one in items]
        case [*_] if len(items) == 2 * (max(concat, default=0) + 1 - INPUTS):
            edges = [_edge(one, INPUTS + i // 2, where) for i, one in enumerate(items)]
        case _:
            raise GenotypeError(f"{where}: {shown(items)} should be two operations for each node of {shown(concat)}")
    return tuple(edge for edge in edges if edge.operation != NONE)


def _edge(one: Any, node: int | None, where: str) -> Edge:
    match one:
        case [str(name), int(source)] | [str(name), int(source), float()] if node is not None:  # α is ignored
            return Edge(name, source, node)
        case [str(name), int(source), int(target)]:  # either order is found; an edge leads to the higher node
            return Edge(name, min(source, target), max(source, target))
    raise GenotypeError(f"{where}: {shown(one)} should be (operation, from node) or (operation, to node, from node)")


def _same_concat(cells: list[Cell], concats: list[tuple[int, ...]]) -> tuple[list[Cell], tuple[int, ...]]:
    """Renumber the nodes of cells that concatenate different nodes, since a genotype has one concat for all cells.

    The concatenated nodes then have odd numbers and the others even ones. The network stays the same.
    """
    if len(set(concats)) == 1:
        return cells, concats[0]

    def number(node: int, concat: tuple[int, ...]) -> int:
        return node if node < INPUTS else 2 * node - INPUTS + (node in concat)

    cells = [
        tuple(Edge(name, number(source, concat), number(target, concat)) for name, source, target in cell)
        for cell, concat in zip(cells, concats, strict=True)
    ]
    return cells, tuple(sorted({number(node, concat) for concat in concats for node in concat}))
