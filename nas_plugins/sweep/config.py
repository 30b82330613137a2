"""Config file of an NNI experiment, checked before anything is started."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from nni.algorithms.hpo.random_tuner import suggest
from nni.common.hpo_utils import deformat_parameters, format_search_space, validate_search_space
from nni.experiment.config import AlgorithmConfig, CustomAlgorithmConfig, ExperimentConfig
from nni.experiment.config.utils import unset_base_path
from nni.tools.package_utils.tuner_factory import get_builtin_module_class_name

from nas_plugins.config.reader import is_search, read_retrain, read_search
from nas_plugins.config.yaml import TooLargeError, load_plain
from nas_plugins.errors import InputError
from nas_plugins.files import one_line, read_text
from nas_plugins.sweep.trial import merged

_SHELL = set("|&;<>$`~*?()#\n")
"""Characters that only the shell can interpret."""


def read_experiment(file: str | os.PathLike[str], here: bool = False) -> ExperimentConfig:
    """Read the config of an experiment, and check what would make all of its trials fail.

    Args:
        file: Config file in NNI's own format.
        here: Whether to check also what trials on this machine need: their program, their images, and NNI's folder.

    Raises:
        InputError: The file is not such a config, its tuner or assessor does not exist, its command cannot run, or
            the command is ``nas-plugins trial`` and its config, or a key of the search space, is wrong.
    """
    settings = _load(file)
    for kind in ("tuner", "assessor"):
        algorithm = getattr(settings, kind)
        if algorithm is not None:
            with _located(f"{file}: {kind}: {algorithm.name or algorithm.class_name}"):
                _import_algorithm(kind, algorithm)
    here = here and platforms(settings) == ["local"]
    if not _SHELL & set(settings.trial_command or ""):
        _check_trials(file, settings, here)
    if here:
        with _located(f"{file}: experimentWorkingDirectory"):  # NNI's manager would die without a message
            Path(settings.experiment_working_directory).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=settings.experiment_working_directory).close()
    return settings


def platforms(settings: ExperimentConfig) -> list[str]:
    """Return the names of the training services that run the trials, e.g. ``["local"]``."""
    services = settings.training_service
    return [service.platform for service in (services if isinstance(services, list) else [services])]


def _load(file: str | os.PathLike[str]) -> ExperimentConfig:
    text = read_text(Path(file))
    with _located(f"{file}: no config of an NNI experiment"):
        try:
            with suppress(TooLargeError):  # a number, which other people's trials may take
                load_plain(text)  # NNI itself takes duplicate keys, and writes out aliases without end
            return ExperimentConfig.load(file).canonical_copy()
        except AttributeError as error:
            if not error.name:
                raise
            raise ValueError(f"{error.obj!r:.80} is no section with a {error.name} that NNI knows") from None
        finally:
            unset_base_path()  # NNI leaves it set when it refuses a file, and then refuses every other file


def _import_algorithm(kind: str, algorithm: AlgorithmConfig | CustomAlgorithmConfig) -> None:
    """Import the class of a tuner or an assessor, as NNI does after the start."""
    if algorithm.name:
        module, name = get_builtin_module_class_name(f"{kind}s", algorithm.name)
        if module is None:
            raise ValueError(f"NNI has no such {kind}")
    else:
        sys.path.append(str(algorithm.code_directory))
        module, _, name = algorithm.class_name.rpartition(".")
    getattr(importlib.import_module(module), name)


def _check_trials(file: str | os.PathLike[str], settings: ExperimentConfig, here: bool) -> None:
    with _located(f"{file}: trialCommand"), _inside(settings.trial_code_directory):
        command = shlex.split(settings.trial_command or "")
        if not command or (command[0] == "nas-plugins" and command[1:2] != ["trial"]):
            raise ValueError(f"{settings.trial_command!r:.80} should be a command: nas-plugins trial --config FILE")
        if command[0] != "nas-plugins":
            if here and not _is_command(command[0]):
                raise ValueError(f"{command[0]}: no command that can be run")
            return
        options, overrides = _parse(command[2:])
        (read_search if is_search(options.config) else read_retrain)(options.config, overrides)
    if (settings.tuner.name or "").lower() in ("batch", "batchtuner"):  # its one key stands for sets of parameters
        return
    with _located(f"{file}: searchSpace"), _inside(settings.trial_code_directory):
        examples = _examples(settings.search_space)
        configs = [merged(options.config, overrides, options.genotype, chosen)[2] for chosen in examples]
    if here:
        with _located(str(file)):
            configs[0].data()


def _is_command(name: str) -> bool:
    """Return whether the shell that starts a trial knows a command: a program, a builtin, or an assignment."""
    known = ["/bin/bash", "-c", 'type -- "$1"', "bash", name]
    return "=" in name or subprocess.run(known, check=False, capture_output=True).returncode == 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split the arguments of ``nas-plugins trial`` into its options and the overrides of the config."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--config", "--genotype", "--output"):
        parser.add_argument(name)
    options, overrides = parser.parse_known_args(arguments)
    if options.config is None:
        raise ValueError("nas-plugins trial needs --config FILE")
    return options, overrides


def _examples(space: Any) -> Iterator[dict[str, Any]]:
    """Yield parameters of trials, with each value of each choice, and one value of each range, at least once."""
    if not isinstance(space, dict):
        raise ValueError(f"{space!r:.80} should have keys such as seed: {{_type: choice, _value: [0, 1]}}")
    examples = {}
    for key, spec in space.items():
        specs = [spec]
        if isinstance(spec, dict) and spec.get("_type") == "choice" and isinstance(spec.get("_value"), list):
            specs = [{"_type": "choice", "_value": [value]} for value in spec["_value"]]
        else:  # NNI's check refuses some choices that its tuners take
            validate_search_space({key: spec}, raise_exception=True)
        formatted = [format_search_space({key: one}) for one in specs]
        examples[key] = [deformat_parameters(suggest(np.random.default_rng(0), one), one)[key] for one in formatted]
    first = {key: values[0] for key, values in examples.items()}
    yield first
    for key, values in examples.items():
        yield from ({**first, key: value} for value in values[1:])


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Turn any error into an InputError whose message begins with the place of the mistake."""
    try:
        yield
    except Exception as error:  # NNI, and modules of tuners, raise many kinds
        # NNI's assertions have no message; their source line says what is wrong.
        why = one_line(error) or traceback.extract_tb(error.__traceback__)[-1].line
        raise InputError(f"{where}: {str(why).removeprefix('command line: ')}") from None


@contextmanager
def _inside(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Change to the working directory of the trials."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
