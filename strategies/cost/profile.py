"""Profiles of model spaces: the cost of each candidate, from passes of the supernet on the meta device.

Each pass follows a plan with one candidate per edge, and measures every module. The first passes run every module at
least once. Further passes change one value choice each, which shows the choices that the cost of a module depends on.
The last passes measure each module in all combinations of these choices.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.supermodule.operation import MixedOperation
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from search_spaces.complexity import count_parameters
from search_spaces.extensions import HasDerivedForm
from strategies.cost.counting import count
from strategies.cost.table import CostTable, Edges, TableBuilder
from strategies.supernet.architecture import Architecture
from strategies.supernet.cell import MixedCell
from strategies.supernet.choices import MixedLayer, MixedRepeat
from strategies.supernet.values import PlanSamplingPolicy, Value

Assignment = dict[str, int]
"""Edge -> index of its candidate."""

Measured = Mapping[nn.Module, tuple[float, ...]]
"""Module on the meta device -> its cost in a pass, without its submodules, by metric."""

MOST_COMBINATIONS = 10_000
"""Maximum number of combinations of value choices in a profile."""


class ProfileError(ValueError):
    """A space whose costs cannot be profiled."""


@dataclass(frozen=True)
class Condition:
    """The architectures in which a module runs.

    Args:
        edges: The edges that decide whether the module runs.
        holds: Whether it runs, 0 or 1, of shape (candidates of the first edge, of the second, …).
    """

    edges: Edges = ()
    holds: Tensor = field(default_factory=lambda: torch.ones((), dtype=torch.float64))

    def __and__(self, other: Condition) -> Condition:
        edges = tuple(dict.fromkeys((*self.edges, *other.edges)))
        return Condition(edges, _spread(self.holds, self.edges, edges) * _spread(other.holds, other.edges, edges))

    def same_as(self, other: Condition) -> bool:
        """Return whether both conditions hold in the same architectures."""
        return self.edges == other.edges and torch.equal(self.holds, other.holds)

    def example(self) -> Assignment:
        """Return the first combination in which the module runs."""
        found = self.holds.nonzero()
        return dict(zip(self.edges, found[0].tolist(), strict=True)) if len(found) else {}


def _spread(values: Tensor, edges: Edges, onto: Edges) -> Tensor:
    """Reshape values over some edges so that they broadcast over more edges."""
    order = [edges.index(edge) for edge in onto if edge in edges]
    shape = [values.shape[edges.index(edge)] if edge in edges else 1 for edge in onto]
    return values.permute(order).reshape(shape)


class Profiler:
    """A supernet, and a copy of it on the meta device whose modules are measured.

    Args:
        supernet: The supernet, in the form of derived networks.
        architecture: Its architecture.
        example: Positional and keyword arguments of a call of the model, on any device.

    Raises:
        ProfileError: The space cannot run on the meta device.
    """

    def __init__(self, supernet: nn.Module, architecture: Architecture, example: tuple[Any, ...]) -> None:
        self.supernet, self.architecture = supernet.eval(), architecture
        # The copy follows the same plan.
        self.meta = copy.deepcopy(supernet, {id(architecture): architecture}).to("meta")
        self.original = dict(zip(self.meta.modules(), supernet.modules(), strict=True))
        self.example = tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, example)
        self.conditions = _conditions(self.meta, architecture)
        self.values = sorted({label for module in supernet.modules() for label in _labels(module)})
        self._counted: dict[Wanted, Measured] = {}
        self._base = {edge: _largest(names) for edge, names in architecture.candidates.items()}

    def _run(self) -> None:
        args, kwargs = self.example
        with torch.device("meta"):  # also for tensors that the model makes in its forward pass
            self.meta(*args, **kwargs)

    def follow(self, assignment: Assignment) -> None:
        """Set the plan: the given candidates, and the usual ones of all other edges."""
        self.architecture.plan = {edge: (index,) for edge, index in (self._base | assignment).items()}

    def counts(self, assignment: Assignment) -> Measured:
        """Return the multiply-adds and activations of each module by a plan."""
        key = tuple(sorted((self._base | assignment).items()))
        if key in self._counted:
            return self._counted[key]
        self.follow(assignment)
        try:
            self._counted[key] = count(self.meta, self._run)
            return self._counted[key]
        except (NotImplementedError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise ProfileError(f"the space cannot be counted on PyTorch's meta device: {reason}") from error

    def first_plans(self) -> list[Assignment]:
        """Return plans in which every module runs at least once."""
        wanted = dict.fromkeys(tuple(sorted(c.example().items())) for c in self.conditions.values())
        return [plan for plan, _ in _packed(wanted)]

    def dependencies(self, columns: slice) -> dict[nn.Module, Edges]:
        """Return module -> the value choices that its cost depends on, for each module with a cost.

        Args:
            columns: The counts that are compared.
        """
        smallest = {edge: _smallest(self.architecture.candidates[edge]) for edge in self.values}
        found: dict[nn.Module, set[str]] = {}
        # From the largest and from the smallest values: at one of them, a minimum or maximum of choices may not change.
        for plan in [base for first in self.first_plans() for base in (first, smallest | first)]:
            before = self.counts(plan)
            for module, counts in before.items():
                if any(counts[columns]):
                    found.setdefault(module, set())
            for edge, index in self._changes(plan):
                after = self.counts({**plan, edge: index})
                for module in found.keys() & before.keys() & after.keys():
                    if before[module][columns] != after[module][columns]:
                        found[module].add(edge)
        return {module: tuple(sorted(edges)) for module, edges in found.items()}

    def _changes(self, plan: Assignment) -> Iterator[tuple[str, int]]:
        """Yield every value choice with every candidate that it does not have in a plan."""
        now = self._base | plan
        for edge in self.values:
            for index in range(len(self.architecture.candidates[edge])):
                if index != now[edge]:
                    yield edge, index

    def tables(
        self, measure: Callable[[Assignment], Measured], dependencies: Mapping[nn.Module, Edges], metrics: int
    ) -> list[CostTable]:
        """Return the table of each metric.

        Args:
            measure: Function that returns the cost of each module by a plan, in each metric.
            dependencies: The modules to measure, and the value choices that the cost of each depends on.
            metrics: Number of metrics.

        Raises:
            ProfileError: A module depends on too many choices.
        """
        wanted: dict[Wanted, list[tuple[nn.Module, Edges, tuple[int, ...]]]] = {}
        for module, edges in dependencies.items():
            for indices in self._combinations(edges):
                assignment = self.conditions[module].example() | dict(zip(edges, indices, strict=True))
                wanted.setdefault(tuple(sorted(assignment.items())), []).append((module, edges, indices))
        builders = [TableBuilder(self.architecture.candidates) for _ in range(metrics)]
        for plan, served in _packed(wanted):
            measured = measure(plan)
            for module, edges, indices in (entry for key in served for entry in wanted[key]):
                condition = self.conditions[module] & self._exactly(edges, indices)
                for builder, cost in zip(builders, measured.get(module, (0.0,) * metrics), strict=False):
                    builder.add(condition.edges, condition.holds * cost)
        return [builder.table() for builder in builders]

    def counted(self) -> dict[str, CostTable]:
        """Return the tables of ``parameters``, ``multiply_adds`` and ``activations``.

        Raises:
            ProfileError: The space cannot be profiled.
        """
        multiply_adds, activations = self.tables(self.counts, self.dependencies(slice(2)), 2)
        return {"parameters": self.parameters(), "multiply_adds": multiply_adds, "activations": activations}

    def parameters(self) -> CostTable:
        """Return the table of trainable parameters."""
        builder = TableBuilder(self.architecture.candidates)
        counted: set[int] = set()
        for module, condition in self.conditions.items():
            labels = _labels(module)
            if isinstance(module, MixedOperation) and labels:
                for indices in self._combinations(labels):
                    named = zip(labels, indices, strict=True)
                    sample = {label: self.architecture.candidates[label][index] for label, index in named}
                    which = condition & self._exactly(labels, indices)
                    builder.add(which.edges, which.holds * count_parameters(_frozen(module, sample)))
                counted.update(map(id, self.original[module].parameters()))
                continue
            # Taken from the original, because modules no longer share weights on the meta device.
            weights = self.original[module].parameters(recurse=False)
            own = [p for p in weights if p.requires_grad and id(p) not in counted]
            counted.update(map(id, own))
            builder.add(condition.edges, condition.holds * sum(p.numel() for p in own))
        return builder.table()

    def _exactly(self, edges: Edges, indices: tuple[int, ...]) -> Condition:
        holds = torch.zeros([len(self.architecture.candidates[edge]) for edge in edges], dtype=torch.float64)
        holds[indices] = 1
        return Condition(edges, holds)

    def _combinations(self, edges: Edges) -> Iterator[tuple[int, ...]]:
        sizes = [len(self.architecture.candidates[edge]) for edge in edges]
        if math.prod(sizes) > MOST_COMBINATIONS:
            raise ProfileError(f"the cost of one module depends on the choices {', '.join(edges)}: too many to count")
        return product(*map(range, sizes))


Wanted = tuple[tuple[str, int], ...]
"""The items of an assignment of some edges, sorted."""


def _packed(wanted: Iterable[Wanted]) -> list[tuple[Assignment, list[Wanted]]]:
    """Merge the wanted assignments into a few; return each with the wanted ones that it is the first to include."""
    packed: list[tuple[Assignment, list[Wanted]]] = []
    for one in sorted(wanted, key=len, reverse=True):
        for plan, served in packed:
            if all(plan.get(edge, index) == index for edge, index in one):
                plan.update(one)
                served.append(one)
                break
        else:
            packed.append((dict(one), [one]))
    return packed


def _conditions(supernet: nn.Module, architecture: Architecture) -> dict[nn.Module, Condition]:
    """Return module -> the architectures in which it runs, for all modules of a supernet."""
    own = {inner: condition for module in supernet.modules() for inner, condition in _choices(module, architecture)}
    found: dict[nn.Module, Condition] = {}

    def visit(module: nn.Module, outer: Condition) -> None:
        condition = outer & own[module] if module in own else outer
        if module not in found:
            found[module] = condition
            for child in module.children():
                visit(child, condition)
        elif not found[module].same_as(condition):
            name = type(module).__name__
            raise ProfileError(f"a {name} is a part of several candidates, or of one and of the rest of the space")

    visit(supernet, Condition())
    return found


def _choices(module: nn.Module, architecture: Architecture) -> Iterator[tuple[nn.Module, Condition]]:
    """Yield the submodules that only some candidates of a module's own edges run."""
    if isinstance(module, MixedCell):
        for name, operations in module.operations.items():
            source, target = map(int, name.split("->"))
            edge = module.edge(source, target)
            yield from _one_each(edge, operations, len(architecture.candidates[edge]))
    elif isinstance(module, MixedLayer):
        yield from _one_each(module.label, module.candidates, len(module.candidates))
    elif isinstance(module, MixedRepeat):
        for index, block in enumerate(module.blocks):
            yield block, _where(module.depth, range(index + 1, len(module.blocks) + 1))
        if module.align_first is not None:
            yield module.align_first, _where(module.depth, (1,))


