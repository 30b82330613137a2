"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_whole(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old file or the new one.

    Args:
        path: the file; its folder is made where it is missing.
        write: gets the open binary file and writes the content.

    Raises:
        OSError: the file, or its folder, which it names, cannot be written; nothing is left behind.
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
        # mkstemp makes private files; give the permissions that open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.strerror:
            error.filename = str(path)  # that of a full disk names no file, others the temporary one
        raise


def write_text_whole(path: str | os.PathLike[str], text: str) -> None:
    """:func:`write_whole` for text, in UTF-8."""
    write_whole(path, lambda file: file.write(text.encode("utf-8")))


def remove_unfinished(folder: str | os.PathLike[str], pattern: str) -> None:
    """Remove what a kill in the middle of :func:`write_whole` left behind.

    Args:
        folder: where it lies.
        pattern: of the names of the files that were being written, such as ``*.csv``; nobody may be writing one now.
    """
    for temporary in Path(folder).glob(f".{pattern}.*.tmp"):
        temporary.unlink(missing_ok=True)
