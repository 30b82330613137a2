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
from nni.nas.evaluator.pytorch import Trainer
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from nas_plugins.config.reader import Config
from nas_plugins.config.schema import Compute
from nas_plugins.data.module import ImageData
from nas_plugins.data.sources import BrokenImage
from nas_plugins.errors import InputError
from nas_plugins.files import one_line
from nas_plugins.runs.directory import is_first
from nas_plugins.training.callbacks import EpochLines, FiniteLoss, SeededEpochs
from nas_plugins.training.checkpoints import BEGIN_AGAIN, LastCheckpoint, WholeCheckpoints


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
def readable_errors(checkpoint: Path, go_on: str) -> Iterator[None]:
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
        if isinstance(error, InputError) or not _restoring(error):
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
