"""Image data sets, cut into the parts that a search and a retraining learn from.

A data set is a pair of image stores (training, test), each a sequence of uint8 tensors (C, H, W): one big
tensor for the small sets, files read on demand for a folder. A loader gives out some indices of a store;
what is drawn per image (crop, flip) happens image by image on uint8, the rest on the whole batch, which
is about twice as fast as doing everything per image.
"""

import difflib
import itertools
import math
import os
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
class _Usual:
    """What is customary for a data set; mean and std are per channel, of pixels in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int
    flip: bool


# ImageNet's colours, as everywhere for photographs. No crops, since images differ in size.
_PHOTOGRAPHS = _Usual((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop_padding=0, flip=True)


_USUAL = {
    # Computed once over the 1438 training images that _load_digits cuts off.
    "digits": _Usual((0.3058,), (0.3762,), crop_padding=0, flip=False),
    "cifar10": _Usual((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), crop_padding=4, flip=True),
    "cifar100": _Usual((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), crop_padding=4, flip=True),
    "fashion_mnist": _Usual((0.2860,), (0.3530,), crop_padding=4, flip=True),
    **dict.fromkeys(("folder", *vehicles.DATASETS), _PHOTOGRAPHS),
}


DATASETS = tuple(_USUAL)
"""The names of the data sets."""


_MOST_BATCH, _MOST_PIXELS, _MOST_WORKERS = 1_000_000, 4096, 1024
"""Beyond what anybody wants: before more of them it is the machine that fails."""


class ImageData(pl.LightningDataModule):
    """Training, held-out and test images of one data set.

    After `prepare()`: `classes` (names), `num_classes`, `image_channels`, `image_size` (pixels a side),
    `parts` (the indices of the images in "train", "val" and "test") and `lengths` (of the parts).

    Args:
        dataset: which images: digits, cifar10, cifar100, fashion_mnist; folder for image files in
            ROOT/train/CLASS/ and ROOT/test/CLASS/ (or ROOT/val/CLASS/); or compcars_web,
            compcars_surveillance or miotcd for those vehicles as they are released (docs/datasets.md).
        root: the folder in which the data sets of torchvision are kept, or that of the image files.
        download: true to fetch a missing data set of torchvision into root.
        batch_size: images in a batch, from 1 to 1,000,000.
        val_fraction: share of the training images kept from the weights, from 0 to below 1: the part that a
            search learns the architecture on, or the validation images of a retraining. 0 trains on all
            and validates on the test images.
        train_images: use only that many training images, the classes in proportion; null for all.
        test_images: use only that many test images, the classes in proportion; null for all.
        image_size: resize every image to a square of this many pixels a side, from 1 to 4,096 (other shapes
            are squeezed); null keeps the size of the data set, which for files needs squares of one size.
        resized_crop: true to train on random areas of each image, resized to image_size, and to test on
            the centre of the image resized to image_size · 256/224 at its shorter side, as is usual for
            ImageNet; no image is squeezed then, and images may differ in size.
        crop_padding: train on random crops out of images padded by this many pixels, from 0 (no crop) to
            below the image size; null for what is usual (4; 0 for digits, files and resized_crop).
        flip: train on images mirrored left to right at random; null for what is usual (all but digits).
        cutout: side in pixels of the square blanked out of every training image, from 0 (none) to the
            image size.
        random_erasing: probability from 0 (none) to 1 that a rectangle of a training image, 2% to 40% of
            its area, is replaced by noise (Zhong et al., 2017, with random values).
        workers: processes that load images, from 0 to 1,024; 0 loads in the main process.
        seed: seed of the split and of the subsets, 0 to 2**32 - 1; it drives nothing else.
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
        check("root", root, isinstance(root, str | os.PathLike), "a path")
        check("download", download, isinstance(download, bool), "true or false")
        check("batch_size", batch_size, _whole(batch_size, 1, _MOST_BATCH), f"a whole number from 1 to {_MOST_BATCH:,}")
        share = isinstance(val_fraction, int | float) and 0 <= val_fraction < 1
        check("val_fraction", val_fraction, share, "a share from 0 to below 1, such as 0.5")
        sizes = {"train_images": train_images, "test_images": test_images, "image_size": image_size}
        for key, value in sizes.items():
            check(key, value, value is None or _whole(value, 1), "a whole number, 1 or more, or null")
        small = image_size is None or image_size <= _MOST_PIXELS
        check("image_size", image_size, small, f"at most {_MOST_PIXELS:,} pixels")
        check("resized_crop", resized_crop, isinstance(resized_crop, bool), "true or false")
        sized = image_size is not None or not resized_crop
        check("image_size", image_size, sized, "set, for example to 224, where data.resized_crop is true")
        padding = crop_padding is None or _whole(crop_padding, 0)
        check("crop_padding", crop_padding, padding, "a whole number of pixels, 0 or more, or null")
        one_crop = not (resized_crop and crop_padding)
        check("crop_padding", crop_padding, one_crop, "0 or null where data.resized_crop is true")
        check("flip", flip, flip is None or isinstance(flip, bool), "true, false or null")
        check("cutout", cutout, _whole(cutout, 0), "a whole number of pixels, 0 or more")
        probability = isinstance(random_erasing, int | float) and 0 <= random_erasing <= 1
        check("random_erasing", random_erasing, probability, "a probability from 0 to 1")
        check("workers", workers, _whole(workers, 0, _MOST_WORKERS), f"a whole number from 0 to {_MOST_WORKERS:,}")
        check("seed", seed, _whole(seed, 0, 2**32 - 1), "a whole number from 0 to 2**32 - 1")

        usual = _USUAL[dataset]
        self.dataset = dataset
        self.root = Path(root).expanduser()
        self.download = download
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.resized_crop = resized_crop
        usual_padding = 0 if resized_crop else usual.crop_padding
        self.crop_padding = usual_padding if crop_padding is None else crop_padding
        self.flip = usual.flip if flip is None else flip
        self.cutout = cutout
        self.random_erasing = random_erasing
        self.workers = workers
        self.seed = seed
        self._subset = {"train": train_images, "test": test_images}
        self._resize_to = image_size
        self._prepared = False

    def prepare(self) -> None:
        """Reads the data set and checks everything that could stop a long run later; once."""
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
        self.image_channels = len(_USUAL[self.dataset].mean)
        self.image_size = self._resize_to or (side_of(files[0]) if files else len(self._train.images[0][0]))
        limit = f"the images, which have {self.image_size} pixels a side"
        padding = self.crop_padding
        check("crop_padding", padding, padding < self.image_size, f"smaller than {limit}")
        check("cutout", self.cutout, self.cutout <= self.image_size, f"no larger than {limit}")
        check_images(files, one_size=None if self._resize_to else self.image_size)
        self._prepared = True

    def setup(self, stage: str | None = None) -> None:
        """Lightning's call before it asks for a loader."""
        self.prepare()

    def train_dataloader(self) -> DataLoader:
        """The images that the weights learn from: shuffled, augmented."""
        return self._loader("train", learn=True)

    def architecture_dataloader(self) -> DataLoader:
        """The held-out images as a search learns from them: shuffled, augmented like the training images."""
        right = "above 0, such as 0.5, where an architecture is learned from the held-out images"
        check("val_fraction", self.val_fraction, self.val_fraction > 0, right)
        return self._loader("val", learn=True)

    def val_dataloader(self) -> DataLoader:
        """The held-out images, or the test images where none are held out: in order, as they are."""
        return self._loader("val" if self.val_fraction > 0 else "test", learn=False)

    def test_dataloader(self) -> DataLoader:
        """The test images: in order, as they are."""
        return self._loader("test", learn=False)

    def _split(self) -> dict[str, np.ndarray]:
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
        order, wanted = stratified_order(labels, self.seed), self._subset[name]
        fewest = int(np.unique(labels[order], return_index=True)[1].max()) + 1
        right = f"from {fewest} (every class at least once) to {len(order)} (all images)"
        check(f"{name}_images", wanted, wanted is None or fewest <= wanted <= len(order), right)
        return order[:wanted]

    def _files(self) -> list[str]:
        """The image files that are used; none where the images are in memory."""
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
        # The trainer knows, not torch.distributed: after a fit on several devices one of its processes tests alone.
        trainer = self.trainer
        if trainer is None or not 1 < trainer.world_size <= len(images):
            return DataLoader(images, self.batch_size, **kind)
        # Lightning's own sampler counts an image twice where the processes cannot share them evenly.
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
        usual = _USUAL[self.dataset]
        steps: list[Any] = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(usual.mean, usual.std)]
        if learn and self.cutout:
            steps.append(Cutout(self.cutout))
        if learn and self.random_erasing:
            steps.append(RandomErasing(self.random_erasing))
        return v2.Compose(steps)


class _Images(Dataset):
    """Some images of a store: uint8 image and label."""

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
    """The least batch size, from the wanted one on, by which the shares of all processes are as many batches.

    They work in step, batch by batch, and their shares may differ by an image.
    """
    share, left = divmod(images, processes)
    return next(count for count in itertools.count(size) if not left or share % count)


def _check_dataset(dataset: str) -> None:
    if dataset not in list(_USUAL):  # a list also takes what YAML gives and cannot be hashed
        close = difflib.get_close_matches(str(dataset), _USUAL, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise InputError(f"data.dataset is {dataset!r}: it should be one of {', '.join(_USUAL)}{hint}")


def _whole(value: object, low: int, high: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
