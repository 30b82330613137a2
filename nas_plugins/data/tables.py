"""Labels and values of images in a CSV table, for multi-label classification and regression."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nas_plugins.data.sources import Store
from nas_plugins.errors import InputError
from nas_plugins.files import read_text
from nas_plugins.tasks import Task

_PARTS = ("train", "test", "val")
_LAYOUT = "its first column should be the path of an image in data.root, as train/1.png, test/1.png or val/1.png"


class _Row(NamedTuple):
    """Line of a table: its number in the file, the path of the image, and the values."""

    line: int
    image: str
    values: list[float]


def load_table(root: Path, labels: str, task: Task) -> tuple[Store, Store, list[str]]:
    """Return the training images, the test images and the names of the outputs of a table.

    The first column is the path of an image in the folder, which begins with ``train/`` or ``test/`` (or ``val/``);
    each further column is a label (0 or 1) or a value (a number). Images without a row are left out.

    Args:
        root: Folder of the images.
        labels: Path of the table; a relative path is one in the folder.
        task: The task, multilabel or regression.

    Raises:
        InputError: The table is missing, has a wrong value, or lacks training or test images.
    """
    file = root / Path(labels).expanduser()
    names, rows = _read(file, task)
    parts: dict[str, list[_Row]] = {part: [] for part in _PARTS}
    for row in rows:
        part, _, name = row.image.partition("/")
        if part not in parts or not name:
            raise InputError(f"data.labels: {file}, line {row.line}: {row.image!r}: {_LAYOUT}")
        parts[part].append(row)
    train, test = parts["train"], parts["test"] or parts["val"]
    if not train or not test:
        raise InputError(f"data.labels: {file}: has no images of {'test' if train else 'train'}; {_LAYOUT}")
    for row in (*train, *test):
        if not (root / row.image).is_file():
            raise InputError(f"data.labels: {file}, line {row.line}: there is no image {root / row.image}")
    return _store(root, train), _store(root, test), names


def _store(root: Path, rows: list[_Row]) -> Store:
    return Store([str(root / row.image) for row in rows], np.array([row.values for row in rows], np.float32))


def _read(file: Path, task: Task) -> tuple[list[str], list[_Row]]:
    """Return the names of the outputs and the rows of a table."""
    reader = csv.reader(read_text(file).removeprefix("\ufeff").splitlines())
    try:
        lines = [(reader.line_num, line) for line in reader if line]
    except csv.Error as error:
        raise InputError(f"data.labels: {file}, line {reader.line_num}: is no CSV: {error}") from None
    heading = lines[0][1] if lines else []
    names = [name.strip() for name in heading[1:]]
    twice = sorted({name for name in names if names.count(name) > 1})
    a_row = bool(heading) and heading[0].startswith(tuple(f"{part}/" for part in _PARTS))
    if not names or not all(names) or twice or a_row:
        found = f"it has {twice[0]!r} twice" if twice else f"it is {','.join(heading)[:60]!r}"
        raise InputError(
            f"data.labels: {file}: its first line should name the column of images and, separated by commas, a column "
            f"for each of the {task.outputs}; {found}"
        )
    rows: dict[str, _Row] = {}
    for number, line in lines[1:]:
        where = f"data.labels: {file}, line {number}"
        if len(line) != len(heading):
            raise InputError(f"{where}: has {len(line)} columns; the first line has {len(heading)}")
        image = line[0].strip()
        if image in rows:
            raise InputError(f"{where}: {image!r} has a row already, line {rows[image].line}")
        values = [_value(text, task, f"{where}: {name}") for text, name in zip(line[1:], names, strict=True)]
        rows[image] = _Row(number, image, values)
    return names, list(rows.values())


def _value(text: str, task: Task, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if task.name == "multilabel" and value not in (0, 1):
        raise InputError(f"{where} is {text!r}; it should be 0 or 1")
    if not math.isfinite(value):
        raise InputError(f"{where} is {text!r}; it should be a number")
    return value
