"""α of the inputs of a node, besides the α of the operations on its edges.

With a topology, each node of a searched cell has an additional edge in the architecture, named ``normal/node_3``. A
relaxation turns its α into a factor for the output of each incoming edge of the node.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import isqrt
from typing import Protocol

import torch
from torch import Tensor

from search_spaces.edges import NodeName


class Topology(Protocol):
    """Function that names the candidates of a node.

    Example::

        def each_input(sources):
            return [str(source) for source in sources]
    """

    def __call__(self, sources: Sequence[int], /) -> Sequence[str]:
        """Return the candidates, given the nodes that a node may read."""


def each_input(sources: Sequence[int]) -> list[str]:
    """Return a candidate for each input, e.g. "0", "1" and "2" (PC-DARTS, Eq. 2)."""
    return [str(source) for source in sources]


def pairs_of_inputs(sources: Sequence[int]) -> list[str]:
    """Return a candidate for each pair of inputs, e.g. "0+1", "0+2" and "1+2" (DOTS, section 3.3)."""
    return [f"{first}+{second}" for first, second in combinations(sources, 2)]


def is_node(edge: str) -> bool:
    """Return whether a name of an edge stands for the inputs of a node."""
    return NodeName.parse(edge) is not None


def per_input(weights: Tensor) -> Tensor:
    """Return the factor of each input: the sum of the weights of the pairs that it is in.

    Args:
        weights: Weights of all pairs, in the order of :func:`pairs_of_inputs`.

    Returns:
        Factors (inputs,).
    """
    count = (1 + isqrt(1 + 8 * len(weights))) // 2
    pairs = torch.tensor(list(combinations(range(count), 2)), device=weights.device)
    return weights.new_zeros(count).index_add(0, pairs.flatten(), weights.repeat_interleave(2))
