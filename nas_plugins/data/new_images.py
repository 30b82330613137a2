"""Image files outside a data set, prepared like the test images of the data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from nas_plugins.data.image_files import EXTENSIONS, BrokenImage, check_images, form_of, read_image
from nas_plugins.data.module import ImageData
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike

COLOURS, WITH_ALPHA = 3, 4
"""Channels of a colour picture, without and with transparency."""


class NewImages(Dataset):
    """Images in files, prepared for a network like the test images of a data set.

    Args:
        files: Paths of image files.
        data: The prepared data set.

    Raises:
        InputError: A file is broken, or has a size or channels that the data set does not accept.
    """

    def __init__(self, files: Sequence[str], data: ImageData) -> None:
        self.files, self.channels, self.eight_bit = files, data.image_channels, data.eight_bit
        self.transform = data.test_transform()
        with plain_errors():
            check_images(files)
            with ThreadPoolExecutor() as pool:
                list(pool.map(partial(self._check, size=None if data.resize_to else data.image_size), files))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        image: Tensor = self.transform(self._read(self.files[index]))
        return image

    def _check(self, file: str, size: int | None) -> None:
        """Raise a BrokenImage if a file has another size or other channels; pixels are read only if necessary."""
        form = form_of(file)
        if size is not None and (form.height, form.width) != (size, size):
            raise BrokenImage(
                f"image file {file!r} is {form.width}x{form.height}; it should be {size}x{size}, for this run resizes "
                "no images"
            )
        if form.channels != self.channels or form.eight_bit != self.eight_bit:
            self._read(file)

    def _read(self, file: str) -> Tensor:
        pixels = read_image(file)
        if self.eight_bit and pixels.dtype != torch.uint8 and not 0 <= pixels.min() <= pixels.max() <= 1:
            raise BrokenImage(
                f"image file {file!r} has values from {pixels.min():g} to {pixels.max():g}; floats should be from 0 to "
                "1, for the images of this run have 8 bits"
            )
        fitted = pixels if file.lower().endswith((".npy", ".npz")) else self._with_channels(pixels)
        if len(fitted) != self.channels:
            raise BrokenImage(
                f"image file {file!r} has {_named(len(pixels))}; it should have {_named(self.channels)}, as the images "
                "of this run"
            )
        return fitted

    def _with_channels(self, pixels: Tensor) -> Tensor:
        """Return a picture with the channels of the data set, or unchanged if the conversion would lose information.

        Grey pictures of 8 bits are read as colours, as in training; those of more bits have another range of values.
        """
        opaque = 255 if pixels.dtype == torch.uint8 else 1
        if len(pixels) == WITH_ALPHA > self.channels and bool((pixels[-1] == opaque).all()):
            pixels = pixels[:COLOURS]
        if len(pixels) == 1 < self.channels and self.eight_bit:
            pixels = pixels.expand(COLOURS, -1, -1)
        if len(pixels) == COLOURS and self.channels == 1 and self.eight_bit and bool((pixels == pixels[:1]).all()):
            pixels = pixels[:1]
        if len(pixels) == COLOURS and self.channels == WITH_ALPHA:
            pixels = torch.cat([pixels, torch.full_like(pixels[:1], opaque)])
        return pixels


def _named(channels: int) -> str:
    names = {1: "one channel (grey)", COLOURS: "three (colours)", WITH_ALPHA: "four (colours and transparency)"}
    return names.get(channels, f"{channels} channels")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise errors of image files within this context without naming the folder of the data set."""
    try:
        yield
    except BrokenImage as error:
        raise InputError(str(error).removeprefix("data.root: ")) from None


def find_images(paths: Iterable[PathLike]) -> list[str]:
    """Return the image files among paths, with those in folders and their subfolders in the order of their names.

    Args:
        paths: Image files and folders. In folders, files of other types are skipped.

    Raises:
        InputError: A path does not exist, or a folder has no images.
    """
    found: dict[str, None] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path}: there is no such file or folder")
        files = [path]
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.name.lower().endswith(EXTENSIONS))
        if not files:
            raise InputError(f"{path}: has no images; their names should end in one of {', '.join(EXTENSIONS)}")
        found |= dict.fromkeys(map(str, files))
    return list(found)
