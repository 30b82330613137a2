"""Relaxations: from the architecture parameters α to the plan of the supernet.

A relaxation turns all α into a :data:`Plan` for each kind of forward pass. The supernet follows the plan in every layer
that shares an edge.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

Alphas = Mapping[str, Tensor]
"""Edge -> α (candidates,)."""

EdgeWeights = Tensor
"""A relaxed edge: the weights (candidates,) of the sum of all candidates."""

ActiveOps = tuple[int, ...]
"""A discrete edge: the indices of the candidates that run, summed without weights.

The index after the last candidate stands for ``none``, which is zero."""


@dataclass(frozen=True, eq=False)
class WeightedOps:
    """A sampled edge: the candidates that run, summed with weights, through which gradients flow to α.

    Args:
        indices: Indices of the candidates that run; the index after the last candidate stands for ``none``.
        weights: Their weights (len(indices),).
    """

    indices: tuple[int, ...]
    weights: Tensor


PlanEntry = EdgeWeights | ActiveOps | WeightedOps

Plan = Mapping[str, PlanEntry]
"""The computation of each edge in a forward pass."""


class UnfitSettingError(ValueError):
    """A setting of a strategy does not fit the search."""


@dataclass(frozen=True)
class Step:
    """The position of a search.

    Args:
        iteration: Completed iterations, each an architecture step and a weight step.
        epoch: Completed epochs.
        epochs: Epochs of the whole search; None if it has no fixed number.
    """

    iteration: int = 0
    epoch: int = 0
    epochs: int | None = None

    @property
    def progress(self) -> float:
        """The share of the epochs that are completed, from 0 to below 1.

        Raises:
            UnfitSettingError: The search has no fixed number of epochs.
        """
        if self.epochs is None or self.epochs < 1:
            raise UnfitSettingError("max_epochs of the evaluator should be 1 or more: the strategy follows it")
        return self.epoch / self.epochs


class Relaxation(Protocol):
    """Conversion of α into the plan of each kind of forward pass.

    A relaxation that samples must derive the sample from the iteration (:mod:`strategies.noise`), not from PyTorch's
    generator: all losses of a second-order step must see the same plan. With a topology, the inputs of each node have α
    too, see :mod:`strategies.topology`.

    Attributes:
        activation: The function that turns α into the weights that a report shows.

    Example::

        class Softmax:
            activation = "softmax"

            def architecture(self, alphas, step):
                return {edge: alpha.softmax(0) for edge, alpha in alphas.items()}

            weights = architecture

            def evaluation(self, alphas):
                return self.architecture(alphas, Step())
    """

    activation: Literal["softmax", "sigmoid"]

    def architecture(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of an architecture step; gradients flow through it to α."""

    def weights(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of a weight step; no gradient is taken through it."""

    def evaluation(self, alphas: Alphas) -> Plan:
        """Return the plan by which the supernet is validated."""


def rows(alphas: Alphas) -> dict[str, list[float]]:
    """Return edge -> α as plain numbers, by a single transfer from the accelerator."""
    with torch.no_grad():
        values = iter(torch.cat(tuple(alphas.values())).tolist() if alphas else [])
    return {edge: list(islice(values, alpha.numel())) for edge, alpha in alphas.items()}


def argmax(alphas: Alphas) -> Plan:
    """Return the plan in which every edge runs its strongest candidate; of equal candidates, the first."""
    return {edge: (row.index(max(row)),) for edge, row in rows(alphas).items()}


def softmax(alphas: Alphas) -> Plan:
    """Return the plan in which every edge mixes its candidates with the softmax of its α (DARTS, Eq. 2)."""
    return by_size(partial(torch.softmax, dim=1), alphas)


def sigmoid(alphas: Alphas) -> Plan:
    """Return the plan in which every edge sums its candidates with the sigmoid of its α (FairDARTS, Eq. 2)."""
    return by_size(torch.sigmoid, alphas)


def by_size(function: Callable[[Tensor], Tensor], alphas: Alphas) -> dict[str, Tensor]:
    """Return edge -> the values of a function of α, computed together for all edges with the same number of candidates.

    Args:
        function: Function from (edges, candidates) to the same shape, independent for each edge.
        alphas: Edge -> α.
    """
    sizes: dict[int, list[str]] = defaultdict(list)
    for edge, alpha in alphas.items():
        sizes[len(alpha)].append(edge)
    found = {
        edge: row
        for edges in sizes.values()
        for edge, row in zip(edges, function(torch.stack([alphas[edge] for edge in edges])).unbind(), strict=True)
    }
    return {edge: found[edge] for edge in alphas}


class EveryEdge:
    """Relaxation of every edge, in architecture and weight steps and in validation.

    Args:
        relax: :func:`softmax` (DARTS), :func:`sigmoid` (FairDARTS), or another function of all α. For another function,
            a report shows the softmax of α.
    """

    def __init__(self, relax: Callable[[Alphas], Plan]) -> None:
        self.relax = relax
        self.activation: Literal["softmax", "sigmoid"] = "sigmoid" if relax is sigmoid else "softmax"

    def architecture(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of an architecture step; gradients flow through it to α."""
        return self.relax(alphas)

    def weights(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of a weight step."""
        return self.relax(alphas)

    def evaluation(self, alphas: Alphas) -> Plan:
        """Return the plan by which the supernet is validated."""
        return self.relax(alphas)


Flip = Literal["weights", "both"]
"""Steps that use −α during the warm-up of EDAS: weight steps, or architecture steps too."""


class SampledEdges:
    """Relaxation of a few sampled edges; all others run one candidate (EDAS, Eq. 2, for one edge).

    The edges are sampled once per iteration, for both its steps. During the warm-up every second iteration uses −α
    instead of α on all edges (Eq. 3). In an architecture step this reverses the gradient of α: evidence for a candidate
    in one iteration counts against it in the next.

    Args:
        draw: Function that returns the relaxed edges, given α and the iteration; see :mod:`strategies.sampling`.
        sign_flip_epochs: Number of warm-up epochs.
        flip: Steps that use −α: "weights" for weight steps, "both" for architecture steps too.
        relax_weights: Whether to relax the edges in the weight step as well. False is the ablation "α-max" of section
            5.3, which trains the operations of the derived path only.
        weights_first_epochs: Number of epochs at the start whose weight steps relax every edge.
        path: Function that returns the candidates that the other edges run; see
            :func:`strategies.sampling.path_policy`. None for the strongest ones.
    """

    activation: Literal["softmax", "sigmoid"] = "softmax"

    def __init__(
        self,
        draw: Callable[[Alphas, int], list[str]],
        sign_flip_epochs: int = 0,
        flip: Flip = "weights",
        relax_weights: bool = True,
        weights_first_epochs: int = 0,
        path: Callable[[Alphas, Step], Plan] | None = None,
    ) -> None:
        if flip not in get_args(Flip):
            raise ValueError(f"flip: {flip!r} should be one of {', '.join(get_args(Flip))}")
        self.draw, self.sign_flip_epochs, self.flip, self.relax_weights = draw, sign_flip_epochs, flip, relax_weights
        self.weights_first_epochs = weights_first_epochs
        self.path = path or (lambda alphas, step: argmax(alphas))
        self._drawn: tuple[object, list[str]] = (None, [])

    def edges(self, alphas: Alphas, iteration: int) -> list[str]:
        """Return the relaxed edges of an iteration, sampled at the first call for it."""
        key = (iteration, tuple(alphas))
        if self._drawn[0] != key:
            self._drawn = key, self.draw(alphas, iteration)
        return self._drawn[1]

    def architecture(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of an architecture step; gradients reach the α of the relaxed edges only."""
        signed = self._signed(alphas, step) if self.flip == "both" else alphas
        return self._partly_relaxed(signed, self.edges(alphas, step.iteration), step)

    def weights(self, alphas: Alphas, step: Step) -> Plan:
        """Return the plan of a weight step."""
        if step.epoch < self.weights_first_epochs:
            return softmax(alphas)
        signed = self._signed(alphas, step)
        return self._partly_relaxed(signed, self.edges(alphas, step.iteration) if self.relax_weights else [], step)

    def evaluation(self, alphas: Alphas) -> Plan:
        """Return the plan in which every edge runs its strongest candidate."""
        return argmax(alphas)

    def _signed(self, alphas: Alphas, step: Step) -> Alphas:
        if step.epoch < self.sign_flip_epochs and step.iteration % 2 == 1:
            return {edge: -alpha for edge, alpha in alphas.items()}
        return alphas

    def _partly_relaxed(self, alphas: Alphas, edges: Iterable[str], step: Step) -> Plan:
        return {**self.path(alphas, step), **softmax({edge: alphas[edge] for edge in edges})}
