"""Methods of the literature for searches of any length.

Methods have their defaults, except that numbers of epochs are scaled to the length of the search. In a search of one
epoch α is trained from the first step on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def scaled(epochs: int, count: int, of: int = 50, least: int = 0) -> int:
    """Scale a number of epochs, or of events that happen once per epoch, to the length of a search.

    Args:
        epochs: Epochs of the search.
        count: The number in the search of the paper.
        of: Epochs of the search of the paper.
        least: Smallest number that works.
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
"""Name in nas_plugins -> function from the number of epochs to the settings that differ from the defaults."""

UNEVEN = {"IDARTS": 4, "Proxyless": 5}
"""Method -> weight steps per architecture step, if there are several; the steps of these methods differ in cost."""

WARMUP = {"EDAS": 30, "EDAS recomputing": 30, "EDAS, bare loop": 30, "GDAS": 30, "Proxyless": 30}
"""Strategy -> steps before those that are measured; 1 for all others. These strategies run few candidates per step, so
they call many candidates for the first time in later steps, and the first call of a candidate copies its input."""


def make(name: str, epochs: int, **settings: Any) -> Any:
    """Return the strategy of a method for a search of a given length.

    Args:
        name: Key of METHODS.
        epochs: Epochs of the search.
        settings: Settings that take precedence.
    """
    import nas_plugins  # late, because it takes seconds

    return getattr(nas_plugins, name)(**{**METHODS[name](epochs), **settings})
