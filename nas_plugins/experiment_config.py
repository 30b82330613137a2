"""NNI's config of an experiment: read, and all that would stop its trials later said at once."""

from __future__ import annotations

import argparse
import importlib
import inspect
import itertools
import math
import os
import shlex
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nni.common.hpo_utils import validate_search_space
from nni.experiment.config import AlgorithmConfig, CustomAlgorithmConfig, ExperimentConfig
from nni.experiment.config.utils import unset_base_path
from nni.tools.package_utils.tuner_factory import get_builtin_module_class_name

from nas_plugins.config import Config, is_search, read_retrain, read_search
from nas_plugins.errors import InputError
from nas_plugins.tables import one_line
from nas_plugins.trial import merged

_BATCH = ("batch", "batchtuner")
_OWN_KEYS = {
    "hyperband": "TRIAL_BUDGET",
    "bohb": "TRIAL_BUDGET",
    "pbt": "load_checkpoint_dir",
    "pbttuner": "load_checkpoint_dir",
}
"""Tuner -> a key that it gives trials besides those of the search space."""
_WHICH_IMAGES = ("dataset", "root", "download", "held_out", "train_images", "test_images", "image_size", "resized_crop")
"""Settings of the data on which it depends what images there are; the others do not make one unusable."""


def read_experiment(file: str | os.PathLike[str], images: bool = False) -> ExperimentConfig:
    """NNI's config of an experiment, checked, and with it what its trials would do.

    Args:
        file: the config.
        images: whether to look at the images of the trials too, where they run on this machine.

    Raises:
        InputError: the file is no such config; or its tuner or assessor is none, or has no such argument; or its
            trialCommand is ``nas-plugins trial`` and a key of the search space, or a value, cannot be used.
    """
    if not Path(file).is_file():
        raise InputError(f"{file}: {'a folder and no file' if Path(file).is_dir() else 'there is no such file'}")
    try:
        settings = ExperimentConfig.load(file).canonical_copy()
        command = shlex.split(settings.trial_command or "")
    except AssertionError as error:  # NNI says no more of a number that is wrong
        asserted = traceback.extract_tb(error.__traceback__)[-1].line or ""
        why = one_line(error) or f"NNI asserts {asserted.removeprefix('assert self.')}"
        raise InputError(f"{file}: no config of an NNI experiment: {why}") from None
    except Exception as error:  # NNI raises many kinds
        why = one_line(error) or type(error).__name__
        if isinstance(error, AttributeError) and error.obj is not None:  # what NNI could not read as a section
            why = f"{error.obj!r:.80} is no section with a {error.name} that NNI knows"
        raise InputError(f"{file}: no config of an NNI experiment: {why}") from None
    finally:
        unset_base_path()  # NNI forgets to where it refuses a file, and then fails at every other one
    if settings.use_annotation:
        raise InputError(f"{file}: useAnnotation: NNI 3.0 has no annotations; give a searchSpace")
    _check_algorithms(file, settings)
    # Where the shell has a part in it, as in redirections, what a command does is known to the shell alone.
    if command[:2] == ["nas-plugins", "trial"] and not set(settings.trial_command) & set("|&;<>$`~*?"):
        configs = _configs(file, settings, command[2:])
        if images and platforms(settings) == ["local"]:
            _check_images(file, configs)
    return settings


def platforms(settings: ExperimentConfig) -> list[str]:
    """Where the trials run: local, remote or another of NNI's training services."""
    services = settings.training_service
    return [service.platform for service in (services if isinstance(services, list) else [services])]


def _configs(file: str | os.PathLike[str], settings: ExperimentConfig, arguments: list[str]) -> list[Config]:
    """The configs that trials have with the values of the search space, each value once at least."""
    parser = argparse.ArgumentParser(prog="trialCommand", add_help=False, allow_abbrev=False)
    for name in ("--config", "--genotype", "--output"):
        parser.add_argument(name)
    options, given = parser.parse_known_args(arguments)
    if options.config is None:
        raise InputError(f"{file}: trialCommand: nas-plugins trial needs --config FILE")
    tuner = (settings.tuner.name or "").lower()
    if tuner in _OWN_KEYS:
        raise InputError(
            f"{file}: tuner: {settings.tuner.name}: gives each trial a key {_OWN_KEYS[tuner]}, which is none of its "
            "config; choose another tuner, such as TPE"
        )
    found = []
    with _inside(Path(settings.trial_code_directory)):
        for chosen in (_batch if tuner in _BATCH else _samples)(f"{file}: searchSpace", settings.search_space):
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
            inspect.signature(_class_of(algorithm, kind)).bind(**(algorithm.class_args or {}))
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


def _batch(where: str, space: Any) -> list[dict[str, Any]]:
    """What NNI's BatchTuner gives: the values of its one choice, each of which has all keys."""
    specs = list(space.values()) if isinstance(space, Mapping) else []
    values = specs[0].get("_value") if len(specs) == 1 and isinstance(specs[0], Mapping) else None
    if not isinstance(values, list) or not all(isinstance(value, Mapping) for value in values):
        right = "{combine_params: {_type: choice, _value: [{seed: 0}, {seed: 1}]}}"
        raise InputError(f"{where}: {space!r:.80} should be one choice between objects with keys, such as {right}")
    return [dict(value) for value in values]


def _samples(where: str, space: Any) -> Iterator[dict[str, Any]]:
    """Parameters with every value of every choice, and the bounds of every range, or its middle, at least once."""
    if not isinstance(space, Mapping):
        raise InputError(f"{where}: {space!r} should have keys such as seed: {{_type: choice, _value: [0, 1]}}")
    values = {key: _values(f"{where}: {key}", spec) for key, spec in space.items()}
    first = {key: given[0] for key, given in values.items()}
    yield first
    for key, given in values.items():
        yield from ({**first, key: value} for value in given[1:])


def _values(where: str, spec: Any) -> list[Any]:
    if not isinstance(spec, Mapping) or not isinstance(spec.get("_value"), list) or not spec["_value"]:
        raise InputError(f"{where}: {spec!r} should have _type and _value, such as {{_type: choice, _value: [0, 1]}}")
    given = spec["_value"]
    if spec.get("_type") == "choice":
        return list(itertools.chain.from_iterable(_choices(where, value) for value in given))
    try:
        validate_search_space({where: dict(spec)}, raise_exception=True)
    except ValueError as error:
        raise InputError(one_line(error)) from None
    if spec["_type"] == "randint":
        return [given[0], given[1] - 1]
    if "normal" in spec["_type"]:  # which has no bounds: the middle
        return [math.exp(min(given[0], 700)) if "log" in spec["_type"] else float(given[0])]
    return [float(number) for number in given[:2]]


def _choices(where: str, value: Any) -> Iterator[Any]:
    if not isinstance(value, Mapping):
        yield value
        return
    if "_name" not in value:
        raise InputError(f"{where}: {value!r} should have a _name, as a nested choice of NNI's")
    nested = {key: spec for key, spec in value.items() if key != "_name"}
    for sample in _samples(where, nested):
        yield {"_name": value["_name"], **sample}


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in the folder in which the trials will."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
