"""Lightning's loggers of a run: their packages, where they write, and their images."""

from __future__ import annotations

import csv
import os
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from torchvision.transforms.functional import pil_to_tensor

from nas_plugins.config.schema import LoggerName
from nas_plugins.errors import InputError
from nas_plugins.files import one_line

PROJECT = "nas-plugins"
"""Project of W&B, and experiment of MLflow, to which runs belong."""

_PACKAGES: Mapping[LoggerName, tuple[str, ...]] = {
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy"),  # mlflow-skinny comes without a database, and so without a local store
    "csv": (),
}


def check_loggers(names: Iterable[LoggerName]) -> None:
    """Raise an InputError if the package of a logger is not installed."""
    for name in names:
        found = [find_spec(package) for package in _PACKAGES[name]]
        # A folder that happens to have the name of the package has no origin.
        if any(spec is None or spec.origin is None for spec in found):
            raise InputError(f"logger: {name} is not installed: pip install 'nas-plugins[{name}]'")


def open_logger(name: LoggerName, run: Path, folder: Path, epochs: int, identifier: str | None) -> Logger:
    """Return a logger that is ready to log.

    Args:
        name: Name of the logger.
        run: The run directory, whose name is shown.
        folder: Folder to write to.
        epochs: Number of epochs that the log holds; entries of later epochs are dropped.
        identifier: Identifier of the log that is continued (see :func:`identifier_of`); None for a new log.

    Raises:
        InputError: The logger does not start.
    """
    try:
        with _quiet_start():
            logger: Any = _OPEN[name](run.resolve().name, folder.absolute(), epochs, identifier)
            _ = logger.experiment  # made on first use
            return logger
    except Exception as error:  # each package raises different errors
        raise InputError(f"logger: {name} does not start: {one_line(error)[:300]}") from None


def identifier_of(logger: Logger) -> str | None:
    """Return the identifier of a log of W&B or MLflow; None for other loggers, which are identified by their folder."""
    return str(logger.version) if isinstance(logger, (WandbLogger, MLFlowLogger)) else None


def log_image(logger: Logger, name: str, file: Path, epoch: int) -> None:
    """Log a PNG file; a CSV log has no images."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, pil_to_tensor(Image.open(file).convert("RGB")), epoch)
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [Image.open(file).convert("RGB")], epoch)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, Image.open(file).convert("RGB"), f"{name}/epoch_{epoch:04}.png")


def close_logger(logger: Logger, finished: bool) -> None:
    """Write what is pending, and close a log as finished or as failed."""
    logger.finalize("success" if finished else "failed")
    if isinstance(logger, WandbLogger):
        logger.experiment.finish(exit_code=0 if finished else 1)


def _open_tensorboard(run: str, folder: Path, epochs: int, identifier: str | None) -> Logger:
    # TensorBoard drops the steps from purge_step on that earlier event files hold.
    return TensorBoardLogger(folder, "tensorboard", version="", default_hp_metric=False, purge_step=epochs or None)


def _open_wandb(run: str, folder: Path, epochs: int, identifier: str | None) -> Logger:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    experiment = wandb.init(
        name=run,
        dir=folder,
        id=identifier or secrets.token_hex(4),
        resume="allow",
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        mode=mode,
        settings=wandb.Settings(silent=mode != "online", console="off"),
    )
    experiment.define_metric("trainer/global_step")  # the name that Lightning gives the step
    experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=experiment, save_dir=folder)


def _open_mlflow(run: str, folder: Path, epochs: int, identifier: str | None) -> Logger:
    own = folder / "mlflow"
    own.mkdir(parents=True, exist_ok=True)
    server = os.environ.get("MLFLOW_TRACKING_URI")
    return MLFlowLogger(
        PROJECT,
        run_name=run,
        tracking_uri=server or f"sqlite:///{own / 'mlflow.db'}",
        artifact_location=None if server else (own / "artifacts").as_uri(),
        run_id=identifier,
    )


def _open_csv(run: str, folder: Path, epochs: int, identifier: str | None) -> Logger:
    # Lightning's logger deletes the file that it finds.
    file = folder / "csv" / ExperimentWriter.NAME_METRICS_FILE
    rows = _read_rows(file, epochs)
    shutil.rmtree(file.parent, ignore_errors=True)
    logger = CSVLogger(folder, "csv", version="")
    for row in rows:
        logger.log_metrics(row, step=int(row.pop("step")))
    return logger


_OPEN: Mapping[LoggerName, Callable[[str, Path, int, str | None], Logger]] = {
    "tensorboard": _open_tensorboard,
    "wandb": _open_wandb,
    "mlflow": _open_mlflow,
    "csv": _open_csv,
}


def _read_rows(file: Path, epochs: int) -> list[dict[str, Any]]:
    """Return the rows of the first epochs of a CSV log, column -> number."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as opened:
        rows = [{key: float(text) for key, text in row.items() if text} for row in csv.DictReader(opened)]
    return [row for row in rows if row["step"] < epochs]


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Silence the start of a logger within this context, and restore the environment.

    MLflow writes its store into the environment; without the restoration, the next run of this process would log there.
    """
    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_LOGGING_LEVEL")}
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
