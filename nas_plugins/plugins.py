"""Spaces and strategies by name: those of installed packages, through entry points, or any importable class."""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from nni.nas.nn.pytorch import ModelSpace
from nni.nas.strategy.base import Strategy

from nas_plugins.errors import InputError

Kind = Literal["space", "strategy"]
GROUPS: dict[Kind, str] = {"space": "nas_plugins.search_spaces", "strategy": "nas_plugins.strategies"}
"""The entry-point groups under which a package registers its spaces and strategies."""
_BASES: dict[Kind, type] = {"space": ModelSpace, "strategy": Strategy}


def registered(kind: Kind) -> dict[str, EntryPoint]:
    """name -> entry point of every registered space or strategy."""
    return {point.name: point for point in sorted(entry_points(group=GROUPS[kind]), key=lambda p: p.name)}


def find(kind: Kind, name: str) -> type[Any]:
    """The class of a space or strategy.

    Args:
        kind: which of the two.
        name: a registered name, or an importable class such as ``nni.nas.strategy.GumbelDARTS``.

    Raises:
        InputError: there is no such class, or it is no NNI space or strategy.
    """
    points = registered(kind)
    if name in points:
        found = _imported(points[name].load, kind, name)
    elif "." in name:
        module, _, attribute = name.rpartition(".")
        found = _imported(lambda: getattr(importlib.import_module(module), attribute), kind, name)
    else:
        close = difflib.get_close_matches(name, points, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(
            f"{kind}.name: no {kind} is called {name!r}; {hint}There are {', '.join(points)}, "
            "and any importable class (package.module.Class)"
        )
    if not (isinstance(found, type) and issubclass(found, _BASES[kind])):
        raise InputError(f"{kind}.name: {name} is no {_BASES[kind].__module__}.{_BASES[kind].__name__}")
    return found


def _imported(load: Any, kind: Kind, name: str) -> Any:
    try:
        return load()
    except (Exception, SystemExit) as error:  # whatever a third party's module raises while it is imported
        reason = " ".join(str(error).split())
        raise InputError(f"{kind}.name: {name!r} cannot be imported: {type(error).__name__}: {reason}") from error
