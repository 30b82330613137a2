"""Runs of one protocol in one folder: each in a process of its own with one thread, and none twice."""

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
    """Run a script, which gets its arguments as JSON, in a process of its own.

    Raises:
        SystemExit: it failed; the message is the last line of what it said.
    """
    call = [sys.executable, script, json.dumps(arguments, default=str)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr.strip().rpartition("\n")[2] or f"{script}: ended with status {done.returncode}")


def run_file(folder: Path, strategy: str, seed: int) -> Path:
    """The file of a finished run in a folder."""
    slug = "".join(letter if letter.isalnum() else "-" for letter in strategy)
    return folder / f"{slug}-{seed}.json"


def results(folder: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the finished runs in a folder wrote.

    Args:
        folder: of JSON files.
        settings: what all of them must have in common.

    Raises:
        InputError: one has another setting, or is no such file.
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
