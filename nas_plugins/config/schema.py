"""The sections of a config that belong to neither a space, a strategy nor a data set, and the limits of values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt

from search_spaces.stems import Stem

MAX_VALUES = {
    "seed": 2**32 - 1,
    "space.channels": 4096,
    "space.nodes": 100,
    "space.mlp_width": 100_000,
    "network.channels": 4096,
    "network.mlp_width": 100_000,
    "training.epochs": 10**9,
    "compute.devices": 1024,
    "compute.nodes": 1024,
    "compute.threads": 1024,
}
"""The largest values: beyond what anybody wants, and below what fills the memory or the machine."""


MAX_RATE = 10**6
"""Of learning rates and weight decays, by which PyTorch multiplies in single precision."""


MAX_NUMBER = 10**18


@dataclass
class Training:
    """How weights are trained: SGD with momentum, the learning rate falling along a cosine (DARTS, appendix A).

    Args:
        epochs: passes over the training images.
        learning_rate: of the first epoch.
        min_learning_rate: of the end of the cosine.
        restart_epochs: epochs of the first cosine, after which the learning rate starts again from the top
            (SGDR, Loshchilov and Hutter, 2017); null for one cosine over all epochs.
        restart_factor: how many times as long as the one before each further cosine is; a whole number.
        momentum: of SGD.
        weight_decay: L2 penalty of SGD.
        label_smoothing: share of the target spread over all classes, from 0 to 1.
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
class NetworkConfig:
    """The network that a genotype is retrained as.

    Args:
        channels: channels of a node before the first reduction.
        layers: number of cells; null keeps the genotype's own.
        stem: "cifar" keeps the resolution, "tiny_imagenet" halves it, "imagenet" divides it by 8;
            with ``dual_`` before it, two such stems make the two inputs of the first cell.
        auxiliary_weight: weight of the loss of a second head at two thirds of the depth; 0 for none.
        drop_path: probability of drop-path that it grows to linearly over the epochs.
        gradient_clip_val: the largest norm of the gradient.
        mlp_width: null for pooling and a linear classifier; a number for the classifier of the
            course project (its Table 4) with a first layer of that width.
    """

    channels: PositiveInt = 36
    layers: PositiveInt | None = None
    stem: Stem = "cifar"
    auxiliary_weight: NonNegativeFloat = 0.0
    drop_path: ClosedUnitInterval = 0.0
    gradient_clip_val: PositiveFloat = 5.0
    mlp_width: PositiveInt | None = None


@dataclass
class Compute:
    """What the work runs on.

    Args:
        accelerator: as Lightning's Trainer knows it, such as cpu or gpu.
        devices: how many of them, each with a process and batches of its own; the gradients are averaged.
        nodes: machines that work together, each with so many devices.
        precision: as Lightning's Trainer knows it.
        threads: of PyTorch on the CPU; null for its default.
    """

    accelerator: str = "auto"
    devices: PositiveInt = 1
    nodes: PositiveInt = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    threads: PositiveInt | None = None
