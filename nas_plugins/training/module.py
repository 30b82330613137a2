"""Lightning module that trains a supernet or a derived network for a task on images."""

from __future__ import annotations

from typing import Any

import torch
from nni.nas.evaluator.pytorch import LightningModule
from torch import Tensor, nn

from nas_plugins.config.schema import Recipe, Training
from nas_plugins.tasks import Targets
from nas_plugins.training.networks import drop_path_setter
from search_spaces.network import Network


class TaskModule(LightningModule):
    """Loss of a task, SGD with momentum and a cosine schedule: the recipe of DARTS and its descendants.

    The model is set by NNI or by :meth:`set_model`. Logs the loss and the metrics of the task with the prefixes
    ``train_``, ``val_`` and ``test_``, for example ``train_loss`` and ``train_acc``.

    Args:
        targets: Targets of the data set.
        training: Settings of the training.
        derived: Recipe of a derived network; None for a supernet.
    """

    def __init__(self, targets: Targets, training: Training, derived: Recipe | None = None) -> None:
        super().__init__()
        self.targets = targets
        self.training_settings = training
        self.derived = derived
        self.criterion = targets.loss(training.label_smoothing)
        self.train_metrics, self.val_metrics = targets.metrics(), targets.metrics()
        # Only one process tests, even right after a training on several devices.
        self.test_metrics = targets.metrics(sync_on_compute=False)

    def setup(self, stage: str) -> None:
        """Choose the memory format of a derived network."""
        # The same format as for a supernet. It was measured on CPUs only.
        if isinstance(self.model, Network) and self.trainer.strategy.root_device.type == "cpu":
            self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Any:
        """Return the output of the model for images of shape (batch, channels, height, width).

        Returns:
            The outputs, or a pair with those of an auxiliary head.
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
        """Return the loss of a batch of images and targets."""
        images, targets = batch
        outputs = self(images)
        auxiliary = None
        if isinstance(outputs, tuple):
            outputs, auxiliary = outputs
        loss = self.criterion(outputs, targets)
        self._log("train", loss, self.train_metrics, outputs, targets)
        if auxiliary is not None and self.derived is not None:
            loss = loss + self.derived.auxiliary_weight * self.criterion(auxiliary, targets)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss and the metrics of a batch."""
        self._evaluate("val", self.val_metrics, batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Log the loss and the metrics of a batch, and return its outputs."""
        return self._evaluate("test", self.test_metrics, batch)

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return the outputs for images; if they are dense, the class of each pixel, or -1 if they are not finite."""
        outputs: Tensor = self(batch)
        if not self.targets.task.dense:
            return outputs
        lost = ~outputs.isfinite().all(dim=1)
        return outputs.argmax(dim=1).masked_fill(lost, -1).to(torch.int16)

    def _evaluate(self, stage: str, metrics: nn.ModuleDict, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, targets = batch
        outputs: Tensor = self(images)
        self._log(stage, self.criterion(outputs, targets), metrics, outputs, targets)
        return outputs

    def _log(self, stage: str, loss: Tensor, metrics: nn.ModuleDict, outputs: Tensor, targets: Tensor) -> None:
        # The mean over the images of all processes, which may differ in number: a float, because Lightning rounds the
        # mean of integers.
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": float(len(targets))}
        self.log(f"{stage}_loss", loss.detach(), prog_bar=True, sync_dist=True, **options)
        predicted = self.targets.predicted(outputs.detach())
        metric: Any
        for key, metric in metrics.items():
            if key == self.targets.task.metric.key:
                metric(predicted, self.targets.measured(targets))  # also the value of the batch, which ENAS reads
            else:
                metric.update(predicted, self.targets.measured(targets))
            self.log(f"{stage}_{key}", metric, prog_bar=True, **options)

    def configure_optimizers(self) -> Any:
        """Return SGD and a learning rate that falls along one cosine, or several with restarts (SGDR, Eq. 5)."""
        settings = self.training_settings
        optimizer = torch.optim.SGD(
            self.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            foreach=True,
        )
        return {"optimizer": optimizer, "lr_scheduler": _cosine_schedule(optimizer, settings)}


def _cosine_schedule(optimizer: torch.optim.Optimizer, settings: Training) -> torch.optim.lr_scheduler.LRScheduler:
    minimum = settings.min_learning_rate
    if settings.restart_epochs is None:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=settings.epochs, eta_min=minimum)
    return torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, T_0=settings.restart_epochs, T_mult=settings.restart_factor, eta_min=minimum
    )
