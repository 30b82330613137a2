"""Read a YAML config, apply command-line overrides and check every key and value."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import pytorch_lightning as pl
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from nas_plugins import plugins
from nas_plugins.config.costs import CostConfig, read_costs
from nas_plugins.config.costs import plain as plain_costs
from nas_plugins.config.overrides import merged, section_of
from nas_plugins.config.schema import Compute, LoggerName, NetworkConfig, Recipe, Training, check_task
from nas_plugins.config.signatures import argument_names, unwrapped
from nas_plugins.config.user_classes import OWN_RECIPE, UserClass, check_recipe, check_task_of, pop_user_classes
from nas_plugins.config.yaml import load_plain, read_yaml
from nas_plugins.data.module import ImageData, Seed
from nas_plugins.data.sizes import FROM_DATA, Data
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike, one_line
from nas_plugins.tasks import TASKS, Task, TaskName, task_of
from search_spaces.deprecation import renamed_arguments_of
from strategies.base import OneShotStrategy

Kind = Literal["search", "retrain"]
"""Kind of a run."""

_INTERNAL = {"composition", "cost", "engine", "model_space", "mutation_hooks", "penalty"}
"""Arguments of strategies that a config cannot express, or that have a separate section."""

_DEFAULT_NAMES: Mapping[plugins.Kind, str] = {"space": "DartsSpace", "strategy": "EDAS"}


@dataclass(frozen=True)
class Config:
    """Checked settings of a search or a retraining.

    Args:
        values: All settings by section and key, in plain YAML types, as in the config file of the run.
        arguments: The same in the types that the space and the strategy declare, for example tuples.
        training: The section training.
        compute: The section compute.
        derived: The section network of a retraining, for a sample its recipe only; None in a search.
        unused: Given keys that this kind of run does not use.
        costs: The section cost of a search.
        user: Section (evaluator, data) -> the user-defined class that it names; empty without such classes.
    """

    values: Mapping[str, Any]
    arguments: Mapping[str, Any]
    training: Training
    compute: Compute
    derived: NetworkConfig | Recipe | None = None
    unused: tuple[str, ...] = ()
    costs: tuple[CostConfig, ...] = ()
    user: Mapping[str, UserClass] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """Return the seed of all random numbers."""
        return self.values["seed"]

    @property
    def task(self) -> Task:
        """Return the task, which is that of a user-defined evaluator if there is one."""
        return task_of(self.values)

    @property
    def loggers(self) -> tuple[LoggerName, ...]:
        """Return the names of the loggers, each once."""
        return tuple(dict.fromkeys(self.values["logger"]))

    @property
    def kind(self) -> dict[str, Any]:
        """Return the settings that define what is trained, for example ``{"strategy.name": "EDAS"}``."""
        named = ("task", "space", "strategy", "network")
        return _flat({name: self.values[name] for name in named if name in self.values})

    def data(self) -> Data:
        """Return the prepared data set, or the prepared user-defined data module.

        Raises:
            InputError: Images are missing, broken or too few, or the code of the data module fails.
        """
        if "data" in self.user:
            module: pl.LightningDataModule = self.user["data"].build()
            with self.user["data"].errors():
                module.prepare_data()
                module.setup("fit")  # a space may need sizes that it determines
            return module
        task = "classification" if "evaluator" in self.user else self.task.name
        data = ImageData(**self.values["data"], task=task)
        data.prepare()
        return data

    def build(self, kind: plugins.Kind, **from_data: Any) -> Any:
        """Instantiate the space or the strategy.

        Args:
            kind: ``"space"`` or ``"strategy"``.
            from_data: Arguments known from the data; those that the class does not take are dropped.

        Raises:
            InputError: The arguments are not valid for the class.
        """
        given = dict(self.arguments[kind])
        found = plugins.find(kind, given.pop("name"))
        if from_data:
            given |= {key: from_data[key] for key in argument_names(found) & from_data.keys()}
        try:
            return found(**given)
        except (ValueError, TypeError, AssertionError, RuntimeError) as error:  # RuntimeError: out of memory
            raise InputError(f"{kind}: {one_line(error)}") from error

    def to_yaml(self) -> str:
        """Return the text of a config file with these settings."""
        return yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True)


def kind_of(sections: Container[str], file: PathLike = "config") -> Kind:
    """Return whether a config with these sections is that of a search or of a retraining.

    Args:
        sections: Sections of the config.
        file: Path of the config, for the error message.

    Raises:
        InputError: The config is neither.
    """
    if "network" in sections:
        return "retrain"
    if "space" in sections or "strategy" in sections:
        return "search"
    raise InputError(f"{file}: has neither 'space', as a search has, nor 'network', as a retraining has")


def read_kind(file: PathLike) -> Kind:
    """Return whether a file is the config of a search or of a retraining.

    Raises:
        InputError: The file is neither.
    """
    return kind_of(read_yaml(file), file)


def read_task(file: PathLike, overrides: Sequence[str] = ()) -> Task:
    """Return the task of a config without checking its other settings.

    Raises:
        InputError: The file cannot be read.
    """
    return task_of(merged(file, overrides))


def read_search(file: PathLike, overrides: Sequence[str] = ()) -> Config:
    """Read the config of a search.

    Args:
        file: YAML file with the sections space, strategy, data, training and compute.
        overrides: ``--key value`` pairs, which take precedence over the file.

    Raises:
        InputError: A key is unknown or a value is wrong; the message names the key.
    """
    values = merged(file, overrides)
    _check_kind(values, "search", file)
    names = {kind: str(section_of(values, kind).setdefault("name", usual)) for kind, usual in _DEFAULT_NAMES.items()}
    found: dict[str, type] = {kind: plugins.find(kind, name) for kind, name in names.items()}
    if not issubclass(found["strategy"], OneShotStrategy):
        raise InputError(f"strategy.name: {names['strategy']} is a multi-trial strategy; search takes one-shot ones")
    return _checked(values, found)


def read_retrain(file: PathLike, overrides: Sequence[str] = ()) -> Config:
    """Read the config for the retraining of a genotype.

    Args:
        file: YAML file with the sections network, data, training and compute.
        overrides: ``--key value`` pairs, which take precedence over the file.

    Raises:
        InputError: A key is unknown or a value is wrong; the message names the key.
    """
    values = merged(file, overrides)
    _check_kind(values, "retrain", file)
    return _checked(values, {"network": NetworkConfig})


def read_retrain_sample(
    file: PathLike, overrides: Sequence[str] = (), space: Mapping[str, Any] | None = None
) -> Config:
    """Read the config for the retraining of a sample.

    Args:
        file: YAML file with the sections space, network, data, training and compute. The size of the network is set by
            the section space, so that keys of the section network other than those of the recipe are left out.
        overrides: ``--key value`` pairs, which take precedence over the file.
        space: Section space of the search that found the sample. The file and the overrides take precedence over it,
            key by key, or as a whole if they name another space.

    Raises:
        InputError: No space is named, a key is unknown or a value is wrong; the message names the key.
    """
    values, searched = merged(file, overrides), dict(space or {})
    _check_kind(values, "retrain", file, allowed=("space",))
    section = section_of(values, "space")
    name = section.get("name", searched.get("name"))
    if name is None:
        raise InputError(
            f"space.name: missing: the sample lies in no run directory of a search, so {file} should have the section "
            "space of that search"
        )
    values["space"] = {"name": name, **(searched if searched.get("name") == name else {}), **section}
    found = plugins.find("space", str(name))
    if hasattr(found, "genotype"):
        return _checked(values, {"space": found, "network": NetworkConfig})
    network, recipe = section_of(values, "network"), {field.name for field in fields(Recipe)}
    size = {field.name for field in fields(NetworkConfig) if field.name not in recipe}
    values["network"] = {key: value for key, value in network.items() if key not in size}
    unused = tuple(f"network.{key}" for key in network if key in size)
    return replace(_checked(values, {"space": found, "network": Recipe}), unused=unused)


def _check_kind(values: Mapping[str, Any], kind: Kind, file: PathLike, allowed: Sequence[str] = ()) -> None:
    """Raise an InputError if a config has a section of the other kind of run that is not allowed."""
    others = {"search": ("network",), "retrain": ("space", "strategy")}[kind]
    for section in (name for name in others if name in values and name not in allowed):
        other = {"network": "retrain", "space": "search, or retrain --sample", "strategy": "search"}[section]
        raise InputError(f"{file}: has the section {section!r}, which is for nas-plugins {other}")


def _checked(values: dict[str, Any], classes: Mapping[str, type]) -> Config:
    """Check all settings and fill in the defaults.

    Args:
        values: Settings of the file and the command line.
        classes: Class whose arguments are the keys of a section.
    """
    classes = {**classes, "data": ImageData, "training": Training, "compute": Compute}
    user = pop_user_classes(values)
    if "data" in user:
        classes.pop("data")
    for section, found in classes.items():
        values[section] = _renamed(section, section_of(values, section), renamed_arguments_of(found))
    if isinstance(values.get("logger"), str):
        values["logger"] = [values["logger"]]
    _check_loggers(values.get("logger", []))
    costs = read_costs(values.pop("cost", None)) if "strategy" in classes else ()
    check_recipe(values, classes, user)
    check_task_of(values.get("task"), user)
    sections = [(name, found, frozenset(_skipped(name, found, values, user))) for name, found in classes.items()]
    parser = _parser(tuple(sections))
    _check_keys(values, list(_flat(parser.get_defaults(skip_validation=True).as_dict())))
    try:
        parsed = parser.parse_object(values)
        parser.validate(parsed, skip_unset=False)  # parse_object accepts null for every key
    except (ArgumentError, TypeError) as error:
        raise InputError(one_line(error)) from None
    # Absolute paths, so that a run can be resumed from any working directory.
    if "data" in classes:
        parsed.data.root = os.path.abspath(os.path.expanduser(parsed.data.root))
    baseline = parsed.get("space.baseline")
    if isinstance(baseline, str) and os.path.isfile(baseline):
        parsed.space.baseline = os.path.abspath(baseline)
    plain = load_plain(parser.dump(parsed, skip_unset=False, skip_validation=True))
    plain |= {section: dict(each.values) for section, each in user.items()}
    if costs:
        plain["cost"] = plain_costs(costs)
    network = classes["network"](**plain["network"]) if "network" in classes else None
    training, compute = Training(**plain["training"]), Compute(**plain["compute"])
    if "evaluator" in user:
        del plain["task"]
    else:
        check_task(TASKS[plain["task"]], training, network)
    return Config(plain, parsed.as_dict(), training, compute, network, costs=costs, user=user)


def _skipped(section: str, found: type, values: Mapping[str, Any], user: Mapping[str, Any]) -> set[str]:
    """Return the arguments of the class of a section that are not keys of the section."""
    if section == "space":
        return {"dense_head"} | FROM_DATA - (values["space"].keys() if "data" in user else set())
    if section == "data":
        return {"task"}
    return _INTERNAL | (OWN_RECIPE.get(found, set()) if "evaluator" in user else set())


def _check_loggers(names: Any) -> None:
    known = get_args(LoggerName)
    for name in names if isinstance(names, list) else [names]:
        if name not in known:
            raise InputError(f"logger: {name!r} should be one of {', '.join(known)}, or a list of them")


def _renamed(section: str, given: Mapping[str, Any], new_names: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of a section under their new names, with a warning for each old one."""
    for old in given.keys() & new_names.keys():
        warnings.warn(f"{section}.{old} is now called {section}.{new_names[old]}", FutureWarning, stacklevel=2)
    return {new_names.get(name, name): value for name, value in given.items()}


