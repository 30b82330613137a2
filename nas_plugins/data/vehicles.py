"""Vehicle data sets of Fine-Tuning DARTS (sections IV-D and IV-E): CompCars and MIO-TCD, in their released layout.

They cannot be downloaded automatically; docs/datasets.md describes how to request and place them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas_plugins.data.sources import Store, check, class_folders, stratified_order
from nas_plugins.files import read_text


@dataclass(frozen=True)
class _Listed:
    """Layout of a data set whose training and test images are listed in text files, one path per line.

    Args:
        images: Folder of the images, relative to the root.
        lists: Path of a list, with ``{}`` for train or test.
        class_folders: Number of leading folders in a line that make the class name.
    """

    images: str
    lists: str
    class_folders: int


_COMPCARS = {
    "compcars_web": _Listed("data/image", "data/train_test_split/classification/{}.txt", class_folders=2),
    "compcars_surveillance": _Listed("sv_data/image", "sv_data/{}_surveillance.txt", class_folders=1),
}
_MIOTCD_TEST = 0.2
DATASETS = (*_COMPCARS, "miotcd")
"""Names of the vehicle data sets."""


def load(dataset: str, root: Path) -> tuple[Store, Store, list[str]]:
    """Return the training images, the test images and the class names of a vehicle data set.

    - compcars_web: ROOT/data/image/MAKE/MODEL/YEAR/*.jpg, split by the lists
      ROOT/data/train_test_split/classification/train.txt and test.txt. A class is a model, "MAKE/MODEL".
    - compcars_surveillance: ROOT/sv_data/image/CLASS/*.jpg, split by ROOT/sv_data/train_surveillance.txt
      and test_surveillance.txt.
    - miotcd: ROOT/train/CLASS/*.jpg with 11 classes, split 80:20 with the classes in proportion and independent
      of the seed, because the labels of the released test images are not public.

    Args:
        dataset: One of :data:`DATASETS`.
        root: Folder of the data set.

    Raises:
        InputError: Files are missing.
    """
    if dataset == "miotcd":
        return _load_miotcd(root)
    return _load_listed(_COMPCARS[dataset], root)


def _load_listed(listed: _Listed, root: Path) -> tuple[Store, Store, list[str]]:
    lists = [read_text(root / listed.lists.format(part)).splitlines() for part in ("train", "test")]
    lines = [[line.strip() for line in part if line.strip()] for part in lists]
    names = [["/".join(line.split("/")[: listed.class_folders]) for line in part] for part in lines]
    classes = sorted({*names[0]}, key=_by_number)
    unknown = sorted({*names[1]} - {*classes}, key=_by_number)
    right = f"a folder whose training list has all classes of its test list, also {unknown[:5]}"
    check("root", str(root), not unknown, right)
    number = {name: index for index, name in enumerate(classes)}
    files = [[str(root / listed.images / line) for line in part] for part in lines]
    labels = [np.array([number[name] for name in part]) for part in names]
    return Store(files[0], labels[0]), Store(files[1], labels[1]), classes


def _by_number(name: str) -> list[tuple[bool, int, str]]:
    """Return a sort key that puts 9/2 before 10/1: the folder names of CompCars are numbers."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in name.split("/")]


def _load_miotcd(root: Path) -> tuple[Store, Store, list[str]]:
    found = class_folders(root, "train", "ROOT/train/CLASS/IMAGE with the 11 classes of MIO-TCD")
    paths, labels = [path for path, _ in found.samples], np.asarray(found.targets)
    order = stratified_order(labels, seed=0)  # independent of data.seed: no search may see test images
    cut = round(_MIOTCD_TEST * len(order))
    parts = (np.sort(order[cut:]), np.sort(order[:cut]))
    train, test = (Store([paths[index] for index in part], labels[part]) for part in parts)
    return train, test, found.classes
