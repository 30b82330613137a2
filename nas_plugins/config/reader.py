"""Config file -> checked settings. Files are YAML; every key can be overridden on the command line."""

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
"""Arguments of a space that the images decide."""


_INTERNAL = {"mutation_hooks", "model_space", "engine"}
"""Arguments of NNI's strategies that no config file can hold."""


_WANTED = re.compile(r"(?:Expected a|Not of type) (?:<class ')?(?:typing\.Literal\[(.*?)\]|(tuple with 2|[\w.]+))")
"""How jsonargparse names the types of a value: as choices, or by a name."""


_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "NoneType": "null",
    "list": "a list",
    "tuple": "a list",
    "tuple with 2": "a list of two",
    "collections.abc.Sequence": "a list",
    "dict": "a section",
    "PositiveInt": "a whole number above 0",
    "NonNegativeInt": "a whole number of at least 0",
    "PositiveFloat": "a number above 0",
    "NonNegativeFloat": "a number of at least 0",
    "ClosedUnitInterval": "a number from 0 to 1",
}
"""The name of a type -> what a person calls its values."""


_COMMANDS = {"space": "search", "strategy": "search", "network": "retrain"}
"""Section of a config -> the command that it is for."""


_COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Config:
    """Checked settings of a search or a retraining.

    Args:
        values: all keys, nested, as the config file of the run has them.
        training, compute: two of its sections.
        derived: the section of a retraining, None in a search.
    """

    values: Mapping[str, Any]
    training: Training
    compute: Compute
    derived: NetworkConfig | None = None

    @property
    def seed(self) -> int:
        """The seed of everything random."""
        return self.values["seed"]

    @property
    def kind(self) -> dict[str, Any]:
        """The settings that decide what is trained, such as {"strategy.name": "EDAS"}."""
        sections = {name: self.values[name] for name in ("space", "strategy", "network") if name in self.values}
        return _flat(sections)

    def data(self) -> ImageData:
        """The images, checked.

        Raises:
            InputError: they are missing, broken or too few.
        """
        data = ImageData(**self.values["data"])
        data.prepare()
        return data

    def build(self, kind: plugins.Kind, **from_data: Any) -> Any:
        """The space or the strategy.

        Args:
            kind: which of the two.
            from_data: what the images decide; of these it gets what it takes.

        Raises:
            InputError: it refuses its arguments.
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
        except (ValueError, TypeError, AssertionError, RuntimeError) as error:  # also: no memory for it
            raise InputError(f"{kind}: {one_line(error)}") from error

    def to_yaml(self) -> str:
        """The text of a config file that repeats this."""
        return yaml.safe_dump(_plain(self.values), sort_keys=False, allow_unicode=True)


def read_search(file: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """The config of a search.

    Args:
        file: YAML with the sections space, strategy, data, training and compute.
        overrides: ``--key value`` pairs that win over the file.

    Raises:
        InputError: a key is unknown or a value is wrong; the message names it.
    """
    given, origin = _merged(file, overrides, "search")
    space, strategy = (_name(kind, given, default) for kind, default in (("space", "DartsSpace"), ("strategy", "EDAS")))
    sections = {"space": plugins.find("space", space), "strategy": plugins.find("strategy", strategy)}
    if not issubclass(sections["strategy"], OneShotStrategy):
        raise InputError(f"strategy.name: {strategy} is a multi-trial strategy; search takes one-shot ones")
    _rename(given, origin, sections)
    parser = _search_parser((space, sections["space"]), (strategy, sections["strategy"]))
    values = _parse(parser, sections, given, origin)
    return Config(values, Training(**values["training"]), Compute(**values["compute"]))


def read_retrain(file: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """The config of a retraining: as :func:`read_search`, with a section network in place of space and strategy."""
    parser = _parser()
    parser.add_class_arguments(NetworkConfig, "network")
    given, origin = _merged(file, overrides, "retrain")
    _rename(given, origin, {})
    values = _parse(parser, {"network": NetworkConfig}, given, origin)
    return Config(
        values, Training(**values["training"]), Compute(**values["compute"]), NetworkConfig(**values["network"])
    )


def is_search(file: str | os.PathLike[str]) -> bool:
    """Whether the config file of a run is that of a search.

    Raises:
        InputError: it is that of neither a search nor a retraining.
    """
    sections = _load(file)
    if "network" not in sections and "strategy" not in sections:
        raise InputError(f"{file}: not the config of a run: it has neither a strategy nor a network")
    return "strategy" in sections


@cache
def _search_parser(space: tuple[str, type], strategy: tuple[str, type]) -> ArgumentParser:
    """Made once for each pair: an experiment reads a config for each value of its search space."""
    parser = _parser()
    for section, (name, found) in {"space": space, "strategy": strategy}.items():
        parser.add_argument(f"--{section}.name", type=str, default=name)
        _add(parser, found, section, skip={*FROM_DATA, *_INTERNAL})
    return parser


def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, add_help=False)
    parser.add_argument("--seed", type=NonNegativeInt, default=0)
    _add(parser, ImageData, "data", skip=set())
    parser.add_class_arguments(Training, "training")
    parser.add_class_arguments(Compute, "compute")
    return parser


def _add(parser: ArgumentParser, found: type, section: str, skip: set[str]) -> None:
    skip = skip & set(arguments(found))
    try:
        parser.add_class_arguments(unwrapped(found) if issubclass(found, ModelSpace) else found, section, skip=skip)
    except ValueError as error:
        reason = f"{found.__name__} has an argument that no config can hold"
        raise InputError(f"{section}.name: {reason}: {' '.join(str(error).split())}") from error


def _load(file: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        given = load_plain(Path(file).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not YAML of a config: {one_line(error)}") from None
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise InputError(f"{file}: should hold keys such as seed, data and training, not {given!r:.60}")
    if "trialCommand" in given:
        raise InputError(f"{file}: an NNI experiment, no config of a run; nas-plugins launch --config {file} runs it")
    return given


def _read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """``--key value`` and ``--key=value`` -> {key: value}."""
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
        except yaml.YAMLError:
            values[key] = text
    return values


def _merged(
    file: str | os.PathLike[str], overrides: Sequence[str], command: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings of a file for this command with the overrides in place, and key -> where it was given."""
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
    """Give keys that were renamed their new names, in place, with a warning for each."""
    for section, kind in {**sections, "data": ImageData}.items():
        given = values.get(section)
        for old, new in renamed_arguments_of(kind).items():
            if isinstance(given, dict) and old in given:
                where = origin.pop(f"{section}.{old}")
                warnings.warn(f"{where}: {section}.{old} is now called {section}.{new}", FutureWarning, stacklevel=2)
                given.setdefault(new, given.pop(old))
                origin.setdefault(f"{section}.{new}", where)


