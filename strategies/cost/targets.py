"""Costs of a search: targets that the derived network should meet, and their gradient for α."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from search_spaces.checks import require, require_one_of
from strategies.cost.table import CostTable, Probabilities
from strategies.relaxation import Step, UnfitSettingError

Metric = Literal["parameters", "multiply_adds", "activations", "latency"]
"""Trainable parameters; multiply-adds for one sample; values that convolutions and matrix products output for one
sample; milliseconds for one sample on a device."""

Derive = Callable[[Mapping[str, Tensor]], Mapping[str, Any]]
"""Function that returns the plan of the derived network, given the addend to the α of each edge."""

GROWTH = 0.1
"""Step size of the dual ascent: growth of a multiplier per update, if its cost is twice the target."""
DAMPING = 1.0
"""Weight of the current violation in the multiplier, the quadratic term of an augmented Lagrangian."""
SLACK = 0.03
"""Share by which a derived network may be below a target that restrains the search."""
MOVES = 4
"""Maximum number of edges that take another candidate to bring a derived network close to its targets."""
MARGIN = 1e-3
"""Margin of a shifted candidate above the α of all others of its edge."""
UPDATES = 20
"""Number of updates of the multipliers per epoch."""


@dataclass(frozen=True)
class Cost:
    """A cost that a search should keep low.

    Args:
        metric: Metric of the cost, see :data:`Metric`.
        target: The highest cost that the derived network should have, above 0, in units of the metric.
        weight: Weight of the term max(0, expected cost / target − 1) in the loss of α, above 0, which it reaches
            linearly over the search. None for a Lagrange multiplier that the search adapts to meet the target.
        table: The costs of all candidates, for example as measured on another device. None to count them, or to measure
            latency on the device of the search.

    Raises:
        ValueError: A value is out of range.
    """

    metric: Metric
    target: float
    weight: float | None = None
    table: CostTable | None = None

    def __post_init__(self) -> None:
        require_one_of("cost.metric", self.metric, get_args(Metric))
        require("cost.target", self.target, 0 < self.target < math.inf, "above 0")
        weight = self.weight
        expected = "above 0, or null to adapt it to the target"
        require("cost.weight", weight, weight is None or 0 < weight < math.inf, expected)


class SearchCosts:
    """The costs of one search.

    Args:
        costs: The costs to keep low.
        expected: Function that returns the probability that the derived network has each candidate, differentiable in
            α.
        alphas: Edge -> α.

    Attributes:
        tables: The table of each cost, empty before the costs are known.
        state: Values that are kept between steps; checkpoints include them.
    """

    def __init__(
        self, costs: Sequence[Cost], expected: Callable[[], Probabilities], alphas: Mapping[str, Tensor]
    ) -> None:
        self.costs, self.expected, self.alphas = costs, expected, alphas
        self.tables: list[CostTable] = []
        zeros = [0.0] * len(costs)
        self.state: dict[str, Any] = {
            "multipliers": zeros,
            "violations": zeros,
            "gradient": None,
            "addends": None,
            "steps": 0,
        }

    def check(self, least: Callable[[CostTable], float]) -> None:
        """Check that no target is below all networks of the space.

        Args:
            least: Function that returns a lower bound of the cost of all networks of the space.

        Raises:
            UnfitSettingError: A target is below all networks of the space.
        """
        for cost, table in self._pairs():
            if cost.weight is None and least(table) > cost.target:
                raise UnfitSettingError(
                    f"cost.target: {cost.target:,.6g} {cost.metric} is below every network of the space: the cheapest "
                    f"has {least(table):,.6g}"
                )

    @property
    def multipliers(self) -> list[float]:
        """The multiplier of each cost, at least 0: 1 gives it as much influence on α as the loss has."""
        pairs = zip(self.state["multipliers"], self.state["violations"], strict=True)
        return [max(0.0, multiplier + DAMPING * violation) for multiplier, violation in pairs]

    def update(self, plan: Mapping[str, Any]) -> None:
        """Adapt the multipliers by the cost of the network that α alone would give (dual ascent).

        Args:
            plan: Edge -> indices of the candidates of that network.
        """
        state = self.state
        state["addends"] = None  # between two updates α hardly changes the gradient of the expected costs
        # A cost far above its target should not make the multiplier grow for long after it is met.
        state["violations"] = [min(table.of_plan(plan) / cost.target - 1, 1.0) for cost, table in self._pairs()]
        pairs = zip(state["multipliers"], state["violations"], strict=True)
        state["multipliers"] = [max(0.0, multiplier + GROWTH * violation) for multiplier, violation in pairs]

    def add_to(
        self, gradients: Sequence[Tensor | None], alphas: Mapping[str, Tensor], step: Step
    ) -> list[Tensor | None]:
        """Return the gradient of the loss and the costs, for the α that the loss has a gradient for.

        Args:
            gradients: Gradient of the loss for each α, None for those that this step does not change.
            alphas: Edge -> α.
            step: The position of the search.
        """
        if not any(gradient is not None for gradient in gradients):
            return list(gradients)
        size = _rms([gradient for gradient in gradients if gradient is not None])
        if not math.isfinite(size):  # in half precision: no step will be taken
            return list(gradients)
        before = self.state["gradient"]
        self.state["gradient"] = size if before is None else 0.9 * before + 0.1 * size
        if self.state["addends"] is None:
            self.state["addends"] = [self._addend(cost, table, alphas) for cost, table in self._pairs()]
        total = list(gradients)
        for cost, multiplier, (expected, added) in zip(
            self.costs, self.multipliers, self.state["addends"], strict=True
        ):
            if cost.weight is None:
                own = _rms(added)
                factor = multiplier * self.state["gradient"] / own if own > 0 else 0.0
            else:
                factor = cost.weight * step.progress if expected > 1 else 0.0
            if factor > 0:
                total = [
                    gradient if gradient is None else gradient + factor * addend
                    for gradient, addend in zip(total, added, strict=True)
                ]
        return total

    def _addend(self, cost: Cost, table: CostTable, alphas: Mapping[str, Tensor]) -> tuple[float, list[Tensor]]:
        """Return the expected cost as a share of its target, and its gradient for each α."""
        with torch.enable_grad():
            share = table.expected(self.expected()) / cost.target
        leaves = list(alphas.values())
        gradients = torch.autograd.grad(share, leaves, allow_unused=True)
        zeros = (torch.zeros_like(alpha) for alpha in leaves)
        return float(share.detach()), [zero if g is None else g for g, zero in zip(gradients, zeros, strict=True)]

    def _pairs(self) -> list[tuple[Cost, CostTable]]:
        return list(zip(self.costs, self.tables, strict=True))

    def met(self, plan: Mapping[str, Any]) -> bool:
        """Return whether a network has no cost above a target that the search adapts to."""
        return all(cost.weight is not None or table.of_plan(plan) <= cost.target for cost, table in self._pairs())

    def metrics(self, plan: Mapping[str, Any]) -> dict[str, float]:
        """Return the expected cost, the cost of a network and the multiplier of each metric, by name."""
        probabilities = self._probabilities()
        found: dict[str, float] = {}
        for cost, table, multiplier in zip(self.costs, self.tables, self.multipliers, strict=True):
            found[f"expected_{cost.metric}"] = float(table.expected(probabilities))
            found[f"derived_{cost.metric}"] = table.of_plan(plan)
            if cost.weight is None:
                found[f"multiplier_{cost.metric}"] = multiplier
        return found

    def shift(self, derive: Derive) -> dict[str, Tensor]:
        """Return the addend to α with which the derived network just meets the targets.

        The cost of each candidate, times a factor, is subtracted from its α: a Lagrangian relaxation of the most
        probable network within the targets. If a target restrains the search and the network is more than :data:`SLACK`
        below it, the cost is added instead.

        Args:
            derive: Function that returns the plan of the derived network, given the addend to the α of each edge.

        Returns:
            Edge -> addend (candidates,). Empty if no addend is needed, or none helps.
        """
        plan = derive({})
        met = self.met(plan)
        if met and not self._has_slack(plan):
            return {}
        direction = self._direction(plan, met)
        near, far = 0.0, 1e-4
        while self.met(derive(_times(direction, far))) == met:
            near, far = far, 4 * far
            if far > 1e6:
                return {}
        for _ in range(20):
            middle = (near + far) / 2
            near, far = (middle, far) if self.met(derive(_times(direction, middle))) == met else (near, middle)
        inside, outside = (near, far) if met else (far, near)
        found = self._closest(derive, _times(direction, inside), _times(direction, outside))
        for _ in range(MOVES):
            if self._share(derive(found)) >= 1 - SLACK:
                break
            found = self._moved(derive, found)
        return found

    def _has_slack(self, plan: Mapping[str, Any]) -> bool:
        """Return whether a network is well below all targets, at least one of which restrains the search."""
        pairs = zip(self.costs, self.tables, self.state["multipliers"], strict=True)
        hard = [(cost, table, multiplier) for cost, table, multiplier in pairs if cost.weight is None]
        below = all(table.of_plan(plan) < (1 - SLACK) * cost.target for cost, table, _ in hard)
        return below and any(multiplier > 0 for _, _, multiplier in hard)

    def _direction(self, plan: Mapping[str, Any], met: bool) -> dict[str, Tensor]:
        """Return edge -> the marginal cost of each candidate, negative if the network misses a target."""
        probabilities = self._probabilities()
        total: dict[str, Tensor] = {}
        for cost, table in self._pairs():
            if cost.weight is not None or (not met and table.of_plan(plan) <= cost.target):
                continue
            marginal = table.marginal(probabilities)
            for edge, costs in marginal.items():
                total[edge] = total.get(edge, 0) + (1 if met else -1) * costs / _largest(marginal)
        return total

    def _closest(self, derive: Derive, inside: dict[str, Tensor], outside: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the shift, between one that meets the targets and one that does not, that is closest to them.

        Several edges may change at the same factor, so they are taken one after the other.
        """
        edges, best, share = list(inside), inside, self._share(derive(inside))
        for count in range(1, len(edges)):
            shift = {edge: (outside if index < count else inside)[edge] for index, edge in enumerate(edges)}
            plan = derive(shift)
            if self.met(plan) and self._share(plan) > share:
                best, share = shift, self._share(plan)
        return best

    def _moved(self, derive: Derive, shift: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a shift that makes one edge take another candidate, with a network closer to the targets.

        Of the moves that come close enough, the one with the smallest addend is taken; if none does, the closest one.
        """
        now = self._share(derive(shift))
        best, rank = shift, (now, 0.0)
        for edge, added in shift.items():
            alphas = self.alphas[edge].detach().to(added) + added
            for index, gap in enumerate((alphas.max() - alphas).tolist()):
                if gap == 0:
                    continue
                moved = {**shift, edge: added.index_add(0, torch.tensor([index]), added.new_tensor([gap + MARGIN]))}
                plan = derive(moved)
                share = self._share(plan)
                close = min(share, 1 - SLACK), -gap
                if share > now and close > rank and self.met(plan):
                    best, rank = moved, close
        return best

    def _share(self, plan: Mapping[str, Any]) -> float:
        """Return the largest cost of a network, as a share of its target."""
        pairs = self._pairs()
        return max(table.of_plan(plan) / cost.target for cost, table in pairs if cost.weight is None)

    def _probabilities(self) -> Probabilities:
        with torch.no_grad():
            return self.expected()


def _largest(costs: Mapping[str, Tensor]) -> float:
    """Return the largest absolute cost of a candidate, 1 if all are 0."""
    return max((float(each.abs().max()) for each in costs.values()), default=0.0) or 1.0


def _times(direction: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    return {edge: factor * values for edge, values in direction.items()}


def _rms(values: Iterable[Tensor]) -> float:
    """Return the root mean square of the elements of tensors."""
    joined = torch.cat([value.detach().flatten() for value in values])
    return float(joined.square().mean().sqrt())
