"""The supernet: NNI's choices replaced by modules that follow a plan.

An *edge* is a place with one choice of its own: an edge of a cell, a layer choice, an input choice,
the depth of a ``Repeat``, or a value choice. What has the same label shares the edge, and so one α.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from nni.nas.oneshot.pytorch.supermodule._expression_utils import weighted_sum
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from torch import Tensor, nn

from strategies.derivation import NONE
from strategies.relaxation import ActiveOps, EdgeWeights, Plan


class Architecture(nn.Module):
    """All α of a search, and the plan that the supernet follows at the moment.

    Args:
        none: add the candidate ``none`` to the edges of cells.
        scale: standard deviation of the normal distribution that α starts from.
        recompute: keep nothing of a relaxed edge of a cell for the backward pass, which computes it again.

    Attributes:
        candidates: edge -> the names of its candidates, in the order of α.
        plan: edge -> what it computes in a forward pass.
        multi_input_choices: The labels of choices that take more than one candidate.
    """

    def __init__(self, none: bool = True, scale: float = 1e-3, recompute: bool = False) -> None:
        super().__init__()
        self.none = none
        self.scale = scale
        self.recompute = recompute
        self._parameters_by_edge = nn.ParameterDict()
        self.candidates: dict[str, tuple[Any, ...]] = {}
        self.plan: Plan = {}
        self.multi_input_choices: set[str] = set()

    @property
    def alphas(self) -> dict[str, nn.Parameter]:
        """edge -> α, each a parameter of its own: a step on one edge leaves the parameters and the
        optimizer state of all others alone."""
        return {edge: self._parameters_by_edge[_parameter_name(edge)] for edge in self.candidates}

    def add_edge(self, edge: str, candidates: Sequence[Any], none: bool = False) -> None:
        """Register an edge, once for all modules that share it.

        Raises:
            ValueError: modules that share a label have different candidates.
        """
        names = (*candidates, NONE) if none else tuple(candidates)
        if edge not in self.candidates:
            self.candidates[edge] = names
            self._parameters_by_edge[_parameter_name(edge)] = nn.Parameter(self.scale * torch.randn(len(names)))
        elif self.candidates[edge] != names:
            raise ValueError(f"the label {edge!r} is shared by choices with different candidates")

    def start(self, values: Mapping[str, Mapping[Any, float]]) -> None:
        """Set the α that are named.

        Args:
            values: edge -> candidate -> α.
        """
        for edge, named in values.items():
            with torch.no_grad():
                for candidate, value in named.items():
                    self.alphas[edge][self.candidates[edge].index(candidate)] = value

    def table(self) -> dict[str, dict[Any, float]]:
        """edge -> candidate -> α, as plain numbers."""
        return {
            edge: dict(zip(self.candidates[edge], alpha.tolist(), strict=True)) for edge, alpha in self.alphas.items()
        }

    def strongest(self, labels: Iterable[str]) -> dict[str, Any]:
        """label -> the candidate with the highest α, of edges that are one choice of NNI's."""
        return {label: self.candidates[label][int(self.alphas[label].argmax())] for label in labels}

    def probabilities(self, edges: Iterable[str]) -> dict[str, dict[Any, float]]:
        """edge -> candidate -> its softmax weight."""
        return {
            edge: dict(zip(self.candidates[edge], torch.softmax(self.alphas[edge], 0).tolist(), strict=True))
            for edge in edges
        }

    def path(self, sample: Mapping[str, Any]) -> dict[str, EdgeWeights | ActiveOps]:
        """The plan that runs what a sample names, for all edges that are one choice of NNI's."""
        chosen = {edge: sample[edge] for edge in self.candidates if edge in sample}
        return {
            edge: tuple(self.candidates[edge].index(one) for one in (some if isinstance(some, list) else [some]))
            for edge, some in chosen.items()
        }


def _parameter_name(edge: str) -> str:
    # A dot would end the name of a parameter, and some names are those of the dictionary itself.
    return "edge " + edge.replace("%", "%25").replace(".", "%2E")


def mix(choice: EdgeWeights | ActiveOps, count: int, output: Callable[[int, Tensor | None], Any]) -> Any:
    """What an edge computes; None where that is nothing.

    A relaxed edge accumulates its sum one candidate at a time, since stacking the outputs would
    hold all of them twice.

    Args:
        choice: the weights of all candidates, or the indices of those that run.
        count: the number of candidates that compute something; the one after them is ``none``.
        output: (index, weight) -> the output of that candidate times its weight, a new tensor;
            (index, None) -> its output.
    """
    total = None
    if isinstance(choice, Tensor):
        for index, weight in zip(range(count), choice.unbind(), strict=False):
            out = output(index, weight)
            total = out if total is None else _accumulated(total, out)
    else:
        for index in choice:
            if index < count:
                total = add(total, output(index, None))
    return total


def _accumulated(total: Any, out: Any) -> Any:
    # In place where that is the same: the outputs of candidates may also be broadcast, or be no tensors.
    tensors = isinstance(total, Tensor) and isinstance(out, Tensor)
    if tensors and total.shape == out.shape and total.dtype == out.dtype:
        return total.add_(out)
    return weighted_sum([total, out])


def add(total: Any, out: Any) -> Any:
    """A sum in which None is nothing."""
    if total is None or out is None:
        return out if total is None else total
    return total + out


class Mixed(BaseSuperNetModule):
    """What all supernet modules share: edges of an architecture, which they do not own."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        # In a tuple, since as a submodule its α would be among the weights of the network.
        self._architecture = (architecture,)

    @property
    def architecture(self) -> Architecture:
        """The α and the plan that this module follows."""
        return self._architecture[0]

    def freeze(self, sample: Mapping[str, Any]) -> nn.Module:
        raise NotImplementedError(
            "a supernet is not frozen in place: freeze a fresh instance of the space with this sample"
        )

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Nothing: the plan is drawn for all modules at once."""
        return {}

    def edges(self) -> Iterable[str]:
        raise NotImplementedError

    def export_probs(self, memo: dict[str, Any]) -> dict[str, Any]:
        """edge -> candidate -> its softmax weight."""
        return self.architecture.probabilities(edge for edge in self.edges() if edge not in memo)

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """label -> the candidate with the highest α."""
        return self.architecture.strongest(label for label in self.edges() if label not in memo)