def _name(kind: str, values: Mapping[str, Any], default: str) -> str:
    """The class that a section names, which decides what other keys the section has."""
    section = values.get(kind)
    name = section.get("name", default) if isinstance(section, Mapping) else default
    if not isinstance(name, str):
        raise InputError(f"{kind}.name: {name!r} should be the name of a {kind}")
    return name


def _parse(
    parser: ArgumentParser, sections: Mapping[str, type], values: Mapping[str, Any], origin: Mapping[str, str]
) -> dict[str, Any]:
    known = _flat(parser.get_defaults(skip_validation=True).as_dict())
    _check_keys(values, known, origin)
    _check_texts({key: value for key, value in _flat(values).items() if not isinstance(known[key], str)})
    try:
        parsed = _plain(parser.parse_object(dict(values)).as_dict())
    except ArgumentError as error:
        raise InputError(_readable_error(error, _flat(values))) from None
    sections = {**sections, "data": ImageData, "training": Training, "compute": Compute}
    may_be_null = {f"{section}.{name}" for section, found in sections.items() for name in nullable(found)}
    for key, value in _flat(parsed).items():
        if value is None and key not in may_be_null:
            raise InputError(f"{key}: null should be a value, such as {known.get(key)!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{key}: {value} should be a finite number")
        most = MAX_VALUES.get(key, MAX_RATE if key.endswith(("learning_rate", "weight_decay")) else MAX_NUMBER)
        # Not of the images, which know their own limits.
        if isinstance(value, (int, float)) and abs(value) > most and not key.startswith("data."):
            limit = f"at most {most:,}" if value > 0 else f"at least {-most:,}"
            raise InputError(f"{key}: {value!s:.80} should be {limit}")
    # The config of a run must find its files from whatever folder it is resumed.
    parsed["data"]["root"] = os.path.abspath(os.path.expanduser(parsed["data"]["root"]))
    baseline = parsed.get("space", {}).get("baseline")
    if isinstance(baseline, str) and os.path.isfile(baseline):
        parsed["space"]["baseline"] = os.path.abspath(baseline)
    return parsed


