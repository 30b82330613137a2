"""Masks of images: PNG files whose pixels are numbers of classes, for segmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nas_plugins.data.image_files import EXTENSIONS, BrokenImage, form_of
from nas_plugins.data.sources import Store
from nas_plugins.errors import InputError
from nas_plugins.files import one_line

_LAYOUT = "ROOT/train/images/NAME.EXT with ROOT/train/masks/NAME.png, and the same in ROOT/test (or val)"


class _Content(NamedTuple):
    """Classes of a mask, whether it has ignored pixels, and its path."""

    classes: frozenset[int]
    ignored: bool
    mask: str


def load_masks(root: Path, classes: Sequence[str] | None, ignore_index: int) -> tuple[Store, Store, list[str]]:
    """Return the training images, the test images and the classes of a folder of images with masks.

    All masks are read, because a wrong class number would end a run later.

    Args:
        root: Folder with ``train`` and ``test`` (or ``val``), each with the folders ``images`` and ``masks``.
        classes: Names of the classes 0, 1, … of the masks; None for numbers up to the highest one in training.
        ignore_index: Value of ignored pixels.

    Raises:
        InputError: Files are missing, do not fit together, or have wrong class numbers.
    """
    test_name = "val" if (root / "val").is_dir() and not (root / "test").is_dir() else "test"
    train, test = (_pairs(root, name) for name in ("train", test_name))
    found = {part: _contents(store, ignore_index) for part, store in (("train", train), ("test", test))}
    present = frozenset[int]().union(*(content.classes for content in found["train"]))
    names = [str(number) for number in range(max(present, default=-1) + 1)] if classes is None else list(classes)
    for content in (content for part in found.values() for content in part):
        if max(content.classes, default=0) >= len(names):
            known = "the training masks have" if classes is None else "data.class_names has"
            raise InputError(
                f"data.root: mask {content.mask!r} has the class {max(content.classes)}; {known} 0 to "
                f"{len(names) - 1}, and data.ignore_index is {ignore_index}"
            )
    _check_classes(root, present, named=classes is not None, ignored=_ignored(found["train"], ignore_index))
    return train, test, names


def _check_classes(root: Path, present: frozenset[int], named: bool, ignored: str) -> None:
    """Raise an InputError if the training masks have fewer than two classes, or lack a class number in between."""
    if len(present) < 2:
        raise InputError(
            f"data.root is {str(root)!r}: the training masks have {len(present)} of two or more classes{ignored}"
        )
    missing = sorted(frozenset(range(max(present))) - present)
    if missing and not named:
        raise InputError(
            f"data.root is {str(root)!r}: the training masks have the classes {', '.join(map(str, sorted(present)))} "
            "and none between them: number them from 0 without gaps, or name all in data.class_names"
        )


def _ignored(contents: Sequence[_Content], ignore_index: int) -> str:
    count = sum(content.ignored for content in contents)
    where = f"; {count} of {len(contents)} have pixels of {ignore_index}"
    return f"{where}, which data.ignore_index leaves out" if count else ""


def _pairs(root: Path, name: str) -> Store:
    """Return the images of a part with the paths of their masks."""
    images, masks = root / name / "images", root / name / "masks"
    if not images.is_dir() or not masks.is_dir():
        missing = masks if images.is_dir() else images
        raise InputError(f"data.root is {str(root)!r}: it should have {_LAYOUT}: there is no folder {missing}")
    files = sorted(path for path in images.iterdir() if path.name.lower().endswith(EXTENSIONS))
    if not files:
        raise InputError(f"data.root: {images} has no images; it should have {_LAYOUT}")
    paths = [masks / f"{path.stem}.png" for path in files]
    for image, mask in zip(files, paths, strict=True):
        if not mask.is_file():
            raise InputError(f"data.root: {image} has no mask {mask}; it should have {_LAYOUT}")
    return Store([str(path) for path in files], np.array([str(path) for path in paths]))


def _contents(store: Store, ignore_index: int) -> list[_Content]:
    def content(image: str, mask: str) -> _Content:
        pixels, form = read_mask(mask), form_of(image)
        if tuple(pixels.shape) != (form.height, form.width):
            raise BrokenImage(
                f"data.root: mask {mask!r} is {pixels.shape[1]}x{pixels.shape[0]}; its image is "
                f"{form.width}x{form.height}"
            )
        classes = frozenset(pixels.unique().tolist())
        return _Content(classes - {ignore_index}, ignore_index in classes, mask)

    with ThreadPoolExecutor() as pool:  # Pillow releases the GIL while decoding
        return list(pool.map(content, store.images, store.labels.tolist()))


def read_mask(file: str) -> Tensor:
    """Return a mask as class numbers of shape (H, W).

    Raises:
        BrokenImage: The file cannot be read, or is not a picture of class numbers.
    """
    with _explained(file), Image.open(file) as image:
        if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
            raise ValueError(f"it has colours ({image.mode}); it should be grey or have a palette")
        return torch.from_numpy(np.asarray(image).astype(np.int64))


@contextmanager
def _explained(file: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Pillow raises many kinds, depending on the damage
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise BrokenImage(f"data.root: mask {file!r} cannot be used ({reason}); replace it or delete it") from error
