"""Metrics of each output of a network on the test images: classes, labels, values, or classes of pixels."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from nas_plugins.tasks import TASKS, Targets

MATRIX = "confusion"
"""Key of the confusion matrix, which a classification has instead of metrics for each class."""


class OutputMetrics(Callback):
    """Measure each output separately: the confusion matrix of a classification, otherwise the metrics of the task.

    Args:
        targets: Targets of the data set.
    """

    def __init__(self, targets: Targets) -> None:
        self.targets = targets
        # Only one process evaluates, even right after a training on several devices.
        self.metrics: dict[str, Metric] = (
            {MATRIX: MulticlassConfusionMatrix(targets.count, sync_on_compute=False)}
            if targets.task is TASKS["classification"]
            else dict(targets.metrics(each=True, sync_on_compute=False).items())  # type: ignore[arg-type]
        )

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move the metrics to the device of the test, and reset them."""
        for metric in self.metrics.values():
            metric.to(pl_module.device).reset()

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
            metric.update(self.targets.predicted(outputs), self.targets.measured(batch[1]))

    def computed(self) -> dict[str, Tensor]:
        """Return the metrics by key, each (outputs,), or the confusion matrix (classes, predicted classes)."""
        return {key: metric.compute().cpu() for key, metric in self.metrics.items()}

    def table(self) -> pd.DataFrame:
        """Return a row for each output and a column for each metric, by its key."""
        columns = {key: values.reshape(-1).tolist() for key, values in self.computed().items()}
        return pd.DataFrame(columns, pd.Index(self.targets.names, name="output"))
