"""Confusion matrix and per-class accuracy of a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from nas_plugins.runs.directory import CLASS_ACCURACY, CONFUSION
from search_spaces.files import write_text_whole


class ConfusionCounter(Callback):
    """Count the test images by their class and the class that is predicted.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        # A single process evaluates, also right after a training by several.
        self.matrix = MulticlassConfusionMatrix(num_classes, sync_on_compute=False)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start at zero, on the device of the test."""
        self.matrix.to(pl_module.device).reset()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the images of a batch, whose logits are the output of the test step."""
        self.matrix.update(outputs, batch[1])

    def confusion(self) -> np.ndarray:
        """Return the number of images of each class (row) that were taken for each class (column)."""
        counts: np.ndarray = self.matrix.compute().cpu().numpy()
        return counts


def write_confusion(run: Path, confusion: np.ndarray, classes: Sequence[str]) -> None:
    """Write ``confusion.csv`` and ``class_accuracy.csv``.

    Args:
        run: The run directory.
        confusion: Number of images of each class (row) that were taken for each class (column).
        classes: Names of the classes.
    """
    labels = pd.Index(classes, name="class")
    write_text_whole(run / CONFUSION, pd.DataFrame(confusion, labels, list(classes)).to_csv())
    images, correct = confusion.sum(1), confusion.diagonal()
    accuracy = correct / np.where(images, images, np.nan)  # empty for a class without test images
    columns = {"images": images, "correct": correct, "accuracy": accuracy}
    write_text_whole(run / CLASS_ACCURACY, pd.DataFrame(columns, labels).to_csv())
