"""Lightning data module with the splits for search and retraining.

A data set is a pair of image stores (training, test), each a sequence of uint8 tensors (C, H, W): one tensor
for the small sets, files read on demand for a folder. Transforms with random draws per image (crop, flip) run
image by image on uint8, all others on the whole batch, which is about twice as fast as doing everything per image.
"""

import difflib
import itertools
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import v2

from nas_plugins.data import vehicles
from nas_plugins.data.augmentation import Cutout, RandomErasing
from nas_plugins.data.sources import Store, check, check_images, load, read_image, side_of, stratified_order
from nas_plugins.errors import InputError
from search_spaces.deprecation import renamed_arguments


@dataclass(frozen=True)
class _Conventions:
    """Usual preprocessing of a data set.

    Args:
        mean: Mean of each channel, for pixels from 0 to 1.
        std: Standard deviation of each channel.
        crop_padding: Padding of the random crop in pixels.
        flip: Whether images are mirrored.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int
    flip: bool


# The colour statistics of ImageNet. No crop padding, because the files may differ in size.
_PHOTOGRAPHS = _Conventions((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop_padding=0, flip=True)
_CONVENTIONS = {
    # Computed over the 1438 training images of _load_digits() in sources.py.
    "digits": _Conventions((0.3058,), (0.3762,), crop_padding=0, flip=False),
    "cifar10": _Conventions((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), crop_padding=4, flip=True),
    "cifar100": _Conventions((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), crop_padding=4, flip=True),
    "fashion_mnist": _Conventions((0.2860,), (0.3530,), crop_padding=4, flip=True),
    **dict.fromkeys(("folder", *vehicles.DATASETS), _PHOTOGRAPHS),
}
DATASETS = tuple(_CONVENTIONS)
"""Names of the data sets."""


class ImageData(pl.LightningDataModule):
    """Training, validation and test images of one data set.

    `prepare()` sets `classes` (names), `num_classes`, `image_channels`, `image_size` (pixels per side),
    `parts` (image indices of "train", "val" and "test") and `lengths` (images per part).

    Args:
        dataset: Name of the data set: digits, cifar10, cifar100, fashion_mnist; folder for image files in
            ROOT/train/CLASS/ and ROOT/test/CLASS/ (or ROOT/val/CLASS/); compcars_web, compcars_surveillance
            or miotcd for the vehicle data sets in their released layout (docs/datasets.md).
        root: Folder of the torchvision data sets or of the image files.
        download: Whether to download a missing torchvision data set into root.
        batch_size: Images per batch, from 1 to 1,000,000.
        val_fraction: Share of the training images kept from the weights, from 0 to below 1. A search learns
            the architecture on them, a retraining validates on them. With 0 the weights train on all
            training images, and the test images serve for validation.
        train_images: Number of training images to use, with the classes in proportion; null for all.
        test_images: Number of test images to use, with the classes in proportion; null for all.
        image_size: Pixels per side of the square that every image is resized to, from 1 to 4,096; the aspect
            ratio is not kept. Null keeps the original size, which for files must be one square size.
        resized_crop: Whether to train on random areas of each image, resized to image_size, and to test on
            the centre of the image after resizing its shorter side to image_size · 256/224, as is usual for
            ImageNet. The aspect ratio is kept, and images may differ in size.
        crop_padding: Padding in pixels before a random crop in training, from 0 (no crop) to below the image
            size; null for the usual padding (4; 0 for digits, files and resized_crop).
        flip: Whether to mirror training images left to right at random; null for the usual (all but digits).
        cutout: Side in pixels of the square cut out of every training image, from 0 (none) to the image size.
        random_erasing: Probability that a rectangle of a training image, 2% to 40% of its area, is replaced
            by noise, from 0 to 1 (Zhong et al., 2017, with random values).
        workers: Number of processes that load images, from 0 to 1,024; 0 loads in the main process.
        seed: Seed of the split and of the subsets only, from 0 to 2**32 - 1.

    Raises:
        InputError: A value is out of range.
    """

    classes: list[str]
    num_classes: int
    image_channels: int
    image_size: int
    parts: dict[str, np.ndarray]
    lengths: dict[str, int]

    @renamed_arguments(held_out="val_fraction")
    def __init__(
        self,
        *,
        dataset: str = "digits",
        root: str = "data",
        download: bool = False,
        batch_size: int = 64,
        val_fraction: float = 0.5,
        train_images: int | None = None,
        test_images: int | None = None,
        image_size: int | None = None,
        resized_crop: bool = False,
        crop_padding: int | None = None,
        flip: bool | None = None,
        cutout: int = 0,
        random_erasing: float = 0.0,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_dataset(dataset)
        conventions = _CONVENTIONS[dataset]
        self.dataset = dataset
        self.root = Path(root).expanduser()
        self.download = download
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.resized_crop = resized_crop
        usual_padding = 0 if resized_crop else conventions.crop_padding
        self.crop_padding = usual_padding if crop_padding is None else crop_padding
        self.flip = conventions.flip if flip is None else flip
        self.cutout = cutout
        self.random_erasing = random_erasing
        self.workers = workers
        self.seed = seed
        self._subset = {"train": train_images, "test": test_images}
        self._resize_to = image_size
        self._prepared = False
        self._check_ranges()

    def _check_ranges(self) -> None:
        """Raise an InputError for a value out of range; jsonargparse has checked the types of those in a config."""
        ranges: dict[str, tuple[int | None, int, float]] = {
            "batch_size": (self.batch_size, 1, 1_000_000),
            "train_images": (self._subset["train"], 1, math.inf),
            "test_images": (self._subset["test"], 1, math.inf),
            "image_size": (self._resize_to, 1, 4096),
            "crop_padding": (self.crop_padding, 0, math.inf),
            "cutout": (self.cutout, 0, math.inf),
            "workers": (self.workers, 0, 1024),
            "seed": (self.seed, 0, 2**32 - 1),
        }
        for key, (value, low, high) in ranges.items():
            right = f"a whole number from {low}" + (f" to {high:,}" if high < math.inf else " on")
            check(key, value, value is None or low <= value <= high, right)
        share = self.val_fraction
        check("val_fraction", share, 0 <= share < 1, "a share from 0 to below 1, for example 0.5")
        check("random_erasing", self.random_erasing, 0 <= self.random_erasing <= 1, "a probability from 0 to 1")
        if self.resized_crop:
            right = "set, for example to 224, where data.resized_crop is true"
            check("image_size", self._resize_to, self._resize_to is not None, right)
            right = "0 or null where data.resized_crop is true"
            check("crop_padding", self.crop_padding, self.crop_padding == 0, right)

    def prepare(self) -> None:
        """Read the data set and check all that could stop a long run later; later calls do nothing."""
        if self._prepared:
            return
        if self.dataset in vehicles.DATASETS:
            loaded = vehicles.load(self.dataset, self.root)
        else:
            loaded = load(self.dataset, self.root, self.download)
        self._train, self._test, self.classes = loaded
        self.num_classes = len(self.classes)
        self.parts = self._split()
        self.lengths = {name: len(indices) for name, indices in self.parts.items()}
        files = self._files()
        self.image_channels = len(_CONVENTIONS[self.dataset].mean)
        self.image_size = self._resize_to or (side_of(files[0]) if files else len(self._train.images[0][0]))
        limit = f"the images, which have {self.image_size} pixels a side"
        padding = self.crop_padding
        check("crop_padding", padding, padding < self.image_size, f"smaller than {limit}")
        check("cutout", self.cutout, self.cutout <= self.image_size, f"no larger than {limit}")
        check_images(files, one_size=None if self._resize_to else self.image_size)
        self._prepared = True

    def setup(self, stage: str | None = None) -> None:
        """Prepare the data; called by Lightning before it asks for a loader."""
        self.prepare()

    def train_dataloader(self) -> DataLoader:
        """Return a loader of the training images, shuffled and augmented."""
        return self._loader("train", learn=True)

    def architecture_dataloader(self) -> DataLoader:
        """Return a loader of the validation images for the architecture steps, shuffled and augmented.

        Raises:
            InputError: `val_fraction` is 0.
        """
        right = "above 0, for example 0.5, where an architecture is learned from the held-out images"
        check("val_fraction", self.val_fraction, self.val_fraction > 0, right)
        return self._loader("val", learn=True)

    def val_dataloader(self) -> DataLoader:
        """Return a loader of the validation images, or of the test images if `val_fraction` is 0; not augmented."""
        return self._loader("val" if self.val_fraction > 0 else "test", learn=False)

    def test_dataloader(self) -> DataLoader:
        """Return a loader of the test images, in order and not augmented."""
        return self._loader("test", learn=False)

    def _split(self) -> dict[str, np.ndarray]:
        """Return the image indices of each part."""
        train, test = self._choose("train", self._train.labels), self._choose("test", self._test.labels)
        kept = len(train) - round(self.val_fraction * len(train))
        parts = {"train": train[:kept], "val": train[kept:], "test": test}
        seen = [len(np.unique(self._train.labels[part])) for part in (train[:kept], train[kept:])]
        right = (
            f"nearer to 0.5 with enough training images, or 0: it cuts {len(train)} of them into {kept} and "
            f"{len(train) - kept}, and each part needs an image of each of the {self.num_classes} classes"
        )
        check("val_fraction", self.val_fraction, self.val_fraction == 0 or min(seen) == self.num_classes, right)
        return {name: np.sort(indices) for name, indices in parts.items()}

    def _choose(self, name: str, labels: np.ndarray) -> np.ndarray:
        """Return the indices of the used images of a store in stratified order."""
        order, wanted = stratified_order(labels, self.seed), self._subset[name]
        fewest = int(np.unique(labels[order], return_index=True)[1].max()) + 1
        right = f"from {fewest} (every class at least once) to {len(order)} (all images)"
        check(f"{name}_images", wanted, wanted is None or fewest <= wanted <= len(order), right)
        return order[:wanted]

    def _files(self) -> list[str]:
        """Return the paths of all used image files; empty for data sets in memory."""
        images = {"train": self._train.images, "val": self._train.images, "test": self._test.images}
        files = {part: paths for part, paths in images.items() if isinstance(paths, list)}
        return [paths[index] for part, paths in files.items() for index in self.parts[part]]

    def _loader(self, part: str, learn: bool) -> DataLoader:
        self.prepare()
        store = self._test if part == "test" else self._train
        indices = self.parts[part]
        images = _Images(store, indices, self._per_image(learn))
        kind: dict[str, Any] = {"num_workers": self.workers, "collate_fn": partial(_collate, self._per_batch(learn))}
        if learn:
            drop_last = len(indices) >= self.batch_size
            return DataLoader(images, self.batch_size, shuffle=True, drop_last=drop_last, **kind)
        # Ask the trainer, not torch.distributed: after a fit on several devices, the main process tests alone.
        trainer = self.trainer
        if trainer is None or not 1 < trainer.world_size <= len(images):
            return DataLoader(images, self.batch_size, **kind)
        # Lightning's default sampler repeats images to even out the shares of the processes.
        sampler = UnrepeatedDistributedSampler(images, trainer.world_size, trainer.global_rank, shuffle=False)
        batch = _batch_of_a_share(self.batch_size, len(images), trainer.world_size)
        return DataLoader(images, batch, sampler=sampler, **kind)

    def _per_image(self, learn: bool) -> v2.Transform:
        steps: list[Any] = []
        size = (self.image_size, self.image_size)
        if self.resized_crop and learn:
            steps.append(v2.RandomResizedCrop(size))
        elif self.resized_crop:
            steps += [v2.Resize(round(self.image_size * 256 / 224)), v2.CenterCrop(size)]
        elif self._resize_to:
            steps.append(v2.Resize(size))
        if learn and self.crop_padding:
            steps.append(v2.RandomCrop(self.image_size, padding=self.crop_padding))
        if learn and self.flip:
            steps.append(v2.RandomHorizontalFlip())
        return v2.Compose(steps or [v2.Identity()])

    def _per_batch(self, learn: bool) -> v2.Transform:
        colours = _CONVENTIONS[self.dataset]
        steps: list[Any] = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(colours.mean, colours.std)]
        if learn and self.cutout:
            steps.append(Cutout(self.cutout))
        if learn and self.random_erasing:
            steps.append(RandomErasing(self.random_erasing))
        return v2.Compose(steps)


class _Images(Dataset):
    """Selected images of a store, as pairs of a uint8 image and a label."""

    def __init__(self, store: Store, indices: np.ndarray, transform: v2.Transform) -> None:
        self.images, self.transform = store.images, transform
        self.indices, self.labels = indices.tolist(), store.labels[indices].tolist()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[self.indices[index]]
        pixels = image if isinstance(image, Tensor) else read_image(image)
        return self.transform(pixels), self.labels[index]


def _collate(transform: v2.Transform, samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    images, labels = default_collate(samples)
    return transform(images), labels


def _batch_of_a_share(size: int, images: int, processes: int) -> int:
    """Return the smallest batch size, at least the wanted one, that gives every process the same number of batches.

    Processes run in step, batch by batch, while their shares may differ by one image.
    """
    share, left = divmod(images, processes)
    return next(count for count in itertools.count(size) if not left or share % count)


def _check_dataset(dataset: str) -> None:
    if dataset not in _CONVENTIONS:
        close = difflib.get_close_matches(dataset, _CONVENTIONS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise InputError(f"data.dataset is {dataset!r}: it should be one of {', '.join(_CONVENTIONS)}{hint}")
