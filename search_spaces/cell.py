"""Searchable cells of supernets and discrete cells of derived networks.

A cell reads the outputs of the two layers before it, brings them to its number of channels, and concatenates the
outputs of its nodes. In a reduction cell the operations on the two inputs have stride 2 (DARTS, section 3). A cell may
have fixed operations on its edges and behind it (Fine-Tuning DARTS, section III.B).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import nni.nas.nn.pytorch as nas
import torch

# Not from nni.nas.oneshot: imported before nni.nas.strategy, it would leave NNI's strategies without their classes.
from nni.nas.strategy import Proxyless
from torch import Tensor, nn

from search_spaces.beginnings import Beginning, split_beginning
from search_spaces.edges import INPUTS, Cell, existing_edges
from search_spaces.operations import FactorizedReduce, derived_operation, relu_conv_bn, searchable

if TYPE_CHECKING:
    from nni.nas.oneshot.pytorch.strategy import OneShotStrategy


Make = Callable[[str, int, int], nn.Module]
"""(name, channels, stride) -> an operation."""


class CellShape(NamedTuple):
    """Channels and strides of a cell, which follow from its place in the network.

    Args:
        before: Channels of its older input, the output of the layer before last.
        previous: Channels of its newer input, the output of the layer before.
        channels: Channels of each of its nodes.
        reduction: Whether the cell halves the resolution.
        after_reduction: Whether the layer before the cell halves the resolution, so that the older input is twice as
            large.
        dimensions: 1 for cells of series, 2 for cells of images.
    """

    before: int
    previous: int
    channels: int
    reduction: bool
    after_reduction: bool
    dimensions: int = 2

    def stride(self, source: int) -> int:
        """Return the stride of an operation that reads node ``source``."""
        return 2 if self.reduction and source < INPUTS else 1


class Preprocess(nn.Module):
    """Bring both inputs of a cell to its number of channels and to one resolution.

    Args:
        shape: Channels and strides of the cell.
        affine: Whether batch normalizations learn a scale and a shift.
    """

    def __init__(self, shape: CellShape, affine: bool) -> None:
        super().__init__()
        convolve = partial(relu_conv_bn, affine=affine, dimensions=shape.dimensions)
        if shape.after_reduction:
            self.before: nn.Module = FactorizedReduce(shape.before, shape.channels, affine, shape.dimensions)
        else:
            self.before = convolve(shape.before, shape.channels)
        self.previous = convolve(shape.previous, shape.channels)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the older and the newer input, each (batch, channels, height, width)."""
        before, previous = inputs
        return [self.before(before), self.previous(previous)]


def searchable_cell(
    shape: CellShape,
    operations: Sequence[str],
    nodes: int,
    label: str,
    fixed: Cell = (),
    after: Sequence[str] = (),
    derived: bool = False,
) -> nn.Module:
    """Return a cell that every strategy for ``nni.nas.nn.pytorch.Cell`` can search.

    Without fixed operations on edges this is one NNI cell, otherwise one per node. A strategy replaces the NNI cells
    and leaves the fixed operations as they are.

    Args:
        shape: Channels and strides of the cell.
        operations: Candidates of every edge, keys of :data:`~search_spaces.operations.OPERATIONS`.
        nodes: Number of intermediate nodes, each with two inputs.
        label: Label of the cell. Cells with the same label share one architecture.
        fixed: Fixed operations on edges.
        after: Fixed operations that follow the cell.
        derived: Whether its operations have the form of derived networks.
    """
    make = partial(derived_operation if derived else searchable, dimensions=shape.dimensions)
    candidates = {name: partial(_candidate, shape=shape, name=name, make=make) for name in operations}
    cell = partial(nas.Cell, candidates, num_ops_per_node=2, label=label)
    align = Preprocess(shape, affine=derived)
    following = PostOps(shape.channels * nodes, after, make) if after else None
    if not fixed:
        return cell(num_nodes=nodes, num_predecessors=INPUTS, preprocessor=align, postprocessor=following)
    # NNI labels the choices of a node by the number of its predecessors. A cell of one node therefore has the labels,
    # and shares the α, of that node in a cell of all nodes.
    return NodeByNodeCell(
        align,
        [cell(num_nodes=1, num_predecessors=node) for node in range(INPUTS, INPUTS + nodes)],
        fixed,
        [make(edge.operation, shape.channels, shape.stride(edge.source)) for edge in fixed],
        following,
    )


def _candidate(node: int, slot: int, source: int | None, *, shape: CellShape, name: str, make: Make) -> nn.Module:
    """Return a candidate of an edge; NNI's cell calls this function."""
    # A cell that is not being searched passes no source and reads its inputs from node 0 on.
    return make(name, shape.channels, shape.stride(0 if source is None else source))


