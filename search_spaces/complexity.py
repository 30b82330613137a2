"""Parameters and multiply-adds of a network."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def count_multiply_adds(network: nn.Module, image_channels: int, image_size: int, device: str = "meta") -> int:
    """Return the multiply-adds of convolutions and linear layers for one image in evaluation.

    The count runs a copy of the network, by default on the meta device, without memory for its values.

    Args:
        network: Any network; it is not changed.
        image_channels: Channels of the image.
        image_size: Height and width of the image in pixels.
        device: Device of the copy; ``"cpu"`` for a network that makes tensors in its forward pass.
    """
    shadow = copy.deepcopy(network).to(device).eval()
    image = torch.zeros(1, image_channels, image_size, image_size, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(image)
    return counter.get_total_flops() // 2
