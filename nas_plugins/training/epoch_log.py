"""Lightning callback that passes the epochs of a run to the loggers of its config."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from nas_plugins.config.reader import Config
from nas_plugins.config.schema import LoggerName
from nas_plugins.files import read_object
from nas_plugins.report.alphas import plot_heatmap
from nas_plugins.report.cells import draw_cells
from nas_plugins.report.style import cell_name
from nas_plugins.runs.alphas import architecture_weights
from nas_plugins.runs.directory import LOGS
from nas_plugins.runs.reader import Run, read_run
from nas_plugins.runs.tables import ALPHA_KEYS, NO_CELL, operations_of
from nas_plugins.training.loggers import close_logger, identifier_of, log_image, open_logger
from search_spaces.files import remove_unfinished, write_text_whole
from search_spaces.genotype import Genotype
from strategies.rng import isolate_rng

_NOTE = "logged.json"
"""File in the folder of the logs: logger -> number of logged epochs, and identifier."""

_IMAGES = 10
"""Number of epochs, spread evenly, whose cells and weights are drawn, besides the last one."""

_RESOURCES = ("seconds", "seconds_per_iteration", "peak_memory_mb")
"""Columns of metrics.csv that form a separate group in a log."""

Derived = Callable[[pl.LightningModule], Genotype | None]


class EpochLog(Callback):
    """Log every epoch, from the tables that the :class:`~nas_plugins.training.recorder.Recorder` has just written.

    The step of a log is the epoch. A run that begins at its first epoch replaces its logs; a resumed run continues them
    without logging an epoch twice. The states of the random generators are restored.

    Args:
        config: The settings of the run, which are logged as its hyperparameters.
        run: The run directory.
        derived: Function that returns the current genotype of a search; None for the genotype of the run.
    """

    def __init__(self, config: Config, run: Path, derived: Derived | None = None) -> None:
        self.config = config
        self.run = run
        self.derived = derived
        self._loggers: dict[LoggerName, Logger] = {}
        self._note: dict[str, dict[str, Any]] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the loggers, in the first process only."""
        if not trainer.is_global_zero:
            return
        folder = self.run / LOGS
        if trainer.ckpt_path is None:
            shutil.rmtree(folder, ignore_errors=True)
        remove_unfinished(folder, _NOTE)
        self._note = read_object(folder / _NOTE) if (folder / _NOTE).exists() else {}
        with isolate_rng():
            for name in self.config.loggers:
                self._open(name, folder)

    def _open(self, name: LoggerName, folder: Path) -> None:
        before = self._note.get(name, {"epochs": 0, "identifier": None})
        self._loggers[name] = logger = open_logger(name, self.run, folder, **before)
        if name not in self._note:
            logger.log_hyperparams(dict(self.config.values))
            self._note[name] = {**before, "identifier": identifier_of(logger)}
            self._write_note()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the metrics of the epoch and the weights of the candidates, after some epochs also drawings."""
        epoch = trainer.current_epoch
        loggers = {name: logger for name, logger in self._loggers.items() if self._note[name]["epochs"] <= epoch}
        if not loggers:
            return
        epochs = self.config.training.epochs
        ended = epoch == epochs - 1 or bool(getattr(pl_module, "ended", False))  # by a stop rule of a search
        drawn = ended or epoch % max(1, epochs // _IMAGES) == 0
        with isolate_rng(), tempfile.TemporaryDirectory() as drawings:
            run = read_run(self.run)
            values = {**_metrics(run, epoch, trainer.callback_metrics), **_weights(run, epoch)}
            images = self._draw(run, pl_module, Path(drawings)) if drawn else {}
            for name, logger in loggers.items():
                first = self._note[name]["epochs"] == 0
                if first and isinstance(logger, TensorBoardLogger) and run.alphas is not None:
                    logger.experiment.add_custom_scalars(_charts(run.alphas))
                logger.log_metrics(values, epoch)
                for title, file in images.items():
                    log_image(logger, title, file, epoch)
                logger.save()
                self._note[name]["epochs"] = epoch + 1
        self._write_note()

    def _draw(self, run: Run, module: pl.LightningModule, folder: Path) -> dict[str, Path]:
        """Draw the cells and the weights of their candidates, and return name -> PNG file."""
        images = {}
        genotype = run.genotype if self.derived is None else self.derived(module)
        if genotype is not None:
            images["cells"] = draw_cells(genotype, folder / "cells")[1]
        if run.alphas is not None:
            images["weights"] = plot_heatmap(run.alphas, run.weights, folder / "weights.png")
        return images

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the final result beside the hyperparameters, and close the loggers."""
        logger = self._loggers.get("tensorboard")
        if isinstance(logger, TensorBoardLogger):  # the others show the last value of each metric
            metrics = read_run(self.run).metrics.iloc[-1].dropna()
            preferred = (*self.config.task.measures, "val_loss", "train_loss")
            final = {f"final/{name}": float(metrics[name]) for name in [n for n in preferred if n in metrics][:1]}
            logger.log_hyperparams(dict(self.config.values), final, step=int(metrics["epoch"]))
        with isolate_rng():
            self._close(finished=True)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the loggers of a run that fails."""
        self._close(finished=False)

    def _close(self, finished: bool) -> None:
        while self._loggers:
            close_logger(self._loggers.popitem()[1], finished)

    def _write_note(self) -> None:
        write_text_whole(self.run / LOGS / _NOTE, json.dumps(self._note, indent=2) + "\n")


def epoch_logs(config: Config, run: Path, derived: Derived | None = None) -> list[Callback]:
    """Return the callbacks that log a run: none for a config without loggers.

    Args:
        config, run, derived: See :class:`EpochLog`.
    """
    return [EpochLog(config, run, derived)] if config.loggers else []


def _metrics(run: Run, epoch: int, logged: Any) -> dict[str, float]:
    """Return the metrics of an epoch: those of metrics.csv, and all others that were logged."""
    row = run.metrics[run.metrics["epoch"] == epoch].iloc[-1].drop("epoch").dropna()
    measured = {str(name): float(value) for name, value in row.items()}
    others = {name: float(value) for name, value in logged.items() if name not in run.metrics}
    return {_tag(_grouped(name)): value for name, value in {**others, **measured}.items()}


def _grouped(name: str) -> str:
    """Return the name of a metric, prefixed with its group."""
    if "/" in name:
        return name
    return f"resources/{name}" if name in _RESOURCES else f"metrics/{name}"


def _weights(run: Run, epoch: int) -> dict[str, float]:
    """Return the weight of each candidate after an epoch, by its tag."""
    if run.alphas is None:
        return {}
    table = architecture_weights(run.alphas[run.alphas["epoch"] == epoch], run.weights)
    return {
        f"{_edge_tag(row['cell'], row['edge'])}/{_tag(name)}": row[name]
        for row in table.to_dict("records")
        for name in operations_of(table)
        if pd.notna(row[name])
    }


def _charts(alphas: pd.DataFrame) -> dict[str, dict[str, list[Any]]]:
    """Return TensorBoard's layout of custom scalars: a chart per edge with a line per candidate, grouped by cell."""
    charts: dict[str, dict[str, list[Any]]] = {}
    for cell, edge in alphas[list(ALPHA_KEYS[1:])].drop_duplicates().itertuples(index=False):
        lines = f"{re.escape(_edge_tag(cell, edge))}/[^/]+$"
        charts.setdefault(cell_name(cell), {})[edge.replace("->", " → ")] = ["Multiline", [lines]]
    return charts


def _edge_tag(cell: str, edge: str) -> str:
    return _tag(f"weights/{edge}" if cell == NO_CELL else f"weights/{cell}/{edge}")


def _tag(name: str) -> str:
    """Return a name with only those characters that every logger takes."""
    return re.sub(r"[^A-Za-z0-9_/.-]+", "_", name.replace("->", "-"))
