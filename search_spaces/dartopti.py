"""DARTOpti: the space around a handcrafted network (D-DARTS, section 4.4)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from search_spaces.baselines import find_baseline
from search_spaces.genotype import INPUTS, Cell, Fixed
from search_spaces.operations import OPERATIONS
from search_spaces.space import CellStack, StackedSpace
from search_spaces.stems import Stem

CellAlphas = dict[tuple[int, int], dict[str, float]]
"""(source node, target node) -> operation -> α."""


class DartOptiSpace(StackedSpace):
    """All networks that have the layout of a baseline; a search of it starts from that baseline.

    Layers whose cells are identical in the baseline have one label, and so share α and its
    optimizer: ``cell_0/op_2_0``, … are those of the first layer and of all that are like it.

    The strategies of this project start from :attr:`initial_alphas`, where the operations of the
    baseline are strong; NNI's start where they always do. Of the derivations "edge" alone can give every baseline
    back: "sparse" keeps one operation on an edge, and "darts" gives every node two.

    Args:
        baseline: a name of :data:`~search_spaces.baselines.BASELINES`, such as "resnet18", "resnet50" or
            "xception", or a genotype file.
        num_classes: classes of the images.
        channels: channels of a node before the first reduction; they double at each.
        image_channels: 1 for grey images, 3 for colour.
        stem: a name of :data:`~search_spaces.network.STEMS`.
        operations: the candidates of every edge, those of the baseline among them.
        alpha: α of the operations of the baseline.
        other_alpha: α of all others, below it.
        fixed: operations that nobody searches, besides those of the baseline: see
            :func:`~search_spaces.fixed.parse_fixed`.

    Attributes:
        baseline: the genotype of the baseline, each of its different cells once.
        initial_alphas: edge, such as ``cell_0/0->2``, to operation to α.

    Raises:
        ValueError: an argument is out of range, or the baseline is none that α can say.
    """

    def __init__(
        self,
        baseline: str = "resnet18",
        num_classes: int = 10,
        channels: int = 32,
        image_channels: int = 3,
        stem: Stem = "cifar",
        operations: Sequence[str] = tuple(OPERATIONS),
        alpha: float = 10.0,
        other_alpha: float = 0.0,
        fixed: Sequence[str] = (),
    ) -> None:
        if not -math.inf < other_alpha < alpha < math.inf:
            raise ValueError(f"alpha: {alpha} should be a number above other_alpha, which is {other_alpha}")
        genotype = find_baseline(baseline)
        labels = [f"cell_{index}" for index in range(len(genotype.cells))]
        nodes = len(genotype.concat)
        if genotype.concat != tuple(range(INPUTS, INPUTS + nodes)):
            raise ValueError(f"baseline: its cells concatenate {list(genotype.concat)}; a space does so with all nodes")
        initial_alphas = {
            f"{label}/{source}->{target}": alphas
            for label, cell in zip(labels, genotype.cells, strict=True)
            for (source, target), alphas in alphas_of(cell, nodes, operations, alpha, other_alpha).items()
        }
        super().__init__(
            CellStack(
                labels,
                genotype.layout,
                genotype.reductions,
                nodes,
                operations,
                [*(_written(one, labels) for one in genotype.fixed), *fixed],
            ),
            num_classes=num_classes,
            channels=channels,
            image_channels=image_channels,
            stem=stem,
        )
        self.baseline, self.initial_alphas = genotype, initial_alphas

    def search_metrics(self, alphas: Mapping[str, Mapping[str, float]], sample: Mapping[str, Any]) -> dict[str, float]:
        """Return how far a search has moved from the baseline; it is logged with every validation.

        Args:
            alphas: The α of each candidate of each edge.
            sample: The derived sample.

        Returns:
            ``alpha_distance``, the mean change of σ(α), from 0 to 1, and ``distance``, the number of operations that
            differ from those of the baseline.
        """
        initial = torch.tensor([value for named in self.initial_alphas.values() for value in named.values()])
        current = torch.tensor([alphas[edge][name] for edge, named in self.initial_alphas.items() for name in named])
        return {
            "alpha_distance": float((torch.sigmoid(current) - torch.sigmoid(initial)).abs().mean()),
            "distance": float(self.genotype(sample).distance(self.baseline)),
        }


def alphas_of(
    cell: Cell,
    nodes: int,
    operations: Sequence[str] = tuple(OPERATIONS),
    alpha: float = 10.0,
    other_alpha: float = 0.0,
) -> CellAlphas:
    """The α that a cell of a genotype stands for (D-DARTS, section 4.4 (i)).

    :func:`strategies.derivation.edge` gives the cell back, at any threshold between the two sigmoids and with as many
    operations an edge as the cell has on one; "edge" as a method of derivation keeps two.

    Args:
        cell: its operations.
        nodes: the number of its nodes without its inputs.
        operations: the candidates of every edge.
        alpha: α of the operations of the cell.
        other_alpha: α of all others.

    Raises:
        ValueError: the cell has an operation that is no candidate, on no edge, or twice on an edge.
    """
    alphas = {
        (source, target): dict.fromkeys(operations, other_alpha)
        for target in range(INPUTS, INPUTS + nodes)
        for source in range(target)
    }
    for edge in cell:
        where = f"baseline: {edge.operation} from node {edge.source} to node {edge.target}"
        if (edge.source, edge.target) not in alphas:
            raise ValueError(f"{where}: a cell of the space has the nodes {INPUTS} to {INPUTS + nodes - 1}")
        if edge.operation not in operations:
            raise ValueError(f"{where} is no candidate of the space: {', '.join(operations)}")
        if cell.count(edge) > 1:
            raise ValueError(f"{where} is there twice, which α cannot say")
        alphas[edge.source, edge.target][edge.operation] = alpha
    return alphas


def _written(one: Fixed, labels: Sequence[str]) -> str:
    """A fixed operation as a space takes it."""
    return one.operation if one.cell is None else f"{one.operation} {labels[one.cell]}/{one.source}->{one.target}"
