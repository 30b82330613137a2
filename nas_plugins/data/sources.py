"""Sources of images: arrays in memory, or files that are read on demand."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.datasets import DatasetFolder

from nas_plugins.data.image_files import EXTENSIONS, Form, read_image
from nas_plugins.errors import InputError
from nas_plugins.files import one_line

_TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion_mnist": "FashionMNIST"}


@dataclass(frozen=True)
class Store:
    """Images of a training or test set with their labels.

    Args:
        images: Tensor of shape (N, C, H, W), uint8; or paths of N files.
        labels: Class indices (N,), labels or values (N, outputs), or paths of masks (N,).
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
        text = f"data.root is {str(root)!r}: {dataset} is not there or not whole ({one_line(error)}); {cure}"
        raise InputError(text) from error
    train, test = (Store(_channels_first(torch.as_tensor(s.data)), np.asarray(s.targets)) for s in sets)
    return train, test, list(sets[0].classes)


def _channels_first(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).contiguous() if images.ndim == 4 else images[:, None]


def _load_folder(root: Path) -> tuple[Store, Store, list[str]]:
    test_name = "val" if (root / "val").is_dir() and not (root / "test").is_dir() else "test"
    layout = "ROOT/train/CLASS/IMAGE and ROOT/test/CLASS/IMAGE (or val in place of test)"
    train, test = (class_folders(root, name, layout) for name in ("train", test_name))
    odd = sorted({*train.classes} ^ {*test.classes})
    check("root", str(root), not odd, f"a folder with the same classes in train and {test_name}: {odd[:5]} are in one")
    stores = [Store([path for path, _ in s.samples], np.asarray(s.targets)) for s in (train, test)]
    return stores[0], stores[1], train.classes


def class_folders(root: Path, name: str, layout: str) -> DatasetFolder:
    """Return the images of ROOT/NAME/CLASS/, without files of other types.

    Args:
        root: Folder of the data set.
        name: Name of the part, for example train.
        layout: Expected layout, for error messages.

    Raises:
        InputError: The folder or its classes are missing, or a class is empty.
    """
    try:
        return DatasetFolder(str(root / name), read_image, EXTENSIONS)
    except OSError as error:
        raise InputError(f"data.root is {str(root)!r}: it should have {layout}: {one_line(error)}") from None


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return a random order of all indices in which every stretch has the classes in proportion.

    Its first n entries are a balanced subset for any n, and cutting it gives balanced parts, also in cases that
    sklearn's train_test_split refuses (all but a few images, or a class of one image).

    Args:
        labels: Class indices of shape (N,).
        seed: Seed of the order.
    """
    # RandomState draws the same numbers in every NumPy version.
    shuffled = np.random.RandomState(seed).permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = labels[shuffled] == label
        place[members] = (np.arange(members.sum()) + 0.5) / members.sum()
    return shuffled[np.argsort(place, kind="stable")]


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


def common_shape(forms: Mapping[Form, str], any_size: bool) -> tuple[int, int]:
    """Return the channels and the pixels per side that all image files have.

    Args:
        forms: The forms of the files, each with a file that has it.
        any_size: Whether the size may differ.

    Raises:
        InputError: The files differ, or are not square.
    """
    (first, example), *_ = forms.items()
    side = min(first.height, first.width)
    for form, file in forms.items():
        if form.channels != first.channels:
            raise InputError(
                f"data.root: {file!r} has {form.channels} channels, {example!r} {first.channels}; all images should "
                "have the same number, where colours are three and transparency is one more"
            )
        size = f"{file!r} is {form.width}x{form.height}, not {side}x{side}"
        check("image_size", None, any_size or form[1:3] == (side, side), f"set, for example to {side}: {size}")
    return first.channels, side
