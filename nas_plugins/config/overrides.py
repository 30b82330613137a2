"""Unchecked settings of a YAML file, with overrides from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from nas_plugins.config.yaml import load_plain, read_yaml
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike


def merged(file: PathLike, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a file with ``--key value`` and ``--key=value`` applied.

    Raises:
        InputError: The file cannot be read, or an override is not a pair of a key and a value.
    """
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in read_yaml(file).items()}
    arguments = iter(overrides)
    for argument in arguments:
        key, equals, text = argument.removeprefix("--").partition("=")
        text = text if equals else next(arguments, "")
        if not argument.startswith("--") or not key or not text or text.startswith("--"):
            raise InputError(f"command line: {argument!r} should be --KEY VALUE, such as --training.epochs 5")
        try:
            value = load_plain(text)
        except yaml.YAMLError:
            value = text
        *sections, name = key.split(".")
        target = values
        for section in sections:
            target = section_of(target, section)
        target.pop(name, None)  # so that it comes last, after the old or new name of the same key
        target[name] = value
    return values


def section_of(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a section of the settings, which is created if it does not exist.

    Raises:
        InputError: The value of the key is not a section.
    """
    section = values.setdefault(name, {})
    if not isinstance(section, dict):
        raise InputError(f"{name}: {section!r} should be a section with keys of its own")
    return section
