"""Images of the exhaustive benchmark: scikit-learn's digits with noise, so that no network classifies all correctly."""

from __future__ import annotations

from typing import NamedTuple

import torch
from nni.nas.evaluator.pytorch import DataLoader
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import BatchSampler, RandomSampler, TensorDataset

from nas_plugins.data.sources import stratified_order

NOISE = 0.7
"""Standard deviation of the noise, which is added to pixels of standard deviation 1."""


class Images(NamedTuple):
    """Images (count, 1, 8, 8) and their labels (count)."""

    pixels: Tensor
    labels: Tensor

    def part(self, start: int, end: int | None = None) -> Images:
        """Return the images from ``start`` to before ``end``."""
        return Images(self.pixels[start:end], self.labels[start:end])

    def loader(self, batch_size: int) -> DataLoader:
        """Return shuffled batches."""
        data = TensorDataset(*self)
        return DataLoader(data, sampler=BatchSampler(RandomSampler(data), batch_size, False), batch_size=None)


def load(train_images: int) -> tuple[Images, Images]:
    """Return a fixed split into training and test images, each with the classes in proportion.

    Args:
        train_images: Number of training images; the rest of the 1,797 are test images.
    """
    digits = load_digits()
    order = torch.as_tensor(stratified_order(digits.target, seed=0))
    pixels = torch.as_tensor(digits.images, dtype=torch.float32)[order, None]
    pixels = (pixels - pixels[:train_images].mean()) / pixels[:train_images].std()
    pixels += NOISE * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    images = Images(pixels, torch.as_tensor(digits.target)[order])
    return images.part(0, train_images), images.part(train_images)
