"""Checks that the parts of a search fit together, made before anything is written."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

import torch
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.strategy import ENAS as NniENAS

from nas_plugins.config.reader import Config
from nas_plugins.data.module import ImageData
from nas_plugins.data.sizes import Data
from nas_plugins.errors import InputError
from nas_plugins.files import one_line
from nas_plugins.runs.tables import ALPHA_KEYS
from nas_plugins.tasks import Task
from nas_plugins.training.inputs import training_module
from strategies.base import DifferentiableStrategy, OneShotStrategy
from strategies.cost.search import Example
from strategies.enas import ENAS
from strategies.projection import Projection
from strategies.relaxation import Step, UnfitSettingError
from strategies.supernet.shared_input import copied
from strategies.supernet.trial_pass import check_candidates


def check_metric(strategy: OneShotStrategy, name: str, task: Task) -> None:
    """Raise an InputError if a strategy reads a metric that a search does not log, or is an ENAS that cannot run."""
    projection = strategy.composition.pruning if isinstance(strategy, DifferentiableStrategy) else None
    if isinstance(projection, Projection):
        check_validated(projection.metric, "strategy.metric", task)
    if not isinstance(strategy, NniENAS):
        return
    if not isinstance(strategy, ENAS):
        raise InputError(f"strategy.name: {name} does not run on today's Lightning; write strategies.enas.ENAS")
    reward = strategy.reward_metric_name
    right, metric = f"val_{task.metric.key}", task.metric
    if not metric.higher_is_better:
        raise InputError(f"strategy.name: {name} maximizes its reward, and task: {task.name} has {metric.name}")
    if reward != right:
        raise InputError(f"strategy.reward_metric_name: {reward!r} should be {right}, which the search logs")
    if find_spec("tianshou") is None:
        raise InputError("strategy.name: ENAS needs tianshou, which is not installed: pip install 'nas-plugins[rl]'")


def check_choices(space: ModelSpace) -> None:
    """Raise an InputError if a space has nothing to search."""
    if not space.simplify():
        raise InputError(f"space.name: {type(space).__name__} has no choice to search")


def check_space(space: ModelSpace, data: ImageData) -> None:
    """Raise an InputError if a space does not fit the images or their number of classes."""
    name = type(space).__name__
    shape = (data.image_channels, data.image_size, data.image_size)
    try:
        with torch.no_grad():
            output = space.eval()(torch.zeros(2, *shape))
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"space: {name} does not fit images of {'×'.join(map(str, shape))}: {one_line(error)}"
        ) from None
    space.train()
    right, got = data.targets.output_shape(2, data.image_size), tuple(getattr(output, "shape", ()))
    if got != right:
        what = f"{data.num_classes} {data.targets.task.outputs}"
        raise InputError(f"space: {name} should give {right} for 2 images of {what}, not {got}")


def check_validated(metric: str, key: str, task: Task) -> None:
    """Raise an InputError if the validation of a task does not log a metric; a user-defined task may log any."""
    known = [column for column in task.columns if column.startswith("val_")]
    if metric not in known and not task.further:
        raise InputError(f"{key}: {metric!r} should be one of {', '.join(known)}, for task: {task.name}")


def check_sample(searched: ModelSpace, ranked: ModelSpace) -> None:
    """Raise an InputError if a space has no network for the samples of the searched space."""
    sample: dict[str, Any] = {}
    searched.default(sample)
    try:
        ranked.freeze(sample)
    except (ValueError, LookupError) as error:
        raise InputError(f"space: does not take what the search finds: {one_line(error)}") from None


def check_epochs(strategy: DifferentiableStrategy, epochs: int) -> None:
    """Warn if a search has no epoch in which α is trained."""
    warmup = strategy.composition.warmup_epochs
    if warmup >= epochs:
        key = strategy.warmup_argument
        text = f"strategy.{key}: {warmup} is not below training.epochs, {epochs}: α will not be trained"
        warnings.warn(text, stacklevel=2)


def check_plans(
    strategy: DifferentiableStrategy, supernet: ModelSpace, example: Example, epochs: int, pair: str
) -> None:
    """Raise an InputError, naming strategy and space by ``pair``, if a supernet cannot run a plan of a search."""
    architecture, alphas = strategy.architecture, strategy.architecture.alphas
    architecture.step = Step(epochs=epochs)
    for edge, candidates in architecture.candidates.items():
        for name in {*map(str, candidates)} & {*ALPHA_KEYS}:
            raise InputError(f"space.name: {edge!r} has a candidate {name!r}, which alphas.csv has as another column")
    args, kwargs = example
    try:
        strategy.composition.relaxation.architecture(alphas, architecture.step)
        check_candidates(architecture, lambda: supernet(*copied(args), **copied(kwargs)))
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"strategy: {pair}: {one_line(error)}") from None


def check_targets(strategy: DifferentiableStrategy, supernet: ModelSpace, config: Config, data: Data) -> None:
    """Raise an InputError if no network of a space meets the targets of its costs."""
    module = training_module(config, data)
    module.set_model(supernet)
    try:
        strategy.configure_oneshot_module(module).check_targets()
    except UnfitSettingError as error:
        raise InputError(str(error)) from None
