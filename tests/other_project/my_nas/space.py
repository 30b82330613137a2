"""A search space: a chain of blocks, each with a choice of its own."""

import torch
from nni.mutable import label_scope
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn


class Blocks(ModelSpace):
    """Each block is a convolution of 3×3 or of 5×5, a pooling, or nothing.

    Args:
        num_classes: classes of the images.
        image_channels: channels of the images.
        channels: of every block.
        blocks: how many there are.
    """

    def __init__(self, num_classes: int = 10, image_channels: int = 3, channels: int = 16, blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(image_channels, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(_block(channels, f"block_{number}") for number in range(blocks)))
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, image_channels, height, width) -> (batch, num_classes)."""
        return self.head(self.blocks(self.stem(images)).mean(dim=(2, 3)))


def _block(channels: int, name: str) -> LayerChoice:
    layers = {
        "conv_3x3": _convolution(channels, 3),
        "conv_5x5": _convolution(channels, 5),
        "max_pool": nn.MaxPool2d(3, stride=1, padding=1),
        "skip": nn.Identity(),
    }
    with label_scope(name):
        return LayerChoice(layers, label="layer")


def _convolution(channels: int, size: int) -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, size, padding=size // 2), nn.BatchNorm2d(channels))
