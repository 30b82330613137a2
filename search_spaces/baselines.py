"""Handcrafted networks as genotypes, from which DARTOpti starts (D-DARTS, section 4.4 (i)).

The encodings are those of the paper's authors: cells hold the blocks of a network and begin at node 0. That node is the
output of the layer before last, so that every second layer in a chain of such cells has no effect. A baseline with the
suffix ``_chained`` begins at node 1 instead, the output of the layer before, and therefore uses all layers like the
network of that name.
"""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise

from search_spaces.checks import require
from search_spaces.edges import Cell, Edge, GenotypeError, fixed_edges
from search_spaces.genotype import Genotype


def _chain(operation: str, *nodes: int) -> Cell:
    return tuple(Edge(operation, *ends) for ends in pairwise(nodes))


def _bottlenecks(count: int) -> Cell:
    """Return residual blocks of ResNet-50, each a bottleneck and a skip connection."""
    nodes = (0, *range(2, 2 + count))
    return _chain("bottleneck_1x3x1", *nodes) + _chain("skip_connect", *nodes)


RESNET_18 = Genotype(
    # Two residual blocks per cell.
    cells=(
        (*_chain("simple_conv_3x3", 0, 2, 3, 4, 5), *_chain("skip_connect", 0, 3, 5)),
    ),
    layout=(0, 0, 0, 0),
    reductions=(1, 2, 3),
    concat=(2, 3, 4, 5),
    operations="dartopti",
)  # fmt: skip

RESNET_50 = Genotype(
    cells=(_bottlenecks(3), _bottlenecks(4), _bottlenecks(6)),
    layout=(0, 1, 2, 0),
    reductions=(1, 2, 3),
    concat=(2, 3, 4, 5, 6, 7),
    operations="dartopti",
)

XCEPTION = Genotype(
    cells=(
        (*_chain("sep_conv_3x3", 0, 2, 3), Edge("max_pool_3x3", 3, 4), Edge("simple_conv_1x1", 0, 4)),
        (*_chain("sep_conv_3x3", 0, 2, 3, 4), Edge("skip_connect", 0, 4)),
        _chain("sep_conv_3x3", 0, 2, 3),
    ),
    layout=(0, 0, 0, *[1] * 8, 0, 2),
    reductions=(1, 2, 11, 12),
    concat=(2, 3, 4, 5),
    operations="dartopti",
)


def _chained(genotype: Genotype) -> Genotype:
    cells = tuple(tuple(edge._replace(source=edge.source or 1) for edge in cell) for cell in genotype.cells)
    return replace(genotype, cells=cells)


_RELEASED = {"resnet18": RESNET_18, "resnet50": RESNET_50, "xception": XCEPTION}
BASELINES = _RELEASED | {f"{name}_chained": _chained(baseline) for name, baseline in _RELEASED.items()}
"""Baselines by name."""


def find_baseline(name: str | os.PathLike[str]) -> Genotype:
    """Return a baseline whose cells are distinct and in the order of the layers.

    Args:
        name: A key of :data:`BASELINES` or the path of a genotype file.

    Raises:
        ValueError: The name is neither.
    """
    known = f"one of {', '.join(BASELINES)} or a genotype file"
    require("baseline", repr(name), isinstance(name, (str, os.PathLike)), known)
    if name in BASELINES:
        return BASELINES[str(name)]
    try:
        return distinct_cells(Genotype.load(name))
    except OSError as error:
        raise ValueError(
            f"baseline: {os.fspath(name)!r} is neither one of {', '.join(BASELINES)} nor a genotype file: "
            f"{error.strerror}"
        ) from None
    except GenotypeError as error:
        raise ValueError(f"baseline: {error}") from None


def distinct_cells(genotype: Genotype) -> Genotype:
    """Return the same network with identical cells merged, in the order of the layers.

    Identical cells of a baseline share α and optimizer (D-DARTS, section 4.4 (ii)).
    """
    seen: dict[object, int] = {}
    layout = tuple(seen.setdefault(_content(genotype, index), len(seen)) for index in genotype.layout)
    first = [genotype.layout[layout.index(cell)] for cell in range(len(seen))]
    fixed = [one for one in genotype.fixed if one.cell is None]
    for cell, index in enumerate(first):
        fixed += [one._replace(cell=cell) for one in genotype.fixed if one.cell == index]
    return replace(genotype, cells=tuple(genotype.cells[i] for i in first), layout=layout, fixed=tuple(fixed))


def _content(genotype: Genotype, index: int) -> object:
    """Return the content of a cell regardless of the order of its operations."""
    return tuple(tuple(sorted(edges)) for edges in (genotype.cells[index], fixed_edges(genotype.fixed, index)))