def _one_each(edge: str, candidates: Iterable[nn.Module], count: int) -> Iterator[tuple[nn.Module, Condition]]:
    for candidate, holds in zip(candidates, torch.eye(count, dtype=torch.float64), strict=False):
        yield candidate, Condition((edge,), holds)


def _where(value: Value, wanted: Collection[Any]) -> Condition:
    """Return the condition that an expression over value choices has one of some values."""
    names = [value.architecture.candidates[label] for label in value.labels]
    holds = [float(value.of(combination) in wanted) for combination in product(*names)]
    shape = [len(candidates) for candidates in names]
    return Condition(tuple(value.labels), torch.tensor(holds, dtype=torch.float64).reshape(shape))


def _labels(module: nn.Module) -> tuple[str, ...]:
    """Return the value choices that the arguments of a super-kernel depend on."""
    policy = module.sampling_policy if isinstance(module, MixedOperation) else None
    if not isinstance(policy, PlanSamplingPolicy):
        return ()
    return tuple(sorted({label for value in policy.values.values() for label in value.labels}))


def _frozen(kernel: MixedOperation, sample: Mapping[str, Any]) -> nn.Module:
    """Return the operation of a super-kernel in a derived network, without values."""
    given = {name: mutable.freeze(sample) for name, mutable in kernel.mutable_arguments.items()}
    with torch.device("meta"):
        operation: nn.Module = kernel.bound_type(**(kernel.init_arguments | given))
    return operation


def _largest(candidates: tuple[Any, ...]) -> int:
    """Return the index of the largest candidate, with which all blocks of a repetition run; of operations the first."""
    if not all(isinstance(candidate, (int, float)) for candidate in candidates):
        return 0
    return candidates.index(max(candidates))


def _smallest(candidates: tuple[Any, ...]) -> int:
    numbers = all(isinstance(candidate, (int, float)) for candidate in candidates)
    return candidates.index(min(candidates)) if numbers else len(candidates) - 1


def profiled_form(space: ModelSpace) -> ModelSpace:
    """Return a copy of a model space in the form of its derived networks, for a supernet to be profiled."""
    return space.in_derived_form() if isinstance(space, HasDerivedForm) else copy.deepcopy(space)
