"""Reading of text and JSON files, and the check of a file to write, with one-line errors."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nas_plugins.errors import InputError

PathLike = str | os.PathLike[str]
"""Path as an argument of a public function."""


def read_text(path: Path) -> str:
    """Return the content of a UTF-8 text file.

    Raises:
        InputError: The file cannot be read or is not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no text file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        InputError: The file cannot be read or is not a JSON object.
    """
    text = read_text(path)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON: {one_line(error)}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: should be a JSON object, not {type(data).__name__}")
    return data


def check_output_file(path: PathLike) -> None:
    """Raise an InputError if the file of ``--output`` cannot be written."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"--output: {path} is a folder; it should be a file")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"--output: {path} cannot be written: {parent} is not a folder that can be written")


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line, without PyTorch's C++ stack trace."""
    return " ".join(str(error).partition("\nException raised from ")[0].split())
