"""The LightningModule of a search: architecture steps and weight steps on a supernet."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from strategies.bilevel import BilevelProblem, Gradient, Gradients, one_level, preserving, unscaled
from strategies.composition import Composition, Schedule
from strategies.cost.penalty import ExpectationProfilerPenalty
from strategies.cost.search import Example
from strategies.cost.table import CostTable
from strategies.cost.targets import Cost
from strategies.distributed import average, check_processes
from strategies.finish import Finish, Finishing
from strategies.memory_format import takes_channels_last
from strategies.objective import ArchitectureBatch
from strategies.relaxation import Step, UnfitSettingError, rows, sigmoid, softmax
from strategies.rng import isolate_rng
from strategies.supernet.architecture import Architecture
from strategies.supernet.choices import MixedLayer
from strategies.supernet.shared_input import copied
from strategies.supernet.trial_pass import UnfitCandidatesError, check_candidates, first_samples, input_of
from strategies.validation import ARCHITECTURE, SUPERNET, UNLOGGED


class SearchModule(Finishing):
    """The LightningModule of a search: alternates architecture and weight steps, and validates every epoch.

    Wraps the LightningModule of the evaluator, whose ``training_step`` computes both losses, whose
    ``validation_step`` validates, and whose optimizer and schedule train the weights.

    Args:
        training_module: The LightningModule of the evaluator.
        architecture: α and the plan that the supernet follows.
        composition: The parts of the search.
        log_prob_every_n_step: Interval in batches between two logs of the weights of all candidates, None for no such
            logs.
        candidates_checked: Whether the candidates are known to fit together; else they are tried before the first step.
        costs: Costs of the derived network that the search keeps low.
        profile: Function that returns the table of each cost, given an example of the input.
        penalty: A penalty of NNI on the loss of α. None for no penalty.
        finish: Settings of a ranking of likely architectures at the end. None for no ranking.
    """

    def __init__(
        self,
        training_module: pl.LightningModule,
        architecture: Architecture,
        composition: Composition,
        log_prob_every_n_step: int | None = None,
        candidates_checked: bool = False,
        costs: tuple[Cost, ...] = (),
        profile: Callable[[Example], list[CostTable]] | None = None,
        penalty: ExpectationProfilerPenalty | None = None,
        finish: Finish | None = None,
    ) -> None:
        super().__init__(training_module, architecture, composition, costs, profile, penalty, finish=finish)
        self.log_prob_every_n_step = log_prob_every_n_step
        self.candidates_checked = candidates_checked

    def setup(self, stage: str | None = None) -> None:
        """Check the processes, and choose the memory format of the supernet."""
        super().setup(stage)
        check_processes(self.trainer)
        # Lightning moves the module to its device later. Only CPUs were measured in this format.
        on_cpu = self.trainer.strategy.root_device.type == "cpu"
        self.architecture.grouped = not on_cpu
        if on_cpu and takes_channels_last(self.model):
            self.training_module.to(memory_format=torch.channels_last)

    def on_fit_start(self) -> None:
        """Check that the Trainer has epochs left; otherwise α would silently keep its initial values.

        Raises:
            ValueError: The Trainer has done all its epochs or steps.
        """
        super().on_fit_start()
        trainer = self.trainer
        all_epochs = trainer.max_epochs is not None and trainer.current_epoch >= trainer.max_epochs > 0
        if trainer.ckpt_path is None and (all_epochs or trainer.global_step >= trainer.max_steps > 0):
            raise ValueError(
                f"max_epochs: {trainer.max_epochs}, max_steps: {trainer.max_steps}: the evaluator's Trainer did them: "
                "give each search an evaluator of its own"
            )

    def on_train_start(self) -> None:
        """List the weights once, because listing them in each step would take noticeable time."""
        super().on_train_start()
        self._own_weights = list(self.training_module.parameters())
        self._own_buffers = list(self.training_module.buffers())

    def on_train_epoch_start(self) -> None:
        """Prepare the steps of an epoch, and set the learning rate of α."""
        # The statistics use batches of this epoch only, because a resumed search has no earlier ones.
        self._recent.clear()
        super().on_train_epoch_start()
        self._reset_copies(ARCHITECTURE)
        if self.composition.schedule is not None:
            self._schedule_alphas(self.composition.schedule)

    def _schedule_alphas(self, schedule: Schedule) -> None:
        # NNI has no schedulers for α. The rate is a function of the epoch, so a resumed search needs no extra state.
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise ValueError(f"max_epochs: {epochs} of the evaluator should be 1 or more: the schedule of α ends there")
        for group in (group for optimizer in self._alpha_optimizers() for group in optimizer.param_groups):
            group["lr"] = schedule(group.setdefault("initial_lr", group["lr"]), self.current_epoch / epochs)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Take an architecture step on the validation batch, then a weight step on the training batch.

        Args:
            batch: {"train": batch for the weights, "val": batch for the architecture}.
            batch_idx: Index of the batch in the epoch.

        Returns:
            The detached loss of the weight step.
        """
        self._check_candidates(self.training_module.training_step, batch["train"])
        self.measure_costs(partial(self._example, self.training_module.training_step, batch["train"]))
        with self._channels_last():
            loss = self._steps(batch, batch_idx)
        self._recent.append(batch["train"])
        self.advance_lr_schedulers(batch_idx)
        if self.log_prob_every_n_step and batch_idx % self.log_prob_every_n_step == 0:
            self._log_weights()
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Validate the supernet or the derived network on a batch."""
        # Lightning's sanity check validates before the first step.
        self._check_candidates(self.training_module.validation_step, batch)
        return super().validation_step(batch, batch_idx, dataloader_idx)

    def _check_candidates(self, step: Callable[[Any, int], object], batch: Any) -> None:
        """Try all candidates once per search, on two samples of the input that the evaluator passes to the model.

        Raises:
            UnfitCandidatesError: The candidates of an edge do not fit together.
        """
        if self.candidates_checked:
            return
        self.candidates_checked = True
        given = self._example(step, batch)
        if given is not None:
            with self._channels_last(), isolate_rng(), torch.inference_mode(False), torch.enable_grad():
                self._try_copy_of_model(given)

    def _example(self, step: Callable[[Any, int], object], batch: Any) -> Example | None:
        """Return the input that a step of the evaluator passes to the model for the first two samples of a batch."""
        self.architecture.follow(self._evaluation())
        with (
            self._channels_last(),
            self._logged_as(UNLOGGED),
            isolate_rng(),
            preserving(list(self.model.buffers())),
            torch.no_grad(),
        ):
            given = input_of(self.model, partial(step, copied(batch), 0))
        return None if given is None else first_samples(given)

    def _try_copy_of_model(self, given: Example) -> None:
        def run() -> Any:
            args, kwargs = copied(given)  # a model may write to its input
            return model(*args, **kwargs)

        try:
            # The copy follows the same plan, and the model itself is not changed.
            model = copy.deepcopy(self.model, {id(self.architecture): self.architecture})
            for layer in model.modules():
                if isinstance(layer, MixedLayer):
                    layer.skipped = None  # a zero has to fit the others too, because a path may run it
            check_candidates(self.architecture, run, model.parameters())
        except (UnfitCandidatesError, UnfitSettingError):
            raise
        except Exception:  # other errors are left to the first step: a model may not work on two samples
            return

    def _log_weights(self) -> None:
        """Log the weight of each candidate, the softmax or sigmoid of its α, under the names of NNI's strategies."""
        relax = sigmoid if self.composition.relaxation.activation == "sigmoid" else softmax
        with torch.no_grad():
            weights = rows(cast(Mapping[str, Tensor], relax(self.architecture.living_alphas())))
        for edge, row in weights.items():
            names = (f"prob/{edge}/{candidate}" for candidate in self.architecture.living_candidates(edge))
            self.log_dict(dict(zip(names, row, strict=True)))

    def _steps(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        composition, step = self.composition, self._position()
        self.architecture.step = step
        if not composition.searches(step):
            return self._weight_step(batch["train"], step, batch_idx)
        if composition.is_joint(step):
            return self._joint_step(batch["train"], step, batch_idx)
        if composition.gradient and (step.iteration + 1) % composition.weight_steps == 0:
            self._architecture_step(composition.gradient, batch, step, batch_idx)
        return self._weight_step(batch["train"], step, batch_idx)

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
            scale=self._loss_scale(),
        )
        self._step_alphas(self.with_costs(gradient(problem)))
        self._reset_copies(UNLOGGED)
        self._last_searched = batch["val"]

    def _weight_step(self, batch: Any, step: Step, batch_idx: int) -> Tensor:
        with torch.no_grad():
            plan = self.composition.relaxation.weights(self.architecture.living_alphas(), step)
        if self.composition.perturbation is not None:
            plan = self.composition.perturbation(plan, partial(self._trial_loss, batch, batch_idx), step)
        self.architecture.follow(plan)
        loss = self._loss(batch, batch_idx)
        self._descend(loss, batch_idx)
        return loss.detach()

    def _joint_step(self, batch: Any, step: Step, batch_idx: int) -> Tensor:
        """Step α and the weights by the gradients of one backward pass (one-level optimization)."""

        def objective() -> Tensor:
            self._relax(step)
            return self._objective(batch, batch_idx, step)

        descend, scale = partial(self._descend, batch_idx=batch_idx), self._loss_scale()
        loss, gradients = one_level(objective, list(self.architecture.alphas.values()), descend)
        self._step_alphas(self.with_costs(unscaled(gradients, scale)))
        return loss

    def _descend(self, loss: Tensor, batch_idx: int) -> None:
        self.training_module.on_before_zero_grad(self._weight_optimizer())
        limit = self.composition.gradient_clip_val
        # Lightning clips before it divides by the scale of 16-bit training.
        self.advance_optimization(loss, batch_idx, None if limit is None else limit * self._loss_scale())

    def _objective(self, batch: Any, batch_idx: int, step: Step, prefix: str = SUPERNET) -> Tensor:
        def log(name: str, value: Tensor) -> None:
            # batch_size=1 gives every step the same weight in the mean over an epoch.
            self.log(name, value, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

        loss = self.composition.objective(
            ArchitectureBatch(
                loss=lambda: self._loss(batch, batch_idx, prefix),
                again=lambda: self._loss(batch, batch_idx, UNLOGGED),
                architecture=self.architecture,
                model=self.model,
                step=step,
                batch_idx=batch_idx,
                log=log,
            )
        )
        return self.penalized(loss)

    def _relax(self, step: Step) -> None:
        """Set the plan of an architecture step, once per loss because a backward pass frees the graph of the plan."""
        self.architecture.follow(self.composition.relaxation.architecture(self.architecture.living_alphas(), step))

    def _step_alphas(self, gradients: Gradients) -> None:
        if self._scaler() is not None and not all(g is None or bool(g.isfinite().all()) for g in gradients):
            return  # the scale was too large, and the next weight step lowers it
        # The optimizer skips an α whose gradient is None, including its momentum and weight decay.
        for alpha, gradient in zip(self.architecture.alphas.values(), gradients, strict=True):
            alpha.grad = gradient
        for optimizer in self._alpha_optimizers():
            optimizer.step()

    def _alpha_optimizers(self) -> list[Optimizer]:
        return [optimizer for optimizer in self.trainer.optimizers if _steps_alphas(optimizer)]

    def _weight_optimizer(self) -> LightningOptimizer:
        """Return the evaluator's optimizer in Lightning's wrapper, which counts its steps."""
        optimizers: list[LightningOptimizer] = [o for o in self.optimizers() if not _steps_alphas(o.optimizer)]
        if len(optimizers) != 1:
            raise ValueError(f"the evaluator has {len(optimizers)} optimizers; a search takes one")
        return optimizers[0]

    def configure_architecture_optimizers(self) -> list[Optimizer]:
        """Return the optimizer of each group of α.

        Raises:
            ValueError: The model space has no choice.
        """
        alphas = self.architecture.alphas
        if not alphas:
            raise ValueError(
                "the model space has no choice to search, as a frozen one has none: no cell, layer choice, input "
                "choice, repetition or value choice"
            )
        return [self.composition.optimizer(group) for group in self.composition.grouping(alphas)]

    def _advance_lr_schedulers_impl(self, batch_idx: int, interval: str) -> None:
        # NNI would step it without its metric. Lightning's own mark of such a scheduler (reduce_on_plateau) is absent
        # under manual optimization, which a search uses.
        if any(isinstance(config.scheduler, ReduceLROnPlateau) for config in self.trainer.lr_scheduler_configs):
            raise ValueError(
                "the evaluator's ReduceLROnPlateau cannot be stepped in a search: use a schedule over epochs or steps"
            )
        super()._advance_lr_schedulers_impl(batch_idx, interval)


def _steps_alphas(optimizer: Optimizer) -> bool:
    return getattr(optimizer, "is_arch_optimizer", False)  # an attribute that NNI sets
