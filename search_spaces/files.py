"""Atomic writing of files."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_whole(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> None:
    """Write a file atomically: a reader, or a run after a kill, finds the old file or the new one.

    Args:
        path: Path of the file. A missing folder is made.
        write: Called with the open binary file to write its content.

    Raises:
        OSError: The file or its folder cannot be written; the error names it, and no temporary file is left.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = None
    try:
        # In the same folder, since a rename is atomic only within one file system.
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; set the permissions that open() gives.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.strerror:
            error.filename = str(path)  # errors of a full disk name no file, other errors the temporary one
        raise


def write_text_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file atomically: see :func:`write_whole`."""
    write_whole(path, lambda file: file.write(text.encode("utf-8")))


def remove_unfinished(folder: str | os.PathLike[str], pattern: str) -> None:
    """Remove the temporary files that kills during :func:`write_whole` left behind.

    Args:
        folder: Folder of the files.
        pattern: Glob pattern for the names of the intended files, for instance ``*.csv``. None of them may be written
            at the same time.
    """
    for temporary in Path(folder).glob(f".{pattern}.*.tmp"):
        temporary.unlink(missing_ok=True)
