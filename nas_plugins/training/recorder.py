"""Lightning callback that writes the tables of a run, and measurement of peak memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from nas_plugins.runs.directory import ALPHAS, CONTRIBUTIONS, METRICS
from nas_plugins.runs.tables import COST_COLUMNS, DISTANCES, EIGENVALUE, NO_CELL, append_epoch
from nas_plugins.tasks import Task
from strategies.ablation import CONTRIBUTION

_STATUS = Path("/proc/self/status")


Alphas = Callable[[], Mapping[str, Mapping[Any, float]]]
"""Function that returns the current α by edge and operation."""


class Recorder(Callback):
    """Write the rows of metrics.csv, alphas.csv and contributions.csv at the end of each epoch.

    Rows are written before the checkpoint of the epoch, and rows of epochs that the checkpoint lacks are dropped on a
    resume. Each epoch is therefore recorded exactly once, even if the run is killed.

    Args:
        run: The run directory.
        task: The task, whose metrics are written.
        alphas: Function that returns the current α by edge and operation; None to record no α.
    """

    def __init__(self, run: Path, task: Task, alphas: Alphas | None = None) -> None:
        self.run = run
        self.task = task
        self.alphas = alphas
        self._started = time.perf_counter()
        self._per_iteration = math.nan

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to measure peak memory."""
        reset_peak_memory()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to time the epoch."""
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Time the iterations so far; those of the whole epoch once its validation begins."""
        if trainer.is_last_batch and trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()  # the device may still be working on this batch
        self._per_iteration = (time.perf_counter() - self._started) / (batch_idx + 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the rows of the epoch."""
        if not trainer.is_global_zero:
            return
        logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
        epoch = trainer.current_epoch
        row = {
            "epoch": epoch,
            **{key: logged.get(key) for key in self.task.columns_among(logged)},
            "seconds": round(time.perf_counter() - self._started, 3),
            "peak_memory_mb": round(peak_memory_mb(trainer.strategy.root_device.type == "cuda"), 1),
            "seconds_per_iteration": round(self._per_iteration, 6),
            **{key: logged[key] for key in (*DISTANCES, *COST_COLUMNS, EIGENVALUE) if key in logged},
        }
        append_epoch(self.run / METRICS, epoch, [row])
        if self.alphas is not None:
            rows = [
                # Candidates of a value choice are numbers.
                {"epoch": epoch, "cell": cell, "edge": name, **{str(key): a for key, a in values.items()}}
                for edge, values in self.alphas().items()
                for cell, name in [_cell_and_edge(edge)]
            ]
            append_epoch(self.run / ALPHAS, epoch, rows)
        contributions = [
            {"epoch": epoch, "cell": key.removeprefix(CONTRIBUTION), "contribution": value}
            for key, value in logged.items()
            if key.startswith(CONTRIBUTION)
        ]
        if contributions:
            append_epoch(self.run / CONTRIBUTIONS, epoch, contributions)


def _cell_and_edge(edge: str) -> tuple[str, str]:
    cell, _, name = edge.rpartition("/")
    return cell or NO_CELL, name


def reset_peak_memory() -> None:
    """Reset the peak memory of the accelerators and of the process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # some containers forbid it
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(accelerated: bool) -> float:
    """Return the peak memory since :func:`reset_peak_memory`, in units of 2**20 bytes.

    Args:
        accelerated: Whether to measure the memory of the accelerator instead of that of the process, which is known on
            Linux only.
    """
    if accelerated:
        return torch.cuda.max_memory_allocated() / 2**20
    if not _STATUS.exists():
        return math.nan
    # Not resource.getrusage, whose peak includes that of the parent process.
    (peak,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 2**10
