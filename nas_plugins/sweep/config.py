"""Config file of an NNI experiment, checked before anything is started."""

from __future__ import annotations

import argparse
import os
import shlex
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nni.algorithms.hpo.random_tuner import RandomTuner
from nni.experiment.config import ExperimentConfig
from nni.experiment.config.utils import unset_base_path

from nas_plugins.config.reader import read_task
from nas_plugins.errors import InputError
from nas_plugins.files import one_line
from nas_plugins.sweep.trial import merged
from nas_plugins.tasks import METRICS, Task

_SHELL = set("|&;<>$`~*?()#\n")
"""Characters that only the shell can interpret."""

_WITHOUT_MODE = ("random", "gridsearch", "batch", "batchtuner", "ppo", "ppotuner")
"""Tuners of NNI that do not read the results of trials, in lower case."""

_SCALES = ("uniform", "loguniform", "normal", "lognormal")
_TYPES = ("choice", "randint", *_SCALES, *(f"q{scale}" for scale in _SCALES))
"""Types of parameters that NNI's tuners know."""


def read_experiment(file: str | os.PathLike[str]) -> ExperimentConfig:
    """Read the config of an experiment, and check the settings of its trials.

    Args:
        file: Config file in NNI's own format.

    Raises:
        InputError: NNI refuses the config, or its command is ``nas-plugins trial`` and one of its settings, or a key of
            the search space, is wrong.
    """
    with _located(file):
        try:
            settings = ExperimentConfig.load(file).canonical_copy()
        finally:
            unset_base_path()  # NNI leaves it set when it refuses a file, and then refuses every other file
    command = settings.trial_command or ""
    if command.startswith("nas-plugins trial") and not _SHELL & set(command):
        with _located(f"{file}: trialCommand, searchSpace"), _inside(settings.trial_code_directory):
            _check_trial(shlex.split(command)[2:], settings)
    return settings


def _check_trial(arguments: list[str], settings: ExperimentConfig) -> None:
    """Read the config of a trial with these arguments and parameters drawn from the search space."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--config", "--genotype", "--sample", "--output"):
        parser.add_argument(name)
    options, overrides = parser.parse_known_args(arguments)
    if options.config is None:
        raise ValueError("nas-plugins trial needs --config FILE")
    for name, parameter in settings.search_space.items():
        if not isinstance(parameter, dict) or parameter.get("_type") not in _TYPES:  # NNI would accept and sample it
            raise ValueError(f"{name}: {parameter!r:.80} should have a _type of {', '.join(_TYPES)}")
    tuner = RandomTuner(seed=0)
    tuner.update_search_space(settings.search_space)
    chosen = tuner.generate_parameters()
    if (settings.tuner.name or "").lower().startswith("batch"):  # its only key stands for a set of parameters
        (chosen,) = chosen.values()
    job = merged(options.config, overrides, options.genotype, chosen, options.sample)
    _check_mode(read_task(options.config, job.overrides), settings)


def _check_mode(task: Task, settings: ExperimentConfig) -> None:
    """Raise a ValueError if the tuner or the assessor prefers the worst trials; unknown metrics are not checked."""
    metric = task.metric
    if metric.key not in METRICS:
        return
    right = "maximize" if metric.higher_is_better else "minimize"
    for key in ("tuner", "assessor"):
        algorithm = getattr(settings, key)
        if algorithm is None:
            continue
        usual = "maximize" if (algorithm.name or "").lower() not in _WITHOUT_MODE else right
        mode = (algorithm.class_args or {}).get("optimize_mode", right if algorithm.name is None else usual)
        if mode != right:
            raise ValueError(
                f"{key}.classArgs.optimize_mode: {mode} should be {right}, for trials report {metric.name}"
            )


@contextmanager
def _located(where: str | os.PathLike[str]) -> Iterator[None]:
    """Turn any error into an InputError whose message begins with the place of the mistake."""
    try:
        yield
    except Exception as error:  # NNI raises many kinds
        # NNI's assertions have no message; their source line says what is wrong.
        why = one_line(error) or traceback.extract_tb(error.__traceback__)[-1].line
        raise InputError(f"{where}: {why}") from None


@contextmanager
def _inside(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Change to the working directory of the trials."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
