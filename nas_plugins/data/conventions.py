"""Names of the data sets, and their usual preprocessing."""

from dataclasses import dataclass
from typing import Literal, get_args

from nas_plugins.data import vehicles

DatasetName = Literal[
    "digits", "cifar10", "cifar100", "fashion_mnist", "folder", "compcars_web", "compcars_surveillance", "miotcd"
]
DATASETS: tuple[str, ...] = get_args(DatasetName)
"""Names of the data sets."""


@dataclass(frozen=True)
class Conventions:
    """Usual preprocessing of a data set.

    Args:
        mean: Mean of each channel, for pixels from 0 to 1.
        std: Standard deviation of each channel.
        crop_padding: Padding of the random crop in pixels.
        flip: Whether images are mirrored.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int
    flip: bool


# The colour statistics of ImageNet. No crop padding, because the files may differ in size.
_PHOTOGRAPHS = Conventions((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop_padding=0, flip=True)
CONVENTIONS = {
    # Computed over the 1438 training images of _load_digits() in sources.py.
    "digits": Conventions((0.3058,), (0.3762,), crop_padding=0, flip=False),
    "cifar10": Conventions((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), crop_padding=4, flip=True),
    "cifar100": Conventions((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), crop_padding=4, flip=True),
    "fashion_mnist": Conventions((0.2860,), (0.3530,), crop_padding=4, flip=True),
    **dict.fromkeys(("folder", *vehicles.DATASETS), _PHOTOGRAPHS),
}
"""Usual preprocessing by the name of the data set."""
