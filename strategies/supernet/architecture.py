"""α, the current plan, and the base class of the supernet modules that follow it.

An *edge* is a single choice: an edge of a cell, a layer choice, an input choice, the depth of a ``Repeat``, or a value
choice. Choices with the same label share the edge and its α.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from nni.nas.oneshot.pytorch.supermodule._expression_utils import weighted_sum
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from torch import Tensor, nn

from search_spaces.edges import NONE
from strategies.relaxation import Alphas, Plan, PlanEntry, Step, WeightedOps, rows


class Architecture(nn.Module):
    """All α of a search, and the plan that the supernet currently follows.

    Args:
        none: Whether to add the candidate ``none`` to the edges of cells.
        scale: Standard deviation of the normal distribution that α is initialized from.
        recompute: Whether to recompute relaxed edges of cells in the backward pass.

    Attributes:
        candidates: Edge -> its candidates, in the order of α: names, indices of inputs, or values.
        grouped: Whether the cells compute candidates of one kind together, which is used on accelerators.
        plan: Edge -> its computation in a forward pass.
        step: The position of the search.
        living: Edge -> indices of the candidates that pruning has left, for edges that were pruned.
        shift: Edge -> addend (candidates,) to the α that derivations see, for edges that have one.
        multi_input_choices: Labels of the input choices that take more than one input.
    """

    def __init__(self, none: bool = True, scale: float = 1e-3, recompute: bool = False) -> None:
        super().__init__()
        self.none = none
        self.scale = scale
        self.recompute = recompute
        self.grouped = False
        self._parameters_by_edge = nn.ParameterDict()
        self._names: dict[str, str] = {}
        self.candidates: dict[str, tuple[Any, ...]] = {}
        self.plan: Plan = {}
        self.step = Step()
        self.living: dict[str, tuple[int, ...]] = {}
        self.shift: Mapping[str, Tensor] = {}
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

    def prune(self, edge: str, keep: Iterable[int]) -> None:
        """Prune an edge to some of its candidates: relaxations and derivations no longer see the others.

        Input choices that take several inputs keep all candidates.

        Args:
            edge: Name of the edge.
            keep: Indices of the candidates to keep; those already pruned are ignored. An empty collection removes the
                edge.
        """
        if edge in self.multi_input_choices:
            return
        kept = set(keep)
        self.living[edge] = tuple(index for index in self.living_indices(edge) if index in kept)

    def living_indices(self, edge: str) -> tuple[int, ...]:
        """Return the indices of the candidates of an edge that live, ascending."""
        return self.living.get(edge, tuple(range(len(self.candidates[edge]))))

    def living_alphas(self) -> Alphas:
        """Return edge -> α (living candidates,), for edges that have a living candidate."""
        alphas: Alphas = self.alphas
        if not self.living:
            return alphas
        return {
            edge: alpha[list(self.living[edge])] if edge in self.living else alpha
            for edge, alpha in alphas.items()
            if self.living.get(edge) != ()
        }

    def follow(self, plan: Plan) -> None:
        """Let the supernet follow a plan of the living candidates."""
        self.plan = self.of_all(plan)

    def of_all(self, plan: Plan) -> Plan:
        """Return the plan of all candidates that is equivalent to a plan of the living ones."""
        if not self.living:
            return plan
        return {**dict.fromkeys(self.living, ()), **{edge: self._of_all(edge, entry) for edge, entry in plan.items()}}

    def _of_all(self, edge: str, entry: PlanEntry) -> PlanEntry:
        living = self.living.get(edge)
        if living is None:
            return entry
        if isinstance(entry, Tensor):
            return WeightedOps(living, entry)
        if isinstance(entry, WeightedOps):
            return WeightedOps(tuple(living[index] for index in entry.indices), entry.weights)
        return tuple(living[index] for index in entry)

    def table(self, edges: Iterable[str] | None = None) -> dict[str, dict[Any, float]]:
        """Return edge -> living candidate -> α, as plain numbers, of some edges or of all."""
        alphas = self.living_alphas()
        wanted = alphas if edges is None else {edge: alphas[edge] for edge in edges if edge in alphas}
        read = rows(self._shifted(wanted))
        return {edge: dict(zip(self.living_candidates(edge), row, strict=True)) for edge, row in read.items()}

    @contextmanager
    def shifted(self, shift: Mapping[str, Tensor]) -> Iterator[None]:
        """Add values to the α that derivations see, within this context."""
        before, self.shift = self.shift, shift
        try:
            yield
        finally:
            self.shift = before

    def _shifted(self, alphas: Alphas) -> Alphas:
        if not self.shift:
            return alphas
        added = {
            # In double precision, as for a table that is read from a file: a shift decides between close values.
            edge: alphas[edge].double() + shift.to(alphas[edge].device)[list(self.living_indices(edge))]
            for edge, shift in self.shift.items()
            if edge in alphas
        }
        return {**alphas, **added}

    def named(self, shift: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        """Return an addend to α as edge -> candidate -> value, in plain JSON types."""
        names = self.candidates
        return {edge: dict(zip(map(str, names[edge]), row.tolist(), strict=True)) for edge, row in shift.items()}

    def living_candidates(self, edge: str) -> tuple[Any, ...]:
        """Return the candidates of an edge that live."""
        if edge not in self.living:
            return self.candidates[edge]
        return tuple(self.candidates[edge][index] for index in self.living[edge])

    def strongest(self, labels: Iterable[str]) -> dict[str, Any]:
        """Return label -> the candidate with the highest α, for labels of NNI's choices."""
        return {label: max(alphas, key=alphas.__getitem__) for label, alphas in self.table(labels).items()}

    def probabilities(self, edges: Iterable[str]) -> dict[str, dict[Any, float]]:
        """Return edge -> candidate -> softmax weight."""
        alphas = self.living_alphas()
        return {
            edge: dict(zip(self.living_candidates(edge), torch.softmax(alphas[edge], 0).tolist(), strict=True))
            for edge in edges
            if edge in alphas
        }

    def path(self, sample: Mapping[str, Any]) -> dict[str, PlanEntry]:
        """Return the plan that runs the candidates of a sample, for all edges whose name is a label of the sample."""
        chosen = {edge: sample[edge] for edge in self.candidates if edge in sample}
        return {
            edge: tuple(self.candidates[edge].index(one) for one in (some if isinstance(some, list) else [some]))
            for edge, some in chosen.items()
        }


