"""Where images come from: arrays in memory, or files that are read on demand and checked beforehand."""

import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from nas_plugins.errors import InputError

_CHECK_SECONDS = 4.0  # how long the images of a folder may be decoded before the work starts
_TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion_mnist": "FashionMNIST"}


@dataclass(frozen=True)
class Store:
    """All images of the training or of the test set (a tensor, or the paths of files), and their labels."""

    images: Tensor | list[str]
    labels: np.ndarray


def load(dataset: str, root: Path, download: bool) -> tuple[Store, Store, list[str]]:
    """The training images, the test images, and the names of the classes of a data set.

    Raises:
        InputError: they are not there.
    """
    if dataset == "digits":
        return _load_digits()
    if dataset == "folder":
        return _load_folder(root)
    return _load_torchvision(dataset, root, download)


def _load_digits() -> tuple[Store, Store, list[str]]:
    bunch = load_digits()
    images = torch.from_numpy(bunch.images / 16 * 255).round().to(torch.uint8)[:, None]
    order = stratified_order(bunch.target, seed=0)  # whatever data.seed: everyone is tested on the same fifth
    cut = len(order) // 5
    test, train = (Store(images[part], bunch.target[part]) for part in (order[:cut], order[cut:]))
    return train, test, [str(name) for name in bunch.target_names]


def _load_torchvision(dataset: str, root: Path, download: bool) -> tuple[Store, Store, list[str]]:
    make = getattr(torchvision.datasets, _TORCHVISION[dataset])
    try:
        with warnings.catch_warnings():
            # CIFAR's pickles are of 2009: NumPy 2.4 and later grumble at how they spell a dtype.
            warnings.filterwarnings("ignore", message=r".*dtype\(\): align")
            sets = [make(root, train=train, download=download) for train in (True, False)]
    except Exception as error:  # torchvision raises RuntimeError, OSError, ValueError, AssertionError, ...
        cure = "try again, or copy it there" if download else "fetch it with --data.download true"
        text = f"data.root is {str(root)!r}: {dataset} is not there or not whole ({_line(error)}); {cure}"
        raise InputError(text) from error
    train, test = (Store(_channels_first(torch.as_tensor(s.data)), np.asarray(s.targets)) for s in sets)
    return train, test, list(sets[0].classes)


def _channels_first(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).contiguous() if images.ndim == 4 else images[:, None]


def _load_folder(root: Path) -> tuple[Store, Store, list[str]]:
    test_name = "val" if (root / "val").is_dir() and not (root / "test").is_dir() else "test"
    layout = "ROOT/train/CLASS/IMAGE and ROOT/test/CLASS/IMAGE (or val in place of test)"
    train, test = (class_folders(root, name, layout) for name in ("train", test_name))
    for here, there in ((train, test), (test, train)):
        odd = [name for name in here.classes if name not in there.classes]
        right = f"a folder with the same classes in train and {test_name}: {there.root} has none of {odd[:5]}"
        check("root", str(root), not odd, right)
    right = f"a folder with two classes or more: it has only {train.classes}"
    check("root", str(root), len(train.classes) > 1, right)
    stores = [Store([path for path, _ in s.samples], np.asarray(s.targets)) for s in (train, test)]
    return stores[0], stores[1], list(train.classes)


def class_folders(root: Path, name: str, layout: str) -> torchvision.datasets.ImageFolder:
    """The images of ROOT/NAME/CLASS/, files that are no images left out.

    Raises:
        InputError: the folder, a class or the images of one are missing; the layout says what would be right.
    """
    check("root", str(root), (root / name).is_dir(), f"a folder with {layout}: it has no folder {name}")
    loop = _link_into_itself(root / name)
    check("root", str(root), loop is None, f"a folder without a link into itself: {loop} is one")
    try:
        return torchvision.datasets.ImageFolder(root / name)
    except OSError as error:  # no class folder, a class without an image, a folder that may not be read
        text = f"data.root is {str(root)!r}: in its {name}: {_line(error)}; right would be {layout}"
        raise InputError(text) from error


def _link_into_itself(folder: Path) -> Path | None:
    """A link to a folder that leads to it: its images would be there again and again."""
    for place, below, _ in os.walk(folder, followlinks=True):
        for link in (Path(place, name) for name in below):
            if link.is_symlink():
                above = [one.resolve() for one in link.parents if one.is_relative_to(folder)]
                if link.resolve() in above or folder.resolve().is_relative_to(link.resolve()):
                    return link
    return None


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """A random order of all indices in which every stretch has the classes in proportion.

    So its first n entries are a balanced subset, and cutting it gives balanced parts, for any n: the cases
    that sklearn's train_test_split refuses (all but a few images, or a class of one image) work here.
    """
    shuffled = np.random.RandomState(seed).permutation(len(labels))  # this stream never changes with NumPy
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = labels[shuffled] == label
        place[members] = (np.arange(members.sum()) + 0.5) / members.sum()
    return shuffled[np.argsort(place, kind="stable")]


class BrokenImage(InputError):
    """An image file that cannot be used."""

    def __init__(self, message: str) -> None:
        # A worker process hands its exception over with a whole traceback for a message: keep the line.
        super().__init__(message.rpartition(f"{BrokenImage.__name__}: ")[2].strip())


def check_images(files: Sequence[str], one_size: int | None, seconds: float = _CHECK_SECONDS) -> None:
    """Opens every file, and decodes as many as the time allows, spread over all of them.

    Args:
        files: paths of image files.
        one_size: pixels a side that all images must have; None for any size.
        seconds: time for decoding; opening the rest takes about a second per 10,000 files on top.
    """
    deadline = time.monotonic() + seconds

    def check_some(some: Sequence[str]) -> None:
        for file in some:
            with _opened(file) as image:
                size = image.size
                if time.monotonic() < deadline:
                    image.load()
            right = f"set, for example to {one_size}: {file!r} is {size[0]}x{size[1]}, other images are not"
            check("image_size", None, one_size is None or size == (one_size, one_size), right)

    strides = math.ceil(len(files) / 32)
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside of Python's lock
        for _ in pool.map(check_some, [files[start::strides] for start in range(strides)]):
            pass


def read_image(file: str) -> Tensor:
    """The file as a uint8 tensor (3, H, W)."""
    with _opened(file) as image:
        return pil_to_tensor(image.convert("RGB"))


@contextmanager
def _opened(file: str) -> Iterator[Image.Image]:
    try:
        if os.path.exists(file) and not os.path.isfile(file):  # reading a pipe would wait for ever
            raise ValueError("no regular file")
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):  # convert("RGB") would clip these to white
                raise ValueError(f"mode {image.mode} has more than 8 bits a channel")
            yield image
    except Exception as error:  # by format Pillow raises OSError, SyntaxError, ValueError, struct.error, ...
        cure = "put it back" if isinstance(error, FileNotFoundError) else "replace it or delete it"
        text = f"data.root: image file {file!r} cannot be used ({_line(error)}); {cure}"
        raise BrokenImage(text) from error


def side_of(file: str) -> int:
    """Pixels a side of a square image file."""
    with _opened(file) as image:
        width, height = image.size
    right = f"set, for example to {min(width, height)}: {file!r} is {width}x{height}, not square"
    check("image_size", None, width == height, right)
    return width


def check(key: str, value: object, fits: bool, right: str) -> None:
    """Raise an InputError where a setting does not fit, with what would be right."""
    if not fits:
        raise InputError(f"data.{key} is {value!r}: it should be {right}")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
