"""Ranking of likely architectures on the weights of the supernet, at the end of a search, to derive the best one."""

from __future__ import annotations

import heapq
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from typing import Any, TypedDict

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from search_spaces.checks import require
from search_spaces.edges import NONE
from strategies.between_epochs import BetweenEpochs
from strategies.bilevel import preserving, unscaled
from strategies.bn_statistics import use_bn_stats
from strategies.cost.search import CostSearch
from strategies.distributed import average
from strategies.memory_format import takes_channels_last
from strategies.relaxation import Plan
from strategies.rng import isolate_rng
from strategies.validation import CALIBRATION_BATCHES, DERIVED, UNLOGGED, score, without_warnings

STATE = "nas_plugins_finish"
"""Key of a checkpoint for the ranking."""
MARGIN = 1e-9
"""Margin that decides between candidates with the same α."""
DRAWS = 50
"""Number of shifts that are tried for each architecture to rank, as several may give the same architecture."""


@dataclass(frozen=True)
class Finish:
    """Settings of the ranking at the end of a search.

    After the last epoch, the most likely architectures are validated, each with its own batch statistics, and the best
    one is derived. The most likely architecture is the one that the search would derive without a ranking. The others
    differ from it in operations whose α is closest to that of the derived ones.

    With further rungs, the ranking is a successive halving (Jamieson and Talwalkar, Non-stochastic Best Arm
    Identification and Hyperparameter Optimization, AISTATS 2016).

    Args:
        architectures: Number of architectures to rank, at least 2.
        steps: Number of weight steps of each architecture before its validation, with the optimizer of the evaluator
            and a learning rate that decays along a cosine.
        exchanges: Largest number of edges whose operation is exchanged. With 1, the architectures are the neighbors of
            the most likely one. None for any number.
        rungs: Further rungs, each as (architectures, steps): the number of best architectures that are ranked again,
            and the number of weight steps of each, starting again from its initial weights. Each rung has fewer
            architectures and more steps than the one before.
        metric: Name of the metric that the evaluator logs in ``validation_step``. Lower is better if it ends in
            ``loss``, ``error``, ``mae`` or ``mse``, else higher. None for the metric of the task or of the evaluator in
            a config or, outside of the command line, for ``val_acc``.
        space: Function that creates the space whose networks are ranked, each trained separately from new weights. A
            deeper space shows which operations depth requires, for example skip connections. In a config: the arguments
            that differ from those of the searched space. None ranks paths of the supernet, with its weights.

    Raises:
        ValueError: A number is out of range.
    """

    architectures: int = 8
    steps: int = 0
    exchanges: int | None = None
    rungs: Sequence[Sequence[int]] = ()
    metric: str | None = None
    space: Mapping[str, Any] | Callable[[], ModelSpace] | None = None

    def __post_init__(self) -> None:
        require("finish.architectures", self.architectures, (self.architectures or 0) >= 2, "at least 2")
        require("finish.steps", self.steps, self.steps >= 0, "at least 0")
        require("finish.exchanges", self.exchanges, self.exchanges is None or self.exchanges >= 1, "at least 1")
        rungs = list(map(list, self.rungs))
        require("finish.rungs", rungs, all(len(rung) == 2 for rung in rungs), "pairs [architectures, steps]")
        for (before, fewer_steps), (architectures, steps) in pairwise(self.all_rungs):
            fits = 1 <= architectures < before and steps > fewer_steps
            require("finish.rungs", rungs, fits, "fewer architectures and more steps from rung to rung")
        if self.space is not None and self.steps == 0:
            raise ValueError("finish.steps: 0 should be at least 1 with a space, whose networks begin with new weights")

    @property
    def all_rungs(self) -> list[tuple[int, int]]:
        """Return the number of architectures and of weight steps per architecture for every rung."""
        return [(self.architectures, self.steps), *((count, steps) for count, steps in self.rungs)]

    @property
    def measured(self) -> str:
        """Return the name of the metric."""
        return self.metric or "val_acc"

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the score of validated metrics; higher is better, and a network that diverged has the lowest.

        Raises:
            UnfitSettingError: The evaluator does not log the metric.
        """
        found = score(metrics, self.measured, "finish.metric")
        return -math.inf if math.isnan(found) else found


class FinishArguments(TypedDict, total=False):
    """Arguments of a :class:`Finish` in a config."""

    architectures: int
    steps: int
    exchanges: int | None
    rungs: list[list[int]]
    metric: str | None
    space: dict[str, Any] | None


def exchanges(alphas: Mapping[str, Sequence[float]], most: int | None = None) -> Iterator[dict[str, list[float]]]:
    """Yield addends to α that exchange the largest α of some edges with another one, by ascending sum of distances.

    The first is empty. An exchange does not change the strength of an edge.

    Args:
        alphas: Edge -> α of its candidates.
        most: Largest number of edges that are exchanged. None for all of them.

    Yields:
        Edge -> addend of each candidate, for the edges whose largest α is exchanged.
    """
    edges = list(alphas)
    orders = {edge: sorted(range(len(row)), key=lambda index: -row[index]) for edge, row in alphas.items()}

    def distance(edge: str, rank: int) -> float:
        return alphas[edge][orders[edge][0]] - alphas[edge][orders[edge][rank]]

    def addend(edge: str, rank: int) -> list[float]:
        row = [0.0] * len(alphas[edge])
        row[orders[edge][0]], row[orders[edge][rank]] = -distance(edge, rank), distance(edge, rank) + MARGIN
        return row

    heap: list[tuple[float, tuple[tuple[int, int], ...]]] = [(0.0, ())]  # the sum, and (edge, rank) by ascending edge
    while heap:
        total, chosen = heapq.heappop(heap)
        yield {edges[number]: addend(edges[number], rank) for number, rank in chosen}
        last, rank = chosen[-1] if chosen else (-1, 0)
        if chosen and rank + 1 < len(orders[edges[last]]):
            step = distance(edges[last], rank + 1) - distance(edges[last], rank)
            heapq.heappush(heap, (total + step, (*chosen[:-1], (last, rank + 1))))
        for number in range(last + 1, len(edges) if most is None or len(chosen) < most else 0):
            if len(orders[edges[number]]) > 1:
                heapq.heappush(heap, (total + distance(edges[number], 1), (*chosen, (number, 1))))


class Finishing(CostSearch):
    """Part of a search module that ranks likely architectures at the end of the search.

    Args:
        args: See :class:`~strategies.cost.search.CostSearch`.
        finish: Settings of the ranking. None for no ranking.
    """

    def __init__(self, *args: Any, finish: Finish | None = None) -> None:
        super().__init__(*args)
        self.finish = finish
        self._own_weights: list[nn.Parameter] = []
        self._own_buffers: list[Tensor] = []
        self.ranking: list[dict[str, Any]] = []
        self._chosen: Mapping[str, Tensor] | None = None
        if finish is not None:
            self._recent = type(self._recent)(maxlen=max(CALIBRATION_BATCHES, finish.all_rungs[-1][1]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the ranking."""
        super().on_save_checkpoint(checkpoint)
        if self._chosen is not None:
            checkpoint[STATE] = {"ranking": self.ranking, "chosen": dict(self._chosen)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the ranking."""
        super().on_load_checkpoint(checkpoint)
        if STATE in checkpoint:
            self.ranking, self._chosen = checkpoint[STATE]["ranking"], checkpoint[STATE]["chosen"]

    def on_train_epoch_start(self) -> None:
        """Check that the evaluator logs the metric, after its first validation."""
        super().on_train_epoch_start()
        self._chosen = None  # for a search that is extended after its end
        logged = self.trainer.callback_metrics
        validated = [name for name in logged if DERIVED + name in logged]
        if self.finish is not None and validated:
            self.finish.score(dict.fromkeys(validated, 0.0))  # raises if there is no such metric

    def on_train_end(self) -> None:
        """Warn if the Trainer ended the search before the ranking."""
        super().on_train_end()
        if self.finish is not None and self._chosen is None:
            warnings.warn(
                "finish: nothing was ranked, because the search ended before the last of the Trainer's max_epochs, "
                f"{self.trainer.max_epochs}: α alone decides",
                stacklevel=2,
            )

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        """Rank architectures after the last batch of the search, before its validation."""
        super().on_train_batch_end(outputs, batch, batch_idx, *args, **kwargs)
        epochs = self.trainer.max_epochs or 0
        last = bool(self.ended) or self.current_epoch + 1 == epochs
        if self.finish is not None and self.trainer.is_last_batch and last:
            self._rank(self.finish)

    def _shift(self) -> Mapping[str, Tensor]:
        """Return the addend to α of the chosen architecture, or of the cost targets if none is chosen."""
        return super()._shift() if self._chosen is None else self._chosen

    def _rank(self, finish: Finish) -> None:
        likely = list(islice(self._likely(finish), finish.architectures))
        measured: dict[int, dict[str, Any]] = {}
        best = list(range(len(likely)))  # most likely first
        for count, steps in finish.all_rungs:
            best = best[:count]
            for index in self._shown(best, steps):
                metrics = self._metrics_of(finish, *likely[index], steps)
                measured[index] = {"metrics": metrics, "steps": steps}
            best.sort(key=lambda index: (-finish.score(measured[index]["metrics"]), index))
        self._chosen = likely[best[0]][1]
        self.ranking = [
            {"operations": self._changed(plan, likely[0][0]), **measured[index], "chosen": index == best[0]}
            for index, (plan, _) in enumerate(likely)
        ]

    def _shown(self, architectures: Sequence[int], steps: int) -> Iterable[int]:
        """Return the architectures of a rung, with a progress bar if the Trainer has one."""
        shown = self.trainer.progress_bar_callback is not None and self.trainer.is_global_zero
        text = f"ranking after {steps} steps" if steps else "ranking"
        return tqdm(list(architectures), text, unit="architecture", leave=False, disable=not shown)

    def _changed(self, plan: Plan, first: Plan) -> dict[str, str]:
        """Return edge -> candidates of a network, for edges on which it differs from the most likely one."""
        candidates = self.architecture.candidates
        return {
            edge: ", ".join(str(candidates[edge][index]) for index in entry) or NONE
            for edge, entry in plan.items()
            if isinstance(entry, tuple) and entry != first[edge]
        }

    def finished(self) -> dict[str, Any] | None:
        """Return the ranking and the addend of the choice to α, in plain JSON types; None without a ranking.

        Returns:
            ``ranking``: for each architecture, the most likely first, ``operations`` (edge -> candidates, where they
            differ from those of the first), ``metrics`` after its last ``steps`` (None if they are not finite), and
            whether it is ``chosen``; ``shift``: edge -> candidate -> addend to its α in the derivation.
        """
        if self._chosen is None:
            return None
        ranking = [{**row, "metrics": _finite(row["metrics"])} for row in self.ranking]
        return {"ranking": ranking, "shift": self.architecture.named(self._chosen)}

    def _likely(self, finish: Finish) -> Iterator[tuple[Plan, Mapping[str, Tensor]]]:
        """Yield the plan of each of the most likely architectures that meet the targets, and its addend to α."""
        base, seen = super()._shift(), list[Plan]()
        first = self._shifted_plan(base)
        with self.architecture.shifted(base):
            table = self.architecture.table(edge for edge, entry in first.items() if entry != ())
        alphas = {
            edge: [value for name, value in row.items() if name != NONE]
            for edge, row in table.items()
            if edge not in self.architecture.multi_input_choices
        }
        for exchange in islice(exchanges(alphas, finish.exchanges), DRAWS * finish.architectures):
            shift = self._with(base, exchange)
            plan = self._shifted_plan(shift)
            if plan not in seen and (not seen or self.costs is None or self.costs.met(plan)):
                seen.append(plan)
                yield plan, shift

    def _with(self, base: Mapping[str, Tensor], exchange: Mapping[str, Sequence[float]]) -> dict[str, Tensor]:
        """Return the sum of an addend for all candidates and one for the living candidates without ``none``."""
        shift = dict(base)
        for edge, values in exchange.items():
            candidates = self.architecture.candidates[edge]
            exchanged = [index for index in self.architecture.living_indices(edge) if candidates[index] != NONE]
            added = torch.zeros(len(candidates), dtype=torch.float64)
            added[exchanged] = added.new_tensor(values)
            shift[edge] = shift[edge].to(added) + added if edge in shift else added
        return shift

    def _metrics_of(self, finish: Finish, plan: Plan, shift: Mapping[str, Tensor], steps: int) -> dict[str, float]:
        """Return the metrics of an architecture after weight steps; the supernet and its weights are restored."""
        supernet, before = self.training_module.model, self.architecture.plan
        try:
            with self._channels_last(), preserving([*self._own_weights, *self._own_buffers]), isolate_rng():
                if finish.space is not None:
                    self.training_module.set_model(self._alone(finish, shift))
                self.architecture.plan = plan
                self._train(steps)
                with use_bn_stats(self._statistics()):
                    return self._validate_all(plan)
        finally:
            self.training_module.set_model(supernet)
            self.architecture.plan = before

    def _alone(self, finish: Finish, shift: Mapping[str, Tensor]) -> nn.Module:
        """Return the network of an architecture with new weights, in the memory format of the supernet."""
        if not callable(finish.space):
            raise ValueError("finish.space: should make a space; its arguments alone are for the command line")
        with self.architecture.shifted(shift), without_warnings():
            sample = BetweenEpochs.export(self)
        torch.manual_seed(0)  # the same in a resumed search, and in all processes
        space = finish.space()
        network: nn.Module = space.freeze(sample).to(self.device)
        on_cpu = self.device.type == "cpu" and takes_channels_last(space)
        return network.to(memory_format=torch.channels_last) if on_cpu else network

    def _train(self, steps: int) -> None:
        """Train the model of the evaluator on training batches of the last epoch."""
        if steps == 0:
            return
        optimizer = _only_optimizer(self.training_module.configure_optimizers())
        for group in optimizer.param_groups:  # a schedule of the evaluator may begin with a warm-up
            group["lr"] = group.get("max_lr", group.get("initial_lr", group["lr"]))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.requires_grad]
        self.training_module.train()
        for batch in islice(cycle(self._recent), steps):
            with self.trainer.precision_plugin.train_step_context():
                loss = self._loss(batch, 0, UNLOGGED)
            scale = self._loss_scale()
            gradients = unscaled(torch.autograd.grad(scale * loss, weights, allow_unused=True), scale)
            for weight, gradient in zip(weights, average(gradients, self.trainer), strict=True):
                weight.grad = gradient
            nn.utils.clip_grad_norm_(weights, self.composition.gradient_clip_val or float("inf"))
            optimizer.step()
            schedule.step()
        optimizer.zero_grad()
        self._reset_copies(UNLOGGED)


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return metrics with None for values that are not finite, which JSON cannot represent."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _only_optimizer(configured: Any) -> Optimizer:
    """Return the optimizer from the result of ``configure_optimizers``, in any form that Lightning accepts."""
    while not isinstance(configured, Optimizer):
        configured = configured["optimizer"] if isinstance(configured, Mapping) else configured[0]
    return configured
