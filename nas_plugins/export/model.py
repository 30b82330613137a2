"""The network of a run, with what an export of it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_plugins.config.reader import Config
from nas_plugins.config.schema import NetworkConfig
from nas_plugins.data.module import ImageData
from nas_plugins.errors import InputError
from nas_plugins.export.source import Images
from nas_plugins.files import PathLike, read_object
from nas_plugins.runs import directory as runs
from nas_plugins.tasks import Targets, Task
from nas_plugins.training.checkpoints import read_result
from nas_plugins.training.networks import build_space
from nas_plugins.training.retrain import load_retraining
from nas_plugins.training.trainer import prepare_data
from search_spaces.genotype import Genotype
from search_spaces.network import Network
from search_spaces.space import StackedSpace

_MOST_IMAGES = 64
"""Number of test images on which an export is checked."""


@dataclass(frozen=True)
class Model:
    """The network of a run in evaluation mode, without auxiliary head and on the CPU.

    Args:
        network: The network.
        trained: Whether it has weights that are worth keeping.
        targets: What its outputs mean.
        images: The images that it takes.
        examples: Some test images of the run, normalized, of shape (images, channels, height, width).
        preparation: Sentence about the preparation of an image before its normalization.
        history: Sentence about the training.
        test: Results of ``nas-plugins evaluate``; empty if there are none.
        architecture: Genotype of the network; its sample in a space without cells.
        arguments: Arguments of :meth:`~search_spaces.network.Network.from_genotype`; empty for other networks.
    """

    network: nn.Module
    trained: bool
    targets: Targets
    images: Images
    examples: Tensor
    preparation: str
    history: str
    test: Mapping[str, float]
    architecture: runs.Architecture
    arguments: Mapping[str, Any]

    @property
    def genotype(self) -> Genotype | None:
        """Return the genotype of a network of cells; None for other networks."""
        return self.architecture if isinstance(self.architecture, Genotype) else None


def read_model(run: PathLike) -> Model:
    """Return the network of a finished run: that of a retraining with its weights, that of a search without.

    Raises:
        InputError: The directory is not a finished run, one of its files is damaged, its images are missing, or a
            search has found a network that is not one of cells.
    """
    run = Path(run)
    config, kind = runs.read_config(run)
    if not runs.is_finished(run, kind):
        raise InputError(f"{run}: not finished; nas-plugins resume {run} goes on with it, then export it")
    return _searched(run, config) if kind == "search" else _retrained(run)


def _retrained(run: Path) -> Model:
    training = load_retraining(run, "export", on_cpu=True)
    config = training.config
    settings = config.derived
    arguments = {}
    if isinstance(settings, NetworkConfig):
        arguments = {"channels": settings.channels, "stem": settings.stem, "mlp_width": settings.mlp_width}
    return _model(
        training.network,
        training.data,
        config,
        trained=True,
        history=f"number of epochs: {config.training.epochs}, seed: {config.seed}",
        test=_test_results(run / runs.TEST, config.task),
        architecture=training.architecture,
        arguments=arguments,
    )


def _test_results(file: Path, task: Task) -> dict[str, float]:
    """Return the results of ``nas-plugins evaluate``, empty if there are none.

    Raises:
        InputError: The file is damaged.
    """
    found = read_object(file) if file.exists() else {}
    keys = (*(f"test_{metric.key}" for metric in task.metrics), "test_loss", "images")
    if found and not all(isinstance(found.get(key), (int, float)) for key in keys):
        raise InputError(f"{file}: should have numbers for {', '.join(keys)}: nas-plugins evaluate writes it again")
    return found


def _searched(run: Path, config: Config) -> Model:
    if not (run / runs.GENOTYPE).exists():
        raise InputError(f"{run}: a search without cells; retrain its {runs.SAMPLE}, then export that run")
    genotype: Genotype = read_result(run / runs.GENOTYPE)
    # An export needs no accelerator, and this machine may lack that of the run.
    on_cpu = replace(config.compute, accelerator="cpu", devices=1, nodes=1, precision="32-true")
    data = prepare_data(replace(config, compute=on_cpu))
    space = build_space(config, data)
    if not isinstance(space, StackedSpace):
        name = type(space).__name__
        raise InputError(f"{run}: a search of {name}; retrain its {runs.GENOTYPE}, then export that run")
    sample = space.sample(genotype)
    settings = config.values["space"]
    return _model(
        space.freeze(sample),
        data,
        config,
        trained=False,
        history="none: the network is as the search found it, with new weights",
        test={},
        architecture=space.genotype(sample),
        arguments={key: settings[key] for key in ("channels", "stem", "mlp_width") if key in settings},
    )


def _model(network: nn.Module, data: ImageData, config: Config, arguments: dict[str, Any], **facts: Any) -> Model:
    if isinstance(network, Network):
        network.auxiliary = None
        size = {"num_classes": data.num_classes, "image_channels": data.image_channels, "image_size": data.image_size}
        arguments = {**arguments, **size, **({"dense_head": True} if data.targets.task.dense else {})}
    if data.targets.task.name == "regression":
        _give_units(network, data.targets)
    shape = (data.image_channels, data.image_size, data.image_size)
    mean, std = (tuple(float(value) for value in values) for values in (data.mean, data.std))
    batches = islice(data.test_dataloader(), -(-_MOST_IMAGES // data.batch_size))
    examples = torch.cat([images for images, _ in batches])
    return Model(
        network=network.cpu().eval(),
        targets=data.targets,
        images=Images(data.dataset, shape, mean, std, tuple(data.classes)),
        examples=examples[:_MOST_IMAGES].to(torch.float32).contiguous(),
        preparation=_preparation(config.values["data"], data.image_size),
        arguments=arguments,
        **facts,
    )


def _give_units(network: nn.Module, targets: Targets) -> None:
    """Let the last layer of a regression, whose outputs are standardized, give values in their units.

    Raises:
        InputError: The network does not end in a linear layer.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers or layers[-1].out_features != targets.count or layers[-1].bias is None:
        raise InputError(f"{type(network).__name__} ends in no linear layer, which could give values in their units")
    mean, std = torch.tensor(targets.mean), torch.tensor(targets.std)
    with torch.no_grad():
        layers[-1].weight.mul_(std[:, None].to(layers[-1].weight))
        layers[-1].bias.copy_(layers[-1].bias * std.to(layers[-1].bias) + mean.to(layers[-1].bias))


def _preparation(settings: Mapping[str, Any], size: int) -> str:
    """Return in words what an image goes through before it is normalized."""
    if settings.get("resized_crop"):
        return f"shorter side resized to {round(size * 256 / 224)} pixels, centre of {size}×{size} cut out"
    return f"resized to {size}×{size} pixels" if settings.get("image_size") else "none"