def refuse_proxyless(strategy: OneShotStrategy) -> None:
    """Raise an error for NNI's Proxyless, which would fail in the middle of a search.

    Proxyless does not support cells. It searches the choices inside a cell on the assumption that all inputs of a node
    have one size and the same candidates. In a reduction cell the inputs of the cell are twice as large as its nodes.

    Args:
        strategy: The strategy that will search a space of cells.

    Raises:
        ValueError: The strategy is Proxyless.
    """
    if isinstance(strategy, Proxyless):
        raise ValueError(
            "NNI's Proxyless cannot search reduction cells, NNI's own included: take another strategy, such as "
            "DARTS, GumbelDARTS or RandomOneShot of NNI's"
        )


class PostOps(nn.Module):
    """Fixed operations behind a searchable cell, as its postprocessor, which every strategy of NNI keeps.

    Args:
        channels: Channels of the output of the cell.
        operations: Names of the operations, in order.
        make: Function of name, channels and stride that makes an operation.
    """

    def __init__(self, channels: int, operations: Sequence[str], make: Make = searchable) -> None:
        super().__init__()
        self.operations = nn.Sequential(*(make(name, channels, 1) for name in operations))

    def forward(self, out: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        """Return the new output, given the output and the inputs of the cell."""
        return self.operations(out)


class NodeByNodeCell(nn.Module):
    """A searchable cell with fixed operations on edges, of one NNI cell per node.

    A strategy replaces the NNI cells; the fixed operations between them stay.

    Args:
        align: Module that preprocesses the inputs of the cell.
        nodes: For each node, the cell that computes it from all nodes before it.
        edges: Edges of the fixed operations.
        fixed: Fixed operations, one per edge.
        following: Operations behind the cell, or None.
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
    """A cell of a derived network, whose batch normalizations learn a scale and a shift.

    Args:
        shape: Channels and strides of the cell.
        cell: Operations of the cell, including the fixed ones on its edges.
        outputs: Nodes that are concatenated.
        after: Fixed operations that follow the cell.

    Attributes:
        drop_path: Probability, from 0 to below 1, that a training step skips an operation other than the identity,
            drawn for each image (FractalNet; DARTS, section 3.2).
    """

    _kept: Tensor

    def __init__(self, shape: CellShape, cell: Cell, outputs: Sequence[int], after: Sequence[str] = ()) -> None:
        super().__init__()
        # A tensor, because a number would make torch.compile compile the cell again for each value.
        self.register_buffer("_kept", torch.ones(()), persistent=False)
        self.drop_path = 0.0
        self.align = Preprocess(shape, affine=True)
        self.edges = existing_edges(cell)
        self.outputs = tuple(outputs)
        parts = [
            split_beginning(
                derived_operation(edge.operation, shape.channels, shape.stride(edge.source), shape.dimensions)
            )
            for edge in self.edges
        ]
        self.beginnings = [beginning for beginning, _ in parts]
        self.operations = nn.ModuleList(rest for _, rest in parts)
        self.ends = set(outputs).difference(edge.source for edge in self.edges)
        channels = shape.channels * len(outputs)
        self.after = nn.Sequential(*(derived_operation(name, channels, 1, shape.dimensions) for name in after))

    @property
    def drop_path(self) -> float:
        """Return the probability of drop-path."""
        return self._drop_path

    @drop_path.setter
    def drop_path(self, probability: float) -> None:
        self._drop_path, self._drops = probability, probability > 0
        self._kept.fill_(1 - probability)

    def _skipped(self, out: Tensor) -> Tensor:
        """Return the output of an operation, set to zero for random images and scaled up for the others."""
        kept = torch.empty(len(out), *[1] * (out.dim() - 1), dtype=out.dtype, device=out.device).bernoulli_(self._kept)
        return out * kept.div_(self._kept)

    def forward(self, before: Tensor, previous: Tensor) -> Tensor:
        """(batch, before, …), (batch, previous, …) -> (batch, channels × outputs, …)."""
        nodes: dict[int, Tensor] = dict(enumerate(self.align([before, previous])))
        begun: dict[tuple[int, Beginning], Tensor] = {}
        for edge, beginning, operation in zip(self.edges, self.beginnings, self.operations, strict=True):
            x = nodes[edge.source]
            if beginning is not None:
                key = edge.source, beginning
                begun[key] = x = begun[key] if key in begun else beginning(x)
            out = operation(x)
            is_identity = beginning is None and isinstance(operation, nn.Identity)
            if self.training and self._drops and not is_identity:
                out = self._skipped(out)
            nodes[edge.target] = nodes[edge.target] + out if edge.target in nodes else out
        for node in self.ends:
            if nodes[node].requires_grad:
                # The gradient is a slice of the gradient of the concatenation; normalizations are faster with a copy.
                nodes[node].register_hook(torch.clone)  # type: ignore[no-untyped-call]
        return self.after(torch.cat([nodes[node] for node in self.outputs], dim=1))
