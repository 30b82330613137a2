"""Classes of a user's: the rows of handwritten digits as series of 8 steps with 8 channels, trained by a hinge loss."""

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import LightningModule
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


class DigitSeries(pl.LightningDataModule):
    """Digits as series.

    Args:
        batch_size: Series per batch.
        samples: Number of series.
    """

    num_classes = 10

    def __init__(self, batch_size: int = 32, samples: int = 300) -> None:
        super().__init__()
        self.batch_size, self.samples = batch_size, samples

    def setup(self, stage: str) -> None:
        digits = load_digits()
        series = torch.tensor(digits.images[: self.samples] / 16, dtype=torch.float32)
        self.image_channels = series.shape[1]
        self.parts = torch.utils.data.random_split(
            TensorDataset(series, torch.tensor(digits.target[: self.samples])),
            [0.4, 0.4, 0.2],
            torch.Generator().manual_seed(0),
        )

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.parts[0], self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.parts[1], self.batch_size)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.parts[2], self.batch_size)


class Margin(LightningModule):
    """Classification by a hinge loss.

    Args:
        learning_rate: Learning rate of Adam.
        margin: Margin of the loss.
    """

    def __init__(self, learning_rate: float, margin: float = 1.0) -> None:
        super().__init__()
        self.learning_rate, self.margin = learning_rate, margin

    def training_step(self, batch, batch_idx):
        series, labels = batch
        return functional.multi_margin_loss(self.model(series), labels, margin=self.margin)

    def validation_step(self, batch, batch_idx):
        self._log("val", batch)

    def test_step(self, batch, batch_idx):
        self._log("test", batch)

    def _log(self, stage, batch):
        scores = self.model(batch[0])
        self.log(f"{stage}_error", (scores.argmax(1) != batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.learning_rate)


class Silent(Margin):
    """The same, without a metric of validation."""

    def validation_step(self, batch, batch_idx):
        pass


class Lossless(Margin):
    """Forgets to return its loss."""

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)


class TwoOptimizers(Margin):
    """Has two optimizers."""

    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]


class Untested(Margin):
    """The same, without a test."""

    test_step = LightningModule.test_step


class Unvalidated(DigitSeries):
    """The same series, without those for validation."""

    val_dataloader = pl.LightningDataModule.val_dataloader


class Unsized(DigitSeries):
    """The same series, of which the number of classes is not known."""

    num_classes = None


class Broken(DigitSeries):
    """Series whose file is missing."""

    def setup(self, stage: str) -> None:
        raise FileNotFoundError("series.csv")


class PlainModule(pl.LightningModule):
    """A module of Lightning's that takes no model."""


class Filters(ModelSpace):
    """Two layers, each a convolution of 3 or 5 steps, or nothing."""

    def __init__(self, num_classes: int, image_channels: int, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv1d(image_channels, channels, 1)
        self.layers = nn.Sequential(*(_layer(channels, f"layer_{number}") for number in range(2)))
        self.head = nn.Linear(channels, num_classes)

    def forward(self, series):
        return self.head(self.layers(self.stem(series)).mean(2))


def _layer(channels, label):
    def convolution(size):
        return nn.Sequential(nn.Conv1d(channels, channels, size, padding=size // 2), nn.ReLU())

    return LayerChoice({"conv_3": convolution(3), "conv_5": convolution(5), "skip": nn.Identity()}, label=label)
