"""Augmentations of a batch of images that torchvision does not have."""

import torch
from torch import Tensor
from torchvision.transforms import v2


class Cutout(torch.nn.Module):
    """Blanks one square out of every image (DeVries and Taylor, 2017).

    The centre is uniform over the image and the square is clipped at the border. Zero is the mean colour,
    so this comes after the normalisation.

    Args:
        length: side of the square in pixels, 1 or more.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, images: Tensor) -> Tensor:
        """Images (..., C, H, W), each of which gets a square of its own."""
        *batch, _, height, width = images.shape
        top = torch.randint(height, (*batch, 1, 1, 1)) - self.length // 2
        left = torch.randint(width, (*batch, 1, 1, 1)) - self.length // 2
        row, column = torch.arange(height)[:, None], torch.arange(width)
        rows = (top <= row) & (row < top + self.length)
        columns = (left <= column) & (column < left + self.length)
        return images.masked_fill((rows & columns).to(images.device), 0.0)


class RandomErasing(torch.nn.Module):
    """Replaces a rectangle of an image by noise (Zhong et al., 2017), each image with one of its own.

    It has 2% to 40% of the area, and a ratio of its sides from 0.3 to 1 / 0.3, as in that paper.
    torchvision's transform draws one rectangle for a whole batch. The noise is normal with mean 0 and
    variance 1, so this comes after the normalisation.

    Args:
        probability: of an image to be erased in, from 0 to 1.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.erase = v2.RandomErasing(probability, scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3), value="random")

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, C, H, W)."""
        return torch.stack([self.erase(image) for image in images])
