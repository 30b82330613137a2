"""Signatures of model spaces, seen through the wrappers that NNI puts around their constructors."""

from __future__ import annotations

from jsonargparse import ArgumentParser


def unwrapped(found: type) -> type:
    """Return a class with the original ``__init__`` of a class and of each of its bases.

    Only for inspection, not for instantiation: jsonargparse follows ``super().__init__(**kwargs)`` through it.
    """
    written: type = object
    wrappers = set()
    for base in reversed(found.__mro__):
        own = vars(base).get("__init__")
        original = vars(base).get("_init_wrapped") or own
        if original is not None and original not in wrappers:  # NNI wraps an inherited constructor again
            written = type(base.__name__, (written,), {"__init__": original, "__doc__": base.__doc__})
        wrappers.add(own)
    return written


def argument_names(found: type) -> set[str]:
    """Return the names of the arguments of a class, including those that it passes on to its bases."""
    return set(ArgumentParser().add_class_arguments(unwrapped(found), fail_untyped=False))
