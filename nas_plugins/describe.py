"""What network a genotype describes: parameters, multiply-adds, operations."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import torch

from nas_plugins.errors import InputError
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
        file: the genotype.
        channels: channels of a node before the first reduction.
        layers: number of cells; None for the genotype's own.
        num_classes: classes of the images.
        image_size: pixels a side; None for those that the stem is meant for: 32, 64 or 224.
        stem: None for "imagenet" where images are larger than 96 pixels, or have 1,000 classes
            and no size is given; else "cifar".
        image_channels: channels of the images.
        mlp_width: None for pooling and a linear classifier, else see :class:`~search_spaces.network.Network`.

    Returns:
        layers, stem, image_size, parameters, multiply_adds and operations (name -> how many).

    Raises:
        InputError: a number is out of range.
    """
    genotype = Genotype.load(file)
    if layers is not None:
        genotype = genotype.deepen(layers)
    if stem is None:
        stem = "imagenet" if (image_size or 0) > 96 or (image_size is None and num_classes >= 1000) else "cifar"
    if stem not in STEMS:
        raise InputError(f"--stem: {stem!r} should be one of {', '.join(STEMS)}")
    if image_size is None:
        image_size = STEMS[stem].image_size
    if image_size < 1:
        raise InputError(f"--image-size: {image_size} should be at least 1")
    try:
        with torch.device("meta"):  # it is only counted
            network = Network.from_genotype(
                genotype, num_classes, channels, image_channels, stem, mlp_width=mlp_width, image_size=image_size
            )
        multiply_adds = count_multiply_adds(network, image_channels, image_size)
    except ValueError as error:
        option, _, rest = " ".join(str(error).split()).partition(":")
        raise InputError(f"--{option.removeprefix('num_').replace('_', '-')}:{rest}") from None
    except (RuntimeError, TypeError):  # numbers that PyTorch has no tensors for, not even without memory
        raise InputError(
            f"--channels: {channels}, with {num_classes} classes and images of {image_size} pixels a side, "
            "is a network beyond any memory"
        ) from None
    cells = [genotype.existing_edges(genotype.edges_with_fixed(cell)) for cell in genotype.layout]
    counted = Counter(edge.operation for cell in cells for edge in cell)
    counted.update(after_cells(genotype.fixed) * len(cells))
    return {
        "layers": len(genotype.layout),
        "stem": stem,
        "image_size": image_size,
        "parameters": count_parameters(network),
        "multiply_adds": multiply_adds,
        "operations": dict(counted.most_common()),
    }
