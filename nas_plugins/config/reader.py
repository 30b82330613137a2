"""Read a YAML config, apply command-line overrides and check every key and value."""

from __future__ import annotations

import difflib
import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy

from nas_plugins import plugins
from nas_plugins.config.schema import MAX_NUMBER, MAX_RATE, MAX_VALUES, Compute, NetworkConfig, Training
from nas_plugins.config.signatures import arguments, nullable, unwrapped
from nas_plugins.config.yaml import TooLargeError, load_plain
from nas_plugins.data.module import ImageData
from nas_plugins.errors import InputError
from nas_plugins.files import one_line
from search_spaces.deprecation import renamed_arguments_of

FROM_DATA = ("num_classes", "image_channels", "image_size")
"""Arguments of a space that are set from the data, not from the config."""

_INTERNAL = {"mutation_hooks", "model_space", "engine"}
"""Arguments of NNI's strategies that a config cannot express."""

_COMMANDS = {"space": "search", "strategy": "search", "network": "retrain"}
"""The command that each section belongs to."""

_COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Config:
    """Checked settings of a search or a retraining.

    Args:
        values: All settings by section and key, as in the config file of the run.
        training: The section training.
        compute: The section compute.
        derived: The section network of a retraining; None in a search.
    """

    values: Mapping[str, Any]
    training: Training
    compute: Compute
    derived: NetworkConfig | None = None

    @property
    def seed(self) -> int:
        """Return the seed of all random numbers."""
        return self.values["seed"]

    @property
    def kind(self) -> dict[str, Any]:
        """Return the settings that define what is trained, for example ``{"strategy.name": "EDAS"}``."""
        sections = {name: self.values[name] for name in ("space", "strategy", "network") if name in self.values}
        return _flat(sections)

    def data(self) -> ImageData:
        """Return the prepared data set.

        Raises:
            InputError: Images are missing, broken or too few.
        """
        data = ImageData(**self.values["data"])
        data.prepare()
        return data

    def build(self, kind: plugins.Kind, **from_data: Any) -> Any:
        """Instantiate the space or the strategy.

        Args:
            kind: ``"space"`` or ``"strategy"``.
            from_data: Arguments known from the data; those that the class does not take are dropped.

        Raises:
            InputError: The class refuses its arguments.
        """
        given = dict(self.values[kind])
        found = plugins.find(kind, given.pop("name"))
        known = arguments(found)
        for key, value in given.items():  # YAML has no tuples
            if isinstance(value, list) and isinstance(known[key].default, tuple):
                given[key] = tuple(value)
        given |= {key: value for key, value in from_data.items() if key in known}
        try:
            return found(**given)
        except (ValueError, TypeError, AssertionError, RuntimeError) as error:  # RuntimeError: out of memory
            raise InputError(f"{kind}: {one_line(error)}") from error

    def to_yaml(self) -> str:
        """Return the text of a config file with these settings."""
        return yaml.safe_dump(_plain(self.values), sort_keys=False, allow_unicode=True)


