"""Runs of one protocol in one folder, each in a separate process with one thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_plugins.errors import InputError


def apart(script: str, arguments: Mapping[str, Any]) -> None:
    """Run a script with JSON arguments in a separate process.

    Raises:
        SystemExit: The script failed. The message is the last line of its error output.
    """
    call = [sys.executable, script, json.dumps(arguments, default=str)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr.strip().rpartition("\n")[2] or f"{script}: ended with status {done.returncode}")


def run_file(folder: Path, strategy: str, seed: int) -> Path:
    """Return the path of the file of a finished run in a folder."""
    slug = "".join(letter if letter.isalnum() else "-" for letter in strategy)
    return folder / f"{slug}-{seed}.json"


def results(folder: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the results of the finished runs in a folder.

    Args:
        folder: Folder of JSON files.
        settings: Settings that all runs must have.

    Raises:
        InputError: A file has another setting, or is not the result of a run.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            one = json.loads(path.read_text(encoding="utf-8"))
            others = {key: one["settings"][key] for key in settings}
        except (ValueError, LookupError, TypeError):
            raise InputError(f"{path}: no result of a run; delete it, and it is run again") from None
        for key, value in settings.items():
            if others[key] != value:
                raise InputError(
                    f"{key} {value}: {folder} holds runs with {others[key]}; give another folder for the output"
                )
        found.append(one)
    return found
