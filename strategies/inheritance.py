"""Derived networks with the weights and the batch statistics of the supernet.

The output of such a network is that of the supernet under the plan of the derived network, in evaluation mode, except
where the two networks differ as functions: a derived cell of this project's spaces has no normalization after pooling,
and no operations that read a node without inputs.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from nni.nas.nn.pytorch import Cell, ModelSpace
from nni.nas.nn.pytorch.choice import ChosenInputs
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.oneshot.pytorch.supermodule.operation import MixedOperation
from nni.nas.space import model_context
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from search_spaces.cell import DiscreteCell, NodeByNodeCell, PostOps
from search_spaces.edges import INPUTS, Edge
from search_spaces.genotype import Genotype
from search_spaces.network import Network
from search_spaces.space import StackedSpace
from search_spaces.stems import DenseHead
from strategies.supernet.cell import MixedCell
from strategies.supernet.choices import MixedInput, MixedLayer, MixedRepeat

Sample = Mapping[str, Any]
Memo = dict[int, Any]
"""Identity of a module -> the module that takes its place in a deep copy."""


class InheritanceError(ValueError):
    """The weights of a supernet do not fit its derived network."""


def inherit(supernet: ModelSpace, sample: Sample) -> nn.Module:
    """Return the derived network of a sample, with copies of the weights and batch statistics of the supernet.

    For a space of this project, it is the network of the genotype. The normalizations of its cells learn a scale and a
    shift, which start at 1 and 0. For any other space, it is a copy of the supernet with each choice replaced by the
    chosen module: an instance of the class of the space.

    Args:
        supernet: A model space that a strategy of this project has searched, or turned into a supernet.
        sample: The sample, for example from ``export_top_models(formatter="dict")``.

    Returns:
        The network, in the data type and on the device of the supernet.

    Raises:
        InheritanceError: The sample is not in the space, or a choice has no weights that fit.
    """
    error = supernet.check_contains(dict(sample))
    if error is not None:
        raise InheritanceError(f"sample: {error}")
    _refuse_partial_channels(supernet)
    if isinstance(supernet, StackedSpace):
        network = _like(supernet, StackedSpace.freeze(supernet, sample))
        _give_cells(supernet.network, network, supernet.genotype(sample))
        return network
    copied: nn.Module = _frozen(supernet, sample, {})
    return copied.requires_grad_(True)


def _refuse_partial_channels(supernet: nn.Module) -> None:
    for module in supernet.modules():
        if (isinstance(module, MixedCell) and module.parts.partial_channels > 1) or (
            isinstance(module, MixedLayer) and module.partial
        ):
            raise InheritanceError(
                f"partial channels: the candidates of {module.label!r} have weights for a part of the channels, "
                "which do not fit a derived network: train it with new weights"
            )


def _like(source: nn.Module, made: Any) -> Any:
    """Return a module in the data type, on the device and in the mode of another."""
    for tensor in (*source.parameters(), *source.buffers()):
        if tensor.is_floating_point():
            return made.to(device=tensor.device, dtype=tensor.dtype).train(source.training)
    return made.train(source.training)


# Copies of a supernet with chosen modules in place of choices


def _frozen(module: Any, sample: Sample, memo: Memo) -> Any:
    """Return a deep copy of a module with each choice inside it replaced by the chosen module."""
    for choice in _outermost_choices(module) if isinstance(module, nn.Module) else ():
        if id(choice) not in memo:
            memo[id(choice)] = _chosen(choice, sample, memo)
    return copy.deepcopy(module, memo)


def _outermost_choices(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, BaseSuperNetModule):
        return [module]
    return [choice for child in module.children() for choice in _outermost_choices(child)]


def _chosen(choice: nn.Module, sample: Sample, memo: Memo) -> nn.Module:
    """Return the module that replaces a choice in the network of a sample."""
    if isinstance(choice, MixedLayer):
        index = choice.architecture.candidates[choice.label].index(sample[choice.label])
        chosen: nn.Module = _frozen(choice.originals[index], sample, memo)
        return chosen
    if isinstance(choice, MixedInput):
        return ChosenInputs(sample[choice.label], reduction="mean" if choice.mean else "sum")
    if isinstance(choice, MixedRepeat):
        return _repeated(choice, sample, memo)
    if isinstance(choice, MixedCell):
        return _cell(choice, sample, memo)
    if isinstance(choice, MixedOperation):
        return _operation(choice, sample)
    try:
        other: nn.Module = choice.freeze(sample)  # type: ignore[operator]  # a user-defined choice
    except NotImplementedError:
        raise InheritanceError(
            f"{type(choice).__name__} does not give its weights to a derived network: it needs a method freeze(sample)"
        ) from None
    return other


def _repeated(choice: MixedRepeat, sample: Sample, memo: Memo) -> nn.Sequential:
    depth = choice.depth.expression.freeze(dict(sample))
    blocks = [_frozen(block, sample, memo) for block in choice.blocks[:depth]]
    if depth == 1 and choice.align_first is not None:
        blocks.append(AlignedFirst(_frozen(choice.align_first, sample, memo)))
    return nn.Sequential(*blocks)


class AlignedFirst(nn.Module):
    """The module behind a single cell in a stage of NNI's cells, which brings both outputs to one shape.

    Args:
        align: Module that transforms the older output.
    """

    def __init__(self, align: nn.Module) -> None:
        super().__init__()
        self.align = align

    def forward(self, outputs: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Return the older output, transformed, and the newer one."""
        before, previous = outputs
        return [self.align(before), previous]


