"""Parts that a strategy adds to the edges of a supernet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from strategies.derivation import Derivation, darts
from strategies.relaxation import Step
from strategies.supernet.architecture import Architecture
from strategies.supernet.partial_channels import narrow
from strategies.supernet.widening import Widening, in_second_half
from strategies.topology import Topology


class Companion(Protocol):
    """Function that creates a module, which runs beside the candidates of an edge whenever these are weighted.

    Its output is added to theirs, in a cell or a layer choice. A derived network does not have it. It may read
    ``architecture.step``, the position of the search.

    Example::

        def auxiliary_skip(candidates, architecture):
            return copy.deepcopy(candidates.get("skip_connect"))
    """

    def __call__(self, candidates: Mapping[str, nn.Module], architecture: Architecture, /) -> nn.Module | None:
        """Return the module of an edge, given its candidates by name; None for no module."""


class Candidate(Protocol):
    """Function that wraps a candidate of an edge, for example to add dropout after it.

    Example::

        def dropped_skip(name, module, architecture):
            return nn.Sequential(module, nn.Dropout(0.4)) if name == "skip_connect" else module
    """

    def __call__(self, name: str, module: nn.Module, architecture: Architecture, /) -> nn.Module:
        """Return the module that takes the place of a candidate."""


@dataclass(frozen=True)
class SupernetParts:
    """Parts that a strategy adds to the edges of a supernet; the fields are those of a composition.

    Args:
        derivation: Function that turns the α of a cell into its discrete operations.
        partial_channels: K; candidates run on 1/K of the channels.
        wider_partial_channels: K in the second half of the epochs, smaller than in the first. None to keep K.
        topology: Function that names the candidates of the inputs of each node of a cell. None for no such candidates.
        companion: Function that creates the module beside the candidates of an edge. None for no module.
        candidate: Function that wraps each candidate. None to leave candidates unchanged.
    """

    derivation: Derivation = darts
    partial_channels: int = 1
    wider_partial_channels: int | None = None
    topology: Topology | None = None
    companion: Companion | None = None
    candidate: Candidate | None = None

    def channels(self, step: Step) -> int:
        """Return K at a position of the search."""
        wider = self.wider_partial_channels
        return self.partial_channels if wider is None or not in_second_half(step) else wider

    def narrowed(self, candidates: Mapping[str, nn.Module], architecture: Architecture) -> dict[str, nn.Module]:
        """Return the candidates of an edge on a part of their channels, with new weights."""
        parts, wider = self.partial_channels, self.wider_partial_channels
        if wider is not None:
            return {name: Widening(module, parts, wider, architecture) for name, module in candidates.items()}
        if parts > 1:
            for candidate in candidates.values():
                narrow(candidate, parts)
        return dict(candidates)

    def prepare(self, candidates: Mapping[str, nn.Module], architecture: Architecture) -> dict[str, nn.Module]:
        """Return the candidates of an edge as they run in the supernet, with all their channels."""
        if self.candidate is None:
            return dict(candidates)
        return {name: self.candidate(name, module, architecture) for name, module in candidates.items()}

    def beside(self, candidates: Mapping[str, nn.Module], architecture: Architecture) -> nn.Module | None:
        """Return the module beside the candidates of an edge, or None."""
        return None if self.companion is None else self.companion(candidates, architecture)


NO_PARTS = SupernetParts()
"""The parts of a strategy that adds nothing to the edges."""