def _readable_error(error: ArgumentError, given: Mapping[str, Any]) -> str:
    """What jsonargparse says of a value of the wrong type, without the names of Python's types."""
    message = " ".join(str(error).split()).replace('Parser key "', "").replace('":', ":", 1).removeprefix("argument --")
    key = message.partition(":")[0]
    wanted = [
        "one of " + choices.replace("'", "") if choices else _WORDS[name]
        for choices, name in _WANTED.findall(message)
        if choices or name in _WORDS
    ]
    if key not in given or not wanted:
        return message
    value = f"{given[key]!r:.80}"
    item = message.partition("Got value: ")[2]
    if item and isinstance(given[key], list) and item != " ".join(str(given[key]).split()):
        value = f"{item:.40} in {value}"
    return f"{key}: {value} should be {' or '.join(dict.fromkeys(wanted))}"


def _check_keys(values: Mapping[str, Any], known: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    sections = {key.partition(".")[0] for key in known if "." in key}
    for section in sections & set(values):
        if not isinstance(values[section], dict):
            example = next(key for key in known if key.startswith(f"{section}."))
            where = origin.get(section, _COMMAND_LINE)
            raise InputError(f"{where}: {section}: {values[section]!r} should be a section with keys such as {example}")
    for key in _flat(values):
        if key in known:
            continue
        section, _, setting = key.partition(".")
        if section == "space" and setting in FROM_DATA:
            raise InputError(f"{origin[key]}: {key} is no key: it comes from the images")
        if origin[key] != _COMMAND_LINE == origin.get(f"{section}.name"):
            name = values[section]["name"]
            hint = f"{name} has no such key; --{section} '{{name: {name}}}' replaces the whole section of the file"
            raise InputError(f"{origin[key]}: {key}: {hint}")
        same = [name for name in known if name.rpartition(".")[2] == key]
        close = same or difflib.get_close_matches(key, known, n=1)
        near = [name for name in known if name.startswith(f"{section}.")]
        top = dict.fromkeys(name.partition(".")[0] for name in known)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(near or top)}"
        raise InputError(f"{origin[key]}: unknown key {key}; {hint}")


def _check_texts(values: Mapping[str, Any]) -> None:
    """Refuse texts that jsonargparse would make numbers of which it, or PyTorch, can take none."""
    for key, value in values.items():
        for text in value if isinstance(value, list) else [value]:
            try:
                load_plain(str(text))
            except TooLargeError:
                raise InputError(f"{key}: {text!s:.40} should be of at most 64 bits") from None
            except yaml.YAMLError:
                pass


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"training": {"epochs": 5}} -> {"training.epochs": 5}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": item for name, item in value.items()}
        else:
            flat[str(key)] = value
    return flat


def _plain(value: Any, key: str = "") -> Any:
    """As YAML's own types: what a config file holds."""
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