def _parameter_name(edge: str) -> str:
    # Parameter names cannot contain dots. The prefix avoids the names of the attributes of ParameterDict.
    return "edge " + edge.replace("%", "%25").replace(".", "%2E")


def active(choice: PlanEntry, count: int) -> Iterator[tuple[int, int]]:
    """Yield the candidates that an edge runs, each with the position of its weight.

    Args:
        choice: The entry of the edge in a plan.
        count: Number of candidates without ``none``, whose index follows theirs.
    """
    if isinstance(choice, Tensor):
        indices: Iterable[int] = range(len(choice))
    else:
        indices = choice.indices if isinstance(choice, WeightedOps) else choice
    return ((position, index) for position, index in enumerate(indices) if index < count)


def weights_of(choice: PlanEntry) -> Tensor | None:
    """Return the weights of an entry of a plan, None if it has none."""
    return choice if isinstance(choice, Tensor) else choice.weights if isinstance(choice, WeightedOps) else None


def weighted(choice: PlanEntry, count: int) -> list[tuple[int, Tensor | None]]:
    """Return the candidates that an edge runs, each with its weight (scalar), or None without weights.

    Args:
        choice: The entry of the edge in a plan.
        count: Number of candidates without ``none``, whose index follows theirs.
    """
    given = weights_of(choice)
    weights = None if given is None else given.unbind()
    return [(index, None if weights is None else weights[position]) for position, index in active(choice, count)]


def mix(candidates: Iterable[tuple[int, Tensor | None]], output: Callable[[int, Tensor | None], Any]) -> Any:
    """Return the output of an edge, None if no candidate runs.

    The weighted sum is accumulated one candidate at a time, because stacking the outputs would hold all of them twice.

    Args:
        candidates: The candidates that the edge runs, each with its weight, or None without weights.
        output: Function of the index and the weight of a candidate. It returns the output, multiplied by the weight
            into a new tensor if the weight is not None.
    """
    total = None
    for index, weight in candidates:
        out = output(index, weight)
        # Only a weighted output is a new tensor, to which others may be added in place.
        total = out if total is None else add(total, out) if weight is None else accumulate(total, out)
    return total


def accumulate(total: Any, out: Any) -> Any:
    """Return total + out, in place if possible; total must be a new tensor that is not used elsewhere."""
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
            "a supernet is not frozen in place: freeze a fresh instance of the space with this sample; the weights of "
            "the supernet come by strategies.inheritance.inherit(space, sample)"
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
