"""Forecasts of the membrane potential of a firing nerve cell: data module and LightningModule for nas-plugins search.

The series is a recording of 12,000 values from the sample data of matplotlib. ``python examples/series/membrane.py``
prints the errors of simple forecasts.
"""

from __future__ import annotations

import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib.cbook import get_sample_data
from nni.nas.evaluator.pytorch import LightningModule
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

_BLOCK = 600
"""Values per block of the recording; each block belongs to one part."""

_PARTS = ("train", "val", "train", "test")
"""Parts of consecutive blocks, repeated so that every part covers the recording, over which the firing changes."""


class Membrane(pl.LightningDataModule):
    """Windows of the recording and the values that follow each.

    Neither a window nor the values that follow it cross the border of a block.

    Args:
        past: Values of a window.
        future: Values to forecast.
        batch_size: Windows per batch.
        every: Distance between the first values of two windows.
    """

    image_channels = 1

    def __init__(self, past: int = 64, future: int = 16, batch_size: int = 64, every: int = 4) -> None:
        super().__init__()
        if past + future > _BLOCK:
            raise ValueError(f"past: {past} and future: {future} should be at most {_BLOCK} together")
        self.past, self.batch_size, self.every = past, batch_size, every
        self.num_classes = future

    def setup(self, stage: str) -> None:
        """Cut the recording into windows."""
        with get_sample_data("membrane.dat") as file:
            recording = np.frombuffer(file.read(), dtype=np.float32)
        blocks = [recording[start : start + _BLOCK] for start in range(0, len(recording), _BLOCK)]
        part_of = [_PARTS[number % len(_PARTS)] for number in range(len(blocks))]
        learned = np.concatenate([block for block, part in zip(blocks, part_of, strict=True) if part == "train"])
        self.mean, self.deviation = float(learned.mean()), float(learned.std())
        self.parts = {
            part: self._windows([block for block, its in zip(blocks, part_of, strict=True) if its == part])
            for part in dict.fromkeys(_PARTS)
        }

    def _windows(self, blocks: list[np.ndarray]) -> TensorDataset:
        length = self.past + self.num_classes
        cut = [np.lib.stride_tricks.sliding_window_view(block, length)[:: self.every] for block in blocks]
        windows = torch.tensor((np.concatenate(cut) - self.mean) / self.deviation)
        return TensorDataset(windows[:, None, : self.past], windows[:, self.past :])

    def train_dataloader(self) -> DataLoader:
        """Return the windows that train the weights."""
        return DataLoader(self.parts["train"], self.batch_size, shuffle=True, drop_last=True)

    def architecture_dataloader(self) -> DataLoader:
        """Return the windows for validation, shuffled, for the architecture steps of a search."""
        return DataLoader(self.parts["val"], self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        """Return the windows for validation."""
        return DataLoader(self.parts["val"], self.batch_size)

    def test_dataloader(self) -> DataLoader:
        """Return the windows for the test."""
        return DataLoader(self.parts["test"], self.batch_size)


class Forecast(LightningModule):
    """Forecast of the change since the last value, trained on the absolute error.

    Logs the mean absolute error, in standard deviations of the recording.

    Args:
        learning_rate: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
    """

    def __init__(self, learning_rate: float = 3e-3, weight_decay: float = 1e-4) -> None:
        super().__init__()
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def forward(self, past: Tensor) -> Tensor:
        """Return forecasts of shape (batch, future) for windows of shape (batch, 1, past)."""
        return past[:, :, -1] + self.model(past)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean absolute error of a batch."""
        return self._error("train", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the mean absolute error of a batch."""
        self._error("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the mean absolute error of a batch."""
        self._error("test", batch)

    def _error(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        past, future = batch
        error = functional.l1_loss(self(past), future)
        self.log(f"{stage}_mae", error.detach(), on_step=False, on_epoch=True, batch_size=len(past))
        return error

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), self.learning_rate, weight_decay=self.weight_decay)


def simple_forecasts() -> dict[str, float]:
    """Return the mean absolute error on the test windows by name of the forecast."""
    data = Membrane()
    data.setup("test")
    tensors = {part: (past[:, 0].numpy(), future.numpy()) for part, (past, future) in _tensors(data).items()}
    past, future = tensors["train"]
    test_past, test_future = tensors["test"]
    change = future - past[:, -1:]
    errors = {"last value": np.abs(test_future - test_past[:, -1:]).mean()}
    for name, model in (
        ("ridge regression", Ridge(1.0)),
        ("extremely randomized trees", ExtraTreesRegressor(100, min_samples_leaf=3, random_state=0)),
    ):
        forecast = test_past[:, -1:] + model.fit(past, change).predict(test_past)
        errors[name] = np.abs(test_future - forecast).mean()
    return {name: float(error) for name, error in errors.items()}


def _tensors(data: Membrane) -> dict[str, tuple[Tensor, Tensor]]:
    return {part: windows.tensors for part, windows in data.parts.items()}


if __name__ == "__main__":
    for forecast, mae in simple_forecasts().items():
        print(f"{forecast:<28}{mae:.4f}")
