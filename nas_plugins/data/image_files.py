"""Image files: pictures that Pillow reads and NumPy arrays, as tensors.

Pixels of 8 bits stay bytes. All others become floats: integers divided by the largest value of their type, floats as
they are. See docs/datasets.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from nas_plugins.errors import InputError
from nas_plugins.files import one_line

EXTENSIONS = (*IMG_EXTENSIONS, ".npy", ".npz")
"""Endings of image files in lower case."""

_INTEGERS = {"I;16S": np.int16, "I;16BS": np.int16, "I;32N": np.uint32, "I;32S": np.int32, "I;32BS": np.int32}
"""Raw mode -> type of the pixels in Pillow's mode I; uint16 for all other raw modes."""

_HEADERS = Lock()
"""Lock for reading the header of an array, a Python literal: some versions of CPython fail when two threads parse at
the same time (gh-106905)."""


class BrokenImage(InputError):
    """Image file that is damaged or has an unsupported format."""

    def __init__(self, message: str) -> None:
        # The DataLoader raises a worker's exception again with its traceback as the message: keep the last line.
        super().__init__(message.rpartition(f"{BrokenImage.__name__}: ")[2].strip())


class Form(NamedTuple):
    """Shape of an image file, and whether it has 8 bits per channel."""

    channels: int
    height: int
    width: int
    eight_bit: bool


def read_image(file: str) -> Tensor:
    """Return an image file as a tensor of shape (C, H, W), uint8 or float32.

    Raises:
        BrokenImage: The file cannot be read.
    """
    with _opened(file) as image:
        array = image if isinstance(image, np.ndarray) else _pixels(file, image)
        if array.dtype.kind in "iu" and array.dtype != np.uint8:
            array = array / np.iinfo(array.dtype).max
        pixels = np.array(array, np.uint8 if array.dtype == np.uint8 else np.float32)
        if not np.isfinite(pixels).all():
            raise ValueError("not all of its values are finite")
        return torch.from_numpy(pixels).permute(2, 0, 1)


def form_of(file: str) -> Form:
    """Return the form of an image file, without reading its pixels.

    Raises:
        BrokenImage: The file cannot be read.
    """
    with _opened(file) as image:
        if isinstance(image, np.ndarray):
            height, width, channels = image.shape
            return Form(channels, height, width, image.dtype == np.uint8)
        width, height = image.size
        if image.mode[0] in "IF":
            return Form(1, height, width, eight_bit=False)
        return Form(4 if image.has_transparency_data else 3, height, width, eight_bit=not _has_deep_colours(image))


def check_images(files: Sequence[str], seconds: float = 4.0) -> dict[Form, str]:
    """Open every image file, and read as many as the time allows, spread over all of them.

    Args:
        files: Paths of image files.
        seconds: Time limit for reading; opening the rest takes another second per 10,000 files.

    Returns:
        The forms of the images, each with a file that has it.

    Raises:
        BrokenImage: A file cannot be read.
    """
    deadline = time.monotonic() + seconds
    found: dict[Form, str] = {}

    def check_some(some: Sequence[str]) -> None:
        for file in some:
            found.setdefault(form_of(file), file)
            if time.monotonic() < deadline:
                read_image(file)

    strides = math.ceil(len(files) / 32)
    with ThreadPoolExecutor() as pool:  # Pillow releases the GIL while decoding
        for _ in pool.map(check_some, [files[start::strides] for start in range(strides)]):
            pass
    return found


def channel_statistics(files: Sequence[str], most: int = 1000) -> tuple[list[float], list[float]]:
    """Return the mean and the standard deviation of each channel, over a number of files spread over all of them.

    Args:
        files: Paths of image files with the same number of channels.
        most: Maximum number of files to read.
    """
    pixels, total, squares = 0, torch.zeros(()), torch.zeros(())
    for file in files[:: math.ceil(len(files) / most)]:
        image = read_image(file)
        values = image.flatten(1).double() / (255 if image.dtype == torch.uint8 else 1)
        pixels += values.shape[1]
        total = total + values.sum(1)
        squares = squares + values.square().sum(1)
    mean = total / pixels
    deviation = (squares / pixels - mean.square()).clamp(min=0).sqrt()
    constant = deviation <= 1e-6 * mean.abs()  # for example the transparency of opaque images
    return mean.tolist(), deviation.masked_fill(constant, 1).tolist()


@contextmanager
def _opened(file: str) -> Iterator[ImageFile.ImageFile | np.ndarray]:
    """Open an image file as a picture or as an array of height × width × channels.

    Raises:
        BrokenImage: Anything goes wrong inside the context.
    """
    try:
        if file.lower().endswith(".npy"):
            with _HEADERS:
                array = np.load(file, mmap_mode="r", allow_pickle=False)
            yield _with_channels(array)
        elif file.lower().endswith(".npz"):
            with _HEADERS, np.load(file, allow_pickle=False) as arrays:
                if len(arrays) != 1:
                    raise ValueError(f"it should hold one array, not {len(arrays)}")
                array = arrays[arrays.files[0]]
            yield _with_channels(array)
        else:
            with Image.open(file) as image:
                _refuse_loss(image)
                yield image
    except Exception as error:  # Pillow raises many kinds, depending on the format
        cure = "put it back" if isinstance(error, FileNotFoundError) else "replace it or delete it"
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise BrokenImage(f"data.root: image file {file!r} cannot be used ({reason}); {cure}") from error


def _with_channels(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3) or not array.size:
        right = "numbers of shape (height, width) or (height, width, channels)"
        raise ValueError(f"its array is {array.dtype} of shape {array.shape}; it should be {right}")
    return array[:, :, None] if array.ndim == 2 else array


def _has_deep_colours(image: ImageFile.ImageFile) -> bool:
    """Return whether a picture has colours of 16 bits, of which Pillow would keep 8."""
    if image.mode[0] in "IF":  # grey
        return False
    raw = _raw_mode(image)
    deep_ppm = image.format == "PPM" and isinstance(image.tile[0].args, tuple) and image.tile[0].args[1] > 255
    return deep_ppm or (";16" in raw and not raw.startswith("BGR"))  # BGR;16: 16 bits for three colours


def _refuse_loss(image: ImageFile.ImageFile) -> None:
    """Raise a ValueError for a picture that cannot be read without a loss of bits or of transparency."""
    if _has_deep_colours(image) and image.format != "PNG":
        raise ValueError("colours of 16 bits are read from PNG and .npy only")
    if "transparency" in image.info and (image.mode[0] in "IF" or _has_deep_colours(image)):
        raise ValueError("a transparent colour of 16 bits cannot be read; save the transparency as a channel")


def _pixels(file: str, image: ImageFile.ImageFile) -> np.ndarray:
    """Return the pixels of a picture: one channel for grey ones of more than 8 bits, otherwise three or four."""
    if _has_deep_colours(image):
        from torchvision.io import decode_image  # late, since torchvision will move it to TorchCodec

        pixels = decode_image(file).numpy().transpose(1, 2, 0)
        return pixels if pixels.shape[2] > 2 else pixels[:, :, [0, 0, 0, 1]]  # grey with transparency
    if image.mode[0] in "IF":
        raw, grey = _raw_mode(image), np.asarray(image)[:, :, None]
        return grey.astype(_INTEGERS.get(raw, np.uint16)) if image.mode == "I" else grey
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Return Pillow's name for the pixels in the file, such as ``"RGB;16B"``."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) else args)
