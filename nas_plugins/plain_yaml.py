"""YAML of anybody's: read as plain values, never as code, and never as more than a config can be."""

from __future__ import annotations

from typing import Any

import yaml

_MOST = 100_000
"""Characters of a config, and values in it: a hundred times what one of ours has."""


def load_plain(text: str) -> Any:
    """The content of a YAML text: mappings, lists, words, numbers, dates.

    Raises:
        yaml.YAMLError: the text is no YAML, has a tag of Python's, or is too large, also by its aliases alone.
    """
    if len(text) > _MOST:
        raise yaml.YAMLError(f"{len(text):,} characters are more than a config has")
    try:
        content = yaml.safe_load(text)
        count = _count(content, {})
    except yaml.YAMLError:
        raise
    except Exception as error:  # such as of a date without that day, or of brackets too deep to follow
        raise yaml.YAMLError(str(error) or type(error).__name__) from None
    if count > _MOST:
        raise yaml.YAMLError("with its aliases written out it has more values than a config")
    return content


def _count(value: Any, known: dict[int, float]) -> float:
    """How many values it is, what an alias repeats counted each time."""
    if not isinstance(value, dict | list | tuple | set):  # tuples: of !!pairs and !!omap
        return 1 if not isinstance(value, str) else len(value)
    if id(value) not in known:
        known[id(value)] = float("inf")  # until it is known: one that holds itself is without end
        items = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(item, known) for item in items)
    return known[id(value)]
