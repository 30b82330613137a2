"""Sources of images: arrays in memory, or files that are checked first and read on demand."""

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

_CHECK_SECONDS = 4.0  # time limit for decoding image files before a run starts
_TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion_mnist": "FashionMNIST"}


@dataclass(frozen=True)
class Store:
    """Images of a training or test set with their labels.

    Args:
        images: Tensor of shape (N, C, H, W), uint8; or paths of N files.
        labels: Class indices of shape (N,).
    """

    images: Tensor | list[str]
    labels: np.ndarray


def load(dataset: str, root: Path, download: bool) -> tuple[Store, Store, list[str]]:
    """Return the training images, the test images and the class names of a data set.

    Args:
        dataset: One of digits, cifar10, cifar100, fashion_mnist and folder.
        root: Folder of the data.
        download: Whether to download a missing torchvision data set.

    Raises:
        InputError: Images are missing or damaged.
    """
    if dataset == "digits":
        return _load_digits()
    if dataset == "folder":
        return _load_folder(root)
    return _load_torchvision(dataset, root, download)


def _load_digits() -> tuple[Store, Store, list[str]]:
    bunch = load_digits()
    images = torch.from_numpy(bunch.images / 16 * 255).round().to(torch.uint8)[:, None]
    order = stratified_order(bunch.target, seed=0)  # independent of data.seed: all runs share one test set
    cut = len(order) // 5
    test, train = (Store(images[part], bunch.target[part]) for part in (order[:cut], order[cut:]))
    return train, test, [str(name) for name in bunch.target_names]


def _load_torchvision(dataset: str, root: Path, download: bool) -> tuple[Store, Store, list[str]]:
    make = getattr(torchvision.datasets, _TORCHVISION[dataset])
    try:
        with warnings.catch_warnings():
            # CIFAR's pickles use an old dtype spelling, which NumPy 2.4 and later warn about.
            warnings.filterwarnings("ignore", message=r".*dtype\(\): align")
            sets = [make(root, train=train, download=download) for train in (True, False)]
    except Exception as error:  # torchvision raises many kinds
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
    """Return the images of ROOT/NAME/CLASS/, without files of other types.

    Args:
        root: Folder of the data set.
        name: Name of the part, for example train.
        layout: Expected layout, for error messages.

    Raises:
        InputError: The folder or its classes are missing, or a class is empty.
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
    """Return a link from a folder to one of its parents, which would repeat its images; None without such a link."""
    for place, below, _ in os.walk(folder, followlinks=True):
        for link in (Path(place, name) for name in below):
            if link.is_symlink():
                above = [one.resolve() for one in link.parents if one.is_relative_to(folder)]
                if link.resolve() in above or folder.resolve().is_relative_to(link.resolve()):
                    return link
    return None


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return a random order of all indices in which every stretch has the classes in proportion.

    Its first n entries are a balanced subset for any n, and cutting it gives balanced parts, also in cases that
    sklearn's train_test_split refuses (all but a few images, or a class of one image).

    Args:
        labels: Class indices of shape (N,).
        seed: Seed of the order.
    """
    shuffled = np.random.RandomState(seed).permutation(
        len(labels)
    )  # RandomState draws the same numbers in every NumPy version
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = labels[shuffled] == label
        place[members] = (np.arange(members.sum()) + 0.5) / members.sum()
    return shuffled[np.argsort(place, kind="stable")]


class BrokenImage(InputError):
    """Image file that is damaged or has an unsupported format."""

    def __init__(self, message: str) -> None:
        # The DataLoader raises a worker's exception again with its traceback as the message: keep the last line.
        super().__init__(message.rpartition(f"{BrokenImage.__name__}: ")[2].strip())


def check_images(files: Sequence[str], one_size: int | None, seconds: float = _CHECK_SECONDS) -> None:
    """Open every image file, and decode as many as the time allows, spread over all of them.

    Args:
        files: Paths of image files.
        one_size: Pixels per side that all images must have; None for any size.
        seconds: Time limit for decoding; opening the rest takes another second per 10,000 files.

    Raises:
        InputError: A file is damaged or has another size.
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
    with ThreadPoolExecutor() as pool:  # Pillow releases the GIL while decoding
        for _ in pool.map(check_some, [files[start::strides] for start in range(strides)]):
            pass


def read_image(file: str) -> Tensor:
    """Return an image file as a uint8 tensor of shape (3, H, W).

    Raises:
        BrokenImage: The file cannot be read.
    """
    with _opened(file) as image:
        return pil_to_tensor(image.convert("RGB"))


@contextmanager
def _opened(file: str) -> Iterator[Image.Image]:
    """Open an image file; raise BrokenImage for any error inside the context."""
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):  # convert("RGB") would clip these to white
                raise ValueError(f"mode {image.mode} has more than 8 bits a channel")
            yield image
    except Exception as error:  # Pillow raises many kinds, depending on the format
        cure = "put it back" if isinstance(error, FileNotFoundError) else "replace it or delete it"
        text = f"data.root: image file {file!r} cannot be used ({_line(error)}); {cure}"
        raise BrokenImage(text) from error


def side_of(file: str) -> int:
    """Return the pixels per side of a square image file.

    Raises:
        InputError: The image is not square or cannot be read.
    """
    with _opened(file) as image:
        width, height = image.size
    right = f"set, for example to {min(width, height)}: {file!r} is {width}x{height}, not square"
    check("image_size", None, width == height, right)
    return width


def check(key: str, value: object, fits: bool, right: str) -> None:
    """Raise an InputError if a setting does not fit.

    Args:
        key: Key in the section data of a config.
        value: Value of the setting.
        fits: Whether the value is accepted.
        right: Description of accepted values, completing "it should be".
    """
    if not fits:
        raise InputError(f"data.{key} is {value!r}: it should be {right}")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
