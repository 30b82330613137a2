"""Faster candidates of cell edges: all weights are computed at once and fused into the last normalizations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.beginnings import is_chain
from strategies.relaxation import PlanEntry
from strategies.supernet.architecture import active, weights_of


class UncountedNorm(nn.BatchNorm2d):
    """Batch normalization without a count of batches, which only a cumulative average needs."""

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> UncountedNorm:
        """Return such a normalization with the parameters, buffers, mode and hooks of another."""
        made = cls.__new__(cls)
        made.__dict__ |= norm.__dict__
        return made

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (batch, channels, height, width)."""
        if self.momentum is None or not (self.training and self.track_running_stats):
            return super().forward(x)
        statistics = self.running_mean, self.running_var
        return functional.batch_norm(x, *statistics, self.weight, self.bias, True, self.momentum, self.eps)


class WeightedNorm(UncountedNorm):
    """A batch normalization at the end of a candidate that also multiplies by the weight of the candidate.

    The scale of a normalization and its gradient take no extra time. A separate product would take one more pass over
    memory forwards and three backwards, and would keep its input for the backward pass.
    """

    weight: Tensor | None  # type: ignore[assignment]  # set by the relaxation, not a parameter

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> UncountedNorm:
        """Return a weighted normalization with the buffers, mode and hooks of another, which is not affine."""
        made = super().of(norm)
        made.__dict__ |= {"_parameters": {"bias": None}, "weight": None}
        return made


def exchange_norms(candidate: nn.Module) -> None:
    """Replace the normalizations of a candidate, the last one by a weighted one unless it is affine."""
    *_, parent, last = None, *_endings(candidate)
    if parent is not None and type(last) is nn.BatchNorm2d and not last.affine:
        parent[-1] = WeightedNorm.of(last)
    for module in candidate.modules():
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, UncountedNorm.of(child))


Group = tuple[tuple[str, int], ...]
"""Candidates that are computed together, or a single candidate: the edge and the index of each."""


def weigh(
    groups: Sequence[Group], entries: Mapping[str, PlanEntry], operations: Mapping[str, nn.ModuleList]
) -> list[Tensor | None]:
    """Return the weights of candidates, in a few calls per form because each call takes time on an accelerator.

    Args:
        groups: The candidates.
        entries: Edge -> its entry in the plan.
        operations: Edge -> its candidates without ``none``, whose index follows theirs.

    Returns:
        For each group the weights of its candidates, or the weight of a single one, None if they have none. The weight
        of a candidate that ends with a weighted normalization is a vector of equal values (channels,), that of any
        other a scalar.
    """
    all_weights = {edge: weights_of(entry) for edge, entry in entries.items()}
    given = {edge: of_edge for edge, of_edge in all_weights.items() if of_edge is not None}
    positions: dict[tuple[str, int], int] = {}
    start = 0
    for edge, of_edge in given.items():
        positions |= {(edge, i): start + slot for slot, i in active(entries[edge], len(operations[edge]))}
        start += len(of_edge)
    forms: dict[_Form, list[int]] = defaultdict(list)
    for number in sorted(range(len(groups)), key=lambda number: len(groups[number]) > 1):  # single candidates first
        edge, index = groups[number][0]
        if edge in given:
            forms[_form(operations[edge][index])].append(number)
    weights: list[Tensor | None] = [None] * len(groups)
    together = torch.cat(tuple(given.values())) if forms else None
    for form, numbers in forms.items():
        assert together is not None
        wanted = tuple(positions[member] for number in numbers for member in groups[number])
        values = together.index_select(0, indices(wanted, together.device))
        if form is not None:  # PyTorch is slow with an expanded tensor
            channels, dtype = form
            values = values.to(dtype or values.dtype).unsqueeze(1).expand(-1, channels).contiguous()
        sizes = [len(groups[number]) for number in numbers if len(groups[number]) > 1]
        single, *several = torch.split(values, [len(wanted) - sum(sizes), *sizes]) if sizes else [values]
        for number, piece in zip(numbers, (*single.unbind(), *several), strict=True):
            weights[number] = piece
    return weights


_Form = tuple[int, torch.dtype | None] | None
"""Channels and data type of the weight of a candidate, with None for the data type of α; None for a scalar."""


def _form(candidate: nn.Module) -> _Form:
    norm = _weighted_norm(candidate)
    if norm is None:
        return None
    return norm.num_features, None if norm.running_mean is None else norm.running_mean.dtype


@lru_cache(maxsize=1024)
def indices(positions: tuple[int, ...], device: torch.device) -> Tensor:
    """Return a tensor of indices on a device."""
    # Cached, because a copy to an accelerator takes time. Autograd cannot use tensors created in inference mode.
    with torch.inference_mode(False):
        return torch.tensor(positions).to(device, non_blocking=device.type == "cuda")


def forward_weighted(
    candidate: nn.Module, weight: Tensor, x: Tensor, call: Callable[[nn.Module, Tensor], Tensor] = nn.Module.__call__
) -> Tensor:
    """Return the output of a candidate times a weight in its form; ``call`` returns the output of a module."""
    norm = _weighted_norm(candidate)
    if norm is None:
        return weight * call(candidate, x)
    norm.weight = weight
    try:
        return call(candidate, x)
    finally:
        norm.weight = None


def _weighted_norm(candidate: nn.Module) -> WeightedNorm | None:
    *_, last = _endings(candidate)
    return last if isinstance(last, WeightedNorm) else None


def _endings(module: nn.Module) -> Iterator[Any]:
    """Yield a module, its last submodule, the last submodule of that, and so on through nested chains."""
    yield module
    while is_chain(module):
        module = module[-1]
        yield module
