"""Samples of a data set: pairs of an image and its target, read one by one or held in memory, and batches of them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from nas_plugins.data.augmentation import BatchTransform
from nas_plugins.data.image_files import read_image
from nas_plugins.data.masks import read_mask
from nas_plugins.data.sources import Store
from nas_plugins.tasks import Task


class Samples(Dataset):
    """Selected images of a store, as pairs of an image and its target.

    The target is the index of a class, a vector of labels or values, or a mask of shape (H, W).

    Args:
        store: The images.
        indices: Indices of the selected images.
        transform: Transform of an image, and of its mask.
        task: The task.
    """

    def __init__(self, store: Store, indices: np.ndarray, transform: v2.Transform, task: Task) -> None:
        self.images, self.transform, self.dense = store.images, transform, task.dense
        self.indices, self.labels = indices.tolist(), store.labels[indices].tolist()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        image = self.images[self.indices[index]]
        pixels = image if isinstance(image, Tensor) else read_image(image)
        label = self.labels[index]
        if self.dense:
            pixels, mask = self.transform(pixels, tv_tensors.Mask(read_mask(label)))
            return pixels, mask.as_subclass(Tensor)
        return self.transform(pixels), torch.tensor(label)


class HeldSamples(Dataset):
    """Samples in the memory of a device; selecting a batch is a single operation.

    Args:
        images: Images (N, C, H, W).
        targets: Targets (N, …) on the same device.
    """

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.targets[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return a batch; PyTorch's loader calls this method once per batch instead of once per sample."""
        chosen = torch.tensor(indices).to(self.images.device, non_blocking=self.images.is_cuda)
        return self.images[chosen], self.targets[chosen]


def collate(
    transform: BatchTransform, samples: list[tuple[Tensor, Any]] | tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the images and the targets of a batch.

    Args:
        transform: Transform of a batch.
        samples: Pairs of an image and its target, or a batch.
    """
    images, targets = samples if isinstance(samples, tuple) else default_collate(samples)
    batch: tuple[Tensor, Tensor] = transform(images, targets)
    return batch


def batch_of_a_share(size: int, images: int, processes: int) -> int:
    """Return the smallest batch size, at least the given one, with which every process has the same number of batches.

    Processes synchronize after each batch, while their shares may differ by one image.
    """
    share, left = divmod(images, processes)
    return next(count for count in itertools.count(size) if not left or share % count)
