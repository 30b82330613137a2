"""Parameters and multiply-adds of a network."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
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
    sides = [image_size] * getattr(network, "dimensions", 2)  # networks for series have only one
    return count_multiply_adds_of(network, ((torch.zeros(1, image_channels, *sides),), {}), device)


def count_multiply_adds_of(
    network: nn.Module, sample: tuple[tuple[Any, ...], dict[str, Any]], device: str = "meta"
) -> int:
    """Return the multiply-adds of convolutions and linear layers for one sample of any shape in evaluation.

    Args:
        network: Any network; it is not changed.
        sample: Arguments and keyword arguments of the network.
        device: Device of the copy, see :func:`count_multiply_adds`.
    """
    shadow = copy.deepcopy(network).to(device).eval()
    args, kwargs = tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, sample)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(*args, **kwargs)
    return counter.get_total_flops() // 2
