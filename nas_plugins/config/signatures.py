"""Signatures of model spaces and strategies, which NNI wraps and hides."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping


def unwrapped(found: type) -> type:
    """A class that has, in a line, the ``__init__`` of the class and of its bases as they were written.

    It is there to be read, never made: jsonargparse follows ``super().__init__(**kwargs)`` through it.
    """
    written: type = object
    for base in reversed(found.__mro__):
        if "__init__" in vars(base):
            written = type(base.__name__, (written,), {"__init__": _written_init(base), "__doc__": base.__doc__})
    return written


def arguments(found: type) -> Mapping[str, inspect.Parameter]:
    """The arguments of a class, those included that it may hand on to its bases."""
    arguments: dict[str, inspect.Parameter] = {}
    for base in found.__mro__:
        if "__init__" in vars(base):
            own = inspect.signature(_written_init(base)).parameters
            arguments = {**own, **arguments}
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in own.values()):
                break
    return arguments


def nullable(found: type) -> set[str]:
    """The arguments that can be null."""
    nullable = {name for name, parameter in arguments(found).items() if parameter.default is None}
    for base in found.__mro__:
        try:
            hints = typing.get_type_hints(_written_init(base))
        except (NameError, TypeError):  # a type that is imported for type checkers alone
            continue
        nullable |= {name for name, hint in hints.items() if type(None) in typing.get_args(hint)}
    return nullable


def _written_init(found: type) -> Callable[..., None]:
    """The ``__init__`` that somebody wrote: NNI wraps that of every model space, which hides its signature."""
    inherited = [vars(base).get("__init__") for base in found.__mro__[1:]]
    for base in found.__mro__:
        wrapped = vars(base).get("_init_wrapped")
        if wrapped is not None and wrapped not in inherited:
            return wrapped
    return found.__init__  # type: ignore[misc]  # of the very class that will be made
