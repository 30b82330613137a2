"""Line breaks of an exported Python file, as a Python formatter would set them."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 88
"""Maximum number of characters in a line, the default of Black and Ruff."""


def listed(start: str, items: Sequence[str], end: str) -> str:
    """Return items with commas between two texts: on one line if they fit, otherwise each on its own line.

    Args:
        start: Text before the items, with its indentation.
        items: Texts of the items.
        end: Text after the items.
    """
    line = f"{start}{', '.join(items)}{end}"
    if len(line) <= WIDTH:
        return line
    return exploded(start, items, end)


def exploded(start: str, items: Sequence[str], end: str) -> str:
    """Return items between two texts, each on its own line.

    Args: See :func:`listed`.
    """
    indent = " " * (len(start) - len(start.lstrip()))
    return "\n".join([start, *(f"{indent}    {item}," for item in items), f"{indent}{end}"])


def assigned_call(start: str, call: str) -> str:
    """Return the assignment of a call whose arguments hold no commas.

    Args:
        start: Text before the call, with its indentation.
        call: The call, for example ``sep_conv(channels, 3)``.
    """
    function, _, arguments = call.partition("(")
    return listed(f"{start}{function}(", arguments.removesuffix(")").split(", "), ")")


def summed(start: str, terms: Sequence[str]) -> str:
    """Return the assignment of a sum: on one line if it fits, otherwise each term on its own line.

    Args:
        start: Text before the terms, with its indentation.
        terms: Texts of the terms.
    """
    line = f"{start}{' + '.join(terms)}"
    if len(line) <= WIDTH:
        return line
    indent = " " * (len(start) - len(start.lstrip()))
    first, *others = terms
    return "\n".join([f"{start}(", f"{indent}    {first}", *(f"{indent}    + {term}" for term in others), f"{indent})"])
