"""Partial channels: candidates that run on a part of the channels of their input (PC-DARTS, section 3.2)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.beginnings import Beginning


class NarrowError(ValueError):
    """A candidate cannot run on a part of the channels."""


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)

_POOLING = {
    1: (functional.max_pool1d, functional.adaptive_max_pool1d),
    2: (functional.max_pool2d, functional.adaptive_max_pool2d),
}
"""Dimensions of the input -> pooling with windows, and pooling to a size."""


def narrow(candidate: nn.Module, parts: int) -> None:
    """Give a candidate 1/K of its channels, in place, with new weights.

    Args:
        candidate: A module whose only weights are those of convolutions and batch normalizations.
        parts: K.

    Raises:
        NarrowError: A module of the candidate has other weights, or K does not divide its channels.
    """
    for module in candidate.modules():
        if getattr(module, "mutables", ()):
            raise NarrowError(f"{type(module).__name__} has choices of its own")
        if isinstance(module, CONVOLUTIONS):
            _narrow_convolution(module, parts)
        elif isinstance(module, NORMS):
            _narrow_norm(module, parts)
        elif next(module.parameters(recurse=False), None) is not None:
            raise NarrowError(f"{type(module).__name__} cannot run on 1/{parts} of its channels")


def can_narrow(candidates: Iterable[nn.Module], parts: int) -> bool:
    """Return whether all candidates keep the number of channels and can run on 1/K of them, and one has weights."""
    candidates = list(candidates)
    if not any(isinstance(module, CONVOLUTIONS) for candidate in candidates for module in candidate.modules()):
        return False
    for candidate in candidates:
        convolutions = [module for module in candidate.modules() if isinstance(module, CONVOLUTIONS)]
        if convolutions and convolutions[0].in_channels != convolutions[-1].out_channels:
            return False
        try:
            narrow(copy.deepcopy(candidate), parts)
        except NarrowError:
            return False
    return True


def run_on_part(run: Callable[[Tensor], Tensor], x: Tensor, parts: int) -> Tensor:
    """Return the output of an edge that runs on the first 1/K of the channels, while the others are passed on.

    The channels that are passed on are pooled to the resolution of the output. The channels are then shuffled, so that
    the next edge runs on other ones (as in the released code of PC-DARTS).

    Args:
        run: Function that returns the sum of the candidates on a part of the channels.
        x: Input (batch, channels, height, width); K divides the channels.
        parts: K.
    """
    states = PartialStates([x], parts)
    out = run(states.part(0))
    states.append(out, states.rest(0, out.shape))
    return states.nodes[1]


class PartialStates:
    """Nodes of a cell whose candidates read only the first 1/K of the channels.

    The edges that leave a node share the part that they read and the pooled rest, and the sum over the edges that reach
    a node is taken before the channels are shuffled.

    Args:
        nodes: The input nodes, each (batch, channels, height, width); K divides the channels.
        parts: K; with 1, candidates read all channels and nothing is passed on.
    """

    def __init__(self, nodes: Iterable[Tensor], parts: int) -> None:
        self.nodes, self.parts = list(nodes), parts
        self._parts: dict[int, Tensor] = {}
        self._begun: dict[tuple[int, Beginning], Tensor] = {}
        self._pooled: dict[int, Tensor] = {}

    def part(self, node: int) -> Tensor:
        """Return the channels of a node that candidates read."""
        x = self.nodes[node]
        if self.parts == 1:
            return x
        if node not in self._parts:
            part = x[:, : x.shape[1] // self.parts]
            # Without this copy, each convolution would make its own copy of the slice.
            last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
            self._parts[node] = part.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        return self._parts[node]

    def begin(self, node: int, beginning: Beginning | None) -> Tensor:
        """Return these channels after the beginning of candidates, computed once for all edges that leave the node."""
        if beginning is None:
            return self.part(node)
        if (node, beginning) not in self._begun:
            self._begun[node, beginning] = beginning(self.part(node))
        return self._begun[node, beginning]

    def rest(self, node: int, shape: Sequence[int]) -> Tensor:
        """Return the other channels of a node, pooled to the resolution of a shape (batch, channels, height, width)."""
        passed = self.nodes[node][:, self.nodes[node].shape[1] // self.parts :]
        if passed.shape[2:] == tuple(shape[2:]):
            return passed
        if node not in self._pooled:
            pool, fit = _POOLING[passed.dim() - 2]
            pooled = pool(passed, 2, 2, ceil_mode=True)
            if pooled.shape[2:] != tuple(shape[2:]):  # differs from a stride of 2 with the usual padding
                pooled = fit(passed, tuple(shape[2:]))
            self._pooled[node] = pooled
        return self._pooled[node]

    def append(self, total: Tensor, passed: Tensor | None) -> None:
        """Add a node.

        Args:
            total: Sum of the outputs of the candidates on the edges that reach the node.
            passed: Sum of the channels that are passed on along these edges; None for zeros.
        """
        if self.parts > 1:
            if passed is None:
                passed = torch.zeros_like(total).repeat(1, self.parts - 1, *[1] * (total.dim() - 2))
            total = functional.channel_shuffle(torch.cat([total, passed], dim=1), self.parts)
        self.nodes.append(total)


def _narrow_convolution(module: nn.Conv1d | nn.Conv2d, parts: int) -> None:
    depthwise = module.groups == module.in_channels > 1
    module.in_channels = _part(module, module.in_channels, parts)
    module.out_channels = _part(module, module.out_channels, parts)
    if depthwise:
        module.groups = module.in_channels
    elif module.in_channels % module.groups or module.out_channels % module.groups:
        raise NarrowError(f"{module.in_channels} channels of {type(module).__name__} have {module.groups} groups")
    inputs = module.in_channels // module.groups
    module.weight = nn.Parameter(module.weight.new_empty(module.out_channels, inputs, *module.kernel_size))
    if module.bias is not None:
        module.bias = nn.Parameter(module.bias.new_empty(module.out_channels))
    module.reset_parameters()


def _narrow_norm(module: nn.BatchNorm1d | nn.BatchNorm2d, parts: int) -> None:
    module.num_features = _part(module, module.num_features, parts)
    for name in ("weight", "bias"):
        if getattr(module, name) is not None:
            setattr(module, name, nn.Parameter(getattr(module, name).new_empty(module.num_features)))
    if module.running_mean is not None and module.running_var is not None:
        module.running_mean = module.running_mean.new_zeros(module.num_features)
        module.running_var = module.running_var.new_ones(module.num_features)
    module.reset_parameters()


def _part(module: nn.Module, channels: int, parts: int) -> int:
    if channels % parts:
        raise NarrowError(f"{channels} channels of {type(module).__name__} are not divisible by {parts}")
    return channels // parts
