"""Arguments that were renamed: the old keywords go on working for a release, with a warning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def argument_aliases(**names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator of ``__init__`` that accepts further keywords, for example those of another library.

    Args:
        names: The keyword for each alias.
    """

    def decorate(init: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(init)
        def aliased(self: Any, *args: Any, **kwargs: Any) -> None:
            for alias in names.keys() & kwargs.keys():
                if names[alias] in kwargs:
                    raise TypeError(f"{alias}: another name of {names[alias]}, which is given too")
                kwargs[names[alias]] = kwargs.pop(alias)
            init(self, *args, **kwargs)

        return aliased

    return decorate


def renamed_arguments(**names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator of ``__init__`` that accepts old keywords.

    Args:
        names: The new keyword for each old one.
    """

    def decorate(init: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(init)
        def renamed(self: Any, *args: Any, **kwargs: Any) -> None:
            for old in names.keys() & kwargs.keys():
                if names[old] in kwargs:
                    raise TypeError(f"{old}: renamed to {names[old]}, which is given too")
                warnings.warn(f"{old}: renamed to {names[old]}", FutureWarning, stacklevel=2)
                kwargs[names[old]] = kwargs.pop(old)
            init(self, *args, **kwargs)

        renamed.renamed_arguments = names  # type: ignore[attr-defined]
        return renamed

    return decorate


def renamed_arguments_of(kind: type) -> Mapping[str, str]:
    """Return the new keyword for each old one that a class accepts."""
    return getattr(kind.__init__, "renamed_arguments", {})  # type: ignore[misc]