@lru_cache(maxsize=64)
def _parser(sections: tuple[tuple[str, type, frozenset[str]], ...]) -> ArgumentParser:
    """Return the parser of sections: for each its name, the class whose arguments are its keys, and arguments to skip.

    Cached, because building a parser takes as long as reading a config.
    """
    parser = ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_argument("--seed", type=Seed, default=0)
    parser.add_argument("--task", type=TaskName, default="classification")
    for section, found, skipped in sections:
        if section in _DEFAULT_NAMES:
            parser.add_argument(f"--{section}.name", type=str)
        written = unwrapped(found) if section == "space" else found
        try:
            parser.add_class_arguments(written, section, skip=set(skipped))
        except ValueError as error:  # an argument of a plugin has no type
            raise InputError(f"{section}.name: {one_line(error)}") from error
    parser.add_argument("--logger", type=list[LoggerName], default=[])
    return parser


def _check_keys(values: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise an InputError for the first unknown key, with a suggestion."""
    for key in [key for key in _flat(values) if key not in known]:
        section = key.partition(".")[0]
        near = [name for name in known if name.startswith(f"{section}.")]
        sections = dict.fromkeys(name.partition(".")[0] for name in known)
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(near or sections)}"
        owner = f" of {values[section]['name']}" if section in _DEFAULT_NAMES and near else ""
        raise InputError(f"unknown key {key}{owner}; {hint}")


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by dotted key: ``{"training": {"epochs": 5}}`` becomes ``{"training.epochs": 5}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": item for name, item in value.items()}
        else:
            flat[str(key)] = value
    return flat
