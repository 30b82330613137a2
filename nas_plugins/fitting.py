"""Fitting a network to images with Lightning: what a search and a retraining share."""

from __future__ import annotations

import errno
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from nas_plugins.callbacks import EpochLines, FiniteLoss, SeededEpochs
from nas_plugins.checkpoints import BEGIN_AGAIN, LastCheckpoint, WholeCheckpoints
from nas_plugins.config import Compute, Config, Derived, Training
from nas_plugins.data import ImageData
from nas_plugins.errors import InputError
from nas_plugins.images import BrokenImage
from nas_plugins.run import is_first
from nas_plugins.same_states import OtherStatesError, SameStates
from nas_plugins.tables import one_line
from search_spaces.network import Network


class ImageClassification(LightningModule):
    """Cross-entropy, SGD with momentum and a cosine schedule: the recipe of DARTS and its descendants.

    It trains the model that NNI, or :meth:`set_model`, gives it. It logs ``train_loss``,
    ``train_acc``, ``val_loss``, ``val_acc``, ``test_loss`` and ``test_acc``; accuracies are
    shares from 0 to 1.

    Args:
        num_classes: classes of the images.
        training: the settings.
        derived: the settings of a derived network; None for a supernet.
    """

    def __init__(self, num_classes: int, training: Training, derived: Derived | None = None) -> None:
        super().__init__()
        self.training_settings = training
        self.derived = derived
        self.criterion = nn.CrossEntropyLoss(label_smoothing=training.label_smoothing)
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, x: Tensor) -> Any:
        """The logits of the model."""
        return self.model(x)

    def on_train_epoch_start(self) -> None:
        """Let drop-path grow linearly over the epochs (DARTS, section 3.2)."""
        if self.derived is not None and isinstance(self.model, Network):
            share = self.current_epoch / self.training_settings.epochs
            self.model.set_drop_path(self.derived.drop_path * share)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch of images and labels."""
        images, labels = batch
        logits = self(images)
        auxiliary = None
        if isinstance(logits, tuple):
            logits, auxiliary = logits
        loss = self.criterion(logits, labels)
        self._log("train", loss, logits, labels)
        if auxiliary is not None and self.derived is not None:
            loss = loss + self.derived.auxiliary_weight * self.criterion(auxiliary, labels)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss and the accuracy of a batch."""
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss and the accuracy of a batch."""
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        logits = self(images)
        self._log(stage, self.criterion(logits, labels), logits, labels)

    def _log(self, stage: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        # Over the images of all processes, which may have different numbers: the mean of whole ones Lightning rounds.
        shown: dict[str, Any] = {"sync_dist": True, "batch_size": float(len(labels))}
        for name, value in (("loss", loss.detach()), ("acc", self.accuracy(logits, labels))):
            self.log(f"{stage}_{name}", value, on_step=False, on_epoch=True, prog_bar=True, **shown)

    def configure_optimizers(self) -> Any:
        """SGD, its learning rate falling, once an epoch, along one cosine or several (SGDR)."""
        settings = self.training_settings
        optimizer = torch.optim.SGD(
            self.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        return {"optimizer": optimizer, "lr_scheduler": _cosines(optimizer, settings)}


def _cosines(optimizer: torch.optim.Optimizer, settings: Training) -> torch.optim.lr_scheduler.LRScheduler:
    least = settings.min_learning_rate
    if settings.restart_epochs is None:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=settings.epochs, eta_min=least)
    return torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, T_0=settings.restart_epochs, T_mult=settings.restart_factor, eta_min=least
    )


def make_trainer(config: Config, run: Path, callbacks: list[Callback], **kwargs: Any) -> Trainer:
    """Lightning's trainer for a run: one checkpoint, after the last complete epoch; no logger but our tables."""
    if config.compute.threads is not None:
        torch.set_num_threads(config.compute.threads)
    checkpoint = LastCheckpoint(
        dirpath=run / "checkpoints",
        filename="last",
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )
    terminal = sys.stderr.isatty()
    return Trainer(
        max_epochs=config.training.epochs,
        **_compute(config.compute),
        callbacks=[
            SeededEpochs(config.seed),
            SameStates(),
            FiniteLoss(),
            *callbacks,
            TQDMProgressBar() if terminal else EpochLines(),
            checkpoint,
        ],
        enable_progress_bar=terminal,
        plugins=[WholeCheckpoints(config.kind)],
        default_root_dir=run,
        logger=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **kwargs,
    )


def _compute(compute: Compute) -> dict[str, Any]:
    return {
        "accelerator": compute.accelerator,
        "devices": compute.devices,
        "num_nodes": compute.nodes,
        # Not every operation runs in each step of a search, nor leads anywhere in each derived network.
        "strategy": "auto" if compute.devices == compute.nodes == 1 else "ddp_find_unused_parameters_true",
        "precision": compute.precision,
        "deterministic": "warn" if torch.cuda.is_available() else False,
    }


def check_share(compute: Compute, data: ImageData) -> None:
    """Raise an InputError where there are too few training images for a batch of each device: its epochs were empty."""
    count = compute.devices * compute.nodes
    share = data.lengths["train"] // count
    if count > 1 and share < data.batch_size:
        raise InputError(
            f"data.batch_size: {data.batch_size} should be at most {share}: {count} devices share "
            f"{data.lengths['train']} training images"
        )


def check_compute(compute: Compute) -> None:
    """Raise an InputError where this machine has no such accelerator, or it no such precision."""
    try:
        pl.Trainer(**_compute(compute), logger=False, enable_checkpointing=False, enable_progress_bar=False)
    except (ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise InputError(f"compute: {compute.accelerator}, {compute.precision}: {one_line(error)}") from None


@contextmanager
def guarded(checkpoint: Path, go_on: str) -> Iterator[None]:
    """Say in our words what stops a fit, and what to do: an interrupt, the disk, or a checkpoint of something else.

    Args:
        checkpoint: what the fit goes on from, where it exists.
        go_on: the command that does so, for people.
    """
    try:
        yield
    except SystemExit as error:  # what Lightning makes of an interrupt
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise
    except BrokenImage as error:
        raise InputError(f"{error}, then {go_on}") from None
    except OSError as error:
        cure = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "mend that"
        where = f"{error.filename}: " if error.filename else ""
        raise InputError(f"{where}{error.strerror or one_line(error)}; {cure}, then {go_on}") from None
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        if isinstance(error, InputError) or not (isinstance(error, OtherStatesError) or _restoring(error)):
            raise
        raise InputError(
            f"{checkpoint}: not the checkpoint of this run: {one_line(error)[:200]}; {BEGIN_AGAIN}"
        ) from None


def _restoring(error: Exception) -> bool:
    """Whether it was raised while Lightning put the states of a checkpoint in place."""
    frames = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
    starts = ("resume", "restore", "_restore")
    return any("checkpoint_connector" in code.co_filename and code.co_name.startswith(starts) for code in frames)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what NNI and Lightning say of themselves; errors are raised, and progress bars stay."""
    levels = {"nni": logging.CRITICAL, "pytorch_lightning": logging.ERROR, "lightning.pytorch": logging.ERROR}
    loggers = {logging.getLogger(name): level for name, level in levels.items()}
    before = {logger: logger.level for logger in loggers}
    for logger, level in loggers.items():
        logger.setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning|lightning|nni|torch")
            warnings.filterwarnings("ignore", category=pl.utilities.rank_zero.LightningDeprecationWarning)
            if not is_first():  # which says the same
                warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
