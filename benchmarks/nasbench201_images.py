"""Images of a NAS-Bench-201 search: resized once, held in memory, cropped and flipped batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from nni.nas.evaluator.pytorch import DataLoader
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import BatchSampler, Dataset, RandomSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2.functional import resize

from nas_plugins.data.image_files import read_image
from nas_plugins.data.sources import stratified_order
from nas_plugins.errors import InputError
from search_spaces.files import write_whole

Batch = tuple[Tensor, Tensor]
"""Normalized images (batch, 3, size, size), in channels-last layout, and their labels (batch)."""


def find(folder: Path, count: int) -> ImageFolder:
    """Return the training images of a folder.

    Args:
        folder: Folder with train/CLASS/*.
        count: Number of images that will be used.

    Raises:
        InputError: The folder has another layout, or fewer images.
    """
    try:
        found = ImageFolder(folder / "train")
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--images {folder}: {reason}; it should hold train/CLASS/*.jpg") from None
    if not 2 * len(found.classes) <= count <= len(found):
        raise InputError(
            f"--train-images {count}: {folder} has {len(found)} training images of {len(found.classes)} classes; "
            f"it should be from {2 * len(found.classes)} to {len(found)}"
        )
    return found


def prepare(found: ImageFolder, count: int, size: int, path: Path) -> None:
    """Write the images that a protocol uses, in two halves with the classes in proportion, the same for every seed.

    Args:
        found: Images of the folder.
        count: Number of images to use.
        size: Pixels per side after resizing.
        path: File to write, for :func:`halves`.

    Raises:
        InputError: An image cannot be read.
    """
    labels = np.asarray(found.targets)
    chosen = stratified_order(labels, seed=0)[:count]
    images = [resize(read_image(found.samples[i][0]), [size, size], antialias=True) for i in chosen]
    pixels = torch.stack(images).permute(0, 2, 3, 1).numpy()
    write_whole(path, lambda file: np.savez(file, pixels=pixels, labels=labels[chosen]))


def halves(path: Path) -> tuple[Half, Half]:
    """Return the images for the weights, and those for α."""
    with np.load(path, allow_pickle=False) as file:
        pixels, labels = torch.from_numpy(file["pixels"]), torch.from_numpy(file["labels"])
    sample = pixels[:10_000].float()
    mean, deviation = sample.mean((0, 1, 2)), sample.std((0, 1, 2))
    cut = len(pixels) // 2
    return Half(pixels[:cut], labels[:cut], mean, deviation), Half(pixels[cut:], labels[cut:], mean, deviation)


class Half(Dataset):
    """Data set of images in memory that returns whole batches.

    Args:
        pixels: Pixels of shape (images, size, size, 3), uint8.
        labels: Labels of shape (images).
        mean, deviation: Mean and standard deviation of each channel.
    """

    def __init__(self, pixels: Tensor, labels: Tensor, mean: Tensor, deviation: Tensor) -> None:
        self.size, self.labels = pixels.shape[1], labels
        self.mean, self.deviation = mean, deviation
        self.padding = self.size // 8  # 4 pixels of 32
        self.padded = pad(pixels, (0, 0, *[self.padding] * 4))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        """Return a batch of random crops of the padded images, half of them mirrored."""
        index, along = torch.as_tensor(indices), torch.arange(self.size)
        top, left = torch.randint(2 * self.padding + 1, (2, len(index), 1))
        mirrored = torch.rand(len(index), 1) < 0.5
        return self._batch(index, top + along, left + torch.where(mirrored, along.flip(0), along))

    def plain(self, batch_size: int) -> Iterator[Batch]:
        """Yield all images in order without augmentation, in batches."""
        along = self.padding + torch.arange(self.size)[None]
        for index in torch.arange(len(self)).split(batch_size):
            yield self._batch(index, along, along)

    def loader(self, batch_size: int) -> DataLoader:
        """Return a loader of shuffled and augmented batches."""
        return DataLoader(self, sampler=BatchSampler(RandomSampler(self), batch_size, drop_last=False), batch_size=None)

    def _batch(self, index: Tensor, rows: Tensor, columns: Tensor) -> Batch:
        crops = self.padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return ((crops - self.mean) / self.deviation).permute(0, 3, 1, 2), self.labels[index]
