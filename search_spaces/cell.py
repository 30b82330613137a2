"""Cells: the searchable one that a supernet is made from, and the fixed one of a derived network.

Both take the outputs of the two layers before them, bring them to their own number of channels,
and concatenate the outputs of their nodes. In a reduction cell the operations on the two inputs
have stride 2 (DARTS, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import nni.nas.nn.pytorch as nas
import torch
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from search_spaces.genotype import INPUTS, Cell, Genotype
from search_spaces.operations import OPERATIONS, FactorizedReduce, relu_conv_bn, searchable


class CellShape(NamedTuple):
    """What the place of a cell in the network asks of it.

    Args:
        before, previous: channels of its two inputs, the older first.
        channels: channels of each of its nodes.
        reduction: it halves the resolution.
        after_reduction: the layer before it did, so that the older input is twice as large.
    """

    before: int
    previous: int
    channels: int
    reduction: bool
    after_reduction: bool

    def stride(self, source: int) -> int:
        """The stride of an operation that leaves node ``source``."""
        return 2 if self.reduction and source < INPUTS else 1


class AlignInputs(nn.Module):
    """Bring both inputs of a cell to its number of channels and to one resolution."""

    def __init__(self, shape: CellShape, affine: bool) -> None:
        super().__init__()
        if shape.after_reduction:
            self.before: nn.Module = FactorizedReduce(shape.before, shape.channels, affine)
        else:
            self.before = relu_conv_bn(shape.before, shape.channels, affine=affine)
        self.previous = relu_conv_bn(shape.previous, shape.channels, affine=affine)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The aligned [older, newer] input."""
        before, previous = inputs
        return [self.before(before), self.previous(previous)]


def searchable_cell(shape: CellShape, operations: Sequence[str], nodes: int, label: str) -> nas.Cell:
    """NNI's cell over named operations: every strategy that knows ``nni.nas.nn.pytorch.Cell`` can search it.

    Args:
        shape: its place in the network.
        operations: the candidates of every edge, names of :data:`~search_spaces.operations.OPERATIONS`.
        nodes: intermediate nodes, each with two inputs.
        label: cells with the same label share one architecture.
    """

    def candidate(node: int, slot: int, source: int | None, *, name: str) -> nn.Module:
        # Before it is searched NNI's cell takes its inputs from node 0 on, and asks with no source.
        return searchable(name, shape.channels, shape.stride(0 if source is None else source))

    return nas.Cell(
        {name: partial(candidate, name=name) for name in operations},
        num_nodes=nodes,
        num_ops_per_node=2,
        num_predecessors=INPUTS,
        preprocessor=AlignInputs(shape, affine=False),
        label=label,
    )


class FixedCell(nn.Module):
    """A cell of a genotype, with operations that learn their normalization.

    Args:
        shape: its place in the network.
        cell: its operations.
        outputs: the nodes that are concatenated.

    Attributes:
        drop_path: the probability, for each image, that an operation other than the identity is
            left out of a training step (FractalNet; DARTS, section 3.2).
    """

    drop_path: float = 0.0

    def __init__(self, shape: CellShape, cell: Cell, outputs: Sequence[int]) -> None:
        super().__init__()
        self.align = AlignInputs(shape, affine=True)
        self.edges = Genotype.existing_edges(cell)
        self.outputs = tuple(outputs)
        self.operations = nn.ModuleList(
            OPERATIONS[edge.operation](shape.channels, shape.stride(edge.source), True) for edge in self.edges
        )

    def forward(self, before: Tensor, previous: Tensor) -> Tensor:
        """(batch, before, …), (batch, previous, …) -> (batch, channels × outputs, …)."""
        nodes: dict[int, Tensor] = dict(enumerate(self.align([before, previous])))
        for edge, operation in zip(self.edges, self.operations, strict=True):
            out = operation(nodes[edge.source])
            if self.training and self.drop_path > 0 and not isinstance(operation, nn.Identity):
                out = stochastic_depth(out, self.drop_path, mode="row")
            nodes[edge.target] = nodes[edge.target] + out if edge.target in nodes else out
        return torch.cat([nodes[node] for node in self.outputs], dim=1)
