"""Searches and retrainings on a disk that is full: run by test_full_disk.py, in a process that may mount one.

    python full_disk.py FOLDER

FOLDER is the disk, a small one. What happened at each filling is a line of JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
from pathlib import Path

from nas_plugins.cli import main

PAGE = 4096


def command(arguments: list[object]) -> tuple[int, str]:
    """The exit status, and what stands on standard error."""
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
        status = main([str(argument) for argument in arguments])
    return status, err.getvalue()


def fill(disk: Path, free: int) -> None:
    """Leave so many bytes."""
    stats = os.statvfs(disk)
    (disk / "filling").write_bytes(bytes(max(0, stats.f_bavail * stats.f_frsize - free)))


def try_out(begin: list[object], disk: Path, free: int) -> dict[str, object]:
    """Run with so many bytes, then with all; what each said, and what was there in between."""
    run = disk / "run"
    fill(disk, free)
    status, err = command([*begin, "--output", run])
    between = [str(file) for file in run.rglob("*") if file.is_file()]
    (disk / "filling").unlink()
    again = command(["resume", run] if between else [*begin, "--output", run])
    kept = disk.parent / f"{begin[0]}-{free}"
    shutil.move(run, kept)
    return {"status": status, "err": err, "between": between, "again": again, "run": str(kept)}


if __name__ == "__main__":
    disk, folder = Path(sys.argv[1]), Path(sys.argv[1]).parent
    commands: dict[str, list[object]] = {
        "search": ["search", "--config", folder / "search.yaml"],
        "retrain": ["retrain", "--config", folder / "retrain.yaml", "--genotype", folder / "g.json"],
    }
    for name, begin in commands.items():
        whole = folder / name
        assert command([*begin, "--output", whole])[0] == 0
        checkpoint = (whole / "checkpoints/last.ckpt").stat().st_size
        pages = checkpoint // PAGE
        first = (1, 3, 5, pages // 2) if name == "search" else (1, 3)
        for free in (*first, pages + pages // 2, 2 * pages + 4):
            print(json.dumps({"command": name, **try_out(begin, disk, free * PAGE)}), flush=True)
