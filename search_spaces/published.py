"""Text of the form ``[NAME =] Call(field=[…], …)``, read without running it."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

_LONGEST_TEXT = 1_000_000
"""No published genotype has so many characters; Python's parser takes a thousand bytes for some of them."""
_LONGEST = 10_000
"""No list in a published genotype is longer; a longer one is somebody's attempt on our memory."""


def read_call(text: str, known: Mapping[str, Sequence[str]]) -> tuple[str, dict[str, Any]]:
    """The name and the fields of one call whose arguments are lists.

    Only numbers, strings, lists, tuples, ``range`` and sums and multiples of lists are understood.

    Args:
        text: the call, with or without ``NAME =`` before it.
        known: for each name that may be called, its fields in positional order.

    Returns:
        The name, and the value of every one of its fields (tuples and ranges as lists).

    Raises:
        ValueError: the text is something else.
    """
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"the text has {len(text):,} characters, more than the {_LONGEST_TEXT:,} that it may have")
    try:
        return _read_call(text, known)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"the text is not of the form {' or '.join(f'{name}(…)' for name in known)}") from None


def _read_call(text: str, known: Mapping[str, Sequence[str]]) -> tuple[str, dict[str, Any]]:
    statements = ast.parse(text.strip()).body
    if len(statements) != 1 or not isinstance(statements[0], (ast.Expr, ast.Assign)):
        raise ValueError(f"expected one expression, {' or '.join(f'{name}(…)' for name in known)}")
    if isinstance(statements[0], ast.Assign) and not (
        len(statements[0].targets) == 1 and isinstance(statements[0].targets[0], ast.Name)
    ):
        raise ValueError("expected one plain name before the =")
    call = statements[0].value
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in known:
        raise ValueError(f"expected one of {', '.join(known)} with its fields")
    name, expected = call.func.id, known[call.func.id]
    if len(call.args) > len(expected):
        raise ValueError(f"{name} has the fields {', '.join(expected)}, not {len(call.args)} of them")
    fields = {key: _literal(value) for key, value in zip(expected, call.args, strict=False)}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg not in expected or keyword.arg in fields:
            raise ValueError(f"{name} has the fields {', '.join(expected)}, each once; found {keyword.arg!r}")
        fields[keyword.arg] = _literal(keyword.value)
    for key in expected:
        if not isinstance(fields.get(key), list):
            raise ValueError(f"{name}: {key} is missing or not a list")
    return name, fields


def _size(value: Any) -> int:
    """The number of values in a list, itself and those in its lists included."""
    return 1 + sum(map(_size, value)) if isinstance(value, list) else 1


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() as value):
            return value
        case ast.Constant(value=int() as value) if not isinstance(value, bool) and value <= _LONGEST:
            return value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item) for item in items]
        case ast.Call(func=ast.Name(id="range"), args=[_, *_] as arguments, keywords=[]) if len(arguments) <= 3:
            bounds = [_literal(argument) for argument in arguments]
            if all(isinstance(bound, int) for bound in bounds) and bounds[2:] != [0]:
                numbers = range(*bounds)
                # The slice counts in big integers, where len() would overflow.
                if len(numbers[: _LONGEST + 1]) <= _LONGEST:
                    return list(numbers)
        case ast.BinOp(op=ast.Add()):
            left, right = _literal(node.left), _literal(node.right)
            if isinstance(left, list) and isinstance(right, list) and _size(left) + _size(right) <= _LONGEST:
                return left + right
        case ast.BinOp(op=ast.Mult()):
            left, right = _literal(node.left), _literal(node.right)
            if isinstance(left, list) and isinstance(right, int) and _size(left) * right <= _LONGEST:
                return left * right
    raise ValueError(f"cannot read {ast.unparse(node)[:60]!r}")
