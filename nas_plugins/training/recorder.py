"""Lightning callback that writes the tables of a run, and the peak memory in them."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from nas_plugins.errors import InputError
from nas_plugins.runs.tables import ALPHA_KEYS, NO_CELL, append_epoch, check_epochs
from nas_plugins.training.callbacks import METRICS, epochs_done
from strategies.ablation import CONTRIBUTION

DISTANCES = ["distance", "alpha_distance"]
"""Its columns of a search that starts from a baseline: operations, and weights, that are no longer the baseline's."""


class Recorder(Callback):
    """Write a row of metrics.csv, and the rows of alphas.csv and contributions.csv, at the end of each epoch.

    It comes before the checkpoint of the epoch, and on a resume drops the rows of epochs that the
    checkpoint does not hold: an epoch has exactly one row, whenever the run was killed.

    Args:
        run: the run directory.
        alphas: gives edge -> operation -> α at the moment; None where there is none.
    """

    def __init__(self, run: Path, alphas: Callable[[], Mapping[str, Mapping[Any, float]]] | None = None) -> None:
        self.run = run
        self.alphas = alphas
        self._contributed = False
        self._started = time.perf_counter()
        self._per_iteration = math.nan

    def state_dict(self) -> dict[str, Any]:
        return {"contributed": self._contributed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._contributed = bool(state_dict["contributed"])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning itself does not know yet how many epochs the checkpoint holds.
        self._check(epochs_done(trainer))
        reset_peak_memory()

    def _check(self, epochs: int) -> None:
        """Raise an InputError where a table lacks an epoch that the checkpoint holds, before any long work."""
        try:
            check_epochs(self.run / "metrics.csv", epochs, ["epoch", *METRICS])
            if self.alphas is not None:
                edges = [_cell_and_edge(edge) for edge in self.alphas()]
                check_epochs(self.run / "alphas.csv", epochs, ALPHA_KEYS, edges)
            # Which epochs have contributions the strategy alone knows.
            contributions = self.run / "contributions.csv"
            if self._contributed and not contributions.exists():
                raise InputError(f"{contributions}: it is missing, and the checkpoint is beyond epochs that it had")
            check_epochs(contributions, 0, ["epoch", "cell", "contribution"], [("cell",)])
        except InputError as error:
            cure = f"delete all of {self.run}/*.csv and {self.run}/checkpoints/last.ckpt"
            raise InputError(f"{error}; {cure}, and a resume begins at the first epoch") from None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Time the iterations up to here: those of an epoch, when its validation begins."""
        if trainer.is_last_batch and trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()  # the device may be at work on this batch yet
        self._per_iteration = (time.perf_counter() - self._started) / (batch_idx + 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
        epoch = trainer.current_epoch
        row = {
            "epoch": epoch,
            **{key: logged.get(key) for key in METRICS},
            "seconds": round(time.perf_counter() - self._started, 3),
            "peak_memory_mb": round(peak_memory_mb(trainer.strategy.root_device.type == "cuda"), 1),
            "seconds_per_iteration": round(self._per_iteration, 6),
            **{key: logged[key] for key in DISTANCES if key in logged},
        }
        append_epoch(self.run / "metrics.csv", epoch, [row])
        if self.alphas is not None:
            rows = [
                # The candidates of a value choice are numbers.
                {"epoch": epoch, "cell": cell, "edge": name, **{str(key): a for key, a in values.items()}}
                for edge, values in self.alphas().items()
                for cell, name in [_cell_and_edge(edge)]
            ]
            append_epoch(self.run / "alphas.csv", epoch, rows)
        contributions = [
            {"epoch": epoch, "cell": key.removeprefix(CONTRIBUTION), "contribution": value}
            for key, value in logged.items()
            if key.startswith(CONTRIBUTION)
        ]
        if contributions:
            self._contributed = True
            append_epoch(self.run / "contributions.csv", epoch, contributions)


def _cell_and_edge(edge: str) -> tuple[str, str]:
    cell, _, name = edge.rpartition("/")
    return cell or NO_CELL, name


_STATUS = Path("/proc/self/status")


def reset_peak_memory() -> None:
    """Begin to measure anew, where the platform can: on accelerators, and on Linux."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if _STATUS.exists():
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(accelerated: bool) -> float:
    """The most memory that this process has held since :func:`reset_peak_memory`.

    Args:
        accelerated: count the memory of the accelerator, else that of the process.
    """
    if accelerated:
        return torch.cuda.max_memory_allocated() / 2**20
    if _STATUS.exists():
        (peak,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 2**10
    import resource  # not on every platform

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
