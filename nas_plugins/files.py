"""Read text and JSON files, with errors on one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nas_plugins.errors import InputError


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no text file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: the file is something else.
    """
    text = read_text(path)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON: {one_line(error)}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: should be a JSON object, not {type(data).__name__}")
    return data


def one_line(error: BaseException) -> str:
    """The message of an error, on one line, without where in PyTorch's C++ it was raised."""
    return " ".join(str(error).partition("\nException raised from ")[0].split())
