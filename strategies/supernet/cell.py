"""The cell of a supernet, in which every node is connected to every node before it."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import count
from typing import Any

import torch
from nni.mutable import Categorical, CategoricalMultiple, label_scope
from nni.mutable.exception import SampleValidationError
from nni.nas.nn.pytorch import Cell, MutableModule
from nni.nas.nn.pytorch.cell import create_cell_op_candidates, preprocess_cell_inputs
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from search_spaces.beginnings import Beginning, split_beginning
from search_spaces.edges import NONE, CellAlphas, EdgeName, NodeAlphas, NodeName, existing_edges
from search_spaces.genotype_io import sample_of_node
from strategies.bn_statistics import frozen_bn_stats
from strategies.derivation import darts, derive_cell, has_fixed_inputs
from strategies.relaxation import PlanEntry
from strategies.supernet.architecture import Architecture, Mixed, active, add, mix, weighted
from strategies.supernet.candidates import Group, exchange_norms, forward_weighted, weigh
from strategies.supernet.grouped import find_groups, sums_of_groups
from strategies.supernet.partial_channels import PartialStates
from strategies.supernet.parts import NO_PARTS, SupernetParts
from strategies.supernet.shared_input import SharedInput

Weights = list[tuple[int, Tensor | None]]
"""Candidates that an edge runs, each with its weight, or None without weights."""


class MixedCell(Mixed):
    """A cell in which every node is connected to every node before it.

    Args:
        cell: NNI's cell that this module replaces.
        architecture: α and the plan that the module follows.
        parts: Parts that the strategy adds to the edges.
    """

    def __init__(self, cell: Cell, architecture: Architecture, parts: SupernetParts = NO_PARTS) -> None:
        super().__init__(architecture)
        self.derivation, self.parts = parts.derivation, parts
        self.shared = SharedInput()
        self.label, self.factories = cell.label, _factories(cell)
        self.preprocessor, self.postprocessor = cell.preprocessor, cell.postprocessor
        self.num_predecessors, self.num_ops_per_node = cell.num_predecessors, cell.num_ops_per_node
        self.concat_dim = cell.concat_dim
        first, last = cell.num_predecessors, cell.num_predecessors + cell.num_nodes
        # All nodes are concatenated, as in NNI's own supernets. For NNI's cells with loose ends, the validated derived
        # network therefore has more outputs than the frozen one.
        self.nodes = range(first, last)
        self.operations: dict[str, nn.ModuleList] = nn.ModuleDict()  # type: ignore[assignment]
        self.beginnings: dict[str, tuple[Beginning | None, ...]] = {}
        self.companions: dict[str, nn.Module] = nn.ModuleDict()  # type: ignore[assignment]
        for target in self.nodes:
            for source in range(target):
                self._add_edge(source, target, _cell_candidates(cell, target, source))
            inputs = () if parts.topology is None else parts.topology(range(target))
            if inputs:
                architecture.add_edge(self.node(target), inputs)
        with label_scope(self.label):
            for target in self.nodes:
                for slot in range(self.num_ops_per_node):
                    self.add_mutable(Categorical(self.op_names, label=f"op_{target}_{slot}"))
                    self.add_mutable(CategoricalMultiple(range(target), n_chosen=1, label=f"input_{target}_{slot}"))

    def _add_edge(self, source: int, target: int, candidates: Mapping[str, nn.Module]) -> None:
        key, architecture = f"{source}->{target}", self.architecture
        self.op_names = tuple(candidates)
        architecture.add_edge(self.edge(source, target), self.op_names, none=architecture.none)
        candidates = self.parts.narrowed(candidates, architecture)
        companion = self.parts.beside(candidates, architecture)
        if companion is not None:
            self.companions[key] = companion
        prepared = self.parts.prepare(candidates, architecture).values()
        beginnings, operations = zip(*map(split_beginning, prepared), strict=True)
        for operation in operations:
            exchange_norms(operation)
        self.beginnings[key], self.operations[key] = beginnings, nn.ModuleList(operations)

    def candidate(self, operation: str, source: int, target: int) -> nn.Module:
        """Return a candidate as it runs in the supernet."""
        chosen: nn.Module = self.operations[f"{source}->{target}"][self.op_names.index(operation)]
        return chosen

    def node(self, target: int) -> str:
        """Return the name of the edge that weighs the inputs of a node."""
        return str(NodeName(self.label, target))

    def edge(self, source: int, target: int) -> str:
        """Return the name of the edge between two nodes."""
        return str(EdgeName(self.label, source, target))

    def _operation_edges(self) -> list[str]:
        return [self.edge(source, target) for target in self.nodes for source in range(target)]

    def edges(self) -> Iterable[str]:
        nodes = [node for node in map(self.node, self.nodes) if node in self.architecture.candidates]
        return [*self._operation_edges(), *nodes]

    def forward(self, *inputs: Any) -> Any:
        """Follow the plan, with the inputs and the output of the replaced cell."""
        inputs_list = preprocess_cell_inputs(self.num_predecessors, *inputs)
        states = PartialStates(self.preprocessor(inputs_list), self.parts.channels(self.architecture.step))
        factors = {target: self._factors(target) for target in self.nodes}
        entries = self._running(factors)
        alone, groups = self._weights(entries)
        sums: dict[str, Tensor] = {}
        for target in self.nodes:
            total = passed = None
            for source in range(target):
                key = f"{source}->{target}"
                if key not in entries:
                    continue
                if source in groups:  # computes all edges that leave the node, at the first of them
                    begin = partial(self._begin, states)
                    sums |= sums_of_groups(groups.pop(source), self.operations, begin)
                part, rest = add(sums.get(key), self._edge(key, entries[key], alone[key], states)), None
                if states.parts > 1:
                    part = self._zeros(key, states.part(source)) if part is None else part
                    rest = states.rest(source, part.shape)
                factor = (factors[target] or {}).get(source)
                if factor is not None:
                    part, rest = (None if x is None else factor * x for x in (part, rest))
                total, passed = add(total, part), add(passed, rest)
            if total is None:
                total = self._zeros(f"0->{target}", states.part(0))
            elif total.requires_grad:
                # The gradient is a slice of the gradient of the concatenation; normalizations are faster with a copy.
                total.register_hook(torch.clone)
            states.append(total, passed)
        out = torch.cat(states.nodes[self.num_predecessors :], self.concat_dim)
        return self.postprocessor(out, inputs_list)

    def _running(self, factors: Mapping[int, Mapping[int, Tensor | None] | None]) -> dict[str, PlanEntry]:
        """Return the edges that run, each with its entry in the plan.

        Args:
            factors: Node -> the factor of each of its inputs, None if it has all inputs.
        """
        plan = self.architecture.plan
        entries: dict[str, PlanEntry] = {}
        for target, of_node in factors.items():
            for source in range(target) if of_node is None else of_node:
                entry = plan[self.edge(source, target)]
                if not isinstance(entry, tuple) or entry:
                    entries[f"{source}->{target}"] = entry
        return entries

    def _weights(
        self, entries: Mapping[str, PlanEntry]
    ) -> tuple[dict[str, Weights], dict[int, dict[Group, Tensor | None]]]:
        """Return edge -> the candidates that it runs alone, and node -> the groups that read it, with all weights."""
        sources = {edge: _source(edge) for edge in entries}
        if self.architecture.grouped and not self.architecture.recompute:
            groups = find_groups(entries, self.operations, self.beginnings, sources)
        else:
            groups = [
                ((edge, index),)
                for edge, entry in entries.items()
                for _, index in active(entry, len(self.operations[edge]))
            ]
        alone: dict[str, Weights] = {edge: [] for edge in entries}
        together: dict[int, dict[Group, Tensor | None]] = defaultdict(dict)
        for group, weights in zip(groups, weigh(groups, entries, self.operations), strict=True):
            edge, index = group[0]
            if len(group) == 1:
                alone[edge].append((index, weights))
            else:
                together[sources[edge]][group] = weights
        return alone, together

    def _begin(self, states: PartialStates, edge: str, index: int) -> Tensor:
        """Return the input of a candidate after its beginning, a ReLU or pooling."""
        return states.begin(_source(edge), self.beginnings[edge][index])

    def _factors(self, target: int) -> dict[int, Tensor | None] | None:
        """Return the factor of each input that a node has in the plan, None for 1; None if all inputs have 1."""
        if self.parts.topology is None:
            return None
        node = self.node(target)
        entry = self.architecture.plan.get(node)
        if entry is None:
            return None
        if isinstance(entry, Tensor):
            return dict(enumerate(entry.unbind()))
        names = self.architecture.candidates[node]
        factors: dict[int, Tensor | None] = {}
        for index, weight in weighted(entry, len(names)):  # candidates of the node: inputs, or pairs of them
            for source in map(int, str(names[index]).split("+")):
                factors[source] = add(factors.get(source), weight)
        return factors

    def _edge(self, key: str, choice: PlanEntry, weights: Weights, states: PartialStates) -> Tensor | None:
        """Return the output of an edge by its entry in the plan, or None if it is zero."""
        x = states.part(_source(key))
        inputs = [self._begin(states, key, index) for index, _ in weights]
        if isinstance(choice, tuple) or not self.architecture.recompute or not torch.is_grad_enabled():
            return self._mix(key, choice, weights, x, inputs)
        run = nn.ModuleList(module[key] for module in (self.operations, self.companions) if key in module)
        output: Tensor | None = checkpoint(
            partial(self._mix, key),
            choice,
            weights,
            x,
            inputs,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), frozen_bn_stats(run)),
        )
        return output

    def _mix(self, key: str, choice: PlanEntry, weights: Weights, x: Tensor, inputs: list[Tensor]) -> Tensor | None:
        given = iter(inputs)

        def output(index: int, weight: Tensor | None) -> Tensor:
            operation = self.operations[key][index]
            if weight is None:
                return self.shared(operation, next(given))
            return forward_weighted(operation, weight, next(given), self.shared)

        total: Tensor | None = mix(weights, output)
        if key in self.companions and not isinstance(choice, tuple):
            total = add(total, self.shared(self.companions[key], x))
        return total

    def _zeros(self, key: str, x: Tensor) -> Tensor:
        """Return zeros of the shape of a candidate's output."""
        beginning, candidate = self.beginnings[key][0], self.operations[key][0]
        training = candidate.training
        with torch.no_grad():
            # In evaluation mode, so that running statistics do not change.
            zeros = torch.zeros_like(self.shared(candidate.eval(), x if beginning is None else beginning(x)))
        candidate.train(training)
        return zeros

    def node_alphas(self) -> NodeAlphas:
        """Return the α of the inputs of all nodes of the cells with the label of this cell."""
        names = {edge: NodeName.parse(edge) for edge in self.architecture.candidates}
        own = {edge: name for edge, name in names.items() if name is not None and name.cell == self.label}
        return {own[edge].target: alphas for edge, alphas in self.architecture.table(own).items()}

    def cell_alphas(self) -> CellAlphas:
        """Return the α of all edges with the label of this cell.

        A cell of this project's spaces may be built of several of NNI's cells with one label, one for each node.
        """
        names = {edge: EdgeName.parse(edge) for edge in self.architecture.candidates}
        own = {edge: name for edge, name in names.items() if name is not None and name.cell == self.label}
        table = self.architecture.table(own)
        return {(name.source, name.target): table[edge] for edge, name in own.items() if edge in table}

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return the derived cell as a sample of NNI, with keys like ``label/op_2_0`` and ``label/input_2_0``.

        A node may have more operations than in the replaced cell, or ``none`` instead of some; the spaces of this
        project can be frozen to such a sample, NNI's cannot. If the derivation keeps no operation that is connected to
        the inputs, the cell is derived by ``darts`` with a warning.
        """
        if f"{self.label}/op_{self.nodes[0]}_0" in memo:
            return {}
        derivation, alphas, inputs = self.derivation, self.cell_alphas(), self.num_ops_per_node
        nodes = None if self.parts.topology is None else self.node_alphas()
        chosen = derive_cell(derivation, self.label, alphas, nodes, inputs)
        if not existing_edges(chosen, min(target for _, target in alphas)):
            warnings.warn(f"{self.label}: the derivation keeps no operation; it is derived as 'darts'", stacklevel=1)
            derivation, chosen = darts, darts(alphas, inputs=inputs)
        sample: dict[str, Any] = {}
        for target in self.nodes:
            incoming = [(edge.operation, edge.source) for edge in chosen if edge.target == target]
            if has_fixed_inputs(derivation):
                # If a cell has more operations per node than edges, edges repeat, as in NNI.
                incoming = [incoming[slot % len(incoming)] for slot in range(self.num_ops_per_node)]
            sample |= sample_of_node(self.label, target, incoming, self.num_ops_per_node)
        return sample

    def check_contains(self, sample: Mapping[str, Any]) -> SampleValidationError | None:
        """Return the error of a sample, None if it is valid; any operation may be ``none``, as in :meth:`export`."""
        return super().check_contains({k: self.op_names[0] if v == NONE else v for k, v in sample.items()})

    def derived_plan(self, sample: Mapping[str, Any]) -> dict[str, PlanEntry]:
        """Return the plan of this cell's edges that runs the operations of a sample."""
        plan: dict[str, tuple[int, ...]] = dict.fromkeys(self._operation_edges(), ())
        for target in self.nodes:
            for slot in count():
                operation = sample.get(f"{self.label}/op_{target}_{slot}")
                if operation is None:
                    break
                if operation != NONE:
                    (source,) = sample[f"{self.label}/input_{target}_{slot}"]
                    plan[self.edge(source, target)] += (self.op_names.index(operation),)
        return dict(plan)


