"""Properties of image data and user-defined data modules: sizes that a network depends on, targets and loaders."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

from nas_plugins.data.module import ImageData
from nas_plugins.errors import InputError
from nas_plugins.tasks import TASKS, Targets

Data = ImageData | pl.LightningDataModule
"""Data of a run: images, or a user-defined data module."""

FROM_DATA = {"num_classes", "image_channels", "image_size"}
"""Attributes of the data that are arguments of spaces."""

REQUIRED = ("num_classes", "image_channels")
"""Attributes for which no default of a space is suitable."""


def sizes(data: Data) -> dict[str, int]:
    """Return num_classes, image_channels and image_size, without those that the data lacks."""
    return {name: getattr(data, name) for name in sorted(FROM_DATA) if getattr(data, name, None) is not None}


def size(data: Data, name: str) -> int:
    """Return a size of the data.

    Raises:
        InputError: A user-defined data module lacks it.
    """
    found = sizes(data)
    if name not in found:
        raise InputError(f"data: {type(data).__name__} should have an attribute {name}, which a network is made for")
    return found[name]


def class_names(data: Data) -> list[str]:
    """Return the names of the classes: the attribute ``classes`` of the data, or numbers.

    Raises:
        InputError: A user-defined data module lacks the number of classes.
    """
    number = size(data, "num_classes")
    names = [str(name) for name in getattr(data, "classes", None) or range(number)]
    if len(names) != number:
        raise InputError(f"data: {type(data).__name__} has {len(names)} names in classes, and num_classes is {number}")
    return names


def targets_of(data: Data) -> Targets:
    """Return the targets of image data; for a user-defined data module, those of a classification.

    Raises:
        InputError: A user-defined data module lacks the number of classes.
    """
    return data.targets if isinstance(data, ImageData) else Targets(TASKS["classification"], tuple(class_names(data)))


def check_loaders(data: Data, *loaders: str) -> None:
    """Raise an InputError if a user-defined data module lacks one of these loaders."""
    for loader in loaders:
        if not is_overridden(loader, data, pl.LightningDataModule):
            raise InputError(f"data.class_path: {type(data).__name__} has no {loader}")
