"""The methods of the literature in searches of any length.

A method has its defaults, but a default that is a number of epochs is scaled to the search. In a search of one epoch α
is trained from the first step on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def scaled(epochs: int, count: int, of: int = 50, least: int = 0) -> int:
    """A number of epochs, or of what happens once in an epoch, in proportion to the length of a search.

    Args:
        epochs: of the search.
        count: the number in the search of the paper.
        of: epochs of the search of the paper.
        least: the smallest number that works.
    """
    return max(least, epochs * count // of)


METHODS: dict[str, Callable[[int], dict[str, Any]]] = {
    "PCDARTS": lambda epochs: {"warmup_epochs": scaled(epochs, 15)},
    "PDARTS": lambda epochs: {},
    "GDAS": lambda epochs: {},
    "SNAS": lambda epochs: {},
    "DrNAS": lambda epochs: {},
    "BetaDARTS": lambda epochs: {},
    "DARTSMinus": lambda epochs: {},
    "DARTSPlus": lambda epochs: {"stable_epochs": scaled(epochs, 10, least=2)},
    "IDARTS": lambda epochs: {},
    "AmendedDARTS": lambda epochs: {},
    "SmoothDARTS": lambda epochs: {},
    "RobustDARTS": lambda epochs: {"start": scaled(epochs, 10), "every": scaled(epochs, 2, least=1)},
    "DOTS": lambda epochs: {} if epochs >= 4 else {"stages": (0.0, 1.0, 1.0)},
    "Proxyless": lambda epochs: {"warmup_epochs": scaled(epochs, 40, of=160)},
    "OLES": lambda epochs: {},
    "DARTSPT": lambda epochs: {"projection_epochs": scaled(epochs, 81, of=131, least=1)},
}
"""Name in nas_plugins -> the settings that differ from the defaults in a search of so many epochs."""

UNEVEN = {"IDARTS": 4, "Proxyless": 5}
"""Method -> weight steps for each architecture step, where that is not one: its steps differ in cost."""


def make(name: str, epochs: int, **settings: Any) -> Any:
    """The strategy of a method, for a search of so many epochs.

    Args:
        name: one of METHODS.
        epochs: of the search.
        settings: that come first.
    """
    import nas_plugins  # takes seconds

    return getattr(nas_plugins, name)(**{**METHODS[name](epochs), **settings})