def _source(edge: str) -> int:
    return int(edge.partition("->")[0])


def _cell_candidates(cell: Cell, target: int, source: int) -> dict[str, nn.Module]:
    """Return the candidates of one edge, created as NNI's cell does for that node and input.

    Raises:
        ValueError: A candidate has a choice whose label differs between the operations of a node.
    """
    factories = _factories(cell)
    with label_scope(cell.label):  # choices inside a candidate
        candidates: dict[str, nn.Module] = create_cell_op_candidates(factories, target, 0, source)[0]
        inside = _labels(candidates)
        if inside:
            for slot in range(cell.num_ops_per_node):
                others, _ = create_cell_op_candidates(factories, target, slot, source)
                for label in sorted(inside - _labels(others)):
                    raise ValueError(
                        f"the choice {label!r} in a candidate of the cell {cell.label!r} is another one for another "
                        "operation of its node, but a search has one for an edge: give it a label without op_index"
                    )
    return candidates


def _factories(cell: Cell) -> Any:
    """Return the factories of the candidates of NNI's cell, or the modules that it copies."""
    return cell.ops[0][0].candidates if cell.op_candidates_factory is None else cell.op_candidates_factory


def _labels(candidates: Mapping[str, nn.Module]) -> set[str]:
    """Return the labels of the choices inside candidates."""
    modules = (module for candidate in candidates.values() for module in candidate.modules())
    choices = (module for module in modules if isinstance(module, MutableModule))
    return {label for choice in choices for mutable in choice.mutables for label in mutable.simplify()}
