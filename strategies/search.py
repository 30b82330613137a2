"""One search as Lightning runs it: architecture and weight steps on a supernet, validated every epoch."""

from __future__ import annotations

import copy
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import SupervisedLearningModule
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import Metric

from search_spaces.genotype import Genotype
from strategies.bilevel import Gradient, Gradients, Problem, one_level
from strategies.bn_statistics import Statistics, measure, normalized_by
from strategies.distributed import average, check_processes
from strategies.evaluator_hooks import EvaluatorHooks
from strategies.memory_format import avoid_faulty_kernels, takes_channels_last
from strategies.objective import ArchitectureBatch
from strategies.relaxation import Plan, Step, moved
from strategies.supernet.architecture import Architecture
from strategies.supernet.cell import MixedCell

if TYPE_CHECKING:
    from strategies.base import DifferentiableStrategy, Schedule

SUPERNET, ARCHITECTURE, DERIVED, UNLOGGED = "", "architecture_", "derived_", "unlogged_"
"""Prefixes of what is logged: the supernet, architecture steps, the derived architecture, what is not shown."""

CALIBRATION_BATCHES = 4
"""Training batches on which the batch statistics of a path are measured before it is validated."""


class SearchModule(EvaluatorHooks):
    """One search: alternating architecture and weight steps on a supernet, validated every epoch.

    It stands around the evaluator's own Lightning module, whose ``training_step`` computes both
    losses, whose ``validation_step`` validates, and whose optimizer and schedule train the weights.

    What ``validation_step`` logs appears twice: under its own name for the supernet, and with
    ``derived_`` before it for the derived architecture on the supernet's weights.

    Args:
        training_module: the evaluator's module.
        architecture: the α, as the supernet was built on it.
        strategy: the composition.
    """

    def __init__(
        self,
        training_module: pl.LightningModule,
        architecture: Architecture,
        strategy: DifferentiableStrategy,
    ) -> None:
        super().__init__(training_module)
        self.architecture = architecture
        self.strategy = strategy
        self._log_prefix = ""
        self._metric_places: list[tuple[nn.Module, str]] = []
        self.metric_copies: dict[str, nn.ModuleList] = nn.ModuleDict()  # type: ignore[assignment]
        self._own_weights: list[nn.Parameter] = []
        self._own_buffers: list[Tensor] = []
        self._recent: deque[Any] = deque(maxlen=CALIBRATION_BATCHES)
        self._validated: dict[str, tuple[Plan, Statistics]] = {}
        self._alphas_before: dict[str, Tensor] = {}
        # A buffer, so that a search which ended is not taken up again by a resume.
        self.register_buffer("ended", torch.tensor(False))
        self.ended: Tensor

    def setup(self, stage: str | None = None) -> None:
        """Prepare the supernet for its device, and see what the evaluator logs."""
        super().setup(stage)
        check_processes(self.trainer)
        self.training_module.log = self._log
        self._metric_places = [
            (parent, name)
            for parent in self.training_module.modules()
            for name, child in parent.named_children()
            if isinstance(child, Metric)
        ]
        metrics = [parent.get_submodule(name) for parent, name in self._metric_places]
        # With the originals: Lightning looks once for all metrics, and they may not be in their places then.
        self.metric_copies["own"] = nn.ModuleList(metrics)
        for prefix in (ARCHITECTURE, DERIVED, UNLOGGED):
            self.metric_copies[prefix] = nn.ModuleList(copy.deepcopy(metric) for metric in metrics)
        # Lightning moves the module to its device later. Other devices were not measured in this format.
        if self.trainer.strategy.root_device.type == "cpu":
            if takes_channels_last(self.model):
                self.training_module.to(memory_format=torch.channels_last)
            avoid_faulty_kernels(self.model)

    def on_fit_start(self) -> None:
        """Refuse a Trainer that has done all its epochs or steps: α would stay what it starts from."""
        super().on_fit_start()
        trainer = self.trainer
        all_epochs = trainer.max_epochs is not None and trainer.current_epoch >= trainer.max_epochs > 0
        if trainer.ckpt_path is None and (all_epochs or trainer.global_step >= trainer.max_steps > 0):
            raise ValueError(
                f"max_epochs: {trainer.max_epochs}, max_steps: {trainer.max_steps}: the evaluator's Trainer did them: "
                "give each search an evaluator of its own"
            )

    # The two steps

    def on_train_epoch_start(self) -> None:
        """Forget the batches of the epoch before: a resumed search does not have them either."""
        super().on_train_epoch_start()
        self._recent.clear()
        self._alphas_before = {edge: alpha.detach().clone() for edge, alpha in self.architecture.alphas.items()}
        self._reset_copies(ARCHITECTURE)
        # Once an epoch: to find them takes as long as a small part of a step.
        self._own_weights, self._own_buffers = (
            list(self.training_module.parameters()),
            list(self.training_module.buffers()),
        )
        if self.strategy.schedule is not None:
            self._schedule_alphas(self.strategy.schedule)

    def on_train_start(self) -> None:
        """Do nothing more where the search has ended: it was resumed from its last checkpoint."""
        super().on_train_start()
        self.trainer.should_stop |= self.strategy.still is not None and bool(self.ended)

    def on_train_epoch_end(self) -> None:
        """End the search where α stands still."""
        super().on_train_epoch_end()
        still = self.strategy.still
        if still is not None and self.current_epoch >= self.strategy.weights_first:
            self.ended.fill_(moved(self._alphas_before, self.architecture.alphas) < still)
            self.trainer.should_stop |= bool(self.ended)

    def _schedule_alphas(self, schedule: Schedule) -> None:
        # A function of the epoch: NNI has no schedules for α, and so a resumed search needs no state of one.
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise ValueError(f"max_epochs: {epochs} of the evaluator should be 1 or more: the schedule of α ends there")
        for group in (group for optimizer in self._alpha_optimizers() for group in optimizer.param_groups):
            group["lr"] = schedule(group.setdefault("initial_lr", group["lr"]), self.current_epoch / epochs)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """An architecture step on a batch of held-out images, then a weight step on one of the others.

        Args:
            batch: {"train": a batch for the weights, "val": one for the architecture}.
            batch_idx: its index in the epoch.
        """
        strategy = self.strategy
        step = Step(self.trainer.fit_loop.epoch_loop.total_batch_idx, self.current_epoch)
        searching = step.epoch >= strategy.weights_first
        if searching and strategy.gradient:
            self._architecture_step(strategy.gradient, batch, step, batch_idx)
        weight_step = self._joint_step if searching and strategy.gradient is None else self._weight_step
        loss = weight_step(batch["train"], step, batch_idx)
        self._recent.append(batch["train"])
        self.advance_lr_schedulers(batch_idx)
        return loss

    def _architecture_step(self, gradient: Gradient, batch: Mapping[str, Any], step: Step, batch_idx: int) -> None:
        def train_loss() -> Tensor:
            self._relax(step)
            return self._loss(batch["train"], batch_idx, UNLOGGED)

        def val_loss() -> Tensor:
            self._relax(step)
            return self._objective(batch["val"], batch_idx, step, ARCHITECTURE)

        problem = Problem(
            train_loss,
            val_loss,
            alphas=list(self.architecture.alphas.values()),
            weights=self._own_weights,
            optimizer=self._weight_optimizer().optimizer,
            buffers=self._own_buffers,
            average=partial(average, trainer=self.trainer),
        )
        self._step_alphas(gradient(problem))
        self._reset_copies(UNLOGGED)

    def _weight_step(self, batch: Any, step: Step, batch_idx: int) -> Tensor:
        with torch.no_grad():
            self.architecture.plan = self.strategy.relaxation.weights(self.architecture.alphas, step)
        loss = self._loss(batch, batch_idx)
        self._descend(loss, batch_idx)
        return loss.detach()

    def _joint_step(self, batch: Any, step: Step, batch_idx: int) -> Tensor:
        """One level: α and the weights learn alike, from one backward pass."""

        def objective() -> Tensor:
            self._relax(step)
            return self._objective(batch, batch_idx, step)

        descend = partial(self._descend, batch_idx=batch_idx)
        loss, gradients = one_level(objective, list(self.architecture.alphas.values()), descend)
        self._step_alphas(gradients)
        return loss

    def _descend(self, loss: Tensor, batch_idx: int) -> None:
        self.training_module.on_before_zero_grad(self._weight_optimizer())
        self.advance_optimization(loss, batch_idx, self.strategy.gradient_clip_val)

    def _objective(self, batch: Any, batch_idx: int, step: Step, prefix: str = SUPERNET) -> Tensor:
        def log(name: str, value: Tensor) -> None:
            # Every step counts alike.
            self.log(name, value, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

        return self.strategy.objective(
            ArchitectureBatch(
                loss=lambda: self._loss(batch, batch_idx, prefix),
                again=lambda: self._loss(batch, batch_idx, UNLOGGED),
                architecture=self.architecture,
                model=self.model,
                iteration=step.iteration,
                log=log,
            )
        )

    def _relax(self, step: Step) -> None:
        """Follow the plan of an architecture step, anew for each loss: a backward pass frees its graph."""
        self.architecture.plan = self.strategy.relaxation.architecture(self.architecture.alphas, step)

    def _step_alphas(self, gradients: Gradients) -> None:
        # An α without a gradient is skipped by the optimizer, its momentum and weight decay included.
        for alpha, gradient in zip(self.architecture.alphas.values(), gradients, strict=True):
            alpha.grad = gradient
        for optimizer in self._alpha_optimizers():
            optimizer.step()

    def _alpha_optimizers(self) -> list[Optimizer]:
        return [o for o in self.trainer.optimizers if getattr(o, "is_arch_optimizer", False)]

    def _weight_optimizer(self) -> LightningOptimizer:
        """The evaluator's optimizer, as Lightning wraps it to count its steps."""
        own = [o for o in self.optimizers() if not getattr(o.optimizer, "is_arch_optimizer", False)]
        if len(own) != 1:
            raise ValueError(f"the evaluator has {len(own)} optimizers; a search takes one")
        return own[0]

    def _loss(self, batch: Any, batch_idx: int, prefix: str = SUPERNET) -> Tensor:
        with self._logged_as(prefix):
            result = self.training_module.training_step(batch, batch_idx)
        loss = result.get("loss") if isinstance(result, Mapping) else result
        if loss is None:
            raise ValueError("training_step of the evaluator gave no loss: a search needs one of every batch")
        return loss

    def configure_architecture_optimizers(self) -> list[Optimizer]:
        """One optimizer for each group of α."""
        alphas = self.architecture.alphas
        if not alphas:
            raise ValueError(
                "the model space has no choice to search, as a frozen one has none: no cell, layer choice, input "
                "choice, repetition or value choice"
            )
        return [self.strategy.optimizer(group) for group in self.strategy.grouping(alphas)]

    # Validation: the supernet on all images, then the derived architecture on all images

    def on_validation_epoch_start(self) -> None:
        """Fix what is validated in this epoch, and measure the batch statistics of each."""
        sample = self._derived()
        self._log_distance(sample)
        for prefix, plan in (
            (SUPERNET, self.strategy.relaxation.evaluation(self.architecture.alphas)),
            (DERIVED, self._plan_of(sample)),
        ):
            self.architecture.plan = plan
            # Before the first training batch, as in Lightning's sanity check, there is nothing to measure.
            self._validated[prefix] = plan, self._statistics() if self._recent else {}
        self.training_module.on_validation_epoch_start()

    def _statistics(self) -> Statistics:
        """The batch statistics of the plan, on the last training batches of all processes."""
        found = measure(self.training_module, self._pass_recent)
        averaged = iter(average([value for values in found.values() for value in values], self.trainer))
        return {norm: tuple(cast(Tensor, next(averaged)) for _ in values) for norm, values in found.items()}

    def _pass_recent(self) -> None:
        for batch in self._recent:
            self._loss(batch, 0, UNLOGGED)
        self._reset_copies(UNLOGGED)

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Between the two: end the validation of the supernet and begin that of the derived architecture."""
        if dataloader_idx == 1 and batch_idx == 0:
            end = self.training_module.on_validation_epoch_end
            # NNI's own only reports what Lightning sums up at the end of all.
            if end.__func__ is not SupervisedLearningModule.on_validation_epoch_end:
                end()
            with self._logged_as(DERIVED):
                self.training_module.on_validation_epoch_start()
        with self._logged_as(DERIVED if dataloader_idx else SUPERNET):
            self.training_module.on_validation_batch_start(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Validate the supernet (first loader) or the derived architecture (second) on a batch."""
        prefix = DERIVED if dataloader_idx else SUPERNET
        self.architecture.plan, statistics = self._validated[prefix]
        with self._logged_as(prefix), normalized_by(statistics):
            return self.training_module.validation_step(batch, batch_idx)

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Let the evaluator see the end of a batch of either."""
        with self._logged_as(DERIVED if dataloader_idx else SUPERNET):
            self.training_module.on_validation_batch_end(outputs, batch, batch_idx)
        self._publish_in_sanity_check()

    def on_validation_epoch_end(self) -> None:
        """Let the evaluator log what it computes at the end."""
        with self._logged_as(DERIVED):
            self.training_module.on_validation_epoch_end()
        self._publish_in_sanity_check()

    def _publish_in_sanity_check(self) -> None:
        """Let modules and callbacks read the metrics of both loaders there too: Lightning shows none of several."""
        results = self.trainer._results
        if not self.trainer.sanity_checking or results is None:
            return
        at = results.dataloader_idx
        for loader in (None, 0, 1):
            results.dataloader_idx = loader
            self.trainer._logger_connector._callback_metrics.update(results.metrics(on_step=False)["callback"])
        results.dataloader_idx = at

    def _log_distance(self, sample: Mapping[str, Any]) -> None:
        """How far the architecture has moved from the baseline of the space, where it has one."""
        baseline, initial_alphas = (getattr(self.model, name, None) for name in ("baseline", "initial_alphas"))
        if not isinstance(baseline, Genotype) or not initial_alphas:
            return
        alphas, candidates = self.architecture.alphas, self.architecture.candidates
        places = {edge: [candidates[edge].index(one) for one in named] for edge, named in initial_alphas.items()}
        start = {edge: torch.tensor(list(named.values())) for edge, named in initial_alphas.items()}
        now = {edge: alphas[edge].detach()[places[edge]].cpu() for edge in start}
        genotype = self.model.genotype(sample)
        found = {"alpha_distance": moved(start, now), "distance": genotype.distance(baseline)}
        for name, value in found.items():
            self.log(name, float(value), on_step=False, on_epoch=True, batch_size=1)

    def derived_plan(self) -> Plan:
        """The plan that makes the supernet compute the derived architecture."""
        return self._plan_of(self._derived())

    def _derived(self) -> dict[str, Any]:
        with warnings.catch_warnings():  # of cells that are empty yet: the end of the search will tell
            warnings.simplefilter("ignore", UserWarning)
            return self.export()

    def _plan_of(self, sample: Mapping[str, Any]) -> Plan:
        plan = self.architecture.path(sample)
        for module in self.supernet_modules():
            if isinstance(module, MixedCell):
                plan |= module.derived_plan(sample)
        return plan

    @contextmanager
    def _logged_as(self, prefix: str) -> Iterator[None]:
        """Put a prefix before the names of what is logged, and count it in metrics of its own.

        An evaluator may log a torchmetrics object, which accumulates over an epoch: it must not mix
        the supernet with the derived architecture.
        """
        for (parent, name), metric in zip(self._metric_places, self.metric_copies[prefix or "own"], strict=True):
            parent._modules[name] = metric
        self._log_prefix = prefix
        try:
            yield
        finally:
            self._log_prefix = ""
            for (parent, name), metric in zip(self._metric_places, self.metric_copies["own"], strict=True):
                parent._modules[name] = metric

    def _reset_copies(self, prefix: str) -> None:
        for metric in self.metric_copies[prefix]:
            metric.reset()  # type: ignore[operator]

    def _log(self, name: str, value: Any, prog_bar: bool = False, *args: Any, **kwargs: Any) -> None:
        if self._log_prefix == UNLOGGED:
            return
        if not args:  # logger, on_step, on_epoch may be given by position
            kwargs.setdefault("on_step", False)
            kwargs.setdefault("on_epoch", True)
        kwargs["add_dataloader_idx"] = False
        kwargs.setdefault("sync_dist", True)  # over the images of all processes
        self.log(self._log_prefix + name, value, prog_bar and not self._log_prefix, *args, **kwargs)

    def _advance_lr_schedulers_impl(self, batch_idx: int, interval: str) -> None:
        # NNI steps a scheduler on a plateau without the metric that it needs. Lightning's own mark of one is missing:
        # it leaves out what it does not use where a module steps its optimizers itself, as a search does.
        if any(isinstance(config.scheduler, ReduceLROnPlateau) for config in self.trainer.lr_scheduler_configs):
            raise ValueError(
                "the evaluator's ReduceLROnPlateau cannot be stepped in a search: use a schedule over epochs or steps"
            )
        super()._advance_lr_schedulers_impl(batch_idx, interval)
