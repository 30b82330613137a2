"""α, the current plan, and the base class of the supernet modules that follow it.

An *edge* is a single choice: an edge of a cell, a layer choice, an input choice, the depth of a ``Repeat``, or a value
choice. Choices with the same label share the edge and its α.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from nni.nas.oneshot.pytorch.supermodule._expression_utils import weighted_sum
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from torch import Tensor, nn

from search_spaces.edges import NONE
from strategies.relaxation import ActiveOps, EdgeWeights, Plan, rows


class Architecture(nn.Module):
    """All α of a search, and the plan that the supernet currently follows.

    Args:
        none: Whether to add the candidate ``none`` to the edges of cells.
        scale: Standard deviation of the normal distribution that α is initialized from.
        recompute: Whether to recompute relaxed edges of cells in the backward pass.

    Attributes:
        candidates: Edge -> its candidates, in the order of α: names, indices of inputs, or values.
        plan: Edge -> its computation in a forward pass.
        multi_input_choices: Labels of the input choices that take more than one input.
    """

    def __init__(self, none: bool = True, scale: float = 1e-3, recompute: bool = False) -> None:
        super().__init__()
        self.none = none
        self.scale = scale
        self.recompute = recompute
        self._parameters_by_edge = nn.ParameterDict()
        self._names: dict[str, str] = {}
        self.candidates: dict[str, tuple[Any, ...]] = {}
        self.plan: Plan = {}
        self.multi_input_choices: set[str] = set()

    @property
    def alphas(self) -> dict[str, nn.Parameter]:
        """Edge -> α (candidates,).

        Each is a separate parameter, so a step on one edge leaves the optimizer state of all others unchanged.
        """
        parameters = self._parameters_by_edge._parameters  # a dict, many times faster to read than a ParameterDict
        return {edge: parameters[name] for edge, name in self._names.items()}  # type: ignore[misc]

    def add_edge(self, edge: str, candidates: Sequence[Any], none: bool = False) -> None:
        """Register an edge; repeated calls by modules that share it have no effect.

        Args:
            edge: Name of the edge.
            candidates: The candidates.
            none: Whether to add the candidate ``none``.

        Raises:
            ValueError: The edge is already registered with different candidates.
        """
        names = (*candidates, NONE) if none else tuple(candidates)
        if edge not in self.candidates:
            self.candidates[edge] = names
            self._names[edge] = _parameter_name(edge)
            self._parameters_by_edge[self._names[edge]] = nn.Parameter(self.scale * torch.randn(len(names)))
        elif self.candidates[edge] != names:
            raise ValueError(f"the label {edge!r} is shared by choices with different candidates")

    def start(self, values: Mapping[str, Mapping[Any, float]]) -> None:
        """Set initial values of α.

        Args:
            values: Edge -> candidate -> α; all others keep their values.
        """
        for edge, by_candidate in values.items():
            with torch.no_grad():
                for candidate, value in by_candidate.items():
                    self.alphas[edge][self.candidates[edge].index(candidate)] = value

    def table(self, edges: Iterable[str] | None = None) -> dict[str, dict[Any, float]]:
        """Return edge -> candidate -> α, as plain numbers, of some edges or of all."""
        alphas = self.alphas
        read = rows(alphas if edges is None else {edge: alphas[edge] for edge in edges})
        return {edge: dict(zip(self.candidates[edge], row, strict=True)) for edge, row in read.items()}

    def strongest(self, labels: Iterable[str]) -> dict[str, Any]:
        """Return label -> the candidate with the highest α, for labels of NNI's choices."""
        return {label: self.candidates[label][int(self.alphas[label].argmax())] for label in labels}

    def probabilities(self, edges: Iterable[str]) -> dict[str, dict[Any, float]]:
        """Return edge -> candidate -> softmax weight."""
        return {
            edge: dict(zip(self.candidates[edge], torch.softmax(self.alphas[edge], 0).tolist(), strict=True))
            for edge in edges
        }

    def path(self, sample: Mapping[str, Any]) -> dict[str, EdgeWeights | ActiveOps]:
        """Return the plan that runs the candidates of a sample, for all edges whose name is a label of the sample."""
        chosen = {edge: sample[edge] for edge in self.candidates if edge in sample}
        return {
            edge: tuple(self.candidates[edge].index(one) for one in (some if isinstance(some, list) else [some]))
            for edge, some in chosen.items()
        }


def _parameter_name(edge: str) -> str:
    # Parameter names cannot contain dots. The prefix avoids the names of the attributes of ParameterDict.
    return "edge " + edge.replace("%", "%25").replace(".", "%2E")


def mix(choice: EdgeWeights | ActiveOps, count: int, output: Callable[[int, Tensor | None], Any]) -> Any:
    """Return the output of an edge, None if no candidate runs.

    The sum of a relaxed edge is accumulated one candidate at a time, because stacking the outputs would hold all of
    them twice.

    Args:
        choice: The weights of all candidates, or the indices of those that run.
        count: Number of candidates without ``none``, whose index follows theirs.
        output: Returns the output of a candidate, given its index and None, or the output times a weight as a new
            tensor, given its index and the weight.
    """
    total = None
    if isinstance(choice, Tensor):
        for index, weight in zip(range(count), choice.unbind(), strict=False):
            out = output(index, weight)
            total = out if total is None else _accumulate(total, out)
    else:
        for index in choice:
            if index < count:
                total = add(total, output(index, None))
    return total


def _accumulate(total: Any, out: Any) -> Any:
    if not (isinstance(total, Tensor) and isinstance(out, Tensor)):  # tuples or dictionaries of tensors
        return weighted_sum([total, out])
    # In place only if the result is the same: outputs may need broadcasting.
    return total.add_(out) if total.shape == out.shape and total.dtype == out.dtype else total + out


def add(total: Any, out: Any) -> Any:
    """Return total + out, where None stands for zero."""
    if total is None or out is None:
        return out if total is None else total
    return total + out


class Mixed(BaseSuperNetModule):
    """Base class of the supernet modules, each with edges of a shared architecture.

    Args:
        architecture: α and the plan that the module follows.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        # Held in a tuple so that nn.Module does not register it: α must not appear in ``parameters()``.
        self._architecture = (architecture,)

    @property
    def architecture(self) -> Architecture:
        """α and the plan that this module follows."""
        return self._architecture[0]

    def freeze(self, sample: Mapping[str, Any]) -> nn.Module:
        """Raise an error: a supernet is not frozen in place."""
        raise NotImplementedError(
            "a supernet is not frozen in place: freeze a fresh instance of the space with this sample"
        )

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return an empty sample: the plan is set for all modules at once."""
        return {}

    def edges(self) -> Iterable[str]:
        """Return the names of the edges of this module."""
        raise NotImplementedError

    def export_probs(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return edge -> candidate -> softmax weight."""
        return self.architecture.probabilities(edge for edge in self.edges() if edge not in memo)

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return label -> the candidate with the highest α."""
        return self.architecture.strongest(label for label in self.edges() if label not in memo)
