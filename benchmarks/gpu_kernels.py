"""Time the operations of a group of candidates on a GPU, forward and backward, in both memory formats.

    python benchmarks/gpu_kernels.py

The groups have 1 and 4 candidates and the channels and resolutions of a network with 16 channels and 32×32 images,
batch 64. A grouped pointwise convolution is also computed as a product of matrices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pandas as pd
import torch
from measuring import synchronize
from torch import Tensor
from torch.nn import functional

BATCH, REPETITIONS = 64, 20
SIZES = {16: 32, 32: 16, 64: 8}
"""Channels -> pixels per side."""
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
TYPES = {"32 bits": torch.float32, "bf16": torch.bfloat16}

Operation = Callable[[Tensor, Tensor], Tensor]


def depthwise(dilation: int, x: Tensor, weight: Tensor) -> Tensor:
    """Return the depthwise convolution of all channels."""
    padding = dilation * (weight.shape[-1] // 2)
    return functional.conv2d(x, weight, None, 1, padding, dilation, weight.shape[0])


def matrix_product(count: int, x: Tensor, weight: Tensor) -> Tensor:
    """Return the pointwise convolution of each candidate, as products of matrices."""
    batch, channels, height, width = x.shape
    weights = weight.view(count, channels // count, channels // count)
    return (weights @ x.reshape(batch, count, -1, height * width)).view(batch, channels, height, width)


def normalize(x: Tensor, weight: Tensor) -> Tensor:
    """Return the batch normalization with a scale."""
    return functional.batch_norm(x, None, None, weight, None, True)


def operations(channels: int, count: int) -> dict[str, tuple[Operation, tuple[int, ...]]]:
    """Return name -> an operation of a group of candidates, and the shape of its weight."""
    width = channels * count
    return {
        "depthwise 3×3": (lambda x, w: depthwise(1, x, w), (width, 1, 3, 3)),
        "depthwise 5×5": (lambda x, w: depthwise(1, x, w), (width, 1, 5, 5)),
        "depthwise 3×3, dilated": (lambda x, w: depthwise(2, x, w), (width, 1, 3, 3)),
        "depthwise 5×5, dilated": (lambda x, w: depthwise(2, x, w), (width, 1, 5, 5)),
        "pointwise, convolution": (lambda x, w: functional.conv2d(x, w, groups=count), (width, channels, 1, 1)),
        "pointwise, matrices": (lambda x, w: matrix_product(count, x, w), (width, channels, 1, 1)),
        "normalization": (normalize, (width,)),
    }


def timings(device: str, sizes: dict[int, int] = SIZES, repetitions: int = REPETITIONS) -> Iterator[dict[str, Any]]:
    """Yield one row per operation, number of channels and candidates: microseconds in each format and type.

    Args:
        device: A device of PyTorch.
        sizes: Channels -> pixels per side.
        repetitions: Number of timed passes.
    """
    for (channels, pixels), count in product(sizes.items(), (1, 4)):
        for name, (operation, shape) in operations(channels, count).items():
            row: dict[str, Any] = {"operation": name, "channels": channels, "candidates": count}
            for (kind, dtype), (layout, memory_format) in product(TYPES.items(), FORMATS.items()):
                x = torch.randn(BATCH, channels * count, pixels, pixels, device=device, dtype=dtype)
                x = x.to(memory_format=memory_format).requires_grad_()
                weight = torch.randn(shape, device=device, dtype=torch.float32 if name == "normalization" else dtype)
                seconds = _time(operation, x, weight.requires_grad_(), repetitions)
                row[f"{kind}, {layout}, µs"] = round(1e6 * seconds, 1)
            yield row


def _time(operation: Operation, x: Tensor, weight: Tensor, repetitions: int) -> float:
    gradient = torch.randn_like(operation(x, weight))
    for passes in (3, repetitions):  # the first passes choose the kernels
        synchronize()
        started = time.perf_counter()
        for _ in range(passes):
            torch.autograd.grad(operation(x, weight), (x, weight), gradient)
        synchronize()
    return (time.perf_counter() - started) / repetitions


def main() -> None:
    """Print the table."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(pd.DataFrame(timings(device)).to_string(index=False))


if __name__ == "__main__":
    main()
