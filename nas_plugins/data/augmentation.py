"""Batch augmentations that torchvision lacks."""

import torch
from torch import Tensor
from torchvision.transforms import v2


class Cutout(torch.nn.Module):
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
        top = torch.randint(height, (*batch, 1, 1, 1)) - self.length // 2
        left = torch.randint(width, (*batch, 1, 1, 1)) - self.length // 2
        row, column = torch.arange(height)[:, None], torch.arange(width)
        rows = (top <= row) & (row < top + self.length)
        columns = (left <= column) & (column < left + self.length)
        return images.masked_fill((rows & columns).to(images.device), 0.0)


class RandomErasing(torch.nn.Module):
    """Random erasing (Zhong et al., 2017): replace a random rectangle of each image by noise.

    The rectangle covers 2% to 40% of the image with an aspect ratio from 0.3 to 1 / 0.3, as in the paper.
    Unlike torchvision's transform, which draws one rectangle per batch, it draws one per image. The noise is
    standard normal, so apply it after the normalisation.

    Args:
        probability: Probability that a rectangle of an image is erased, from 0 to 1.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.erase = v2.RandomErasing(probability, scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3), value="random")

    def forward(self, images: Tensor) -> Tensor:
        """Return images of shape (batch, C, H, W) with a separate random rectangle in each."""
        return torch.stack([self.erase(image) for image in images])
