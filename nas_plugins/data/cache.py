"""The samples of a data set in the memory of the device that trains, read and resized once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psutil
import torch

from nas_plugins.data.samples import HeldSamples, Samples
from nas_plugins.errors import InputError

AUTO_LIMIT = 2 * 2**30
"""Bytes up to which samples are held where the config leaves it open: the same on all machines, for a resume."""


@torch.inference_mode(False)  # a test may be the first to ask, and its tensors could not be filled by threads
def hold(samples: Samples, device: torch.device) -> HeldSamples:
    """Read all samples into the memory of a device.

    Args:
        samples: Samples of one size.
        device: The device.

    Raises:
        InputError: They do not fit.
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
