"""Cells: the searchable one that a supernet is made from, and the fixed one of a derived network.

Both take the outputs of the two layers before them, bring them to their own number of channels,
and concatenate the outputs of their nodes. In a reduction cell the operations on the two inputs
have stride 2 (DARTS, section 3). Both may have fixed operations, on edges and behind the cell
(Fine-Tuning DARTS, section III.B).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import nni.nas.nn.pytorch as nas
import torch

# Not from nni.nas.oneshot: imported before nni.nas.strategy, that leaves NNI's own strategies without their classes.
from nni.nas.strategy import Proxyless
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from search_spaces.genotype import INPUTS, Cell, Genotype
from search_spaces.operations import FIXED_OPERATIONS, FactorizedReduce, relu_conv_bn, searchable

if TYPE_CHECKING:
    from nni.nas.oneshot.pytorch.strategy import OneShotStrategy


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


class Preprocess(nn.Module):
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


def searchable_cell(
    shape: CellShape,
    operations: Sequence[str],
    nodes: int,
    label: str,
    fixed: Cell = (),
    after: Sequence[str] = (),
) -> nn.Module:
    """A cell over named operations: every strategy that knows ``nni.nas.nn.pytorch.Cell`` can search it.

    It is one such cell, which a strategy replaces by its own; fixed operations stand where that
    replacement leaves them alone.

    Args:
        shape: its place in the network.
        operations: the candidates of every edge, names of :data:`~search_spaces.operations.OPERATIONS`.
        nodes: intermediate nodes, each with two inputs.
        label: cells with the same label share one architecture.
        fixed: fixed operations on edges.
        after: fixed operations that follow the cell.
    """

    def candidate(node: int, slot: int, source: int | None, *, name: str) -> nn.Module:
        # Before it is searched NNI's cell takes its inputs from node 0 on, and asks with no source.
        return searchable(name, shape.channels, shape.stride(0 if source is None else source))

    candidates = {name: partial(candidate, name=name) for name in operations}
    align = Preprocess(shape, affine=False)
    following = PostOps(shape.channels * nodes, after) if after else None
    if not fixed:
        return nas.Cell(
            candidates,
            num_nodes=nodes,
            num_ops_per_node=2,
            num_predecessors=INPUTS,
            preprocessor=align,
            postprocessor=following,
            label=label,
        )
    # NNI names the choices of a node by its number, which is that of the predecessors: a cell of one
    # node has the labels, and shares the α, of that node in a cell of all nodes.
    return NodeByNodeCell(
        align,
        [
            nas.Cell(candidates, num_nodes=1, num_ops_per_node=2, num_predecessors=node, label=label)
            for node in range(INPUTS, INPUTS + nodes)
        ],
        fixed,
        [searchable(edge.operation, shape.channels, shape.stride(edge.source)) for edge in fixed],
        following,
    )


def refuse_proxyless(strategy: OneShotStrategy) -> None:
    """Say what NNI's Proxyless would fail with in the middle of a search.

    It knows no cells. It would search the choices inside one, where it takes all inputs of a node for
    equally large and the candidates for the same whatever their input; in a reduction cell the
    inputs of the cell are twice as large as its nodes.

    Args:
        strategy: what is about to search a space of cells.

    Raises:
        ValueError: it is Proxyless.
    """
    if isinstance(strategy, Proxyless):
        raise ValueError(
            "NNI's Proxyless cannot search reduction cells, NNI's own included: take another strategy, such as "
            "DARTS, GumbelDARTS or RandomOneShot of NNI's"
        )


class PostOps(nn.Module):
    """The fixed operations behind a searchable cell: its postprocessor, which every strategy of NNI's keeps.

    Args:
        channels: of the output of the cell.
        operations: their names, in order.
    """

    def __init__(self, channels: int, operations: Sequence[str]) -> None:
        super().__init__()
        self.operations = nn.Sequential(*(searchable(name, channels, 1) for name in operations))

    def forward(self, out: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        """The output of the cell, and the inputs that it had -> the new output."""
        return self.operations(out)


class NodeByNodeCell(nn.Module):
    """A searchable cell with fixed operations on edges: one cell of NNI's for each node.

    A strategy replaces each of those by its own; what is fixed stands between them.

    Args:
        align: brings the inputs of the cell to its shape.
        nodes: for each node the cell that computes it from all nodes before it.
        edges: where the fixed operations stand.
        fixed: those operations.
        following: what stands behind the cell, or None.
    """

    def __init__(
        self,
        align: Preprocess,
        nodes: Sequence[nas.Cell],
        edges: Cell,
        fixed: Sequence[nn.Module],
        following: PostOps | None,
    ) -> None:
        super().__init__()
        self.align = align
        self.nodes = nn.ModuleList(nodes)
        self.edges = edges
        self.fixed = nn.ModuleList(fixed)
        self.following = following

    def forward(self, before: Tensor, previous: Tensor) -> Tensor:
        """(batch, before, …), (batch, previous, …) -> (batch, channels × nodes, …)."""
        states = self.align([before, previous])
        for target, node in enumerate(self.nodes, start=INPUTS):
            total = node(states)
            for edge, operation in zip(self.edges, self.fixed, strict=True):
                if edge.target == target:
                    total = total + operation(states[edge.source])
            states.append(total)
        out = torch.cat(states[INPUTS:], dim=1)
        return out if self.following is None else self.following(out, states)


class DiscreteCell(nn.Module):
    """A cell of a genotype, with operations that learn their normalization.

    Args:
        shape: its place in the network.
        cell: its operations, the fixed ones on its edges included.
        outputs: the nodes that are concatenated.
        after: the fixed operations that follow it.

    Attributes:
        drop_path: the probability, for each image, that an operation other than the identity is
            left out of a training step (FractalNet; DARTS, section 3.2).
    """

    drop_path: float = 0.0

    def __init__(self, shape: CellShape, cell: Cell, outputs: Sequence[int], after: Sequence[str] = ()) -> None:
        super().__init__()
        self.align = Preprocess(shape, affine=True)
        self.edges = Genotype.existing_edges(cell)
        self.outputs = tuple(outputs)
        self.operations = nn.ModuleList(
            FIXED_OPERATIONS[edge.operation](shape.channels, shape.stride(edge.source), True) for edge in self.edges
        )
        channels = shape.channels * len(outputs)
        self.after = nn.Sequential(*(FIXED_OPERATIONS[name](channels, 1, True) for name in after))

    def forward(self, before: Tensor, previous: Tensor) -> Tensor:
        """(batch, before, …), (batch, previous, …) -> (batch, channels × outputs, …)."""
        nodes: dict[int, Tensor] = dict(enumerate(self.align([before, previous])))
        for edge, operation in zip(self.edges, self.operations, strict=True):
            out = operation(nodes[edge.source])
            if self.training and self.drop_path > 0 and not isinstance(operation, nn.Identity):
                out = stochastic_depth(out, self.drop_path, mode="row")
            nodes[edge.target] = nodes[edge.target] + out if edge.target in nodes else out
        return self.after(torch.cat([nodes[node] for node in self.outputs], dim=1))
