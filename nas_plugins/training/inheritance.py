"""Retrainings that start from the weights of the supernet of a finished search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor

from nas_plugins.config.reader import Config
from nas_plugins.config.schema import NetworkConfig
from nas_plugins.data.sizes import Data, sizes
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike, one_line
from nas_plugins.runs import directory as runs
from nas_plugins.training.checkpoints import load_tensors, load_weights
from nas_plugins.training.networks import build_space, fitting_sample
from search_spaces.genotype import Genotype, GenotypeError
from search_spaces.space import StackedSpace
from strategies.base import DifferentiableStrategy
from strategies.inheritance import InheritanceError, inherit

_WEIGHTS = "training_module._model."
"""Prefix of the weights of the supernet in the checkpoint of a search."""

_SIZE = ("channels", "stem", "mlp_width")
"""Keys of the section network that are also arguments of spaces of cells."""


class Supernet:
    """Supernet of a finished search, with its trained weights.

    Args:
        found: The genotype file or the sample file in the run directory of the search.

    Raises:
        InputError: The file is not in the run directory of a finished search by a strategy of this project, or the
            checkpoint is damaged.
    """

    def __init__(self, found: PathLike) -> None:
        self.run = run = Path(found).parent
        if not (run / runs.CONFIG).is_file():
            raise InputError(
                f"network.weights: inherited: {found} lies in no run directory of a search, whose supernet has weights"
            )
        self.config, kind = runs.read_config(run)
        if kind != "search" or not runs.is_finished(run, kind):
            what = "is no search" if kind != "search" else f"is not finished: nas-plugins resume {run}"
            raise InputError(f"network.weights: inherited: {run} {what}")
        strategy = self.config.build("strategy")
        if not isinstance(strategy, DifferentiableStrategy):
            name = self.config.values["strategy"]["name"]
            raise InputError(f"network.weights: inherited: {name} is not a strategy of this project")
        self.data = self.config.data()
        self.model: ModelSpace = strategy.mutate_model(build_space(self.config, self.data))
        file = run / runs.CHECKPOINT
        state = load_tensors(file).get("state_dict", {})
        weights = {name.removeprefix(_WEIGHTS): state[name] for name in state if name.startswith(_WEIGHTS)}
        load_weights(self.model, file, weights)

    def fitted(self, config: Config) -> Config:
        """Return the settings of a retraining with the size of the supernet.

        Raises:
            InputError: The space has no cells of this project, the task of the search is another one, or the retraining
                of a sample has another space.
        """
        task, searched = config.task, self.config.task
        if task != searched and not (task.further or searched.further):  # an evaluator trains networks of any task
            raise InputError(
                f"network.weights: inherited: task is {task.name}, and {searched.name} in the search {self.run}"
            )
        space = self.config.values["space"]
        if not isinstance(config.derived, NetworkConfig):
            _check_same(config.values["space"], space)
            return config
        if not isinstance(self.model, StackedSpace):
            raise InputError(
                f"network.weights: inherited: {space['name']} is not of this project, whose cells alone give their "
                "weights to the network of a genotype; in Python, strategies.inheritance.inherit gives them to its own"
            )
        usual = NetworkConfig()
        size = {key: space.get(key, getattr(usual, key)) for key in _SIZE}
        there = size | {"layers": len(self.model.cells.layout)}
        unused = tuple(
            f"network.{key}"
            for key, value in there.items()
            if getattr(config.derived, key) not in (value, getattr(usual, key))
        )
        size |= {"layers": None}
        values = {**config.values, "network": {**config.values["network"], **size}}
        return replace(config, values=values, derived=replace(config.derived, **size), unused=unused)

    def weights(self, architecture: runs.Architecture, data: Data) -> dict[str, Tensor]:
        """Return the weights of the derived network by name.

        Args:
            architecture: A genotype or a sample of the space.
            data: Data of the retraining.

        Raises:
            InputError: The architecture is not in the space, the images have other sizes, or no weights fit.
        """
        for key in ("num_classes", "image_channels"):
            here, there = sizes(data).get(key), sizes(self.data).get(key)
            if here != there:
                raise InputError(f"network.weights: inherited: {key} is {here}, and {there} in the search {self.run}")
        try:
            if isinstance(architecture, Genotype):
                assert isinstance(self.model, StackedSpace)
                sample: dict[str, Any] = self.model.sample(architecture)
            else:
                sample = fitting_sample(self.model, architecture)
            network = inherit(self.model, sample)
        except (InheritanceError, GenotypeError) as error:
            raise InputError(f"network.weights: inherited: {one_line(error)}") from None
        return {name: tensor.cpu() for name, tensor in network.state_dict().items()}


def _check_same(here: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    for key in [key for key in here if here[key] != there.get(key)]:
        raise InputError(
            f"space.{key}: {here[key]!r} should be {there.get(key)!r}, as in the search whose weights are inherited"
        )
