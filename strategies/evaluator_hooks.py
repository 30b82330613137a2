"""Hooks of the evaluator's LightningModule that NNI does not forward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytorch_lightning as pl
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor

BATCH_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def serve_batches_in_parts(owner: pl.LightningModule | pl.LightningDataModule | None, caller: Any) -> None:
    """Apply the batch hooks of an evaluator to each part of a training batch: "train" and "val".

    Args:
        owner: The module that defines the hooks: the evaluator's LightningModule or data module. None to set no hooks.
        caller: The module on which Lightning calls the hooks; the hooks are set on it.
    """
    for hook in BATCH_HOOKS:
        # Lightning warns if both the LightningModule and the data module have a hook, so only defined ones are set.
        if owner is not None and is_overridden(hook, owner):
            setattr(caller, hook, partial(_apply_to_parts, getattr(owner, hook)))


def _apply_to_parts(hook: Callable[..., Any], batch: Any, *args: Any) -> Any:
    if hook.__self__.trainer.training:  # type: ignore[attr-defined]  # a bound method of the owner
        return {part: hook(part_batch, *args) for part, part_batch in batch.items()}
    return hook(batch, *args)


class EvaluatorHooks(BaseOneShotLightningModule):
    """A LightningModule that forwards hooks to the evaluator's; training hooks receive the batch for the weights."""

    def prepare_data(self) -> None:
        self.training_module.prepare_data()

    def configure_model(self) -> None:
        self.training_module.configure_model()

    def configure_callbacks(self) -> Any:
        return self.training_module.configure_callbacks()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.training_module.on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.training_module.on_load_checkpoint(checkpoint)

    def on_train_batch_start(self, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> Any:
        return self.training_module.on_train_batch_start(batch["train"], batch_idx, *args, **kwargs)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        self.training_module.on_train_batch_end(outputs, batch["train"], batch_idx, *args, **kwargs)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self.training_module.backward(loss, *args, **kwargs)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.training_module.on_before_optimizer_step(optimizer)

    def on_validation_model_zero_grad(self) -> None:
        self.training_module.on_validation_model_zero_grad()

    def on_validation_model_eval(self) -> None:
        self.training_module.on_validation_model_eval()

    def on_validation_model_train(self) -> None:
        self.training_module.on_validation_model_train()