def read_search(file: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read the config of a search.

    Args:
        file: YAML file with the sections space, strategy, data, training and compute.
        overrides: ``--key value`` pairs, which take precedence over the file.

    Raises:
        InputError: A key is unknown or a value is wrong; the message names the key.
    """
    given, origin = _merged(file, overrides, "search")
    space, strategy = (_name(kind, given, default) for kind, default in (("space", "DartsSpace"), ("strategy", "EDAS")))
    sections = {"space": plugins.find("space", space), "strategy": plugins.find("strategy", strategy)}
    if not issubclass(sections["strategy"], OneShotStrategy):
        raise InputError(f"strategy.name: {strategy} is a multi-trial strategy; search takes one-shot ones")
    _rename(given, origin, sections)
    parser = _search_parser((space, sections["space"]), (strategy, sections["strategy"]))
    return _check(parser, sections, given, origin)


def read_retrain(file: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read the config of a retraining.

    Args:
        file: YAML file with the sections network, data, training and compute.
        overrides: ``--key value`` pairs, which take precedence over the file.

    Raises:
        InputError: A key is unknown or a value is wrong; the message names the key.
    """
    parser = _parser()
    parser.add_class_arguments(NetworkConfig, "network")
    given, origin = _merged(file, overrides, "retrain")
    _rename(given, origin, {})
    return _check(parser, {"network": NetworkConfig}, given, origin)


def is_search(file: str | os.PathLike[str]) -> bool:
    """Return True for the config of a search, False for that of a retraining.

    Raises:
        InputError: The file is neither.
    """
    sections = _load(file)
    if "network" not in sections and "strategy" not in sections:
        raise InputError(f"{file}: not the config of a run: it has neither a strategy nor a network")
    return "strategy" in sections


@cache
def _search_parser(space: tuple[str, type], strategy: tuple[str, type]) -> ArgumentParser:
    """Return the parser for a space and a strategy; cached, because a sweep reads many configs of one pair."""
    parser = _parser()
    for section, (name, found) in {"space": space, "strategy": strategy}.items():
        parser.add_argument(f"--{section}.name", type=str, default=name)
        written = unwrapped(found) if issubclass(found, ModelSpace) else found
        try:
            parser.add_class_arguments(written, section, skip={*FROM_DATA, *_INTERNAL} & set(arguments(found)))
        except ValueError as error:
            reason = f"{found.__name__} has an argument that no config can hold: {one_line(error)}"
            raise InputError(f"{section}.name: {reason}") from error
    return parser


def _parser() -> ArgumentParser:
    """Return a parser for the sections that a search and a retraining share."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, add_help=False)
    parser.add_argument("--seed", type=NonNegativeInt, default=0)
    parser.add_class_arguments(ImageData, "data")
    parser.add_class_arguments(Training, "training")
    parser.add_class_arguments(Compute, "compute")
    return parser


def _load(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a config file."""
    try:
        given = load_plain(Path(file).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not YAML of a config: {one_line(error)}") from None
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise InputError(f"{file}: should hold keys such as seed, data and training, not {given!r:.60}")
    if "trialCommand" in given:
        raise InputError(f"{file}: an NNI experiment, no config of a run; nas-plugins launch --config {file} runs it")
    return given


def _read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values of ``--key value`` and ``--key=value`` by key."""
    values = {}
    arguments = iter(overrides)
    for argument in arguments:
        key, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not key:
            raise InputError(f"{_COMMAND_LINE}: {argument!r} should be --KEY VALUE, such as --training.epochs 5")
        if not equals:
            text = next(arguments, "")
            if not text or text.startswith("--"):
                raise InputError(f"{_COMMAND_LINE}: --{key} has no value")
        try:
            values[key] = load_plain(text)
        except TooLargeError:
            raise InputError(f"{key}: {text:.40} should be of at most 64 bits") from None
        except yaml.YAMLError:
            values[key] = text
    return values


def _merged(
    file: str | os.PathLike[str], overrides: Sequence[str], command: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings of a file with the overrides applied, and the origin of each key for error messages."""
    values = {key: dict(value) if isinstance(value, Mapping) else value for key, value in _load(file).items()}
    commands = {_COMMANDS[section]: section for section in values if section in _COMMANDS}
    if commands and command not in commands:
        ((other, section),) = commands.items()
        raise InputError(f"{file}: has a section {section}, which is for nas-plugins {other}, not for {command}")
    origin = dict.fromkeys(_flat(values), str(file))
    for key, value in _read_overrides(overrides).items():
        origin |= dict.fromkeys([key, *_flat({key: value})], _COMMAND_LINE)
        section, dot, name = key.partition(".")
        if not dot:
            values[section] = value
        elif isinstance(values.setdefault(section, {}), dict):
            values[section][name] = value
    return values, origin


def _rename(values: dict[str, Any], origin: dict[str, str], sections: Mapping[str, type]) -> None:
    """Replace renamed keys by their new names, in place, with a warning for each."""
    for section, kind in {**sections, "data": ImageData}.items():
        given = values.get(section)
        for old, new in renamed_arguments_of(kind).items():
            if isinstance(given, dict) and old in given:
                where = origin.pop(f"{section}.{old}")
                warnings.warn(f"{where}: {section}.{old} is now called {section}.{new}", FutureWarning, stacklevel=2)
                value = given.pop(old)
                # The command line wins over the file, whichever name either uses.
                if new not in given or (where == _COMMAND_LINE != origin.get(f"{section}.{new}")):
                    given[new], origin[f"{section}.{new}"] = value, where


def _name(kind: str, values: Mapping[str, Any], default: str) -> str:
    """Return the class name in a section, which determines the other keys of the section."""
    section = values.get(kind)
    name = section.get("name", default) if isinstance(section, Mapping) else default
    if not isinstance(name, str):
        raise InputError(f"{kind}.name: {name!r} should be the name of a {kind}")
    return name


def _check(
    parser: ArgumentParser, sections: Mapping[str, type], values: Mapping[str, Any], origin: Mapping[str, str]
) -> Config:
    """Check all settings and fill in the defaults."""
    known = _flat(parser.get_defaults(skip_validation=True).as_dict())
    _check_keys(values, known, origin)
    try:
        parsed = _plain(parser.parse_object(dict(values)).as_dict())
    except ArgumentError as error:
        raise InputError(_type_error(error)) from None
    sections = {**sections, "data": ImageData, "training": Training, "compute": Compute}
    may_be_null = {f"{section}.{name}" for section, found in sections.items() for name in nullable(found)}
    for key, value in _flat(parsed).items():
        if value is None and key not in may_be_null:
            raise InputError(f"{key}: null should be a value, for example {known.get(key)!r}")
        _check_number(key, value)
    # Absolute paths, so that a run can be resumed from any working directory.
    parsed["data"]["root"] = os.path.abspath(os.path.expanduser(parsed["data"]["root"]))
    baseline = parsed.get("space", {}).get("baseline")
    if isinstance(baseline, str) and os.path.isfile(baseline):
        parsed["space"]["baseline"] = os.path.abspath(baseline)
    network = NetworkConfig(**parsed["network"]) if "network" in parsed else None
    return Config(parsed, Training(**parsed["training"]), Compute(**parsed["compute"]), network)


def _check_number(key: str, value: Any) -> None:
    """Raise an InputError for a number that is not finite or exceeds the limit of its key."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{key}: {value} should be a finite number")
    limit = MAX_VALUES.get(key, MAX_RATE if key.endswith(("learning_rate", "weight_decay")) else MAX_NUMBER)
    # ImageData checks the limits of its own arguments.
    if isinstance(value, (int, float)) and abs(value) > limit and not key.startswith("data."):
        right = f"at most {limit:,}" if value > 0 else f"at least {-limit:,}"
        raise InputError(f"{key}: {value} should be {right}")


def _type_error(error: ArgumentError) -> str:
    """Return jsonargparse's message for a wrong value on one short line; of a union, only the reasons of its types."""
    message = re.sub(r"<class '([\w.]+)'>", r"\1", one_line(error))
    return re.sub(r'^Parser key "([^"]+)": (?:.* Errors: - )?', r"\1: ", message)[:240]


def _check_keys(values: Mapping[str, Any], known: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    """Raise an InputError for the first unknown key, with a suggestion."""
    for section in {key.partition(".")[0] for key in known if "." in key} & set(values):
        if not isinstance(values[section], dict):
            example = next(key for key in known if key.startswith(f"{section}."))
            where = origin.get(section, _COMMAND_LINE)
            raise InputError(f"{where}: {section}: {values[section]!r} should be a section with keys such as {example}")
    for key in (key for key in _flat(values) if key not in known):
        section, _, setting = key.partition(".")
        if section == "space" and setting in FROM_DATA:
            raise InputError(f"{origin[key]}: {key} is no key: it comes from the images")
        if origin[key] != _COMMAND_LINE == origin.get(f"{section}.name"):
            name = values[section]["name"]
            hint = f"{name} has no such key; --{section} '{{name: {name}}}' replaces the whole section of the file"
            raise InputError(f"{origin[key]}: {key}: {hint}")
        same_name = [name for name in known if name.rpartition(".")[2] == key]
        close = same_name or difflib.get_close_matches(key, known, n=1)
        near = [name for name in known if name.startswith(f"{section}.")]
        top = dict.fromkeys(name.partition(".")[0] for name in known)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(near or top)}"
        raise InputError(f"{origin[key]}: unknown key {key}; {hint}")


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by dotted key: ``{"training": {"epochs": 5}}`` becomes ``{"training.epochs": 5}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": item for name, item in value.items()}
        else:
            flat[str(key)] = value
    return flat


def _plain(value: Any, key: str = "") -> Any:
    """Return a value in plain YAML types: mapping, list, text, number, boolean or null."""
    if isinstance(value, (Mapping, Namespace)):
        return {str(name): _plain(item, f"{key}.{name}".lstrip(".")) for name, item in dict(value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, key) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    for plain in (int, float, str):
        if isinstance(value, plain):
            return plain(value)
    raise InputError(f"{key}: {value!r} should be what YAML can write: a number, a text, a boolean, null or a list")
