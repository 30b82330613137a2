"""Checks of arguments, with one form of message: the name, the value, and the expected values."""

from __future__ import annotations

from collections.abc import Iterable


def require(name: str, value: object, right: bool, expected: str) -> None:
    """Raise a ValueError if an argument is out of range.

    Args:
        name: Name of the argument.
        value: Its value.
        right: Whether it is in range.
        expected: The range in words, after "should be".

    Raises:
        ValueError: The argument is out of range.
    """
    if not right:
        raise ValueError(f"{name}: {value} should be {expected}")


def require_one_of(name: str, value: object, known: Iterable[str]) -> None:
    """Raise a ValueError if an argument is not one of the known values.

    Args:
        name: Name of the argument.
        value: Its value.
        known: The known values.

    Raises:
        ValueError: The argument is unknown.
    """
    known = list(known)
    require(name, repr(value), value in known, f"one of {', '.join(known)}")
