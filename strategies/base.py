"""A strategy composed of parts, as NNI runs it: the Lightning module of a search and the NNI strategy."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Lightning, SupervisedLearningModule
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy, no_default_hook
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from strategies.bilevel import Gradient, first_order
from strategies.calibration import Statistics, measure, normalized_by
from strategies.derivation import darts
from strategies.relaxation import Alphas, Plan, Step
from strategies.supernet import Architecture, Derivation, Mixed, replace_choice


class Relaxation(Protocol):
    """How α becomes what the supernet computes; see :mod:`strategies.relaxation`."""

    def architecture(self, alphas: Alphas, step: Step) -> Plan:
        """The plan of an architecture step."""

    def weights(self, alphas: Alphas, step: Step) -> Plan:
        """The plan of a weight step."""

    def evaluation(self, alphas: Alphas) -> Plan:
        """The plan by which the supernet is validated."""


SUPERNET, ARCHITECTURE, DERIVED, UNLOGGED = "", "architecture_", "derived_", "unlogged_"
"""Prefixes of what is logged: the supernet, architecture steps, the derived architecture, what is not shown."""

CALIBRATION_BATCHES = 4
"""Training batches on which the batch statistics of a path are measured before it is validated."""

Grouping = Callable[[Mapping[str, nn.Parameter]], Sequence[Sequence[nn.Parameter]]]
"""edge -> α, to the groups of α that have an optimizer of their own."""

OptimizerFactory = Callable[[Sequence[nn.Parameter]], Optimizer]
"""A group of α -> its optimizer."""

Objective = Callable[[Tensor, Architecture], Tensor]
"""(the evaluator's loss on an architecture batch, the architecture) -> what the architecture step minimizes."""


def one_optimizer(alphas: Mapping[str, nn.Parameter]) -> list[list[nn.Parameter]]:
    """All α share an optimizer."""
    return [list(alphas.values())]


def adam(learning_rate: float, weight_decay: float, betas: tuple[float, float]) -> OptimizerFactory:
    """Adam for a group of α.

    Raises:
        ValueError: a setting is out of range.
    """
    for name, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
        if not value >= 0:
            raise ValueError(f"{name}: {value} should be at least 0")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas: {list(betas)} should be two numbers from 0 to below 1")
    return partial(torch.optim.Adam, lr=learning_rate, betas=betas, weight_decay=weight_decay)


def evaluator_loss(loss: Tensor, architecture: Architecture) -> Tensor:
    """The architecture step minimizes the evaluator's loss and nothing else."""
    return loss


class SearchModule(BaseOneShotLightningModule):
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
        self._recent: deque[Any] = deque(maxlen=CALIBRATION_BATCHES)
        self._validated: dict[str, tuple[Plan, Statistics]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Prepare the supernet for its device, and see what the evaluator logs."""
        super().setup(stage)
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
        # The module itself is moved to its device later. On a CPU the convolutions of cell spaces
        # are faster in this layout; what it does elsewhere was not measured.
        if self.trainer.strategy.root_device.type == "cpu":
            self.training_module.to(memory_format=torch.channels_last)

    # The two steps

    def on_train_epoch_start(self) -> None:
        """Forget the batches of the epoch before: a resumed search does not have them either."""
        super().on_train_epoch_start()
        self._recent.clear()
        self._reset_copies(ARCHITECTURE)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """An architecture step on a batch of held-out images, then a weight step on one of the others.

        Args:
            batch: {"train": a batch for the weights, "val": one for the architecture}.
            batch_idx: its index in the epoch.
        """
        strategy, architecture = self.strategy, self.architecture
        alphas = architecture.alphas
        step = Step(self.trainer.fit_loop.epoch_loop.total_batch_idx, self.current_epoch)
        if step.epoch >= strategy.weights_first:
            architecture.plan = strategy.relaxation.architecture(alphas, step)
            self._architecture_step(alphas, lambda: self._loss(batch["val"], batch_idx, ARCHITECTURE))
        with torch.no_grad():
            architecture.plan = strategy.relaxation.weights(alphas, step)
        loss = self._loss(batch["train"], batch_idx)
        self._recent.append(batch["train"])
        self.advance_optimization(loss, batch_idx, strategy.gradient_clip_val)
        self.advance_lr_schedulers(batch_idx)
        return loss.detach()

    def _architecture_step(self, alphas: Alphas, loss: Callable[[], Tensor]) -> None:
        objective = self.strategy.objective
        gradients = self.strategy.gradient(
            lambda: objective(loss(), self.architecture),
            list(alphas.values()),
            list(self.training_module.parameters()),
        )
        # An α without a gradient is skipped by the optimizer, its momentum and weight decay included.
        for alpha, gradient in zip(alphas.values(), gradients, strict=True):
            alpha.grad = gradient
        for optimizer in self.trainer.optimizers:
            if getattr(optimizer, "is_arch_optimizer", False):
                optimizer.step()

    def _loss(self, batch: Any, batch_idx: int, prefix: str = "") -> Tensor:
        with self._logged_as(prefix):
            result = self.training_module.training_step(batch, batch_idx)
        return result["loss"] if isinstance(result, Mapping) else result

    def configure_architecture_optimizers(self) -> list[Optimizer]:
        """One optimizer for each group of α."""
        alphas = self.architecture.alphas
        if not alphas:
            raise ValueError("the model space has no choice to search: no cell, layer choice or input choice")
        return [self.strategy.optimizer(group) for group in self.strategy.grouping(alphas)]

    # Validation: the supernet on all images, then the derived architecture on all images

    def on_validation_epoch_start(self) -> None:
        """Fix what is validated in this epoch, and measure the batch statistics of each."""
        for prefix, plan in (
            (SUPERNET, self.strategy.relaxation.evaluation(self.architecture.alphas)),
            (DERIVED, self.derived_plan()),
        ):
            self.architecture.plan = plan
            # Before the first training batch, as in Lightning's sanity check, there is nothing to measure.
            self._validated[prefix] = plan, measure(self.training_module, self._pass_recent) if self._recent else {}
        self.training_module.on_validation_epoch_start()

    def _pass_recent(self) -> None:
        for batch in self._recent:
            self._loss(batch, 0, UNLOGGED)
        self._reset_copies(UNLOGGED)

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Between the two: end the validation of the supernet and begin that of the derived architecture."""
        # NNI's own modules only report at the end what Lightning has not summed up yet.
        if dataloader_idx == 1 and batch_idx == 0 and not isinstance(self.training_module, SupervisedLearningModule):
            self.training_module.on_validation_epoch_end()
            with self._logged_as(DERIVED):
                self.training_module.on_validation_epoch_start()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Validate the supernet (first loader) or the derived architecture (second) on a batch."""
        prefix = DERIVED if dataloader_idx else SUPERNET
        self.architecture.plan, statistics = self._validated[prefix]
        with self._logged_as(prefix), normalized_by(statistics):
            self.training_module.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Let the evaluator log what it computes at the end."""
        with self._logged_as(DERIVED):
            self.training_module.on_validation_epoch_end()

    def derived_plan(self) -> Plan:
        """The plan that makes the supernet compute the derived architecture."""
        sample = self.export()
        plan: dict[str, Any] = {}
        for module in self.supernet_modules():
            if isinstance(module, Mixed):
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
        self.log(self._log_prefix + name, value, prog_bar and not self._log_prefix, *args, **kwargs)

    def _advance_lr_schedulers_impl(self, batch_idx: int, interval: str) -> None:
        # NNI steps a scheduler on a plateau without the metric that it needs.
        if any(config.reduce_on_plateau for config in self.trainer.lr_scheduler_configs):
            raise ValueError(
                "the evaluator's ReduceLROnPlateau cannot be stepped in a search: use a schedule over epochs or steps"
            )
        super()._advance_lr_schedulers_impl(batch_idx, interval)


class DifferentiableStrategy(OneShotStrategy):
    """An NNI one-shot strategy that is a composition: what a paper adds is one part, and its defaults.

    It searches any NNI model space made of cells, layer choices and input choices, with any
    Lightning evaluator: the evaluator's training images train the weights, its validation images
    the architecture. A data module may have an ``architecture_dataloader``, which then serves the
    architecture steps (shuffled and augmented) in place of its ``val_dataloader``.

    Args:
        relaxation: α -> what the supernet computes.
        optimizer: makes the optimizer for a group of α.
        objective: what the architecture step minimizes.
        gradient: of the objective, for α.
        grouping: which α share an optimizer.
        derivation: α of a cell -> its discrete operations.
        none: add the candidate ``none`` (zero) to the edges of cells.
        weights_first: epochs in which weights alone are trained.
        gradient_clip_val: the largest norm of the gradient of the weights; None for no limit.
    """

    def __init__(
        self,
        relaxation: Relaxation,
        optimizer: OptimizerFactory,
        objective: Objective = evaluator_loss,
        gradient: Gradient = first_order,
        grouping: Grouping = one_optimizer,
        derivation: Derivation = darts,
        none: bool = True,
        weights_first: int = 0,
        gradient_clip_val: float | None = 5.0,
    ) -> None:
        super().__init__()
        if gradient_clip_val is not None and not gradient_clip_val > 0:
            raise ValueError(f"gradient_clip_val: {gradient_clip_val} should be above 0, or None for no limit")
        if weights_first < 0:
            raise ValueError(f"warmup_epochs: {weights_first} should be at least 0")
        self.relaxation = relaxation
        self.optimizer = optimizer
        self.objective = objective
        self.gradient = gradient
        self.grouping = grouping
        self.derivation = derivation
        self.none = none
        self.weights_first = weights_first
        self.gradient_clip_val = gradient_clip_val
        self.architecture = Architecture(none)
        self._architecture_loader: Callable[[], Any] | None = None

    def mutate_model(self, model: ModelSpace) -> ModelSpace:
        """Make the model space a supernet, in place."""
        self.architecture = Architecture(self.none)
        return super().mutate_model(model)

    def alphas(self) -> dict[str, dict[Any, float]]:
        """edge -> candidate -> α, at this moment."""
        return self.architecture.table()

    def default_mutation_hooks(self) -> list[Any]:
        """Replace NNI's choices by modules that follow the plan; refuse any other choice."""

        def replace(module: nn.Module, name: str, memo: dict, kwargs: dict) -> nn.Module | None:
            return replace_choice(module, self.architecture, self.derivation)

        return [replace, no_default_hook]

    def configure_oneshot_module(self, training_module: pl.LightningModule) -> SearchModule:
        """The Lightning module of the search."""
        return SearchModule(training_module, self.architecture, self)

    def mutate_evaluator(self, evaluator: Lightning) -> Lightning:
        """Wrap the evaluator's module, and take its data."""
        self._architecture_loader = getattr(evaluator.datamodule, "architecture_dataloader", None)
        return super().mutate_evaluator(evaluator)

    def train_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        """Pairs of a batch for the weights and one for the architecture; an epoch is one of the former."""
        train = train_dataloader_fn()
        val = (self._architecture_loader or val_dataloader_fn)()
        try:
            shorter = len(train) < len(val)
        except TypeError:  # a stream has no length: the longer of the two makes the epoch
            shorter = False
        return CombinedLoader({"train": train, "val": val}, "min_size" if shorter else "max_size_cycle")

    def val_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        """The evaluator's validation images twice: for the supernet, and for the derived architecture.

        Raises:
            ValueError: the evaluator has several loaders.
        """
        loader = val_dataloader_fn()
        if isinstance(loader, (Sequence, Mapping, CombinedLoader)):
            raise ValueError("a search takes one validation loader; the evaluator has several")
        return [loader, loader]
