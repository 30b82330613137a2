"""Signatures of model spaces and strategies, seen through NNI's wrappers."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping


def unwrapped(found: type) -> type:
    """Return a class with the unwrapped ``__init__`` of a class and of each of its bases.

    Only for inspection, not for instantiation: jsonargparse follows ``super().__init__(**kwargs)`` through it.
    """
    written: type = object
    for base in reversed(found.__mro__):
        if "__init__" in vars(base):
            written = type(base.__name__, (written,), {"__init__": _written_init(base), "__doc__": base.__doc__})
    return written


def arguments(found: type) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a class, including those that it passes on to its bases."""
    arguments: dict[str, inspect.Parameter] = {}
    for base in found.__mro__:
        if "__init__" in vars(base):
            own = inspect.signature(_written_init(base)).parameters
            arguments = {**own, **arguments}
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in own.values()):
                break
    return arguments


def nullable(found: type) -> set[str]:
    """Return the names of the arguments that may be null."""
    nullable = {name for name, parameter in arguments(found).items() if parameter.default is None}
    for base in found.__mro__:
        try:
            hints = typing.get_type_hints(_written_init(base))
        except (NameError, TypeError):  # a type that is imported only under TYPE_CHECKING
            continue
        nullable |= {name for name, hint in hints.items() if type(None) in typing.get_args(hint)}
    return nullable


def _written_init(found: type) -> Callable[..., None]:
    """Return the original ``__init__`` of a class: NNI's wrapper around that of a model space hides its signature."""
    inherited = [vars(base).get("__init__") for base in found.__mro__[1:]]
    for base in found.__mro__:
        wrapped = vars(base).get("_init_wrapped")
        if wrapped is not None and wrapped not in inherited:
            return wrapped
    return found.__init__  # type: ignore[misc]
