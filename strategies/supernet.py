"""The supernet: NNI's choices replaced by modules that follow a plan.

An *edge* is a place with one choice of its own: an edge of a cell, a ``LayerChoice`` or an
``InputChoice``. Modules with the same label share their edges, and so one α.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from nni.mutable import Categorical, CategoricalMultiple, label_scope
from nni.nas.nn.pytorch import Cell, InputChoice, LayerChoice
from nni.nas.nn.pytorch.cell import create_cell_op_candidates, preprocess_cell_inputs
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from torch import Tensor, nn
from torch.nn import functional

from strategies.candidates import take_relu, weigh_norm, weighted
from strategies.derivation import NONE, CellAlphas, Chosen
from strategies.relaxation import Choice, Plan

Derivation = Callable[[CellAlphas], list[Chosen]]


class Architecture(nn.Module):
    """All α of a search, and the plan that the supernet follows at the moment.

    Args:
        none: add the candidate ``none`` to the edges of cells.
        scale: standard deviation of the normal distribution that α starts from.

    Attributes:
        candidates: edge -> the names of its candidates, in the order of α.
        plan: edge -> what it computes in a forward pass.
    """

    def __init__(self, none: bool = True, scale: float = 1e-3) -> None:
        super().__init__()
        self.none = none
        self.scale = scale
        self._parameters_by_edge = nn.ParameterDict()
        self.candidates: dict[str, tuple[Any, ...]] = {}
        self.plan: Plan = {}

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

    def table(self) -> dict[str, dict[Any, float]]:
        """edge -> candidate -> α, as plain numbers."""
        return {
            edge: dict(zip(self.candidates[edge], alpha.tolist(), strict=True)) for edge, alpha in self.alphas.items()
        }


def _parameter_name(edge: str) -> str:
    return edge.replace("%", "%25").replace(".", "%2E")  # a dot would end the name of a parameter


def replace_choice(module: nn.Module, architecture: Architecture, derivation: Derivation) -> BaseSuperNetModule | None:
    """The supernet module for one of NNI's cells, layer choices or input choices; None for any other module."""
    # The types must match exactly: a subclass may mean something else by its choice.
    if type(module) is Cell:
        return MixedCell(module, architecture, derivation)
    if type(module) is LayerChoice:
        return MixedLayer(module, architecture)
    if type(module) is InputChoice:
        return MixedInput(module, architecture)
    return None


def mix(choice: Choice, count: int, output: Callable[[int, Tensor | None], Any]) -> Any:
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
            total = out if total is None else total.add_(out)
    else:
        for index in choice:
            if index < count:
                total = add(total, output(index, None))
    return total


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
        alphas, names = self.architecture.alphas, self.architecture.candidates
        return {
            edge: dict(zip(names[edge], torch.softmax(alphas[edge], 0).tolist(), strict=True))
            for edge in self.edges()
            if edge not in memo
        }

    def derived_plan(self, sample: Mapping[str, Any]) -> dict[str, Choice]:
        """The plan of this module's edges for the architecture of a sample."""
        raise NotImplementedError


