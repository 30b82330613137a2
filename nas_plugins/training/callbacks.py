"""Callbacks of every run: the seed of an epoch, its rows in the tables, its line in a log, and a loss that is lost."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from nas_plugins.errors import InputError

METRICS = ["train_loss", "train_acc", "val_loss", "val_acc", "derived_val_acc"]
"""The columns of metrics.csv that the training logs."""


class SeededEpochs(Callback):
    """Seed every epoch by its number, so that a resumed run goes on exactly as one never interrupted.

    Shuffling, augmentation and drop-path draw from the global generators. Their states at the end
    of an epoch would not be enough: what Lightning draws between two epochs differs on a resume.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.next_epoch = 0
        self._seeded = -1

    def state_dict(self) -> dict[str, Any]:
        return {"next_epoch": self.next_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        epoch = state_dict["next_epoch"]
        if type(epoch) is not int or epoch < 0:
            raise ValueError(f"next_epoch: {epoch!r:.40} should be a whole number of at least 0")
        self.next_epoch = epoch

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """For the first epoch of this process: Lightning makes its data iterators before that epoch starts."""
        self._seed(self.next_epoch, trainer.global_rank)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch != self._seeded:
            self._seed(trainer.current_epoch, trainer.global_rank)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.next_epoch = trainer.current_epoch + 1

    def _seed(self, epoch: int, rank: int) -> None:
        self._seeded = epoch
        state = np.random.SeedSequence([self.seed, epoch, rank]).generate_state(1)
        seed = int(state[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


def epochs_done(trainer: pl.Trainer) -> int:
    """How many epochs the checkpoint holds, by what :class:`SeededEpochs` has of it."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next(each.next_epoch for each in callbacks if isinstance(each, SeededEpochs))


class EpochLines(Callback):
    """A line an epoch, for output that is no terminal: a log gets no progress bars."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        logged = trainer.callback_metrics
        shown = [f"{name} {float(logged[name]):.4f}" for name in METRICS if name in logged]
        if trainer.is_global_zero:
            print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", *shown, sep="  ", flush=True)


class FiniteLoss(Callback):
    """Give up when the loss or the weights are lost: before the epoch is recorded, and within a long epoch.

    What a search with a strategy of NNI's computes in an iteration stays unknown until the end of the epoch.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Now and then, for it waits for the device. Several processes have to give up at one place: the epoch's end.
        if batch_idx % 50 == 0 and trainer.world_size == 1 and isinstance(outputs, Mapping) and "loss" in outputs:
            self._check(trainer, "the training loss", float(outputs["loss"]))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Also after the last iteration, of which the training loss knows nothing yet."""
        for name, key in (("training", "train_loss"), ("validation", "val_loss")):
            self._check(trainer, f"the {name} loss", float(trainer.callback_metrics.get(key, 0.0)))
        lost = _lost(pl_module)
        if lost is not None:
            # The name of an α is what strategies.search makes of it.
            of_alpha = lost.startswith("architecture.")
            what, key = ("an α", "strategy.learning_rate") if of_alpha else ("a weight", "training.learning_rate")
            self._check(trainer, what, math.nan, key)

    def _check(self, trainer: pl.Trainer, what: str, value: float, key: str = "training.learning_rate") -> None:
        if not math.isfinite(value):
            raise InputError(
                f"{what} became {value} in epoch {trainer.current_epoch}: lower {key} in a new run; "
                "a resume of this one would come to the same"
            )


def _lost(module: pl.LightningModule) -> str | None:
    """The name of a parameter that is not finite; None where all are."""
    finite = {name: parameter.detach().isfinite().all() for name, parameter in module.named_parameters()}
    if not finite or bool(torch.stack([*finite.values()]).all()):  # of one accelerator: one transfer
        return None
    return next(name for name, each in finite.items() if not each)
