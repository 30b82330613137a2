"""Optional members of a model space that strategies and commands use, each as a protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from nni.nas.nn.pytorch import ModelSpace

from search_spaces.genotype import Genotype


@runtime_checkable
class HasInitialAlphas(Protocol):
    """A space that sets the initial α of a search.

    Attributes:
        initial_alphas: Edge -> candidate -> α. Missing candidates start with the α of the strategy.
    """

    initial_alphas: Mapping[str, Mapping[Any, float]]


@runtime_checkable
class HasMemoryFormat(Protocol):
    """A space that declares its memory format on a CPU.

    Attributes:
        channels_last: Whether it may be searched in channels_last, in which convolutions are faster. A space that
            depends on the order of the dimensions in memory, for example by ``view``, may not.
    """

    channels_last: bool


@runtime_checkable
class HasSearchMetrics(Protocol):
    """A space with additional metrics, which are logged in every epoch of a search.

    Example::

        def search_metrics(self, alphas, sample):
            return {"skips": sum(choice == "skip_connect" for choice in sample.values())}
    """

    def search_metrics(
        self, alphas: Mapping[str, Mapping[Any, float]], sample: Mapping[str, Any], /
    ) -> Mapping[str, float]:
        """Return the metrics by name, given edge -> candidate -> α and the sample of the derived network."""


@runtime_checkable
class HasGenotype(Protocol):
    """A space of cells, whose samples are genotypes."""

    def genotype(self, sample: Mapping[str, Any], /) -> Genotype:
        """Return the genotype of a sample."""


@runtime_checkable
class HasStages(Protocol):
    """A space that changes from one stage of a search to the next."""

    def enter_stage(self, index: int, /) -> None:
        """Begin a stage, counted from 0. Repeated calls have no further effect."""


@runtime_checkable
class HasDerivedForm(Protocol):
    """A space whose operations have another form in derived networks than in a search.

    Costs of its architectures are counted in this form.
    """

    def in_derived_form(self) -> ModelSpace:
        """Return a space with the same choices, whose operations have the form and the cost of derived networks."""
