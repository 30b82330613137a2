"""Network of a run, with everything that its export needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from nas_plugins.config.reader import Config
from nas_plugins.config.schema import NetworkConfig
from nas_plugins.data.module import ImageData
from nas_plugins.data.sizes import Data, sizes, targets_of
from nas_plugins.errors import InputError
from nas_plugins.export.source import Images
from nas_plugins.files import PathLike, read_object
from nas_plugins.runs import directory as runs
from nas_plugins.tasks import Targets, Task
from nas_plugins.training.checkpoints import read_result
from nas_plugins.training.inheritance import Supernet
from nas_plugins.training.networks import build_space
from nas_plugins.training.retrain import load_retraining
from nas_plugins.training.trainer import prepare_data
from search_spaces.genotype import Genotype
from search_spaces.network import Network
from search_spaces.space import StackedSpace

Weights = Literal["new", "inherited"]
"""Weights of the network of a search: new ones, or those of its supernet."""

_MOST_IMAGES = 64
"""Number of test images on which an export is checked."""


@dataclass(frozen=True)
class Model:
    """Network of a run in evaluation mode, without auxiliary head and on the CPU.

    Args:
        network: The network.
        trained: Whether its weights are worth keeping, because they are not random.
        searched: Whether it is the network of a search.
        task: Task of the network.
        images: Input images of the network.
        examples: Some test images of the run, normalized, of shape (images, channels, height, width); for a
            user-defined data module, the first tensors of its batches.
        preparation: Sentence about the preparation of an image before its normalization.
        history: Sentence about the training.
        test: Results of ``nas-plugins evaluate``; empty if there are none.
        architecture: Genotype of the network; its sample in a space without cells.
        arguments: Arguments of :meth:`~search_spaces.network.Network.from_genotype`; empty for other networks.
    """

    network: nn.Module
    trained: bool
    searched: bool
    task: Task
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


def read_model(run: PathLike, weights: Weights | None = None) -> Model:
    """Return the network of a finished run.

    Args:
        run: The run directory.
        weights: Weights of the network of a search: new ones (the default), or those of its supernet. None for a
            retraining, which has its own.

    Raises:
        InputError: The directory is not a finished run, one of its files is damaged, its images are missing, or a
            search has found a network without cells.
    """
    run = Path(run)
    config, kind = runs.read_config(run)
    if not runs.is_finished(run, kind):
        raise InputError(f"{run}: not finished; nas-plugins resume {run} goes on with it, then export it")
    if kind == "search":
        return _searched(run, config, inherited=weights == "inherited")
    if weights is not None:
        raise InputError(f"--weights {weights}: {run} is a retraining, which is exported with its own weights")
    return _retrained(run)


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
        searched=False,
        history=f"number of epochs: {config.training.epochs}, seed: {config.seed}{_beginning(settings)}",
        test=_test_results(run / runs.TEST, config),
        architecture=training.architecture,
        arguments=arguments,
    )


def _beginning(settings: object) -> str:
    """Describe the initial weights of a retraining if they were not random."""
    inherited = getattr(settings, "weights", "new") == "inherited"
    return ", from the weights of the supernet of a search" if inherited else ""


def _test_results(file: Path, config: Config) -> dict[str, float]:
    """Return the results of ``nas-plugins evaluate``, empty if there are none.

    Args:
        file: The file.
        config: The settings of the run. The results of a user-defined evaluator may have any names.

    Raises:
        InputError: The file is damaged.
    """
    found = read_object(file) if file.exists() else {}
    counted = "samples" if "data" in config.user else "images"
    named = (*(f"test_{metric.key}" for metric in config.task.metrics), "test_loss", counted)
    keys = () if "evaluator" in config.user else named
    if found and not all(isinstance(found.get(key), (int, float)) for key in (*keys, *found)):
        raise InputError(
            f"{file}: should have numbers for {', '.join(keys or found)}: nas-plugins evaluate writes it again"
        )
    return found


def _searched(run: Path, config: Config, inherited: bool) -> Model:
    if not (run / runs.GENOTYPE).exists():
        raise InputError(
            f"{run}: a search without cells; retrain its {runs.SAMPLE}, then export that run as onnx, torch or "
            "safetensors"
        )
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
    network = space.freeze(sample)
    if inherited:
        network.load_state_dict(Supernet(run / runs.GENOTYPE).weights(genotype, data))
    kept = "the weights of the supernet, with its batch statistics" if inherited else "new weights"
    return _model(
        network,
        data,
        config,
        trained=inherited,
        searched=True,
        history=f"none: the network is as the search found it, with {kept}",
        test={},
        architecture=space.genotype(sample),
        arguments={key: settings[key] for key in ("channels", "stem", "mlp_width") if key in settings},
    )


def _model(network: nn.Module, data: Data, config: Config, arguments: dict[str, Any], **facts: Any) -> Model:
    if isinstance(network, Network):
        network.auxiliary = None
        arguments = {**arguments, **sizes(data), **({"dense_head": True} if config.task.dense else {})}
    if config.task.name == "regression":
        _give_units(network, targets_of(data))
    examples = _examples(data)
    name = type(data).__name__
    preparation = f"that of the data module {name}"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    if isinstance(data, ImageData):
        name, preparation = str(data.dataset), _preparation(config.values["data"], data.image_size)
        mean, std = (tuple(float(value) for value in values) for values in (data.mean, data.std))
    names = () if "evaluator" in config.user else targets_of(data).names
    return Model(
        network=network.cpu().eval(),
        task=config.task,
        images=Images(name, tuple(examples.shape[1:]), mean, std, names),
        examples=examples.to(torch.float32).contiguous(),
        preparation=preparation,
        arguments=arguments,
        **facts,
    )


def _examples(data: Data) -> Tensor:
    """Return some test samples, or validation samples of a data module without these.

    Raises:
        InputError: The batches of a user-defined data module do not begin with a tensor.
    """
    tested = is_overridden("test_dataloader", data, pl.LightningDataModule)
    if tested:
        data.setup("test")
    found: list[Tensor] = []
    for batch in data.test_dataloader() if tested else data.val_dataloader():
        first = batch[0] if isinstance(batch, (tuple, list)) else batch
        if not isinstance(first, Tensor):
            raise InputError(
                f"data.class_path: export takes batches that begin with the tensor that the network gets; "
                f"{type(data).__name__} gives {type(batch).__name__} of {type(first).__name__}"
            )
        found.append(first)
        if sum(map(len, found)) >= _MOST_IMAGES:
            break
    return torch.cat(found)[:_MOST_IMAGES]


def _give_units(network: nn.Module, targets: Targets) -> None:
    """Rescale the last layer of a regression, so that it returns values in their units instead of standardized values.

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
    """Describe the preparation of an image before its normalization."""
    if settings.get("resized_crop"):
        return f"shorter side resized to {round(size * 256 / 224)} pixels, centre of {size}×{size} cut out"
    return f"resized to {size}×{size} pixels" if settings.get("image_size") else "none"
