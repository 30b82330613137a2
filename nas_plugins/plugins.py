"""Registry of spaces and strategies: entry points of installed packages, and any importable class."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any, Literal

from nni.nas.nn.pytorch import ModelSpace
from nni.nas.strategy.base import Strategy

from nas_plugins.errors import InputError

Kind = Literal["space", "strategy"]
GROUPS: dict[Kind, str] = {"space": "nas_plugins.search_spaces", "strategy": "nas_plugins.strategies"}
"""Entry-point groups under which packages register spaces and strategies."""
_BASES: dict[Kind, type] = {"space": ModelSpace, "strategy": Strategy}


@dataclass(frozen=True)
class Plugin:
    """Registered space or strategy, not yet imported.

    Args:
        kind: ``"space"`` or ``"strategy"``.
        name: Name in a config.
        point: Entry point of the class.
    """

    kind: Kind
    name: str
    point: EntryPoint

    def load(self) -> type[Any]:
        """Import the class.

        Raises:
            InputError: It cannot be imported, or is not an NNI space or strategy.
        """
        return _load(self.point.load, self.kind, self.name)

    @property
    def value(self) -> str:
        """Return the location of the class, with the reason if importing it fails."""
        try:
            self.load()
        except InputError as error:
            why = str(error).removeprefix(f"{self.kind}.name: ")
            return f"{self.point.value}  (broken: {why})"
        return self.point.value


def registered(kind: Kind) -> dict[str, Plugin]:
    """Return all registered spaces or strategies by name.

    A name that several packages give to different classes refers to the class of nas-plugins, if it has one, and
    otherwise to no class. The other classes are listed under their importable names.
    """
    points: dict[str, set[EntryPoint]] = {}
    for point in _entry_points(kind, tuple(sys.path)):
        points.setdefault(point.name, set()).add(point)
    plugins = {}
    for name, same in points.items():
        ours = {point for point in same if point.dist is not None and point.dist.name == "nas-plugins"}
        owners = same if len(same) == 1 else ours
        for point in same:
            own = name if point in owners else f"{point.module}.{point.attr}"
            plugins[own] = Plugin(kind, own, point)
    return dict(sorted(plugins.items()))


@cache
def _entry_points(kind: Kind, _path: tuple[str, ...]) -> EntryPoints:
    """Return the entry points of all installed packages; cached per ``sys.path``, because scanning it is slow."""
    return entry_points(group=GROUPS[kind])


def find(kind: Kind, name: str) -> type[Any]:
    """Return the class of a space or strategy.

    Args:
        kind: ``"space"`` or ``"strategy"``.
        name: Registered name, or path of an importable class like ``nni.nas.strategy.GumbelDARTS``.

    Raises:
        InputError: There is no such class, or it is not an NNI space or strategy.
    """
    plugins = registered(kind)
    if name in plugins:
        return plugins[name].load()
    if "." in name:
        module, _, attribute = name.rpartition(".")
        if module.partition(".")[0] in {*sys.stdlib_module_names, "__main__"}:  # some run code when imported
            raise InputError(f"{kind}.name: {name} is no {_BASES[kind].__module__}.{_BASES[kind].__name__}")
        return _load(lambda: getattr(importlib.import_module(module), attribute), kind, name)
    several = [plugin.name for plugin in plugins.values() if plugin.point.name == name]
    if several:
        raise InputError(f"{kind}.name: {name!r} is a name of several packages; write {' or '.join(several)}")
    close = difflib.get_close_matches(name.lower(), [plugin.lower() for plugin in plugins], n=1, cutoff=0.5)
    hint = "".join(f"did you mean {plugin}? " for plugin in plugins if plugin.lower() in close)
    raise InputError(
        f"{kind}.name: no {kind} is called {name!r}; {hint}known are {', '.join(plugins)}, "
        "and any importable class (package.module.Class)"
    )


def _load(load: Callable[[], Any], kind: Kind, name: str) -> type[Any]:
    """Import a class and check that it is a space or a strategy."""
    try:
        found = load()
    except (Exception, SystemExit) as error:  # importing third-party code can raise any exception
        reason = " ".join(str(error).split())
        raise InputError(f"{kind}.name: {name!r} cannot be imported: {type(error).__name__}: {reason}") from error
    if not (isinstance(found, type) and issubclass(found, _BASES[kind])):
        raise InputError(f"{kind}.name: {name} is no {_BASES[kind].__module__}.{_BASES[kind].__name__}")
    return found
