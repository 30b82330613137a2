"""Lightning trainer of searches and retrainings: construction, checks, and one-line errors."""

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
from nas_plugins.data.image_files import BrokenImage
from nas_plugins.data.module import ImageData
from nas_plugins.data.sizes import Data
from nas_plugins.errors import InputError
from nas_plugins.files import one_line
from nas_plugins.runs.directory import CHECKPOINT, is_first
from nas_plugins.training.callbacks import EpochLines, FiniteLoss, SeededEpochs
from nas_plugins.training.checkpoints import BEGIN_AGAIN, LastCheckpoint, WholeCheckpoints
from nas_plugins.training.compilation import Compilation
from strategies.relaxation import UnfitSettingError


def make_trainer(config: Config, run: Path, callbacks: list[Callback], **kwargs: Any) -> Trainer:
    """Return Lightning's trainer for a run, which keeps one checkpoint: that of the last complete epoch.

    Args:
        config: The settings of the run.
        run: The run directory.
        callbacks: Callbacks that run before the checkpoint of an epoch is written.
        kwargs: Further arguments of the trainer.
    """
    if config.compute.threads is not None:
        torch.set_num_threads(config.compute.threads)
    checkpoint = LastCheckpoint(
        dirpath=(run / CHECKPOINT).parent,
        filename=Path(CHECKPOINT).stem,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )
    # In its deterministic mode PyTorch would fill each new tensor first, which takes thousands of calls per step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    terminal = sys.stderr.isatty()
    theirs = "evaluator" in config.user
    return Trainer(
        max_epochs=config.training.epochs,
        **_compute(config.compute),
        callbacks=[
            SeededEpochs(config.seed),
            FiniteLoss("the learning rate of the evaluator") if theirs else FiniteLoss(),
            *callbacks,
            *([Compilation()] if config.compute.compile else []),
            TQDMProgressBar() if terminal else EpochLines(config.task),
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
        # A step of a search does not use every operation, and a derived network may have dead ends.
        "strategy": "auto" if compute.devices == compute.nodes == 1 else "ddp_find_unused_parameters_true",
        "precision": compute.precision,
        "deterministic": "warn" if torch.cuda.is_available() else False,
    }


def prepare_data(config: Config) -> Data:
    """Seed all generators, and return the prepared data of a run.

    Raises:
        InputError: This machine lacks the hardware, images are missing or broken, or devices would have no batch.
    """
    check_compute(config.compute)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    data = config.data()
    if isinstance(data, ImageData):
        _check_share(config.compute, data)
    return data


def _check_share(compute: Compute, data: ImageData) -> None:
    """Raise an InputError if the training images are too few for one batch per device, so that epochs are empty."""
    count = compute.devices * compute.nodes
    share = data.lengths["train"] // count
    if count > 1 and share < data.batch_size:
        raise InputError(
            f"data.batch_size: {data.batch_size} should be at most {share}: {count} devices share "
            f"{data.lengths['train']} training images"
        )


def check_memory(compute: Compute, data: Data) -> None:
    """Raise an InputError if images that are to be held in memory do not fit into that of the device that trains."""
    if isinstance(data, ImageData):
        data.check_memory(_idle_trainer(compute).strategy.root_device)


def check_compute(compute: Compute) -> None:
    """Raise an InputError if this machine lacks the accelerator, or the accelerator the precision."""
    try:
        _idle_trainer(compute)
    except (ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise InputError(f"compute: {compute.accelerator}, {compute.precision}: {one_line(error)}") from None


def _idle_trainer(compute: Compute) -> pl.Trainer:
    return pl.Trainer(**_compute(compute), logger=False, enable_checkpointing=False, enable_progress_bar=False)


@contextmanager
def readable_errors(checkpoint: Path, go_on: str) -> Iterator[None]:
    """Raise one-line errors for common failures of a fit within this context: interrupts, the disk, and checkpoints.

    Args:
        checkpoint: The checkpoint from which the fit starts, if it exists.
        go_on: The command that continues the run, for messages.

    Raises:
        KeyboardInterrupt: The fit was interrupted.
        InputError: An image or the disk failed, or the checkpoint is that of another run.
    """
    try:
        yield
    except SystemExit as error:  # Lightning turns interrupts into this
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise
    except UnfitSettingError as error:
        raise InputError(f"strategy: {one_line(error)}") from None
    except BrokenImage as error:
        raise InputError(f"{error}, then {go_on}") from None
    except OSError as error:
        cure = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "mend that"
        where = f"{error.filename}: " if error.filename else ""
        raise InputError(f"{where}{error.strerror or one_line(error)}; {cure}, then {go_on}") from None
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        if isinstance(error, InputError) or not _in_restore(error):
            raise
        reason = one_line(error)[:200]
        raise InputError(f"{checkpoint}: not the checkpoint of this run: {reason}; {BEGIN_AGAIN}") from None


def _in_restore(error: Exception) -> bool:
    """Return whether an error was raised while Lightning restored a checkpoint."""
    frames = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
    starts = ("resume", "restore", "_restore")
    return any("checkpoint_connector" in code.co_filename and code.co_name.startswith(starts) for code in frames)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress messages and warnings of NNI and Lightning within this context; errors and progress bars remain."""
    levels = {"nni": logging.CRITICAL, "pytorch_lightning": logging.ERROR, "lightning.pytorch": logging.ERROR}
    loggers = {logging.getLogger(name): level for name, level in levels.items()}
    before = {logger: logger.level for logger in loggers}
    for logger, level in loggers.items():
        logger.setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning|lightning|nni|torch")
            warnings.filterwarnings("ignore", category=pl.utilities.rank_zero.LightningDeprecationWarning)
            if not is_first():  # the first process gives the same warnings
                warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
