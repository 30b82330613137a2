"""Part of a search module that acts between epochs: pruning, stop rules, and the state that they may read."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.data import extract_batch_size
from torch import Tensor
from torchmetrics import Metric

from search_spaces.extensions import HasInitialAlphas
from strategies.composition import Composition
from strategies.distributed import average
from strategies.epoch import AlphaTable, Epoch
from strategies.noise import generator
from strategies.relaxation import Plan, Step, UnfitSettingError
from strategies.rng import isolate_rng
from strategies.stop_rules import EIGENVALUES, curvature
from strategies.supernet.architecture import Architecture
from strategies.validation import UNLOGGED, Validation

EIGENVALUE = "dominant_eigenvalue"
"""Name under which the curvature of the validation loss is logged."""

STATE = "nas_plugins"
"""Key of a checkpoint for the state of pruning and stop rules."""


class BetweenEpochs(Validation):
    """Part of a search module that prunes at the start of an epoch, and may end the search after it.

    Args: See :class:`~strategies.validation.Validation`.
    """

    def __init__(
        self, training_module: pl.LightningModule, architecture: Architecture, composition: Composition
    ) -> None:
        super().__init__(training_module, architecture, composition)
        self.history: list[AlphaTable] = []
        self.memory: dict[str, Any] = {}
        self._alphas_before: AlphaTable = {}
        self._last_searched: Any = None
        self.log_eigenvalue_every_n_epoch: int | None = None
        # A buffer, so that a checkpoint holds it and a resume does not continue a search that has ended.
        self.register_buffer("ended", torch.tensor(False))
        self.ended: Tensor

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state of pruning and stop rules."""
        super().on_save_checkpoint(checkpoint)
        if self._keeps_state():
            checkpoint[STATE] = {
                "living": dict(self.architecture.living),
                "history": list(self.history),
                "memory": dict(self.memory),
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state of pruning and stop rules."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint.get(STATE, {})
        self.architecture.living = {edge: tuple(indices) for edge, indices in state.get("living", {}).items()}
        self.history, self.memory = list(state.get("history", [])), dict(state.get("memory", {}))

    def _keeps_state(self) -> bool:
        return self.composition.pruning is not None or self.composition.stop is not None

    def on_fit_start(self) -> None:
        """Set the position of the search, which modules may read before the first step, in Lightning's sanity check."""
        super().on_fit_start()
        self.architecture.step = self._position()

    def on_train_start(self) -> None:
        """Stop if the search was resumed after it had ended early.

        Raises:
            UnfitSettingError: A search that prunes was resumed in the middle of an epoch.
        """
        super().on_train_start()
        self.architecture.step = self._position()
        loop = self.trainer.fit_loop
        mid_epoch = getattr(loop, "restarted_mid_epoch", False) and not loop.epoch_loop.batch_progress.is_last_batch
        if self.composition.pruning is not None and mid_epoch:
            raise UnfitSettingError(
                "this strategy acts at the start of an epoch: resume it from a checkpoint at the end of one"
            )
        self.trainer.should_stop |= self.composition.stop is not None and bool(self.ended)

    def on_train_epoch_start(self) -> None:
        """Prune the candidates."""
        super().on_train_epoch_start()
        self._last_searched = None
        self.trainer.callback_metrics.pop(EIGENVALUE, None)  # Lightning keeps the value of an earlier epoch
        self.architecture.step = self._between()
        if self.composition.pruning is not None:
            self.composition.pruning(self._epoch())
        if self._keeps_state():
            self._alphas_before = self.architecture.table()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        """Decide after the last batch of an epoch whether the search ends, before its validation."""
        super().on_train_batch_end(outputs, batch, batch_idx, *args, **kwargs)
        if not self.trainer.is_last_batch:
            return
        if self._keeps_state():
            self.history.append(self.architecture.table())
        measured = len(self.memory.get(EIGENVALUES, ()))
        stop = self.composition.stop
        if stop is not None and self.current_epoch >= self.composition.warmup_epochs:
            self.ended.fill_(stop(self._epoch()))
        self._log_eigenvalue(measured)

    def _log_eigenvalue(self, measured: int) -> None:
        """Log the curvature of the validation loss, if it is due after this epoch or a stop rule has measured it.

        Args:
            measured: Number of curvatures that stop rules had measured before this epoch.
        """
        every, known = self.log_eigenvalue_every_n_epoch, self.memory.get(EIGENVALUES, ())
        if len(known) > measured:
            self.log(EIGENVALUE, known[-1], on_step=False, on_epoch=True, batch_size=1)
        elif every and self.current_epoch % every == 0 and self._last_searched is not None:
            self.log(EIGENVALUE, curvature(self._epoch()), on_step=False, on_epoch=True, batch_size=1)

    def on_train_epoch_end(self) -> None:
        """End the search."""
        super().on_train_epoch_end()
        self.trainer.should_stop |= self.composition.stop is not None and bool(self.ended)

    def _between(self) -> Step:
        """Return the position between two iterations."""
        step = self._position()
        return replace(step, iteration=step.iteration + 1)

    def _position(self) -> Step:
        """Return the position of the current iteration."""
        epochs = self.trainer.max_epochs
        return Step(
            self.trainer.fit_loop.epoch_loop.total_batch_idx,
            self.current_epoch,
            None if epochs is None or epochs < 1 else epochs,
        )

    def _epoch(self) -> Epoch:
        return Epoch(
            architecture=self.architecture,
            step=self._between(),
            sample=self._derived(),
            before=self._alphas_before,
            history=self.history,
            memory=self.memory,
            validate=self._validate,
            val_loss=self._last_val_loss,
            restart=self._restart,
            model=self.model,
            optimizers=self.trainer.optimizers,
        )

    def _restart(self) -> None:
        # Seeded by the position, so that a resumed search draws the same values again; processes have different seeds.
        seed = generator(torch.initial_seed(), self._between(), "restart").initial_seed()
        seed = self.trainer.strategy.broadcast(seed)
        with isolate_rng(), torch.no_grad():
            torch.manual_seed(seed)
            for module in self.model.modules():
                own = list(module.parameters(recurse=False))
                reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
                if callable(reset) and (not own or any(weight.requires_grad for weight in own)):
                    reset()
            for alpha in self.architecture.alphas.values():
                alpha.copy_(self.architecture.scale * torch.randn(alpha.shape))
            if isinstance(self.model, HasInitialAlphas):
                self.architecture.start(self.model.initial_alphas)
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()

    def _trial_loss(self, batch: Any, batch_idx: int, plan: Plan) -> Tensor:
        """Return the loss on a batch by a plan, in evaluation mode and without effect on the search."""
        with self._evaluating(self.architecture.of_all(plan)), torch.enable_grad():
            return self._loss(batch, batch_idx, UNLOGGED)

    @contextmanager
    def _evaluating(self, plan: Plan) -> Iterator[None]:
        """Follow a plan of all candidates in evaluation mode, without effect on the search."""
        modes, before = {module: module.training for module in self.training_module.modules()}, self.architecture.plan
        self.training_module.eval()
        self.architecture.plan = plan
        try:
            with isolate_rng():
                yield
        finally:
            self.architecture.plan = before
            self._reset_copies(UNLOGGED)
            for module, training in modes.items():
                module.training = training

    def _last_val_loss(self) -> Tensor:
        """Return the loss on the last batch of an architecture step, by the plan of such a step.

        Raises:
            ValueError: The epoch had no architecture step.
        """
        if self._last_searched is None:
            raise ValueError("the epoch had no architecture step, whose batch the loss is computed on")
        plan = self.composition.relaxation.architecture(self.architecture.living_alphas(), self._position())
        return self._trial_loss(self._last_searched, 0, plan)

    def _validate(self, plan: Plan) -> dict[str, float]:
        """Return the metrics of the evaluator on all validation images by a plan of the living candidates, by name."""
        return self._validate_all(self.architecture.of_all(plan))

    @torch.no_grad()
    def _validate_all(self, plan: Plan) -> dict[str, float]:
        """Return the metrics of the evaluator on all validation images by a plan of all candidates, by name."""
        trainer, loop = self.trainer, self.trainer.fit_loop.epoch_loop.val_loop
        loop.setup_data()
        if not trainer.val_dataloaders:
            raise UnfitSettingError("this strategy validates in a search: the evaluator needs validation batches")
        loader, limit = trainer.val_dataloaders[0], trainer.num_val_batches[0]
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(2, dtype=torch.float64, device=self.device))
        metrics: dict[str, Metric] = {}
        trainer.validating = True
        try:
            with self._evaluating(plan), trainer.precision_plugin.val_step_context(), self._logged_as(UNLOGGED):
                self._reset_copies(UNLOGGED)
                for index, batch in enumerate(islice(loader, None if math.isinf(limit) else int(limit))):
                    self._measured = {}
                    batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
                    self.training_module.validation_step(batch, index)
                    size = extract_batch_size(batch)
                    for name, value in self._measured.items():
                        if isinstance(value, Metric):  # a Metric accumulates the batches itself
                            metrics[name] = value
                        else:
                            sums[name] += torch.tensor([float(value) * size, size], device=self.device)
                computed = {name: float(metric.compute()) for name, metric in metrics.items()}
        finally:
            self._measured = None
            trainer.training = True
        totals = average(list(sums.values()), trainer)
        means = {name: float(t[0] / t[1]) for name, t in zip(sums, totals, strict=True) if t is not None}
        return means | computed
