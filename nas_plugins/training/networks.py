"""Network of a retraining, built from a genotype or from a sample of any other space."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from nni.mutable import Categorical, CategoricalMultiple, Mutable
from nni.mutable.exception import SampleValidationError
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import model_context
from pytorch_lightning.utilities.seed import isolate_rng
from torch import nn

from nas_plugins import plugins
from nas_plugins.config.reader import Config
from nas_plugins.config.schema import NetworkConfig
from nas_plugins.config.signatures import argument_names
from nas_plugins.config.yaml import read_yaml
from nas_plugins.data.module import ImageData
from nas_plugins.data.sizes import REQUIRED, Data, size, sizes
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike, one_line
from nas_plugins.runs.directory import CONFIG
from search_spaces.genotype import Genotype
from search_spaces.network import Network
from strategies.cost.search import Example
from strategies.darts import DARTS
from strategies.inheritance import inherit
from strategies.supernet.shared_input import copied

Sample = Mapping[str, Any]

_NDS_OPTIONS = {"auxiliary_loss", "drop_path_prob"}
"""Arguments of NNI's spaces of cells (NASNet, ENAS, AmoebaNet, PNAS, DARTS) that the recipe sets."""


def network_of_genotype(genotype: Genotype, config: Config, data: Data) -> Network:
    """Return the network of a genotype, with the size that the config gives it.

    Raises:
        InputError: A setting cannot be used, or the network does not fit the images.
    """
    derived = config.derived
    assert isinstance(derived, NetworkConfig)
    try:
        network = Network.from_genotype(
            genotype,
            num_classes=size(data, "num_classes"),
            channels=derived.channels,
            image_channels=size(data, "image_channels"),
            stem=derived.stem,
            auxiliary=derived.auxiliary_weight > 0,
            mlp_width=derived.mlp_width,
            image_size=sizes(data).get("image_size", 32),  # for mlp_width only
            dense_head=config.task.dense,
        )
        if isinstance(data, ImageData) and not config.user:
            shadow = copy.deepcopy(network).to("meta").train()
            shadow(torch.empty(2, data.image_channels, data.image_size, data.image_size, device="meta"))
    except (ValueError, RuntimeError) as error:  # PyTorch raises RuntimeError when memory runs out
        raise InputError(f"network: {one_line(error)}") from None
    return network


def network_of_sample(sample: Sample, config: Config, data: Data) -> nn.Module:
    """Return the network of a sample, which is an instance of the space of the config.

    In NNI's spaces of cells it has an auxiliary head and drop-path if the recipe uses them. A network that inherits
    weights has neither, since it is a part of the supernet.

    Raises:
        InputError: The sample is not in the space, or the network does not fit the images.
    """
    assert config.derived is not None
    searching: dict[str, Any] = {}
    options: dict[str, Any] = {}
    if argument_names(plugins.find("space", config.values["space"]["name"])) >= _NDS_OPTIONS:
        searching = {"auxiliary_loss": False}  # only the derived network can have it
        options = {"auxiliary_loss": config.derived.auxiliary_weight > 0, "drop_path_prob": config.derived.drop_path}
    with isolate_rng():
        space = build_space(config, data, **searching)
    fitting = fitting_sample(space, sample)
    if config.derived.weights == "inherited":
        network = inherit(DARTS().mutate_model(space), fitting).train()  # any strategy makes the same supernet
    else:
        with model_context(fitting):
            network = build_space(config, data, **options)
    if isinstance(data, ImageData) and not config.user:
        _check_output(network, data, type(space).__name__)
    return network


def build_space(config: Config, data: Data, **options: Any) -> ModelSpace:
    """Return the space of a config for the data, with further arguments that its class may take.

    Raises:
        InputError: The arguments are not valid for the class, the class has no head for the task, or neither the config
            nor the data has one of its arguments.
    """
    given, known = config.arguments["space"], sizes(data)
    taken = argument_names(plugins.find("space", given["name"]))
    if config.task.dense:
        if "dense_head" not in taken:
            raise InputError(
                f"space.name: {given['name']} has a classifier only; task: {config.task.name} needs a space with the "
                "argument dense_head, such as DartsSpace and the others of this project"
            )
        options["dense_head"] = True
    if "data" in config.user:
        for name in REQUIRED:
            if name in taken and name not in given and name not in known:
                where = f"the config, or {config.user['data'].name} an attribute {name}"
                raise InputError(f"space.{name}: {given['name']} takes it: it should be in {where}")
    space: ModelSpace = config.build("space", **{key: known[key] for key in known if key not in given}, **options)
    return space


