"""Spaces and strategies by name: those of installed packages, through entry points, or any importable class."""

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
"""The entry-point groups under which a package registers its spaces and strategies."""
_BASES: dict[Kind, type] = {"space": ModelSpace, "strategy": Strategy}


@dataclass(frozen=True)
class Plugin:
    """A space or a strategy that a package has registered; nothing of the package is imported yet.

    Args:
        kind: which of the two.
        name: what a config calls it.
        point: where it is.
    """

    kind: Kind
    name: str
    point: EntryPoint

    def load(self) -> type[Any]:
        """The class.

        Raises:
            InputError: it cannot be imported, or is no NNI space or strategy.
        """
        return _load(self.point.load, self.kind, self.name)

    @property
    def value(self) -> str:
        """Where it is; of one that cannot be used also why, which takes an import to know."""
        try:
            self.load()
        except InputError as error:
            why = str(error).removeprefix(f"{self.kind}.name: ")
            return f"{self.point.value}  (broken: {why})"
        return self.point.value


def registered(kind: Kind) -> dict[str, Plugin]:
    """name -> every registered space or strategy.

    Where packages give a name to different classes it stands for ours, if it is ours, and else for none; the others
    go by their importable names.
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
    """Those of all packages on a path: it takes a look into each of them, and a search asks several times."""
    return entry_points(group=GROUPS[kind])


def find(kind: Kind, name: str) -> type[Any]:
    """The class of a space or strategy.

    Args:
        kind: which of the two.
        name: a registered name, or an importable class such as ``nni.nas.strategy.GumbelDARTS``.

    Raises:
        InputError: there is no such class, or it is no NNI space or strategy.
    """
    plugins = registered(kind)
    if name in plugins:
        return plugins[name].load()
    if "." in name:
        module, _, attribute = name.rpartition(".")
        if module.partition(".")[0] in {*sys.stdlib_module_names, "__main__"}:  # importing some of them does things
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
    try:
        found = load()
    except (Exception, SystemExit) as error:  # whatever a third party's module raises while it is imported
        reason = " ".join(str(error).split())
        raise InputError(f"{kind}.name: {name!r} cannot be imported: {type(error).__name__}: {reason}") from error
    if not (isinstance(found, type) and issubclass(found, _BASES[kind])):
        raise InputError(f"{kind}.name: {name} is no {_BASES[kind].__module__}.{_BASES[kind].__name__}")
    return found
