"""Vehicle data sets of Fine-Tuning DARTS (sections IV-D and IV-E): CompCars and MIO-TCD, in their released layout.

They cannot be downloaded automatically; docs/datasets.md describes how to request and place them.
"""

from __future__ import annotations

from collections import Counter
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
        line: Form of a line.
        class_folders: Number of leading folders in a line that make the class name.
    """

    images: str
    lists: str
    line: str
    class_folders: int

    @property
    def layout(self) -> str:
        lists = " and ".join(self.lists.format(part) for part in ("train", "test"))
        return f"a folder with the images in {self.images}/{self.line} and their lists in {lists}"


_COMPCARS = {
    "compcars_web": _Listed(
        images="data/image",
        lists="data/train_test_split/classification/{}.txt",
        line="MAKE/MODEL/YEAR/IMAGE",
        class_folders=2,
    ),
    "compcars_surveillance": _Listed(
        images="sv_data/image", lists="sv_data/{}_surveillance.txt", line="CLASS/IMAGE", class_folders=1
    ),
}
_MIOTCD_CLASSES = (
    "articulated_truck", "background", "bicycle", "bus", "car", "motorcycle", "non-motorized_vehicle", "pedestrian",
    "pickup_truck", "single_unit_truck", "work_van",
)  # fmt: skip
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
        InputError: Files are missing, or an image is listed more than once; the message names the expected layout.
    """
    if dataset == "miotcd":
        return _load_miotcd(root)
    return _load_listed(_COMPCARS[dataset], root)


def _load_listed(listed: _Listed, root: Path) -> tuple[Store, Store, list[str]]:
    lines = {part: _read_list(listed, root, part) for part in ("train", "test")}
    both = sorted({*map("/".join, lines["train"])} & {*map("/".join, lines["test"])})
    lists = " and ".join(listed.lists.format(part) for part in lines)
    check("root", str(root), not both, f"{listed.layout}: {lists} have images in common, such as {both[:1]}")
    names = {part: ["/".join(line[: listed.class_folders]) for line in lines[part]] for part in lines}
    classes = sorted(set(names["train"]), key=_by_number)
    unknown = sorted(set(names["test"]) - set(classes), key=_by_number)
    right = (
        f"a folder whose lists have the same classes: none of {unknown[:5]} of the test list is in the training list"
    )
    check("root", str(root), not unknown, right)
    check("root", str(root), len(classes) > 1, f"a folder of two classes or more: its lists have only {classes}")
    number = {name: index for index, name in enumerate(classes)}
    stores = []
    for part in ("train", "test"):
        files = [str(root.joinpath(listed.images, *line)) for line in lines[part]]
        stores.append(Store(files, np.array([number[name] for name in names[part]])))
    return stores[0], stores[1], classes


def _read_list(listed: _Listed, root: Path, part: str) -> list[list[str]]:
    """Return the image paths in a list, each split into its components."""
    name = listed.lists.format(part)
    for needed, there in ((listed.images, (root / listed.images).is_dir()), (name, (root / name).is_file())):
        check("root", str(root), there, f"{listed.layout}: it has no {needed}")
    lines = [line.strip().split("/") for line in read_text(root / name).splitlines()]
    for number, line in enumerate(lines, 1):
        fits = line == [""] or (len(line) == listed.line.count("/") + 1 and all(line))
        check("root", str(root), fits, f"{listed.layout}: line {number} of {name} is {'/'.join(line)!r:.80}")
    lines = [line for line in lines if line != [""]]
    check("root", str(root), bool(lines), f"{listed.layout}: {name} lists no image")
    twice = [path for path, times in Counter(map("/".join, lines)).items() if times > 1]
    check("root", str(root), not twice, f"{listed.layout}: {name} has images more than once, such as {twice[:1]}")
    missing = ["/".join(line) for line in lines if not root.joinpath(listed.images, *line).is_file()]
    text = f"{len(missing)} of the {len(lines)} images of {name} are not in {listed.images}, such as {missing[:1]}"
    check("root", str(root), not missing, f"{listed.layout}: {text}")
    return lines


def _by_number(name: str) -> list[tuple[bool, int, str]]:
    """Return a sort key that puts 9/2 before 10/1: the folder names of CompCars are numbers."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in name.split("/")]


def _load_miotcd(root: Path) -> tuple[Store, Store, list[str]]:
    found = class_folders(root, "train", "ROOT/train/CLASS/IMAGE with the 11 classes of MIO-TCD")
    missing = sorted(set(_MIOTCD_CLASSES) - set(found.classes))
    odd = sorted(set(found.classes) - set(_MIOTCD_CLASSES))
    right = (
        f"a folder with train/CLASS/IMAGE for the 11 classes of MIO-TCD: missing are {missing}, of no class are {odd}"
    )
    check("root", str(root), not missing and not odd, right)
    paths, labels = [path for path, _ in found.samples], np.asarray(found.targets)
    order = stratified_order(labels, seed=0)  # independent of data.seed: no search may see test images
    cut = round(_MIOTCD_TEST * len(order))
    parts = (np.sort(order[cut:]), np.sort(order[:cut]))
    train, test = (Store([paths[index] for index in part], labels[part]) for part in parts)
    return train, test, list(found.classes)
