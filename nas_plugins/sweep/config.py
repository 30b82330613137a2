"""NNI's config of an experiment: read, and all that would stop its trials later said at once."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml
from nni.experiment.config import AlgorithmConfig, CustomAlgorithmConfig, ExperimentConfig
from nni.experiment.config.utils import unset_base_path
from nni.tools.package_utils.tuner_factory import get_builtin_module_class_name
from nni.utils import OptimizeMode

from nas_plugins.config.reader import Config, is_search, read_retrain, read_search
from nas_plugins.config.yaml import TooLargeError, load_plain
from nas_plugins.errors import InputError
from nas_plugins.files import one_line, read_text
from nas_plugins.runs.directory import check_output
from nas_plugins.sweep.search_space import batch, samples
from nas_plugins.sweep.trial import merged

_BATCH = ("batch", "batchtuner")
_OWN_KEYS = {
    "hyperband": "TRIAL_BUDGET",
    "bohb": "TRIAL_BUDGET",
    "pbt": "load_checkpoint_dir",
    "pbttuner": "load_checkpoint_dir",
}
"""Tuner -> a key that it gives trials besides those of the search space."""
_OF_NO_MODE = ("random", "gridsearch")
"""Tuners that take any optimize_mode, and use none."""
_MOST_VALUES = 10_000_000
"""Values in the file of an experiment, and letters: a search space may list a great many."""
_MOST = {"trial_concurrency": 10_000, "max_trial_number": 10**9}
"""The largest numbers: NNI takes any, and with more it asks its tuner for more parameters than fit into the memory."""
_OURS = "nas-plugins trial --config FILE"
_WHICH_IMAGES = (
    "dataset",
    "root",
    "download",
    "val_fraction",
    "train_images",
    "test_images",
    "image_size",
    "resized_crop",
)
"""Settings of the data on which it depends what images there are; the others do not make one unusable."""


def read_experiment(file: str | os.PathLike[str], here: bool = False) -> ExperimentConfig:
    """NNI's config of an experiment, checked, and with it what its trials would do.

    Args:
        file: the config.
        here: whether to look also for what the trials need, where they run on this machine: their program, their
            images, a folder to write to.

    Raises:
        InputError: the file is no such config; or its tuner or assessor is none, or has no such argument; or a number
            is too large; or there is no such command; or it is ``nas-plugins trial`` and a key of the search space, or
            a value, cannot be used; or something that the trials need here is not there.
    """
    settings = _load(file)
    if settings.use_annotation:
        raise InputError(f"{file}: useAnnotation: NNI 3.0 has no annotations; give a searchSpace")
    for key, most in _MOST.items():
        number = getattr(settings, key)
        if isinstance(number, bool) or (number is not None and number > most):
            raise InputError(f"{file}: {_as_written(key)}: {number} should be a whole number from 1 to {most:,}")
    _check_algorithms(file, settings)
    here = here and platforms(settings) == ["local"]
    # Where the shell has a part in it, as in redirections, what a command does is known to the shell alone.
    if not set(settings.trial_command or "") & set("|&;<>$`~*?()#\n"):
        _check_command(file, settings, here)
    if here:
        _check_working_directory(file, settings)
    return settings


def _load(file: str | os.PathLike[str]) -> ExperimentConfig:
    """What NNI reads. It writes out every alias, and there is no end to some: ours are asked first."""
    if not Path(file).is_file():
        raise InputError(f"{file}: {'a folder and no file' if Path(file).is_dir() else 'there is no such file'}")
    refused = f"{file}: no config of an NNI experiment"
    try:
        _check_yaml(read_text(Path(file)))
        settings = ExperimentConfig.load(file)
        if isinstance(settings.search_space_file, str):
            space = Path(file).parent / Path(settings.search_space_file).expanduser()
            _check_space_file(f"{file}: searchSpaceFile: {space}", space)
        return settings.canonical_copy()
    except InputError:
        raise
    except AssertionError as error:  # NNI says no more of a number that is wrong
        raise InputError(f"{refused}: {one_line(error) or _asserted(error)}") from None
    except Exception as error:  # NNI raises many kinds
        why = one_line(error) or type(error).__name__
        if isinstance(error, AttributeError) and error.name:  # what NNI could not read as a section
            why = f"{_shown(error.obj)} is no section with a {error.name} that NNI knows"
        raise InputError(f"{refused}: {why}") from None
    finally:
        unset_base_path()  # NNI forgets to where it refuses a file, and then fails at every other one


def _asserted(error: AssertionError) -> str:
    """What NNI asserts of a value of a section, and that value."""
    frame, _ = [*traceback.walk_tb(error.__traceback__)][-1]
    line = traceback.extract_tb(error.__traceback__)[-1].line or ""
    found = re.search(r"self\.(\w+)", line)
    if found is None:
        return f"NNI does not take it: {line}"
    value = getattr(frame.f_locals.get("self"), found[1], None)
    return f"{_as_written(found[1])}: {_shown(value)}: NNI asserts {line.removeprefix('assert ').replace('self.', '')}"


def _check_yaml(text: str) -> None:
    """Raise a YAMLError where a YAML has aliases without end, or a key twice."""
    with suppress(TooLargeError):  # a number, which is the trials' own concern
        load_plain(text, _MOST_VALUES)


def _check_space_file(where: str, file: Path) -> None:
    """Raise an InputError where a file of a search space is none that NNI can read."""
    if not file.is_file():
        raise InputError(f"{where}: there is no such file")
    text = read_text(file)
    try:
        with suppress(ValueError):  # NNI takes it for YAML then
            json.loads(text)
            return
        _check_yaml(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{where}: cannot be read: {one_line(error)}") from None


def _as_written(key: str) -> str:
    """``trial_concurrency`` -> ``trialConcurrency``."""
    first, *others = key.split("_")
    return first + "".join(word.capitalize() for word in others)


def _shown(value: object) -> str:
    return "null" if value is None else f"{value!r:.80}"


def platforms(settings: ExperimentConfig) -> list[str]:
    """Where the trials run: local, remote or another of NNI's training services."""
    services = settings.training_service
    return [service.platform for service in (services if isinstance(services, list) else [services])]


