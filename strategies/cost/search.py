"""Part of a search module that keeps costs low."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from strategies.between_epochs import BetweenEpochs
from strategies.bilevel import Gradients
from strategies.composition import Composition
from strategies.cost.expectation import Expectation
from strategies.cost.latency import measure_latency
from strategies.cost.penalty import ExpectationProfilerPenalty, penalized
from strategies.cost.profile import Profiler
from strategies.cost.table import CostTable, Probabilities
from strategies.cost.targets import UPDATES, Cost, SearchCosts
from strategies.relaxation import rows
from strategies.supernet.architecture import Architecture
from strategies.supernet.trial_pass import first_samples
from strategies.validation import without_warnings

STATE = "nas_plugins_costs"
"""Key of a checkpoint for the multipliers of costs."""

Example = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a call of the model, with few samples."""


def cost_tables(costs: Sequence[Cost], profiler: Callable[[Example], Profiler], example: Example) -> list[CostTable]:
    """Return the table of each cost.

    Args:
        costs: The costs, which may include a table.
        profiler: Function that creates the profiler of the space.
        example: An example of the input of the model, of which the first sample is used.

    Raises:
        ProfileError: The space cannot be profiled.
    """
    if all(cost.table is not None for cost in costs):
        return [cost.table for cost in costs if cost.table is not None]
    made = profiler(first_samples(example, 1))
    counted = made.counted()
    devices = {leaf.device for leaf in tree_leaves(example) if isinstance(leaf, Tensor)}
    if any(cost.table is None and cost.metric == "latency" for cost in costs):
        counted["latency"] = measure_latency(made, next(iter(devices), torch.device("cpu"))).table
    return [cost.table or counted[cost.metric] for cost in costs]


class CostSearch(BetweenEpochs):
    """Part of a search module that keeps costs of the derived network low.

    Args:
        training_module, architecture, composition: See :class:`~strategies.validation.Validation`.
        costs: The costs to keep low.
        profile: Function that returns the table of each cost, given an example of the input; not needed without costs.
        penalty: A penalty of NNI on the loss of α. None for no penalty.
    """

    def __init__(
        self,
        training_module: pl.LightningModule,
        architecture: Architecture,
        composition: Composition,
        costs: tuple[Cost, ...] = (),
        profile: Callable[[Example], list[CostTable]] | None = None,
        penalty: ExpectationProfilerPenalty | None = None,
    ) -> None:
        super().__init__(training_module, architecture, composition)
        self.profile, self.penalty = profile, penalty
        self.costs = SearchCosts(costs, self.probabilities, architecture.alphas) if costs else None
        self._last_shift: tuple[Any, Mapping[str, Tensor]] | None = None
        tables = [cost.table for cost in costs if cost.table is not None]
        if self.costs is not None and len(tables) == len(costs):
            self.costs.tables = tables

    @cached_property
    def expectation(self) -> Expectation:
        """Expectation of the costs of the derived network, which depends on α."""
        return Expectation(self.model, self.architecture, self.composition.relaxation.activation)

    def probabilities(self) -> Probabilities:
        """Return the probability that the derived network has each candidate, differentiable in α."""
        return self.expectation()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the multipliers."""
        super().on_save_checkpoint(checkpoint)
        if self.costs is not None:
            checkpoint[STATE] = dict(self.costs.state)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the multipliers."""
        super().on_load_checkpoint(checkpoint)
        if self.costs is not None and STATE in checkpoint:
            self.costs.state = dict(checkpoint[STATE])

    def measure_costs(self, example: Callable[[], Example | None]) -> None:
        """Count the costs, once per search.

        Args:
            example: Function that returns an example of the input of the model; None if a step of the evaluator does
                not call it.

        Raises:
            UnfitSettingError: A target is below all networks of the space.
        """
        if self.costs is None or self.costs.tables or self.profile is None:
            return
        given = example()
        if given is None:
            raise ValueError("cost: the training_step of the evaluator does not call its model")
        self.costs.tables = self.profile(given)
        self.check_targets()

    def check_targets(self) -> None:
        """Check that no target is below all networks of the space, if the costs are known.

        Raises:
            UnfitSettingError: A target is below all networks of the space.
        """
        if self.costs is not None and self.costs.tables:
            self.costs.check(self.expectation.least)

    def on_fit_start(self) -> None:
        """Check the targets, if the costs are known."""
        super().on_fit_start()
        self.check_targets()

    def export(self) -> dict[str, Any]:
        """Return the sample of the derived network, the most probable one that meets the targets."""
        with self.architecture.shifted(self._shift()):
            return super().export()  # type: ignore[no-any-return]

    def _shift(self) -> Mapping[str, Tensor]:
        """Return the addend of the targets to α, cached while α is unchanged."""
        if self.costs is None or not self.costs.tables:
            return {}
        key = rows(self.architecture.alphas), tuple(self.costs.state["multipliers"]), dict(self.architecture.living)
        if self._last_shift is None or self._last_shift[0] != key:
            self._last_shift = key, self.costs.shift(self._shifted_plan)
        return self._last_shift[1]

    def _shifted_plan(self, shift: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """Return the plan of the network that α would give with an addend."""
        with self.architecture.shifted(shift), without_warnings():
            return self._plan_of(BetweenEpochs.export(self))

    def derived_costs(self) -> dict[str, Any]:
        """Return the costs of the derived network, and the addend to α that gives it, in plain JSON types.

        Returns:
            ``costs``: metric, target, weight and derived cost of each; ``shift``: edge -> candidate -> addend to its α
            in the derivation.
        """
        if self.costs is None or not self.costs.tables:
            return {"costs": [], "shift": {}}
        shift = self._shift()
        plan = self._shifted_plan(shift)
        return {
            "costs": [
                {"metric": c.metric, "target": c.target, "weight": c.weight, "derived": table.of_plan(plan)}
                for c, table in zip(self.costs.costs, self.costs.tables, strict=True)
            ],
            "shift": self.architecture.named(shift),
        }

    def with_costs(self, gradients: Gradients) -> Gradients:
        """Return the gradient of the loss and the costs for each α."""
        if self.costs is None:
            return gradients
        batches = min(self.trainer.num_training_batches, 1000)  # infinite for data of unknown length
        interval = max(1, int(batches) // (UPDATES * self.composition.weight_steps))
        if self.costs.state["steps"] % interval == 0:
            self.costs.update(self._shifted_plan({}))
        self.costs.state["steps"] += 1
        return self.costs.add_to(gradients, self.architecture.alphas, self._position())

    def penalized(self, loss: Tensor) -> Tensor:
        """Return the loss of α with NNI's penalty, and log its parts under NNI's names."""
        if self.penalty is None:
            return loss
        total, parts = penalized(self.penalty, loss, self.expectation)
        for name, value in parts.items():
            self.log(f"penalty/{name}", value, on_step=False, on_epoch=True, batch_size=1)
        return total

    def _log_metrics_of(self, sample: Mapping[str, Any]) -> None:
        """Log the metrics of the space, the expected costs, those of the derived network, and the multipliers."""
        super()._log_metrics_of(sample)
        if self.costs is not None and self.costs.tables:
            for name, value in self.costs.metrics(self._plan_of(sample)).items():
                self.log(name, value, on_step=False, on_epoch=True, batch_size=1)