class MixedCell(Mixed):
    """A cell in which every node is connected to every node before it."""

    def __init__(self, cell: Cell, architecture: Architecture, derivation: Derivation) -> None:
        super().__init__(architecture)
        self.derivation = derivation
        self.label = cell.label
        self.preprocessor, self.postprocessor = cell.preprocessor, cell.postprocessor
        self.num_predecessors, self.num_ops_per_node = cell.num_predecessors, cell.num_ops_per_node
        self.concat_dim = cell.concat_dim
        first, last = cell.num_predecessors, cell.num_predecessors + cell.num_nodes
        # NNI's cells with loose ends concatenate all nodes here, as in NNI's own supernets: what is validated as
        # their derived architecture has more outputs than the frozen one.
        self.nodes = range(first, last)
        self.operations: dict[str, nn.ModuleList] = nn.ModuleDict()  # type: ignore[assignment]
        self.after_relu: dict[str, tuple[bool, ...]] = {}
        for target in self.nodes:
            for source in range(target):
                candidates = _cell_candidates(cell, target, source)
                architecture.add_edge(self.edge(source, target), list(candidates), none=architecture.none)
                key = f"{source}->{target}"
                self.operations[key] = nn.ModuleList(candidates.values())
                self.after_relu[key] = tuple(take_relu(candidate) for candidate in candidates.values())
                for candidate in candidates.values():
                    weigh_norm(candidate)
                self.op_names = tuple(candidates)
        with label_scope(self.label):
            for target in self.nodes:
                for slot in range(self.num_ops_per_node):
                    self.add_mutable(Categorical(self.op_names, label=f"op_{target}_{slot}"))
                    self.add_mutable(CategoricalMultiple(range(target), n_chosen=1, label=f"input_{target}_{slot}"))

    def edge(self, source: int, target: int) -> str:
        """The name of the edge between two nodes."""
        return f"{self.label}/{source}->{target}"

    def edges(self) -> Iterable[str]:
        return (self.edge(source, target) for target in self.nodes for source in range(target))

    def forward(self, *inputs: Any) -> Any:
        """Follow the plan: the same inputs and output as the cell that this one replaces."""
        plan = self.architecture.plan
        inputs_list = preprocess_cell_inputs(self.num_predecessors, *inputs)
        states = list(self.preprocessor(inputs_list))
        activated: dict[int, Tensor] = {}

        def output(source: int, target: int, index: int, weight: Tensor | None) -> Tensor:
            x, key = states[source], f"{source}->{target}"
            if self.after_relu[key][index]:
                # One ReLU a node serves all candidates of all edges that leave it.
                if source not in activated:
                    activated[source] = functional.relu(x)
                x = activated[source]
            operation = self.operations[key][index]
            return operation(x) if weight is None else weighted(operation, weight, x)

        for target in self.nodes:
            total = None
            for source in range(target):
                choice = plan[self.edge(source, target)]
                total = add(total, mix(choice, len(self.op_names), partial(output, source, target)))
            if total is None:
                total = self._nothing(states, target)
            elif total.requires_grad:
                # From the concatenation it comes as a slice, with which normalizations are slow.
                total.register_hook(torch.clone)
            states.append(total)
        out = torch.cat(states[self.num_predecessors :], self.concat_dim)
        return self.postprocessor(out, inputs_list)

    def _nothing(self, states: list[Tensor], target: int) -> Tensor:
        """The output of a node that only ``none`` reaches: zeros of the shape of any candidate's output."""
        candidate = self.operations[f"0->{target}"][0]
        training = candidate.training
        with torch.no_grad():
            # In evaluation, so that this does not count in any statistics.
            zeros = torch.zeros_like(candidate.eval()(states[0]))
        candidate.train(training)
        return zeros

    def cell_alphas(self) -> CellAlphas:
        """(source, target) -> operation -> α of this cell."""
        table = self.architecture.table()
        return {(source, target): table[self.edge(source, target)] for target in self.nodes for source in range(target)}

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """The derived cell as NNI's sample: ``label/op_2_0``, ``label/input_2_0``, …"""
        if f"{self.label}/op_{self.nodes[0]}_0" in memo:
            return {}
        chosen = self.derivation(self.cell_alphas())
        sample: dict[str, Any] = {}
        for target in self.nodes:
            incoming = [edge for edge in chosen if edge.target == target]
            for slot in range(self.num_ops_per_node):
                # A cell may ask for more operations than a node has edges: then edges repeat, as in NNI.
                edge = incoming[slot % len(incoming)]
                sample[f"{self.label}/op_{target}_{slot}"] = edge.operation
                sample[f"{self.label}/input_{target}_{slot}"] = [edge.source]
        return sample

    def derived_plan(self, sample: Mapping[str, Any]) -> dict[str, Choice]:
        plan: dict[str, tuple[int, ...]] = dict.fromkeys(self.edges(), ())
        for target in self.nodes:
            for slot in range(self.num_ops_per_node):
                (source,) = sample[f"{self.label}/input_{target}_{slot}"]
                index = self.op_names.index(sample[f"{self.label}/op_{target}_{slot}"])
                plan[self.edge(source, target)] += (index,)
        return dict(plan)


def _cell_candidates(cell: Cell, target: int, source: int) -> dict[str, nn.Module]:
    """The candidates of one edge, as NNI's cell would make them for that node and that input."""
    factories = cell.op_candidates_factory
    if factories is None:  # the cell was given modules: NNI's cell copies them
        factories = cell.ops[0][0].candidates
    candidates, _ = create_cell_op_candidates(factories, target, 0, source)
    return candidates


class MixedLayer(Mixed):
    """A layer choice: one edge."""

    def __init__(self, choice: LayerChoice, architecture: Architecture) -> None:
        super().__init__(architecture)
        self.label, self.names = choice.label, list(choice.names)
        architecture.add_edge(self.label, self.names)
        self.candidates = nn.ModuleList(choice[name] for name in self.names)
        self.add_mutable(choice.choice)

    def edges(self) -> Iterable[str]:
        return (self.label,)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Follow the plan, with the arguments of the candidates."""

        def output(index: int, weight: Tensor | None) -> Any:
            out = self.candidates[index](*args, **kwargs)
            return out if weight is None else weight * out

        return mix(self.architecture.plan[self.label], len(self.candidates), output)

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """The candidate with the highest α."""
        if self.label in memo:
            return {}
        return {self.label: self.names[int(self.architecture.alphas[self.label].argmax())]}

    def derived_plan(self, sample: Mapping[str, Any]) -> dict[str, Choice]:
        return {self.label: (self.names.index(sample[self.label]),)}


class MixedInput(Mixed):
    """An input choice: one edge, whose candidates are the inputs."""

    def __init__(self, choice: InputChoice, architecture: Architecture) -> None:
        super().__init__(architecture)
        if choice.reduction not in ("sum", "mean"):
            raise TypeError(
                f"the input choice {choice.label!r} has the reduction {choice.reduction!r}; "
                "a differentiable strategy can search sum and mean"
            )
        self.label, self.n_candidates = choice.label, choice.n_candidates
        self.n_chosen = choice.n_chosen or 1
        self.mean = choice.reduction == "mean"
        architecture.add_edge(self.label, range(choice.n_candidates))
        self.add_mutable(choice.choice)

    def edges(self) -> Iterable[str]:
        return (self.label,)

    def forward(self, inputs: Sequence[Any]) -> Any:
        """Follow the plan over the inputs."""
        choice = self.architecture.plan[self.label]
        total = mix(choice, len(inputs), lambda i, weight: inputs[i] if weight is None else weight * inputs[i])
        return total / len(choice) if self.mean and not isinstance(choice, Tensor) else total

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """The inputs with the highest α, in order."""
        if self.label in memo:
            return {}
        best = self.architecture.alphas[self.label].argsort(descending=True)[: self.n_chosen]
        return {self.label: sorted(best.tolist())}

    def derived_plan(self, sample: Mapping[str, Any]) -> dict[str, Choice]:
        return {self.label: tuple(sample[self.label])}
