"""Space small enough to train every architecture: one cell of two nodes and three operations, used twice.

Node 2 reads both inputs of the cell, node 3 any two of the three nodes before it: 243 samples, of which 207 are
different networks.
"""

from __future__ import annotations

from itertools import combinations, product

from search_spaces.edges import INPUTS, Cell, Edge
from search_spaces.genotype import Genotype
from search_spaces.network import Network
from search_spaces.space import CellStack, StackedSpace

OPERATIONS = ("skip_connect", "simple_conv_3x3", "max_pool_3x3")
NODES = 2
LAYERS, REDUCTIONS = 2, (1,)
CLASSES, IMAGE_CHANNELS, IMAGE_SIZE = 10, 1, 8


class ExhaustiveSpace(StackedSpace):
    """Space for the strategies; both cells of the network share their architecture.

    Args:
        channels: Channels of a node before the reduction.
    """

    def __init__(self, channels: int) -> None:
        cells = CellStack(("cell_0",), (0,) * LAYERS, REDUCTIONS, NODES, OPERATIONS)
        super().__init__(cells, num_classes=CLASSES, channels=channels, image_channels=IMAGE_CHANNELS)


def name_of(genotype: Genotype) -> str:
    """Return the architecture as a string, ``|op~0|op~1|+|op~0|op~2|``; isomorphic networks have the same string.

    Nodes 2 and 3 are interchangeable if neither reads the other.
    """
    nodes = [sorted((edge for edge in genotype.cells[0] if edge.target == node), key=lambda edge: edge.source)
             for node in genotype.concat]  # fmt: skip
    texts = ["|" + "".join(f"{edge.operation}~{edge.source}|" for edge in node) for node in nodes]
    if all(edge.source < INPUTS for edge in genotype.cells[0]):
        texts.sort()
    return "+".join(texts)


def parse_name(name: str) -> Genotype:
    """Return the architecture of a string, the inverse of :func:`name_of`."""
    cell = []
    for target, node in enumerate(name.split("+"), start=INPUTS):
        for text in node.strip("|").split("|"):
            operation, source = text.split("~")
            cell.append(Edge(operation, int(source), target))
    return _genotype(tuple(cell))


def every_sample() -> list[Genotype]:
    """Return the 243 architectures that a search can end with."""
    found = []
    for first, second, third, fourth in product(OPERATIONS, repeat=2 * NODES):
        for a, b in combinations(range(INPUTS + 1), 2):
            found.append(_genotype((Edge(first, 0, 2), Edge(second, 1, 2), Edge(third, a, 3), Edge(fourth, b, 3))))
    return found


def every_name() -> list[str]:
    """Return the strings of the 207 different networks, sorted."""
    return sorted({name_of(genotype) for genotype in every_sample()})


def network_of(name: str, channels: int, fixed: tuple[str, ...] = ()) -> Network:
    """Return the network of an architecture string with random weights.

    Args:
        name: The architecture.
        channels: Channels of a node before the reduction.
        fixed: Operations that follow each cell, such as squeeze_excitation.
    """
    cell = parse_name(name).cells[0]
    return Network.from_genotype(
        _genotype(cell, fixed), num_classes=CLASSES, channels=channels, image_channels=IMAGE_CHANNELS
    )


def _genotype(cell: Cell, fixed: tuple[str, ...] = ()) -> Genotype:
    concat = tuple(range(INPUTS, INPUTS + NODES))
    return Genotype((cell,), (0,) * LAYERS, REDUCTIONS, concat, "dartopti", tuple((name,) for name in fixed))  # type: ignore[arg-type]