def _operation(choice: MixedOperation, sample: Sample) -> nn.Module:
    """Return the operation with the slice of the weights that a super-kernel uses for the values of a sample."""
    # The super-kernel's own freeze is not used, because it fails for layers without bias and for batch normalizations.
    chosen = {name: value.freeze(dict(sample)) for name, value in choice.mutable_arguments.items()}
    arguments = choice.init_arguments | chosen
    operation: nn.Module = _like(choice, choice.bound_type(**arguments))
    given = {name: value for name, value in choice.freeze_weight(**arguments).items() if isinstance(value, Tensor)}
    counts = {name: value for name, value in choice.named_buffers() if name == "num_batches_tracked"}
    _copy_tensors(given | counts, operation)
    return operation


def _cell(choice: MixedCell, sample: Sample, memo: Memo) -> Cell:
    """Return NNI's cell with the chosen operations. All its nodes are concatenated, as in the supernet."""
    # Copied before the context, because within it NNI would create new modules instead of copies.
    around = [_frozen(module, sample, memo) for module in (choice.preprocessor, choice.postprocessor)]
    shape = len(choice.nodes), choice.num_ops_per_node, choice.num_predecessors, "all"
    with model_context(dict(sample)):
        cell: Cell = _like(choice, Cell(choice.factories, *shape, *around, choice.concat_dim, label=choice.label))
    for target, operations in zip(choice.nodes, cell.ops, strict=True):
        for slot, operation in enumerate(operations):
            (source,) = sample[f"{choice.label}/input_{target}_{slot}"]
            candidate = choice.candidate(sample[f"{choice.label}/op_{target}_{slot}"], source, target)
            _give(_frozen(candidate, sample, {}), operation)
    return cell


# Networks of this project's cells


def _give_cells(supernet: Network, network: Network, genotype: Genotype) -> None:
    """Copy the weights of a supernet of cells to the network of a genotype.

    A node without operations is zero in the supernet and absent in the network. The layers that read it lose the
    weights of its channels.
    """
    _give(supernet.stem, network.stem)
    before = previous = early = None  # channels that the outputs of these layers keep, None for all
    for layer, (cell, derived) in enumerate(zip(supernet.cells, network.cells, strict=True)):
        assert isinstance(cell, (MixedCell, NodeByNodeCell)) and isinstance(derived, DiscreteCell)
        align = cell.align if isinstance(cell, NodeByNodeCell) else cell.preprocessor
        _give(align.before, derived.align.before, before)
        _give(align.previous, derived.align.previous, previous)
        _give_operations(cell, derived, genotype.cells[genotype.layout[layer]])
        before, previous = previous, _kept_channels(cell, derived)
        early = previous if layer == network.early_layer else early
    if isinstance(network.classifier, DenseHead):
        _give_dense_head(supernet.classifier, network.classifier, early, previous)
        return
    if previous is not None:
        # The classifier of the course project reads all pixels of each channel, any other classifier their mean.
        first = next(module for module in network.classifier.modules() if isinstance(module, nn.Linear))
        pixels = first.in_features // len(previous)
        previous = (previous[:, None] * pixels + torch.arange(pixels)).flatten()
    _give(supernet.classifier, network.classifier, previous)


