"""Metrics of each output of a network on the test images: labels, values, or classes of pixels."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from nas_plugins.tasks import Targets


class OutputMetrics(Callback):
    """Measure the metrics of the task for each output on its own.

    Args:
        targets: Targets of the data set.
    """

    def __init__(self, targets: Targets) -> None:
        self.targets = targets
        # A single process evaluates, also right after a training by several.
        self.metrics = targets.metrics(each=True, sync_on_compute=False)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start at zero, on the device of the test."""
        self.metrics.to(pl_module.device)
        for metric in self.metrics.values():
            metric.reset()  # type: ignore[operator]

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure a batch, whose outputs are those of the test step."""
        for metric in self.metrics.values():
            metric.update(self.targets.predicted(outputs), self.targets.measured(batch[1]))  # type: ignore[operator]

    def table(self) -> pd.DataFrame:
        """Return a row for each output and a column for each metric, by its key."""
        columns = {
            key: metric.compute().reshape(-1).tolist()  # type: ignore[operator]
            for key, metric in self.metrics.items()
        }
        return pd.DataFrame(columns, pd.Index(self.targets.names, name="output"))
