"""Additional names of arguments: aliases, and old keywords, which work for one more release with a warning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

_Init = Callable[..., None]


def argument_aliases(**names: str) -> Callable[[_Init], _Init]:
    """Return a decorator of ``__init__`` that accepts further keywords, for example those of another library.

    Args:
        names: The keyword for each alias.
    """
    return lambda init: _accepting(init, names, "another name of", warn=False)


def renamed_arguments(**names: str) -> Callable[[_Init], _Init]:
    """Return a decorator of ``__init__`` that accepts old keywords, with a warning.

    Args:
        names: The new keyword for each old one.
    """

    def decorate(init: _Init) -> _Init:
        renamed = _accepting(init, names, "renamed to", warn=True)
        renamed.renamed_arguments = names  # type: ignore[attr-defined]
        return renamed

    return decorate


def _accepting(init: _Init, names: Mapping[str, str], relation: str, warn: bool) -> _Init:
    @functools.wraps(init)
    def accepting(self: Any, *args: Any, **kwargs: Any) -> None:
        for other in names.keys() & kwargs.keys():
            text = f"{other}: {relation} {names[other]}"
            if names[other] in kwargs:
                raise TypeError(f"{text}, which is given too")
            if warn:
                warnings.warn(text, FutureWarning, stacklevel=2)
            kwargs[names[other]] = kwargs.pop(other)
        init(self, *args, **kwargs)

    return accepting


def renamed_arguments_of(kind: type) -> Mapping[str, str]:
    """Return the new keyword for each old one that a class accepts."""
    return getattr(kind.__init__, "renamed_arguments", {})  # type: ignore[misc]
