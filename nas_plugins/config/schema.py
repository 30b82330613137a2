"""Config sections for training, the retrained network and hardware."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt

from nas_plugins.errors import InputError
from nas_plugins.tasks import ImageTask
from search_spaces.stems import Stem

LoggerName = Literal["tensorboard", "wandb", "mlflow", "csv"]
"""Name of one of Lightning's loggers, in the key logger of a config."""


@dataclass
class Training:
    """Weight training: SGD with momentum and a cosine learning rate (DARTS, appendix A).

    Args:
        epochs: Number of passes over the training images.
        learning_rate: Learning rate of the first epoch.
        min_learning_rate: Learning rate at the end of the cosine.
        restart_epochs: Length of the first cosine in epochs, after which the learning rate restarts from
            ``learning_rate`` (SGDR, Loshchilov and Hutter, 2017); null for one cosine over all epochs.
        restart_factor: Ratio of the length of a cosine to that of the previous one; a whole number.
        momentum: Momentum of SGD, from 0 to 1.
        weight_decay: L2 penalty of SGD.
        label_smoothing: Share of the target spread over all classes, from 0 to 1; for classification and segmentation.
    """

    epochs: PositiveInt = 50
    learning_rate: PositiveFloat = 0.025
    min_learning_rate: NonNegativeFloat = 0.001
    restart_epochs: PositiveInt | None = None
    restart_factor: PositiveInt = 1
    momentum: ClosedUnitInterval = 0.9
    weight_decay: NonNegativeFloat = 3e-4
    label_smoothing: ClosedUnitInterval = 0.0


@dataclass
class Recipe:
    """Recipe for the retraining of a network: its first weights and its regularization.

    Args:
        weights: ``"new"`` for random weights, ``"inherited"`` for those of the supernet of the search run in which the
            genotype or the sample lies. The network then has the size of the supernet.
        auxiliary_weight: Loss weight of an auxiliary head at two thirds of the depth; 0 for no head.
        drop_path: Final probability of drop-path, reached linearly over the epochs.
        gradient_clip_val: Maximum norm of the gradient.
    """

    weights: Literal["new", "inherited"] = "new"
    auxiliary_weight: NonNegativeFloat = 0.0
    drop_path: ClosedUnitInterval = 0.0
    gradient_clip_val: PositiveFloat = 5.0


@dataclass
class NetworkConfig(Recipe):
    """Network built from a genotype for retraining, and its recipe.

    Args:
        channels: Channels of a node before the first reduction.
        layers: Number of cells; null keeps that of the genotype.
        stem: ``"cifar"`` keeps the resolution, ``"tiny_imagenet"`` halves it, ``"imagenet"`` divides it by 8;
            with the prefix ``dual_``, two such stems make the two inputs of the first cell. ``"series"`` is for
            series (batch, channels, steps) of a user-defined data module.
        mlp_width: Width of the first layer of the course project's classifier (its Table 4); null for
            pooling and a linear classifier.
    """

    channels: PositiveInt = 36
    layers: PositiveInt | None = None
    stem: Stem = "cifar"
    mlp_width: PositiveInt | None = None


@dataclass
class Compute:
    """Hardware of a run.

    Args:
        accelerator: Accelerator of Lightning's Trainer, for example cpu or gpu.
        devices: Number of devices per node, each with its process and batches; gradients are averaged.
        nodes: Number of machines.
        precision: Precision of Lightning's Trainer.
        threads: CPU threads of PyTorch; null for its default.
        compile: Whether to compile the training steps by ``torch.compile``, on one device. The first step takes a
            minute or more, later ones less (docs/performance.md).
    """

    accelerator: str = "auto"
    devices: PositiveInt = 1
    nodes: PositiveInt = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    threads: PositiveInt | None = None
    compile: bool = False


def check_task(task: ImageTask, training: Training, recipe: Recipe | None) -> None:
    """Raise an InputError for a setting that has no effect on a task."""
    if training.label_smoothing > 0 and not task.smooths:
        raise InputError(f"training.label_smoothing: {training.label_smoothing}, but task: {task.name} has no classes")
    if task.dense and recipe is not None and recipe.auxiliary_weight > 0:
        weight = recipe.auxiliary_weight
        raise InputError(f"network.auxiliary_weight: {weight}, but task: {task.name} has no auxiliary head")
