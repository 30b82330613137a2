"""A checkpoint is believed only where its states fit the run that goes on from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from nas_plugins.callbacks import epochs_done

_OF_ADAM = ("step", "exp_avg", "exp_avg_sq")
"""What Adam keeps for a parameter, all or nothing."""


class OtherStatesError(ValueError):
    """A checkpoint holds states that are not those of the run."""


class SameStates(Callback):
    """Refuse a checkpoint whose loops, optimizers or schedules are not those of the run.

    Lightning and PyTorch put in place whatever they find: a wrong number fails far from the checkpoint, where it is
    used, or never.
    """

    def __init__(self) -> None:
        self._checkpoint: Mapping[str, Any] = {}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._checkpoint = checkpoint
        for name, parameter in pl_module.named_parameters():
            saved = checkpoint["state_dict"].get(name, parameter)
            if isinstance(saved, Tensor) and not saved.isfinite().all():
                raise OtherStatesError(f"state_dict.{name}: has values that are not finite")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare, before the states are put in place, but after there is what they belong to."""
        checkpoint, self._checkpoint = self._checkpoint, {}
        if not checkpoint:
            return
        _compare("loops", checkpoint["loops"], {"fit_loop": trainer.fit_loop.state_dict()})
        _compare_epochs(trainer, checkpoint)
        schedules = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
        _compare("lr_schedulers", checkpoint.get("lr_schedulers"), schedules)
        states, optimizers = checkpoint["optimizer_states"], trainer.optimizers
        _compare("optimizer_states", states, [optimizer.state_dict() for optimizer in optimizers])
        for index, optimizer in enumerate(optimizers):
            _compare_optimizer(f"optimizer_states.{index}", states[index], optimizer)


def _compare(place: str, value: Any, own: Any) -> None:
    """Raise where a value could not stand in the place of the run's own.

    It can where it is a number of at least 0 for a number, as many values for a list, the same keys for a dictionary,
    and else something of the same type.
    """
    fits = type(value) is type(own)
    if isinstance(own, dict) and fits:
        for key, each in own.items():
            if key not in value and (each is None or isinstance(each, bool | dict)):
                continue  # another version of PyTorch or Lightning may not have had it
            _compare(f"{place}.{key}", value.get(key), each)
    elif isinstance(own, list | tuple) and fits and len(value) == len(own):
        for index, each in enumerate(own):
            _compare(f"{place}.{index}", value[index], each)
    elif isinstance(own, int | float) and not isinstance(own, bool):
        fits = (type(value) is int or type(own) is type(value) is float) and 0 <= value < 2**63
    elif isinstance(own, list | tuple):
        raise OtherStatesError(f"{place}: {value!r:.40} should be a {type(own).__name__} of {len(own)}")
    if not fits:
        raise OtherStatesError(f"{place}: {value!r:.40} should be such as {own!r:.40}")


def _compare_epochs(trainer: pl.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Raise where the places that count the epochs that are done disagree."""
    done, progress = epochs_done(trainer), checkpoint["loops"]
    for key in ("fit_loop", "epoch_progress", "current"):
        if key not in progress:
            raise OtherStatesError(f"loops: {progress!r:.40} should have a key {key}")
        progress = progress[key]
    counts = {f"epoch_progress.current.{name}": (progress[name], done) for name in ("processed", "ready")}
    for name, (count, right) in {**counts, "epoch": (checkpoint["epoch"], done - 1)}.items():
        if type(count) is not int or count != right:
            raise OtherStatesError(f"{name}: {count!r:.40} should be {right}, as SeededEpochs.next_epoch is {done}")


def _compare_optimizer(place: str, saved: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Raise where an optimizer has saved for a parameter what is not of its shape."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for group in saved["param_groups"]:  # a schedule notes the first learning rate in it, once it has begun
        _compare(f"{place}.initial_lr", group.get("initial_lr", group["lr"]), group["lr"])
    if [index for group in saved["param_groups"] for index in group["params"]] != [*range(len(parameters))]:
        raise OtherStatesError(f"{place}: its parameters are not those of the run, in their order")
    if not isinstance(optimizer, torch.optim.SGD | torch.optim.Adam):
        return  # what others keep, they know alone
    for index, state in saved["state"].items():
        where = f"{place}.state.{index!r:.40}"
        if type(index) is not int or not 0 <= index < len(parameters) or not isinstance(state, dict):
            raise OtherStatesError(f"{where}: {state!r:.40} should be the state of one of its parameters")
        if isinstance(optimizer, torch.optim.Adam) and state:
            state = {**dict.fromkeys(_OF_ADAM), **state}
        for name, value in state.items():
            shape = torch.Size() if name == "step" else parameters[index].shape
            optional = name == "momentum_buffer" and value is None
            if not optional and not (isinstance(value, Tensor) and value.shape == shape):
                raise OtherStatesError(f"{where}.{name!s:.40}: {value!r:.40} should be a tensor of {tuple(shape)}")
