"""One search as Lightning runs it: architecture and weight steps on a supernet, validated every epoch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from strategies.bilevel import BilevelProblem, Gradient, Gradients, one_level
from strategies.composition import Composition, Schedule
from strategies.distributed import average, check_processes
from strategies.memory_format import avoid_faulty_kernels, takes_channels_last
from strategies.objective import ArchitectureBatch
from strategies.relaxation import Step, mean_alpha_change
from strategies.supernet.architecture import Architecture
from strategies.validation import ARCHITECTURE, SUPERNET, UNLOGGED, Validation


class SearchModule(Validation):
    """The Lightning module of a search: alternates architecture and weight steps, and validates every epoch.

    Wraps the LightningModule of the evaluator, whose ``training_step`` computes both losses, whose
    ``validation_step`` validates, and whose optimizer and schedule train the weights.

    Args:
        training_module: The Lightning module of the evaluator.
        architecture: α and the plan that the supernet follows.
        composition: The parts of the search.
    """

    def __init__(
        self,
        training_module: pl.LightningModule,
        architecture: Architecture,
        composition: Composition,
    ) -> None:
        super().__init__(training_module, architecture, composition)
        self._own_weights: list[nn.Parameter] = []
        self._own_buffers: list[Tensor] = []
        self._alphas_before: dict[str, Tensor] = {}
        # A buffer, so that a search which ended is not taken up again by a resume.
        self.register_buffer("ended", torch.tensor(False))
        self.ended: Tensor

    def setup(self, stage: str | None = None) -> None:
        """Prepare the supernet for its device, and see what the evaluator logs."""
        super().setup(stage)
        check_processes(self.trainer)
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
        if self.composition.schedule is not None:
            self._schedule_alphas(self.composition.schedule)

    def on_train_start(self) -> None:
        """Do nothing more where the search has ended: it was resumed from its last checkpoint."""
        super().on_train_start()
        self.trainer.should_stop |= self.composition.min_alpha_change is not None and bool(self.ended)

    def on_train_epoch_end(self) -> None:
        """End the search where α stands still."""
        super().on_train_epoch_end()
        still = self.composition.min_alpha_change
        if still is not None and self.current_epoch >= self.composition.warmup_epochs:
            self.ended.fill_(mean_alpha_change(self._alphas_before, self.architecture.alphas) < still)
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
        composition = self.composition
        step = Step(self.trainer.fit_loop.epoch_loop.total_batch_idx, self.current_epoch)
        searching = step.epoch >= composition.warmup_epochs
        if searching and composition.gradient:
            self._architecture_step(composition.gradient, batch, step, batch_idx)
        weight_step = self._joint_step if searching and composition.gradient is None else self._weight_step
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

        problem = BilevelProblem(
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
            self.architecture.plan = self.composition.relaxation.weights(self.architecture.alphas, step)
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
        self.advance_optimization(loss, batch_idx, self.composition.gradient_clip_val)

    def _objective(self, batch: Any, batch_idx: int, step: Step, prefix: str = SUPERNET) -> Tensor:
        def log(name: str, value: Tensor) -> None:
            # Every step counts alike.
            self.log(name, value, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

        return self.composition.objective(
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
        self.architecture.plan = self.composition.relaxation.architecture(self.architecture.alphas, step)

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

    def configure_architecture_optimizers(self) -> list[Optimizer]:
        """One optimizer for each group of α."""
        alphas = self.architecture.alphas
        if not alphas:
            raise ValueError(
                "the model space has no choice to search, as a frozen one has none: no cell, layer choice, input "
                "choice, repetition or value choice"
            )
        return [self.composition.optimizer(group) for group in self.composition.grouping(alphas)]

    def _advance_lr_schedulers_impl(self, batch_idx: int, interval: str) -> None:
        # NNI steps a scheduler on a plateau without the metric that it needs. Lightning's own mark of one is missing:
        # it leaves out what it does not use where a module steps its optimizers itself, as a search does.
        if any(isinstance(config.scheduler, ReduceLROnPlateau) for config in self.trainer.lr_scheduler_configs):
            raise ValueError(
                "the evaluator's ReduceLROnPlateau cannot be stepped in a search: use a schedule over epochs or steps"
            )
        super()._advance_lr_schedulers_impl(batch_idx, interval)