def fitting_sample(space: ModelSpace, sample: Sample) -> dict[str, Any]:
    """Return the sample with the values of the space, which may have another type in JSON.

    Raises:
        InputError: The sample is not in the space; the message names the label, the value and the accepted values.
    """
    choices = space.simplify()
    restored = {label: _restored(choices.get(label), value) for label, value in sample.items()}
    name = type(space).__name__
    try:
        error = space.check_contains(restored)
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError) as raised:  # values of a wrong type
        error = SampleValidationError(one_line(raised))
    if error is None:
        return restored
    for label, choice in choices.items():
        if label in restored and not _contains(choice, {label: restored[label]}):
            raise InputError(f"sample: {label}: {sample[label]!r:.80} should be {_right(choice)}, as {name} has it")
    reason = one_line(error).partition(". Existing keys are")[0]
    labels = ", ".join(map(str, choices))
    raise InputError(f"sample: does not fit {name}: {reason}; the labels of the space are {labels:.400}")


def _restored(choice: Mutable | None, value: Any) -> Any:
    """Return the value of a choice that has this representation in JSON."""
    if isinstance(choice, Categorical):
        for possible in choice.values:
            if json.loads(json.dumps(possible, default=str)) == value:
                return possible
    return value


def _contains(choice: Mutable, sample: Sample) -> bool:
    try:
        return choice.check_contains(dict(sample)) is None
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError):
        return False


def _right(choice: Mutable) -> str:
    """Describe the values of a choice."""
    if isinstance(choice, Categorical):
        return f"one of {', '.join(map(str, choice.values))}"
    if isinstance(choice, CategoricalMultiple):
        count = "any number" if choice.n_chosen is None else str(choice.n_chosen)
        return f"a list of {count} of {', '.join(map(str, choice.values))}"
    return f"in {choice!r:.200}"


def _check_output(network: nn.Module, data: ImageData, name: str) -> None:
    """Raise an InputError if a network does not fit the images or their classes."""
    shape = (data.image_channels, data.image_size, data.image_size)
    try:
        output = _training_output(network, ((torch.zeros(2, *shape),), {}))
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"space: {name} does not fit images of {'×'.join(map(str, shape))}: {one_line(error)}"
        ) from None
    right = data.targets.output_shape(2, data.image_size)
    for logits in output if isinstance(output, tuple) else (output,):
        got = tuple(getattr(logits, "shape", ()))
        if got != right:
            what = f"{data.num_classes} {data.targets.task.outputs}"
            raise InputError(f"space: {name} should give {right} for 2 images of {what}, not {got}")


def _training_output(network: nn.Module, example: Example) -> Any:
    """Return the output of a copy of a network in training mode for an example input."""
    args, kwargs = copied(example)
    with torch.no_grad(), isolate_rng():
        return copy.deepcopy(network).train()(*args, **kwargs)


def warn_unused(network: nn.Module, config: Config, example: Example) -> None:
    """Warn in one line of the keys of the section network that have no effect on a network.

    Args:
        network: The network.
        config: The settings.
        example: Example input of the network.
    """
    recipe, name = config.derived, type(network).__name__
    assert recipe is not None
    reasons = []
    if config.unused:
        what = "supernet" if recipe.weights == "inherited" else "section space"
        reasons.append(f"{', '.join(config.unused)} (the {what} sets the size of the network)")
    if recipe.drop_path > 0 and drop_path_setter(network) is None:
        reasons.append(f"network.drop_path ({name} has none)")
    if recipe.auxiliary_weight > 0 and auxiliary_head(network) is None and not _gives_two(network, example):
        reasons.append(f"network.auxiliary_weight ({name} has no auxiliary head)")
    if reasons:
        warnings.warn(f"not used: {', '.join(reasons)}", stacklevel=2)


def _gives_two(network: nn.Module, example: Example) -> bool:
    """Return whether the output of a network in training is a pair of logits."""
    return isinstance(_training_output(network, example), tuple)


def drop_path_setter(network: nn.Module) -> Callable[[float], None] | None:
    """Return the method that sets the drop-path probability of a network; None if it has no drop-path."""
    return getattr(network, "set_drop_path", None) or getattr(network, "set_drop_path_prob", None)


def auxiliary_head(network: nn.Module) -> nn.Module | None:
    """Return the auxiliary head of a network; None if it has none."""
    heads = (getattr(network, name, None) for name in ("auxiliary", "auxiliary_head"))
    return next((head for head in heads if isinstance(head, nn.Module)), None)


def space_beside(sample: PathLike) -> dict[str, Any]:
    """Return the section space of the run whose directory contains a sample; empty if there is no such run.

    Raises:
        InputError: The config of the run is damaged.
    """
    config = Path(sample).parent / CONFIG
    space = read_yaml(config).get("space") if config.is_file() else None
    return space if isinstance(space, dict) else {}
