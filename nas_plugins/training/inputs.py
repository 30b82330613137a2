"""LightningModule of a run, and an example input of its model, for which user-defined classes are tried on a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import LightningModule
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from nas_plugins.config.reader import Config
from nas_plugins.config.user_classes import UserClass, described
from nas_plugins.data.module import ImageData
from nas_plugins.data.sizes import Data, check_loaders, targets_of
from nas_plugins.errors import InputError
from nas_plugins.training.module import TaskModule
from strategies.cost.search import Example
from strategies.supernet.shared_input import copied
from strategies.supernet.trial_pass import first_samples


def training_module(config: Config, data: Data) -> LightningModule:
    """Return the LightningModule of a run, without its model: a user-defined one, or that of the task.

    Args:
        config: The settings.
        data: The data.

    Raises:
        InputError: A user-defined constructor fails, or the number of classes of a classification is unknown.
    """
    if "evaluator" in config.user:
        module: LightningModule = config.user["evaluator"].build()
        return module
    return TaskModule(targets_of(data), config.training, config.derived)


def example_of(config: Config, data: Data, build: Callable[[], nn.Module]) -> Example:
    """Return the input of a model for two samples: blank images or, with user-defined classes, a part of a real batch.

    Args:
        config: The settings.
        data: The data.
        build: Function that returns a model. With user-defined classes, the model is trained on one batch.

    Raises:
        InputError: The model, the data and the evaluator do not fit together, or the evaluator does not log its metric.
    """
    if not config.user:
        assert isinstance(data, ImageData)
        return (torch.zeros(2, data.image_channels, data.image_size, data.image_size),), {}
    check_loaders(data, "train_dataloader", "val_dataloader")
    with isolate_rng():
        return _try_out(config, data, build())


def _try_out(config: Config, data: Data, model: nn.Module) -> Example:
    """Train and validate a model on one batch each, and return its input for the first two samples."""
    module, seen = training_module(config, data), list[Example]()
    module.set_model(model)
    losses = _losses_of(module)

    def look(model: nn.Module, args: Any, kwargs: Any) -> None:
        if not seen:
            seen.append(first_samples(tree_map(_on_cpu, copied((args, kwargs)))))

    trainer = pl.Trainer(
        fast_dev_run=True,
        accelerator=config.compute.accelerator,
        devices=1,
        precision=config.compute.precision,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        trainer.fit(module, datamodule=data)
    except InputError:
        raise
    except Exception as error:  # user code can raise any exception
        if "multiple optimizers" in str(error):  # Lightning's advice would not work in a search
            raise InputError(
                f"evaluator: configure_optimizers of {type(module).__name__} gives several optimizers; it should be one"
            ) from None
        parts = ", ".join(type(part).__name__ for part in (module, data, model))
        where = ", ".join(config.user)
        raise InputError(f"{where}: {parts} fail on a first batch: {described(error)}{_hint(model, seen)}") from error
    finally:
        handle.remove()
    if losses and losses[0] is None:
        raise InputError(f"evaluator: training_step of {type(module).__name__} should return the loss")
    if "evaluator" in config.user:
        _check_metric(config.user["evaluator"], trainer.callback_metrics)
    if not seen:
        raise InputError(f"evaluator: {type(module).__name__} should call self.model in training_step")
    return seen[0]


def _losses_of(module: LightningModule) -> list[Any]:
    """Return a list to which each training step of a module will append its loss, or None if it returns no loss."""
    losses: list[Any] = []
    step = module.training_step

    def kept(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        losses.append(result.get("loss") if isinstance(result, Mapping) else result)
        return result

    module.training_step = kept  # type: ignore[method-assign]
    return losses


def _hint(model: nn.Module, seen: Sequence[Example]) -> str:
    """Return advice if cells for images received series, or cells for series received images."""
    dimensions = getattr(getattr(model, "network", model), "dimensions", None)
    first = seen[0][0][0] if seen and seen[0][0] else None
    if not isinstance(first, Tensor) or dimensions in (None, first.dim() - 2):
        return ""
    return f"; the cells got {tuple(first.shape)}: for series the stem is series, in a search the space Cell1dSpace"


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _check_metric(evaluator: UserClass, logged: Mapping[str, Any]) -> None:
    """Raise an InputError if an evaluator does not log its metric."""
    name, metric = evaluator.name, evaluator.values["metric"]
    validated = [key for key in logged if key.startswith("val_")]
    if not validated:
        raise InputError(f"evaluator: {name} logs no metric of validation, such as self.log('val_acc', …)")
    if metric not in validated:
        raise InputError(f"evaluator.metric: {name} does not log {metric}, but {', '.join(validated)}: name one")
