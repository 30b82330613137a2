"""The hooks of the evaluator's Lightning module that NNI does not pass on to it."""

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
    """Let the batch hooks of an evaluator have a training batch of a search in the parts that they know.

    Args:
        owner: the evaluator's Lightning module or data module, if it has one.
        caller: what Lightning asks for the hooks; it gets those that the owner has.
    """
    for hook in BATCH_HOOKS:
        # Only those: Lightning warns of a hook that both modules have.
        if owner is not None and is_overridden(hook, owner):
            setattr(caller, hook, partial(_apply_to_parts, getattr(owner, hook)))


def _apply_to_parts(hook: Callable[..., Any], batch: Any, *args: Any) -> Any:
    if hook.__self__.trainer.training:  # type: ignore[attr-defined]  # it is a method of the owner
        return {part: hook(of_part, *args) for part, of_part in batch.items()}
    return hook(batch, *args)


class EvaluatorHooks(BaseOneShotLightningModule):
    """Passes on what Lightning asks of a module; a batch of training is the one for the weights."""

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