def _check_working_directory(file: str | os.PathLike[str], settings: ExperimentConfig) -> None:
    """NNI's manager that cannot make it dies without a word."""
    folder = Path(settings.experiment_working_directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        why = None if os.access(folder, os.W_OK) else "may not be written to"
    except OSError as error:
        why = f"cannot be made: {error.strerror}"
    if why is not None:
        raise InputError(f"{file}: experimentWorkingDirectory: {folder} {why}")


def _check_command(file: str | os.PathLike[str], settings: ExperimentConfig, here: bool) -> None:
    """What the trials run, and what is known of it before they do."""
    where = f"{file}: trialCommand"
    try:
        command = shlex.split(settings.trial_command or "")
    except ValueError as error:
        raise InputError(f"{where}: {settings.trial_command!r}: {one_line(error)}") from None
    if not command:
        raise InputError(f"{where}: {settings.trial_command!r} should be a command, such as {_OURS}")
    if command[0] != "nas-plugins":
        if here and not _is_command(command[0], settings.trial_code_directory):
            raise InputError(f"{where}: {command[0]}: no command that can be run")
        return
    if command[1:2] != ["trial"]:
        raise InputError(f"{where}: {settings.trial_command!r:.80} should be {_OURS}")
    options, given = _options(where, command[2:])
    configs = _configs(file, settings, options, given)
    if here:
        if options.output is not None:
            try:
                with _inside(Path(settings.trial_code_directory)):
                    check_output(Path(options.output, "EXPERIMENT"))
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
        _check_images(file, configs)


def _is_command(name: str, folder: str | os.PathLike[str]) -> bool:
    """Whether the shell in which a trial begins knows a command: a program, or one of its own words."""
    known = ["/bin/bash", "-c", 'type -- "$1"', "bash", name]
    return "=" in name or subprocess.run(known, check=False, cwd=folder, capture_output=True).returncode == 0


def _options(where: str, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="trialCommand", add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--config", "--genotype", "--output"):
        parser.add_argument(name)
    try:
        options, given = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError(f"{where}: {one_line(error)}") from None
    if options.config is None:
        raise InputError(f"{where}: nas-plugins trial needs --config FILE")
    return options, given


def _configs(
    file: str | os.PathLike[str], settings: ExperimentConfig, options: argparse.Namespace, given: list[str]
) -> list[Config]:
    """The configs that trials have with the values of the search space, each value once at least."""
    tuner = (settings.tuner.name or "").lower()
    if tuner in _OWN_KEYS:
        raise InputError(
            f"{file}: tuner: {settings.tuner.name}: gives each trial a key {_OWN_KEYS[tuner]}, which is none of its "
            "config; choose another tuner, such as TPE"
        )
    found = []
    with _inside(Path(settings.trial_code_directory)):
        for chosen in (batch if tuner in _BATCH else samples)(f"{file}: searchSpace", settings.search_space):
            try:
                _, _, config = merged(options.config, given, options.genotype, chosen)
            except ValueError as error:
                where = "searchSpace"
                try:
                    (read_search if is_search(options.config) else read_retrain)(options.config, given)
                except ValueError:
                    where = "trialCommand"
                raise InputError(f"{file}: {where}: {one_line(error).removeprefix('command line: ')}") from None
            found.append(config)
    return found


def _check_algorithms(file: str | os.PathLike[str], settings: ExperimentConfig) -> None:
    """Find the classes, and whether they take their arguments. They are not made: that may be done only once."""
    for kind in ("tuner", "assessor"):
        algorithm = getattr(settings, kind)
        if algorithm is None:
            continue
        try:
            arguments = algorithm.class_args or {}
            inspect.signature(_class_of(algorithm, kind)).bind(**arguments)
            if algorithm.name and algorithm.name.lower() not in _OF_NO_MODE and "optimize_mode" in arguments:
                OptimizeMode(arguments["optimize_mode"])
        except (Exception, SystemExit) as error:  # whatever a module of anybody's raises
            name = algorithm.name or algorithm.class_name
            raise InputError(f"{file}: {kind}: {name}: {one_line(error) or type(error).__name__}") from None


def _class_of(algorithm: AlgorithmConfig | CustomAlgorithmConfig, kind: str) -> type:
    if algorithm.name:
        module, name = get_builtin_module_class_name(f"{kind}s", algorithm.name)
        if module is None:
            raise ValueError(f"NNI has no such {kind}")
    else:
        sys.path.append(str(algorithm.code_directory))  # as NNI does
        module, _, name = algorithm.class_name.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _check_images(file: str | os.PathLike[str], configs: Iterable[Config]) -> None:
    """Look at the images of all trials: each of them would fail, one after the other."""
    seen: list[object] = []
    for config in configs:
        images = [config.values["data"][key] for key in _WHICH_IMAGES]
        if images not in seen:
            seen.append(images)
            try:
                config.data().prepare()
            except InputError as error:
                raise InputError(f"{file}: {error}") from None


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in the folder in which the trials will."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
