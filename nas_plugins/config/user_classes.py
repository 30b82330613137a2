"""Config sections evaluator and data that name a user-defined class, by import path and arguments."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import pytorch_lightning as pl
from jsonargparse import ArgumentError, ArgumentParser
from nni.nas.evaluator.pytorch import LightningModule

from nas_plugins.config.schema import NetworkConfig, Recipe, Training
from nas_plugins.config.yaml import load_plain
from nas_plugins.errors import InputError
from nas_plugins.files import one_line
from nas_plugins.plugins import import_class
from nas_plugins.tasks import DEFAULT_METRIC

_BASES = {"evaluator": LightningModule, "data": pl.LightningDataModule}
"""Section -> base class of the user-defined class."""

_PACKAGES = {"evaluator": "nni.nas.evaluator.pytorch", "data": "pytorch_lightning"}
"""Section -> package from which users import that base class."""

OWN_RECIPE = {
    Training: {field.name for field in fields(Training)} - {"epochs"},
    NetworkConfig: {"auxiliary_weight", "drop_path"},
    Recipe: {"auxiliary_weight", "drop_path"},
}
"""Class of a section -> its keys that have no effect with a user-defined evaluator, which has its own recipe."""


@dataclass(frozen=True)
class UserClass:
    """User-defined class with its checked arguments.

    Args:
        section: Section of the config, evaluator or data.
        found: The class.
        values: The section in plain YAML types, with the defaults of the arguments, as in the config of the run.
    """

    section: str
    found: type[Any]
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Return the name of the class."""
        return self.found.__name__

    def build(self) -> Any:
        """Return an instance.

        Raises:
            InputError: The constructor fails.
        """
        parser = _parser(self.found)
        parsed = parser.parse_object(dict(self.values["init_args"]))
        with self.errors():
            return self.found(**parser.instantiate(parsed).as_dict())

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Convert errors of the class within this context to one line that names the place in the code."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # user code can raise any exception
            raise InputError(f"{self.section}: {self.name}: {described(error)}") from error


@contextmanager
def errors_of(user: Mapping[str, UserClass]) -> Iterator[None]:
    """Convert errors within this context to one line if there are user-defined classes; else leave them unchanged."""
    with next(iter(user.values())).errors() if user else nullcontext():
        yield


def described(error: BaseException) -> str:
    """Return the type and the message of an error on one line, with the innermost place that is not in a library."""
    places = traceback.extract_tb(error.__traceback__)
    own = [place for place in places if "site-packages" not in place.filename]
    place = (own or places)[-1]
    return f"{type(error).__name__}: {one_line(error)} ({place.filename}:{place.lineno})"


def pop_user_classes(values: dict[str, Any]) -> dict[str, UserClass]:
    """Remove the sections that name user-defined classes from a config, and return these classes by section.

    Raises:
        InputError: A class cannot be imported or has another base class, or an argument is unknown, missing or wrong;
            the message names the key.
    """
    if values.get("evaluator") is None:
        values.pop("evaluator", None)
    data = values.get("data")
    theirs = isinstance(data, dict) and not data.keys().isdisjoint(("class_path", "init_args"))
    sections = [*(["evaluator"] if "evaluator" in values else []), *(["data"] if theirs else [])]
    return {section: _read(section, values.pop(section)) for section in sections}


def _read(section: str, values: Any) -> UserClass:
    if not isinstance(values, dict) or not isinstance(values.get("class_path"), str):
        raise InputError(f"{section}: {values!r:.80} should have a class_path, such as my_project.training.Regression")
    known = ("class_path", "init_args", *(["metric"] if section == "evaluator" else []))
    for key in values:
        if key not in known:
            raise InputError(f"unknown key {section}.{key}; known are {', '.join(known)}")
    found, base = import_class(f"{section}.class_path", values["class_path"]), _BASES[section]
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(
            f"{section}.class_path: {values['class_path']} is no {_PACKAGES[section]}.{base.__name__}"
            f"{_hint(found, section)}"
        )
    plain = {"class_path": values["class_path"], "init_args": _checked(section, found, values.get("init_args") or {})}
    return UserClass(section, found, plain | _metric(section, values))


def _metric(section: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Return the key metric of an evaluator."""
    if section != "evaluator":
        return {}
    metric = values.get("metric", DEFAULT_METRIC)
    if not isinstance(metric, str) or not metric.startswith("val_"):
        raise InputError(f"evaluator.metric: {metric!r} should be a metric that it logs of validation, such as val_acc")
    return {"metric": metric}


def check_recipe(values: Mapping[str, Any], classes: Mapping[str, type], user: Mapping[str, UserClass]) -> None:
    """Raise an InputError for a key that has no effect with a user-defined evaluator.

    Args:
        values: The settings by section and key.
        classes: Section -> the class whose arguments are its keys.
        user: Section -> user-defined class.
    """
    for section, found in classes.items() if "evaluator" in user else ():
        for key in values[section].keys() & OWN_RECIPE.get(found, set()):
            raise InputError(
                f"{section}.{key}: leave it out: {user['evaluator'].name} has a recipe of its own, see its init_args"
            )


def check_task_of(task: Any, user: Mapping[str, UserClass]) -> None:
    """Raise an InputError for a task that user-defined classes do not allow.

    Args:
        task: The key task; None if it is not given.
        user: Section -> user-defined class.
    """
    if "evaluator" in user and task is not None:
        raise InputError(f"task: {task!r}: leave it out: {user['evaluator'].name} is the task, see evaluator.metric")
    if "data" in user and task not in (None, "classification"):
        raise InputError(
            f"task: {task!r} is for images of this project, and {user['data'].name} names no targets: name an evaluator"
        )


def _hint(found: Any, section: str) -> str:
    """Return advice for a class that is almost right; empty for others."""
    if section == "evaluator" and isinstance(found, type) and issubclass(found, pl.LightningModule):
        return ": inherit from that in place of Lightning's, and call self.model, which the search sets"
    names = {f"{kind.__module__}.{kind.__name__}" for kind in getattr(found, "__mro__", ())}
    if any(name.startswith("lightning.pytorch.") for name in names):
        return ": the package lightning has classes of its own, write pytorch_lightning in its imports"
    return ""


def _checked(section: str, found: type, given: Any) -> dict[str, Any]:
    """Return the arguments of a class with its defaults, in plain YAML types."""
    key = f"{section}.init_args"
    if not isinstance(given, dict):
        raise InputError(f"{key}: {given!r:.80} should be a section with the arguments of {found.__name__}")
    try:
        parser = _parser(found)
    except ValueError as error:
        raise InputError(f"{key}: {one_line(error)}") from None
    known = [name for name in parser.get_defaults(skip_validation=True).as_dict() if name != "self"]
    for name in [name for name in given if name not in known]:
        close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.75)
        hint = f"did you mean {close[0]}?" if close else f"{found.__name__} has {', '.join(known) or 'none'}"
        raise InputError(f"unknown key {key}.{name}; {hint}")
    try:
        parsed = parser.parse_object(given)
        parser.validate(parsed, skip_unset=False)
    except (ArgumentError, TypeError) as error:
        raise InputError(f"{key}: {one_line(error)}") from None
    return load_plain(parser.dump(parsed, skip_unset=False, skip_validation=True)) or {}


def _parser(found: type) -> ArgumentParser:
    """Return the parser of the arguments of a class; arguments without a type accept any value."""
    parser = ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_class_arguments(getattr(found, "__wrapped__", found), fail_untyped=False)  # NNI's trace wraps a class
    return parser
