"""Samples of a data set in the memory of the device that trains, read and resized once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psutil
import torch

from nas_plugins.data.samples import HeldSamples, Samples
from nas_plugins.errors import InputError

AUTO_LIMIT = 2 * 2**30
"""Largest size in bytes that ``cache: auto`` holds in memory; the same on all machines, for a resume on another one."""


@torch.inference_mode(False)  # threads cannot fill inference tensors, and a test may be the first caller
def hold(samples: Samples, device: torch.device) -> HeldSamples:
    """Read all samples into the memory of a device.

    Args:
        samples: Samples of one size.
        device: The device.

    Raises:
        InputError: The samples do not fit into the memory.
        BrokenImage: An image cannot be read.
    """
    first, target = samples[0]
    count = len(samples)
    check_memory(count * (first.nbytes + target.nbytes), device)
    images = torch.empty((count, *first.shape), dtype=first.dtype)
    targets = torch.empty((count, *target.shape), dtype=target.dtype)

    def read(some: range) -> None:
        for index in some:
            images[index], targets[index] = samples[index]

    with ThreadPoolExecutor() as pool:  # Pillow releases the GIL while decoding
        for _ in pool.map(read, [range(start, count, 32) for start in range(32)]):
            pass
    return HeldSamples(images.to(device), targets.to(device))


def check_memory(size: int, device: torch.device) -> None:
    """Raise an InputError if images do not fit into the free memory of a device.

    Args:
        size: Bytes of the images.
        device: The device.
    """
    if device.type == "cpu":
        free = psutil.virtual_memory().available
    elif device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        return
    if size > free:
        raise InputError(
            f"data.cache: the images take {size / 1e9:.1f} GB, and {device} has {free / 1e9:.1f} GB free: use false"
        )
