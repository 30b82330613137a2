"""Lightning module that trains a supernet or a derived network to classify images."""

from __future__ import annotations

from typing import Any

import torch
from nni.nas.evaluator.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from nas_plugins.config.schema import Recipe, Training
from nas_plugins.training.networks import drop_path_setter
from search_spaces.network import Network


class ImageClassification(LightningModule):
    """Cross-entropy loss, SGD with momentum and a cosine schedule: the recipe of DARTS and its descendants.

    The model is set by NNI or by :meth:`set_model`. Logs ``train_loss``, ``train_acc``, ``val_loss``, ``val_acc``,
    ``test_loss`` and ``test_acc``; accuracies are fractions from 0 to 1.

    Args:
        num_classes: Number of classes.
        training: Settings of the training.
        derived: Recipe of a derived network; None for a supernet.
    """

    def __init__(self, num_classes: int, training: Training, derived: Recipe | None = None) -> None:
        super().__init__()
        self.training_settings = training
        self.derived = derived
        self.criterion = nn.CrossEntropyLoss(label_smoothing=training.label_smoothing)
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")

    def setup(self, stage: str) -> None:
        """Choose the memory format of a derived network."""
        # As for a supernet. Only CPUs were measured in this format.
        if isinstance(self.model, Network) and self.trainer.strategy.root_device.type == "cpu":
            self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Any:
        """Return the output of the model for images of shape (batch, channels, height, width).

        Returns:
            Logits of shape (batch, classes), or a pair with those of an auxiliary head.
        """
        return self.model(x)

    def on_train_epoch_start(self) -> None:
        """Increase drop-path linearly over the epochs (DARTS, section 3.2)."""
        if self.derived is None:
            return
        set_drop_path = drop_path_setter(self.model)
        if set_drop_path is not None:
            set_drop_path(self.derived.drop_path * self.current_epoch / self.training_settings.epochs)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch of images and labels."""
        images, labels = batch
        logits = self(images)
        auxiliary = None
        if isinstance(logits, tuple):
            logits, auxiliary = logits
        loss = self.criterion(logits, labels)
        self._log("train", loss, logits, labels)
        if auxiliary is not None and self.derived is not None:
            loss = loss + self.derived.auxiliary_weight * self.criterion(auxiliary, labels)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss and the accuracy of a batch."""
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Log the loss and the accuracy of a batch, and return its logits."""
        return self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        logits: Tensor = self(images)
        self._log(stage, self.criterion(logits, labels), logits, labels)
        return logits

    def _log(self, stage: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        # The mean over the images of all processes, which may differ in number: a float, because Lightning rounds the
        # mean of integers.
        options: dict[str, Any] = {"sync_dist": True, "batch_size": float(len(labels))}
        for name, value in (("loss", loss.detach()), ("acc", self.accuracy(logits, labels))):
            self.log(f"{stage}_{name}", value, on_step=False, on_epoch=True, prog_bar=True, **options)

    def configure_optimizers(self) -> Any:
        """Return SGD and a learning rate that falls along one cosine, or several with restarts (SGDR, Eq. 5)."""
        settings = self.training_settings
        optimizer = torch.optim.SGD(
            self.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        return {"optimizer": optimizer, "lr_scheduler": _cosine_schedule(optimizer, settings)}


def _cosine_schedule(optimizer: torch.optim.Optimizer, settings: Training) -> torch.optim.lr_scheduler.LRScheduler:
    minimum = settings.min_learning_rate
    if settings.restart_epochs is None:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=settings.epochs, eta_min=minimum)
    return torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, T_0=settings.restart_epochs, T_mult=settings.restart_factor, eta_min=minimum
    )
