"""Candidates of one kind that read the same node, computed together.

An accelerator computes a small convolution faster than Python launches it. Candidates of the edges that leave a node
are therefore computed together if they differ only in their weights: as grouped convolutions with concatenated weights,
and normalizations of concatenated channels. Each candidate keeps its own parameters and statistics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.beginnings import Beginning, has_hooks, is_chain
from search_spaces.depthwise import DepthwiseConv2d
from search_spaces.pointwise import PointwiseConv2d, subsample
from strategies.relaxation import PlanEntry
from strategies.supernet.architecture import accumulate, active
from strategies.supernet.candidates import Group, UncountedNorm, WeightedNorm

_CONVOLUTIONS = (nn.Conv2d, DepthwiseConv2d, PointwiseConv2d)
_NORMS = (UncountedNorm, WeightedNorm)

_Kind = tuple[Any, ...]
"""Properties that candidates must share to be computed together."""


def find_groups(
    entries: Mapping[str, PlanEntry],
    operations: Mapping[str, nn.ModuleList],
    beginnings: Mapping[str, Sequence[Beginning | None]],
    sources: Mapping[str, int],
) -> list[Group]:
    """Return the candidates that run, in groups of one kind that read the same node.

    Args:
        entries: Edge -> its entry in the plan.
        operations: Edge -> its candidates without ``none``, whose index follows theirs.
        beginnings: Edge -> the beginning of each candidate, or None.
        sources: Edge -> the node that it leaves.
    """
    groups: dict[_Kind, list[tuple[str, int]]] = defaultdict(list)
    for edge, entry in entries.items():
        for _, index in active(entry, len(operations[edge])):
            kind = _kind(operations[edge][index], weighted=not isinstance(entry, tuple))
            alone = (edge, index) if kind is None else None
            groups[sources[edge], beginnings[edge][index], kind, alone].append((edge, index))
    return list(map(tuple, groups.values()))


def sums_of_groups(
    groups: Mapping[Group, Tensor | None],
    operations: Mapping[str, nn.ModuleList],
    begin: Callable[[str, int], Tensor],
) -> dict[str, Tensor]:
    """Return the sum of the outputs of the candidates of each edge.

    Args:
        groups: Candidates that read the same node -> their weights, (candidates, channels) or (candidates,), None for
            no weights.
        operations: Edge -> its candidates.
        begin: Function that returns the input of a candidate, given its edge and index.
    """
    totals: dict[tuple[str, ...], Tensor] = {}
    statistics: _Statistics = []
    for group, weights in groups.items():
        edges = tuple(edge for edge, _ in group)
        candidates = [_leaves(operations[edge][index]) for edge, index in group]
        output = _run(candidates, begin(*group[0]), weights, statistics)
        if edges in totals:  # only a weighted output is a new tensor, to which others may be added in place
            output = totals[edges] + output if weights is None else accumulate(totals[edges], output)
        totals[edges] = output
    _update(statistics)
    sums: dict[str, Tensor] = {}
    for edges, total in totals.items():
        for edge, part in zip(edges, total.chunk(len(edges), 1), strict=True):
            sums[edge] = sums[edge] + part if edge in sums else part
    return sums


def _leaves(candidate: nn.Module) -> list[Any]:
    """Return the modules of a chain in order, including those of nested chains, without identities."""
    if is_chain(candidate) and not has_hooks(candidate):
        return [leaf for module in candidate for leaf in _leaves(module)]
    return [] if type(candidate) is nn.Identity else [candidate]


def _kind(candidate: nn.Module, weighted: bool) -> _Kind | None:
    """Return the kind that a candidate shares with its group, or None if it is computed alone."""
    leaves = _leaves(candidate)
    if weighted and leaves and type(leaves[-1]) is not WeightedNorm:
        return None
    kinds = [_kind_of_leaf(leaf) for leaf in leaves]
    return (weighted, *kinds) if kinds and None not in kinds else ("identity",) if weighted and not leaves else None


def _kind_of_leaf(leaf: Any) -> _Kind | None:
    if has_hooks(leaf):
        return None
    if type(leaf) is nn.ReLU:
        return ("relu",)
    if type(leaf) in _CONVOLUTIONS and leaf.padding_mode == "zeros":
        shape = leaf.weight.shape, leaf.stride, leaf.padding, leaf.dilation, leaf.groups, leaf.bias is None
        return (type(leaf), *shape, getattr(leaf, "first", 0))
    if type(leaf) in _NORMS and leaf.momentum is not None:
        statistics = leaf.training, leaf.track_running_stats, leaf.running_mean is None, leaf.affine
        return (type(leaf), leaf.num_features, leaf.eps, leaf.momentum, *statistics)
    return None


def _run(candidates: Sequence[Sequence[Any]], x: Tensor, weights: Tensor | None, statistics: _Statistics) -> Tensor:
    """Return the outputs of candidates of one kind, each times its weight, concatenated along the channels."""
    if not candidates[0]:
        assert weights is not None
        weights = weights.to(x.dtype)  # a scalar weight does not promote the type
        return (x.unsqueeze(1) * weights.view(1, -1, *[1] * (x.dim() - 1))).flatten(1, 2)
    shared = True
    for depth, layer in enumerate(zip(*candidates, strict=True), start=1):
        if type(layer[0]) is nn.ReLU:
            x = functional.relu(x)
            continue
        if shared and getattr(layer[0], "groups", 0) != 1:
            x, shared = x.repeat(1, len(layer), 1, 1), False
        if type(layer[0]) in _NORMS:
            x = _normalize(layer, x, weights if depth == len(candidates[0]) else None, statistics)
        else:
            x = _convolve(layer, x, shared)
        shared = False
    return x


def _convolve(layer: Sequence[nn.Conv2d], x: Tensor, shared: bool) -> Tensor:
    """Convolve the channels of each candidate, or a shared input, with the weights of each candidate."""
    first = layer[0]
    weight = torch.cat([convolution.weight for convolution in layer])
    biases = [convolution.bias for convolution in layer if convolution.bias is not None]
    groups = first.groups if shared else len(layer) * first.groups
    stride: Any = first.stride
    if type(first) is PointwiseConv2d and first.stride != (1, 1):
        rows, columns = first.stride
        x, stride = subsample(x, rows, columns, first.first), 1
    bias = torch.cat(biases) if biases else None
    return functional.conv2d(x, weight, bias, stride, first.padding, first.dilation, groups)


def _normalize(layer: Sequence[nn.BatchNorm2d], x: Tensor, weights: Tensor | None, statistics: _Statistics) -> Tensor:
    """Normalize the channels of each candidate, and multiply them by its weight."""
    first = layer[0]
    scale = _together([norm.weight for norm in layer]) if weights is None else weights.flatten()
    shift = _together([norm.bias for norm in layer])
    if not first.training and first.running_mean is not None:
        mean, variance = (
            _together([getattr(norm, name) for norm in layer]) for name in ("running_mean", "running_var")
        )
        return functional.batch_norm(x, mean, variance, scale, shift, eps=first.eps)
    out, mean, inverse = torch.native_batch_norm(x, scale, shift, None, None, True, 0.0, first.eps)
    if first.training and first.track_running_stats and first.running_mean is not None:
        statistics.append((layer, mean, inverse, x.numel() // x.shape[1]))
    return out


_Statistics = list[tuple[Sequence[nn.BatchNorm2d], Tensor, Tensor, int]]
"""Normalizations of one kind, means and inverse standard deviations of their channels, and values per channel."""


@torch.no_grad()
def _update(statistics: _Statistics) -> None:
    """Update the running statistics of normalizations, by a few calls for all."""
    by_momentum: dict[float, _Statistics] = defaultdict(list)
    for one in statistics:
        by_momentum[one[0][0].momentum or 0.0].append(one)
    for momentum, some in by_momentum.items():
        norms = [norm for layer, *_ in some for norm in layer]
        variances = torch._foreach_pow([inverse for *_, inverse, _ in some], -2.0)
        torch._foreach_sub_(variances, [layer[0].eps for layer, *_ in some])
        torch._foreach_mul_(variances, [count / max(count - 1, 1) for *_, count in some])  # unbiased
        sizes = [norm.num_features for norm in norms]
        for name, values in (("running_mean", [mean for _, mean, *_ in some]), ("running_var", variances)):
            running = [getattr(norm, name) for norm in norms]
            torch._foreach_lerp_(running, torch.split(torch.cat(values).to(running[0].dtype), sizes), momentum)


def _together(tensors: Sequence[Tensor | None]) -> Tensor | None:
    """Concatenate tensors; return None if there are none."""
    given = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(given) if given else None
