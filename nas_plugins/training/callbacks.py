"""Lightning callbacks of every run: seeding per epoch, text progress, and detection of non-finite values."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.utils._pytree import tree_leaves

from nas_plugins.errors import InputError
from nas_plugins.tasks import Task


class SeededEpochs(Callback):
    """Seed each epoch by its number, so that a resumed run continues exactly as an uninterrupted one.

    Shuffling, augmentation and drop-path draw from the global generators. Restoring their states from the end of an
    epoch would not suffice, because on a resume Lightning draws differently between two epochs.

    Args:
        seed: Seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.next_epoch = 0
        self._seeded_epoch = -1

    def state_dict(self) -> dict[str, Any]:
        """Return the number of the next epoch."""
        return {"next_epoch": self.next_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of the next epoch."""
        self.next_epoch = state_dict["next_epoch"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed the first epoch of this process; Lightning makes its data iterators before the epoch starts."""
        self._seed(self.next_epoch, trainer.global_rank)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed the epoch, unless :meth:`on_fit_start` has."""
        if trainer.current_epoch != self._seeded_epoch:
            self._seed(trainer.current_epoch, trainer.global_rank)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the epoch as done."""
        self.next_epoch = trainer.current_epoch + 1

    def _seed(self, epoch: int, rank: int) -> None:
        # Not Lightning's seed_everything: it also sets the seed by which all processes have to shard the data alike.
        self._seeded_epoch = epoch
        seed = int(np.random.SeedSequence([self.seed, epoch, rank]).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


class EpochLines(Callback):
    """Progress for logs: one line of text per epoch instead of a progress bar.

    Args:
        task: The task, whose metrics are printed.
    """

    def __init__(self, task: Task) -> None:
        self.task = task

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the metrics of the epoch."""
        logged = trainer.callback_metrics
        shown = [f"{name} {float(logged[name]):.4f}" for name in self.task.columns_among(logged) if name in logged]
        if trainer.is_global_zero:
            print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", *shown, sep="  ", flush=True)


class SampleCounter(Callback):
    """Count the samples of a test in one process, whose batches may have any structure of tensors."""

    def __init__(self) -> None:
        self.samples = 0

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the samples of a batch by the length of its first tensor."""
        self.samples += next((len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()), 0)


class FiniteLoss(Callback):
    """Stop a run whose loss, weights or α are no longer finite, before the epoch is recorded.

    Long epochs are also stopped before their end. The losses of single iterations are unknown for NNI's own strategies.

    Args:
        rate: Key of the learning rate of the weights, for messages.
    """

    def __init__(self, rate: str = "training.learning_rate") -> None:
        self.rate = rate

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the training loss of every 50th iteration."""
        # Rarely, because reading a loss waits for the device. Several processes all have to stop at the same place,
        # which is the end of the epoch.
        if batch_idx % 50 == 0 and trainer.world_size == 1 and isinstance(outputs, Mapping) and "loss" in outputs:
            self._check(trainer, "the training loss", float(outputs["loss"]))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the losses of the epoch, and the parameters, which the last iteration may have changed since."""
        for name, key in (("training", "train_loss"), ("validation", "val_loss")):
            self._check(trainer, f"the {name} loss", float(trainer.callback_metrics.get(key, 0.0)))
        lost = _non_finite(pl_module)
        if lost is not None:
            of_alpha = lost.startswith("architecture.")  # the name of α in strategies.search
            what, key = ("an α", "strategy.learning_rate") if of_alpha else ("a weight", self.rate)
            self._check(trainer, what, math.nan, key)

    def _check(self, trainer: pl.Trainer, what: str, value: float, key: str | None = None) -> None:
        if not math.isfinite(value):
            raise InputError(
                f"{what} became {value} in epoch {trainer.current_epoch}: lower {key or self.rate} in a new run; "
                "a resume of this one would come to the same"
            )


def _non_finite(module: pl.LightningModule) -> str | None:
    """Return the name of a parameter that is not finite; None if all are finite."""
    finite = {name: parameter.detach().isfinite().all() for name, parameter in module.named_parameters()}
    if not finite or bool(torch.stack([*finite.values()]).all()):  # a single transfer from the device
        return None
    return next(name for name, each in finite.items() if not each)
