"""Registry of spaces and strategies: entry points of installed packages, and any importable class."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections import Counter
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

from nni.nas.nn.pytorch import ModelSpace
from nni.nas.strategy.base import Strategy

from nas_plugins.errors import InputError
from nas_plugins.files import one_line

Kind = Literal["space", "strategy"]
GROUPS: dict[Kind, str] = {"space": "nas_plugins.search_spaces", "strategy": "nas_plugins.strategies"}
"""Entry-point groups under which packages register spaces and strategies."""
_BASES: dict[Kind, type] = {"space": ModelSpace, "strategy": Strategy}


def registered(kind: Kind) -> dict[str, EntryPoint]:
    """Return all registered spaces or strategies by name.

    A name that several packages give to different classes refers to the class of nas-plugins, if it has one. The other
    classes are listed under their importable names.
    """
    return dict(_registered(kind, tuple(sys.path)))


@cache
def _registered(kind: Kind, _path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Return the result of :func:`registered`, cached per ``sys.path`` because reading all packages is slow."""
    points = set(entry_points(group=GROUPS[kind]))
    times = Counter(point.name for point in points)
    named = {}
    for point in points:
        ours = point.dist is not None and point.dist.name == "nas-plugins"
        named[point.name if ours or times[point.name] == 1 else f"{point.module}.{point.attr}"] = point
    return dict(sorted(named.items()))


def find(kind: Kind, name: str) -> type[Any]:
    """Return the class of a space or strategy.

    Args:
        kind: ``"space"`` or ``"strategy"``.
        name: Registered name, or path of an importable class like ``nni.nas.strategy.GumbelDARTS``.

    Raises:
        InputError: There is no such class, or it is not an NNI space or strategy.
    """
    known = registered(kind)
    if name not in known and "." not in name:
        lower = {other.lower(): other for other in known}
        close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
        hint = f"did you mean {lower[close[0]]}? " if close else ""
        raise InputError(
            f"{kind}.name: no {kind} is called {name!r}; {hint}known are {', '.join(known)}, "
            "and any importable class (package.module.Class)"
        )
    if name in known:
        try:
            found = known[name].load()
        except (Exception, SystemExit) as error:  # importing third-party code can raise any exception
            raise _not_imported(f"{kind}.name", name, error) from error
    else:
        found = import_class(f"{kind}.name", name)
    if not (isinstance(found, type) and issubclass(found, _BASES[kind])):
        raise InputError(f"{kind}.name: {name} is no {_BASES[kind].__module__}.{_BASES[kind].__name__}")
    return found


def import_class(key: str, path: str) -> Any:
    """Return the object at an import path.

    Args:
        key: Key of the config that names the path, for messages.
        path: Path like ``package.module.Class``. A path into Python's standard library gives None.

    Raises:
        InputError: The path cannot be imported.
    """
    module, _, attribute = path.rpartition(".")
    if module.partition(".")[0] in sys.stdlib_module_names:  # no plugins, and some run code when imported
        return None
    try:
        return getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # importing third-party code can raise any exception
        raise _not_imported(key, path, error) from error


def _not_imported(key: str, path: str, error: BaseException) -> InputError:
    """Return the error of a path that cannot be imported, with the path that may be meant."""
    top = path.partition(".")[0]
    missing = isinstance(error, ModuleNotFoundError) and error.name == top
    if missing and (Path(f"{top}.py").is_file() or Path(top).is_dir()):
        hint = f"; it lies in this folder: PYTHONPATH=. nas-plugins {' '.join(sys.argv[1:2])} …"
    else:
        meant = _similar(path)
        hint = f"; did you mean {meant}?" if meant else ""
    return InputError(f"{key}: {path!r} cannot be imported: {type(error).__name__}: {one_line(error)}{hint}")


def _similar(path: str) -> str | None:
    """Return an existing import path that differs from a wrong one in the spelling of its first wrong part."""
    parent, folders, parts = "", None, path.split(".")
    for place, part in enumerate(parts):
        known = {module.name for module in pkgutil.iter_modules(folders)}
        if parent:
            known.update(name for name in dir(importlib.import_module(parent)) if not name.startswith("_"))
        if part not in known:
            close = difflib.get_close_matches(part, known, n=1, cutoff=0.75)
            return ".".join([*parts[:place], close[0], *parts[place + 1 :]]) if close else None
        parent = f"{parent}.{part}".lstrip(".")
        if place + 1 < len(parts):
            try:
                folders = getattr(importlib.import_module(parent), "__path__", [])
            except (Exception, SystemExit):  # this is the error that is reported
                return None
    return None
