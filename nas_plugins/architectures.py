"""Architectures in files: a genotype, or a sample of a space without cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nas_plugins.errors import InputError
from nas_plugins.files import one_line, read_text
from nas_plugins.runs.directory import GENOTYPE, SAMPLE, Architecture
from search_spaces.genotype import Genotype


def read_architecture_file(file: Path) -> Architecture:
    """Read a genotype file, or a sample of NNI in JSON.

    Returns:
        A genotype, also for a sample of a space with cells; for a sample of another space its choices.

    Raises:
        InputError: The file cannot be read, or is neither a genotype nor a sample.
        GenotypeError: The file is a damaged genotype.
    """
    if file.is_dir():
        raise InputError(f"{file}: is a folder; give the {GENOTYPE} or the {SAMPLE} in it")
    text = read_text(file)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "nas-plugins genotype import reads code and logs"
        raise InputError(f"{file}: is no JSON: {one_line(error)}; {hint}") from None
    if isinstance(data, list) and len(data) == 1:  # NNI exports a list of models
        data = data[0]
    if isinstance(data, dict) and data and not _has_cells(data) and all(map(_is_choice, data.values())):
        return data
    return Genotype.load(file)


def _has_cells(data: dict[str, Any]) -> bool:
    return "format" in data or "cells" in data or any("/op_" in label for label in data)


def _is_choice(value: Any) -> bool:
    """Return whether a value can be a choice of NNI: a scalar, or a list of scalars."""
    items = value if isinstance(value, list) else [value]
    return all(item is None or isinstance(item, (str, int, float)) for item in items)
