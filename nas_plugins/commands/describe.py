"""Size of the network of a genotype: parameters, multiply-adds and operations."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import torch

from nas_plugins.errors import InputError
from nas_plugins.files import one_line
from search_spaces.complexity import count_multiply_adds, count_parameters
from search_spaces.genotype import Genotype, after_cells
from search_spaces.network import Network
from search_spaces.stems import STEMS, Stem


def describe(
    file: str | os.PathLike[str],
    channels: int,
    layers: int | None,
    num_classes: int,
    image_size: int | None = None,
    stem: Stem | None = None,
    image_channels: int = 3,
    mlp_width: int | None = None,
) -> dict[str, Any]:
    """Describe the network of a genotype file, without an auxiliary head.

    Args:
        file: Path of the genotype.
        channels: Channels of a node before the first reduction.
        layers: Number of cells; None for that of the genotype.
        num_classes: Number of classes.
        image_size: Pixels per side of an image; None for the size the stem is designed for: 32, 64 or 224.
        stem: Stem of the network; None for ``"imagenet"`` if images are larger than 96 pixels, or if there are at
            least 1,000 classes and no image size, and otherwise ``"cifar"``.
        image_channels: Channels of an image.
        mlp_width: See :class:`~search_spaces.network.Network`; None for pooling and a linear classifier.

    Returns:
        The keys layers, stem, image_size, parameters, multiply_adds and operations (the number of each by name).

    Raises:
        InputError: A number is out of range.
    """
    genotype = Genotype.load(file)
    genotype = genotype if layers is None else genotype.deepen(layers)
    if stem is None:
        stem = "imagenet" if (image_size or 0) > 96 or (image_size is None and num_classes >= 1000) else "cifar"
    if stem not in STEMS:
        raise InputError(f"--stem: {stem!r} should be one of {', '.join(STEMS)}")
    image_size = STEMS[stem].image_size if image_size is None else image_size
    try:
        with torch.device("meta"):  # counting needs no memory for weights
            network = Network.from_genotype(
                genotype, num_classes, channels, image_channels, stem, mlp_width=mlp_width, image_size=image_size
            )
        parameters, multiply_adds = count_parameters(network), count_multiply_adds(network, image_channels, image_size)
    except (ValueError, RuntimeError) as error:
        raise InputError(one_line(error)) from None
    return {
        "layers": len(genotype.layout),
        "stem": stem,
        "image_size": image_size,
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "operations": count_operations(genotype),
    }


def count_operations(genotype: Genotype) -> dict[str, int]:
    """Return the number of each operation in all layers, the most frequent first."""
    cells = [genotype.existing_edges(genotype.edges_with_fixed(cell)) for cell in genotype.layout]
    counted = Counter(edge.operation for cell in cells for edge in cell)
    counted.update(after_cells(genotype.fixed) * len(cells))
    return dict(counted.most_common())
