"""The space of DARTOpti, around a handcrafted network (D-DARTS, section 4.4)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from search_spaces.baselines import find_baseline
from search_spaces.checks import require
from search_spaces.edges import INPUTS, Cell, CellAlphas, EdgeName
from search_spaces.fixed import format_fixed
from search_spaces.operations import OPERATIONS
from search_spaces.space import CellStack, StackedSpace
from search_spaces.stems import Stem


class DartOptiSpace(StackedSpace):
    """All networks with the layout of a baseline, from which a search starts.

    Layers whose cells are identical in the baseline have one label and therefore share α and its optimizer.
    ``cell_0/op_2_0`` and so on belong to the first layer and to all layers with the same cell.

    Strategies of this project start from :attr:`initial_alphas`, which are high for the operations of the baseline;
    NNI's strategies start from their usual values. Only the derivation "edge" can reproduce every baseline: "sparse"
    keeps one operation per edge, and "darts" gives every node two.

    Args:
        baseline: A key of :data:`~search_spaces.baselines.BASELINES`, for instance "resnet18", "resnet50" or
            "xception", or the path of a genotype file.
        operations: Candidates of every edge, including all operations of the baseline.
        alpha: α of the operations of the baseline.
        other_alpha: α of all other operations, below ``alpha``.
        fixed: Operations that are not searched, in addition to those of the baseline: see
            :func:`~search_spaces.fixed.parse_fixed`.
        num_classes, channels, image_channels, stem, dense_head: See :class:`~search_spaces.darts.DartsSpace`.

    Attributes:
        baseline: Genotype of the baseline with distinct cells.
        initial_alphas: Name of an edge (``cell_0/0->2``) -> operation -> α.

    Raises:
        ValueError: An argument is out of range, or no α corresponds to the baseline.
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
        dense_head: bool = False,
    ) -> None:
        expected = f"a number above other_alpha, which is {other_alpha}"
        require("alpha", alpha, -math.inf < other_alpha < alpha < math.inf, expected)
        genotype = find_baseline(baseline)
        labels = [f"cell_{index}" for index in range(len(genotype.cells))]
        nodes = len(genotype.concat)
        if genotype.concat != tuple(range(INPUTS, INPUTS + nodes)):
            raise ValueError(f"baseline: its cells concatenate {list(genotype.concat)}; a space does so with all nodes")
        initial_alphas = {
            str(EdgeName(label, source, target)): alphas
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
                [*(format_fixed(one, labels) for one in genotype.fixed), *fixed],
            ),
            num_classes=num_classes,
            channels=channels,
            image_channels=image_channels,
            stem=stem,
            dense_head=dense_head,
        )
        self.baseline, self.initial_alphas = genotype, initial_alphas

    def search_metrics(self, alphas: Mapping[str, Mapping[str, float]], sample: Mapping[str, Any]) -> dict[str, float]:
        """Return the distance of a search from the baseline, which is logged with every validation.

        Args:
            alphas: The α of each candidate of each edge; those that a search has pruned are missing.
            sample: The derived sample.

        Returns:
            ``alpha_distance``, the mean change of σ(α), from 0 to 1, and ``distance``, the number of operations that
            differ from those of the baseline.
        """
        living = [
            (alphas[edge][name], value)
            for edge, named in self.initial_alphas.items()
            for name, value in named.items()
            if name in alphas.get(edge, {})
        ]
        current, initial = (torch.sigmoid(torch.tensor(values)) for values in zip(*living, strict=True))
        return {
            "alpha_distance": float((current - initial).abs().mean()),
            "distance": float(self.genotype(sample).distance(self.baseline)),
        }


def alphas_of(
    cell: Cell,
    nodes: int,
    operations: Sequence[str] = tuple(OPERATIONS),
    alpha: float = 10.0,
    other_alpha: float = 0.0,
) -> CellAlphas:
    """Return the α from which a search of a cell starts (D-DARTS, section 4.4 (i)).

    :func:`strategies.derivation.edge` reproduces the cell at any threshold between the two sigmoids, if it may keep as
    many operations per edge as the cell has; the derivation method "edge" keeps two.

    Args:
        cell: Operations of the cell.
        nodes: Number of nodes of the cell without its inputs.
        operations: Candidates of every edge.
        alpha: α of the operations of the cell.
        other_alpha: α of all other operations.

    Raises:
        ValueError: An operation of the cell is not a candidate, is not on an edge, or is on an edge twice.
    """
    alphas: dict[tuple[int, int], dict[str, float]] = {
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