def _give_dense_head(supernet: nn.Module, network: DenseHead, early: Tensor | None, late: Tensor | None) -> None:
    """Copy the weights of a dense head, whose features have kept the given channels, None for all."""
    assert isinstance(supernet, DenseHead)
    if early is not None:
        raise InheritanceError(
            "the head for each pixel has weights for all nodes of the cell before the first reduction, and a node of "
            "it has no operation: train it with new weights"
        )
    _give(supernet.late, network.late, late)
    for part in ("early", "bn", "classifier"):
        _give(getattr(supernet, part), getattr(network, part))


def _give_operations(cell: MixedCell | NodeByNodeCell, derived: DiscreteCell, searched: Collection[Edge]) -> None:
    """Copy the weights of the operations of a cell; ``searched`` are those that are not fixed."""
    remaining = Counter(searched)
    fixed: list[tuple[Edge, nn.Module]] = []
    nodes: Sequence[Any] = [cell] * len(cell.nodes)  # the module that has the candidates of each node
    if not isinstance(cell, MixedCell):
        fixed = list(zip(cell.edges, cell.fixed, strict=True))  # type: ignore[arg-type]
        nodes = list(cell.nodes)
    for edge, operation in zip(derived.edges, derived.operations, strict=True):
        if remaining[edge]:
            remaining[edge] -= 1
            _give(nodes[edge.target - INPUTS].candidate(edge.operation, edge.source, edge.target), operation)
        else:
            _give(next(module for other, module in fixed if other == edge), operation)
    following = cell.following if isinstance(cell, NodeByNodeCell) else cell.postprocessor
    if isinstance(following, PostOps):
        _give(following.operations, derived.after)


def _kept_channels(cell: MixedCell | NodeByNodeCell, derived: DiscreteCell) -> Tensor | None:
    """Return the channels of the output of a supernet's cell that the derived cell has, None for all."""
    if len(derived.outputs) == len(cell.nodes):
        return None
    if len(derived.after):
        raise InheritanceError(
            "fixed operations behind a cell have weights for all its nodes, and a node of the derived cell has no "
            "operation: train it with new weights"
        )
    channels = len(next(derived.align.previous.parameters()))
    return torch.cat([torch.arange(channels) + (node - INPUTS) * channels for node in derived.outputs])


# Tensors


def _give(source: Any, target: Any, inputs: Tensor | None = None) -> None:
    """Copy the tensors of a module of a supernet to the same module of a derived network.

    Nothing is copied to a target without tensors, for example pooling. A scale and a shift that the source lacks keep
    their values.

    Args:
        source: The module, possibly followed by modules without tensors, for example dropout.
        target: The module of the derived network.
        inputs: Input channels that the target has, None for all.
    """
    norms = [name for name, module in target.named_modules() if isinstance(module, _BatchNorm)]
    affine = {f"{name}.{kind}".lstrip(".") for name in norms for kind in ("weight", "bias")}
    required = target.state_dict().keys() - affine
    while not required <= source.state_dict().keys() and isinstance(source, nn.Sequential) and len(source):
        source = source[0]
    _copy_tensors(source.state_dict(), target, affine, inputs)


def _copy_tensors(
    given: Mapping[str, Tensor], target: nn.Module, optional: Collection[str] = (), inputs: Tensor | None = None
) -> None:
    for name, tensor in target.state_dict().items():
        if name not in given and name in optional:
            continue
        value = given.get(name)
        if value is not None and inputs is not None and value.dim() > 1 and value.shape[1] > tensor.shape[1]:
            value = value[:, inputs.to(value.device)]
        if value is None or value.shape != tensor.shape:
            there = "none" if value is None else f"those of shape {tuple(value.shape)}"
            raise InheritanceError(
                f"{type(target).__name__}: {name} of shape {tuple(tensor.shape)} has {there} in the supernet"
            )
        with torch.no_grad():
            tensor.copy_(value)
