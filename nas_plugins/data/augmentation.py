"""Augmentation and normalization of a batch of images, on the device that holds them.

Random places, sides, squares and rectangles are drawn for each image. No value is read back from the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2.functional import to_dtype

Moved = tuple[Tensor, Tensor | None]
"""Images (batch, C, H, W), and their masks (batch, H, W) if they have any."""


class RandomCrop(nn.Module):
    """Pad every image with zeros, and crop it to its original size at a random place.

    Args:
        padding: Padding in pixels, at least 1.
        ignored: Value of the padding of masks.
    """

    def __init__(self, padding: int, ignored: int = 0) -> None:
        super().__init__()
        self.padding, self.ignored = padding, ignored

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Moved:
        """Return the crops of images and masks."""
        places = torch.randint(2 * self.padding + 1, (2, len(images)), device=images.device)
        cut = None if masks is None else self._crop(masks[:, None], places, self.ignored)[:, 0]
        return self._crop(images, places, 0), cut

    def _crop(self, images: Tensor, places: Tensor, fill: int) -> Tensor:
        height, width = images.shape[-2:]
        padded = functional.pad(images, [self.padding] * 4, value=fill)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (batch, C, top, left, H, W)
        return windows[torch.arange(len(images), device=images.device), :, places[0], places[1]]


class RandomFlip(nn.Module):
    """Mirror each image left to right with probability 1/2."""

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Moved:
        """Return the images and masks, some of them mirrored."""
        mirrored = (torch.rand(len(images), device=images.device) < 0.5)[:, None, None]
        flipped = None if masks is None else torch.where(mirrored, masks.flip(-1), masks)
        return torch.where(mirrored[:, None], images.flip(-1), images), flipped


class Cutout(nn.Module):
    """Cutout (DeVries and Taylor, 2017): set one random square of every image to zero.

    The centre is uniform over the image, and the square is clipped at the border. Apply it after the
    normalisation, where zero is the mean colour.

    Args:
        length: Side of the square in pixels, at least 1.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, images: Tensor) -> Tensor:
        """Return images of shape (..., C, H, W) with a separate random square in each."""
        *batch, _, height, width = images.shape
        device = images.device
        top = torch.randint(height, (*batch, 1, 1, 1), device=device) - self.length // 2
        left = torch.randint(width, (*batch, 1, 1, 1), device=device) - self.length // 2
        row, column = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
        rows = (top <= row) & (row < top + self.length)
        columns = (left <= column) & (column < left + self.length)
        return images.masked_fill(rows & columns, 0.0)


class RandomErasing(nn.Module):
    """Random erasing (Zhong et al., 2017): replace a random rectangle of each image by noise.

    The rectangle covers 2% to 40% of the image with an aspect ratio from 0.3 to 1 / 0.3, as in the paper. Its
    distribution is that of torchvision's transform, which draws one rectangle per batch. The noise is standard normal,
    so apply it after the normalisation.

    Args:
        probability: Probability that a rectangle of an image is erased, from 0 to 1.
    """

    AREA, RATIO, TRIES = (0.02, 0.4), (0.3, 1 / 0.3), 10

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, images: Tensor) -> Tensor:
        """Return images of shape (batch, C, H, W) with a separate random rectangle in each."""
        count, _, height, width = images.shape
        rows, columns, fits = self._sizes(count, height, width, images.device)
        top, left = torch.rand(2, count, device=images.device)
        inside_rows = _inside(top, rows, height)[:, :, None]
        inside_columns = _inside(left, columns, width)[:, None, :]
        erased = fits & (torch.rand(count, device=images.device) < self.probability)
        rectangle = inside_rows & inside_columns & erased[:, None, None]
        return torch.where(rectangle[:, None], torch.randn_like(images), images)

    def _sizes(self, count: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return height and width of the first random rectangle that fits, and whether one fits, for each image."""
        draws = torch.empty(2, count, self.TRIES, device=device)
        area = draws[0].uniform_(*self.AREA) * (height * width)
        ratio = draws[1].uniform_(*map(math.log, self.RATIO)).exp()
        rows, columns = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fit = (rows < height) & (columns < width)
        first = fit.int().argmax(1, keepdim=True)
        return rows.gather(1, first)[:, 0], columns.gather(1, first)[:, 0], fit.any(1)


def _inside(place: Tensor, length: Tensor, side: int) -> Tensor:
    """Return which pixels of a side lie in a stretch of some length: (batch, side).

    Args:
        place: Random number from 0 to below 1 for each image.
        length: Length of the stretch in pixels for each image.
        side: Pixels of the side.
    """
    start = (place * (side - length + 1)).floor()
    pixel = torch.arange(side, device=place.device)
    return (start[:, None] <= pixel) & (pixel < (start + length)[:, None])


class Normalize(nn.Module):
    """Normalize bytes, or floats from 0 to 1, to mean 0 and standard deviation 1.

    Unlike torchvision's transform, it keeps the statistics on the device, so that batches need not wait for them.

    Args:
        mean: Mean of each channel, for pixels from 0 to 1.
        std: Standard deviation of each channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Return normalized images of shape (..., C, H, W)."""
        return to_dtype(images, torch.float32, scale=True).sub(self.mean).div_(self.std)


class BatchTransform(nn.Module):
    """Transform of a batch on its device: moves of pixels, also in masks, then changes of pixel values.

    Args:
        moves: Modules that map images and masks.
        values: Modules that map images.
        dense: Whether targets are masks.
    """

    def __init__(self, moves: Sequence[nn.Module], values: Sequence[nn.Module], dense: bool) -> None:
        super().__init__()
        self.moves, self.values, self.dense = nn.ModuleList(moves), nn.Sequential(*values), dense

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images as the network sees them, and their targets."""
        masks = targets if self.dense else None
        for move in self.moves:
            images, masks = move(images, masks)
        return self.values(images), targets if masks is None else masks
