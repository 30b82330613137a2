"""Relaxations: from the architecture parameters α to what each edge of the supernet computes.

A relaxation turns all α into a :data:`Plan`, once an iteration and phase; the supernet then only
follows the plan, in every layer that shares an edge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Alphas = Mapping[str, Tensor]
"""edge -> its α, a vector with one entry for each candidate."""

EdgeWeights = Tensor
"""A relaxed edge: the weights (candidates,) with which all candidates are summed."""

ActiveOps = tuple[int, ...]
"""A discrete edge: the indices of the candidates that run, summed without weights. The index after the last
candidate stands for ``none``, which is zero."""

Plan = Mapping[str, EdgeWeights | ActiveOps]
"""What each edge computes in a forward pass."""


@dataclass(frozen=True)
class Step:
    """Where a search stands.

    Args:
        iteration: architecture and weight steps done since the search began.
        epoch: epochs done since then.
    """

    iteration: int = 0
    epoch: int = 0


class Relaxation(Protocol):
    """Turns α into the plan of each kind of forward pass.

    A relaxation that samples derives the sample from the iteration, as :class:`SampledEdges` does, and not from the
    generator of PyTorch: all losses of a second-order step must see the same plan.

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
    """edge -> α as plain numbers, by one transfer: on an accelerator each edge by itself would wait for its own."""
    values = iter(torch.cat([alpha.detach() for alpha in alphas.values()]).tolist())
    return {edge: [next(values) for _ in range(len(alpha))] for edge, alpha in alphas.items()}


def argmax(alphas: Alphas) -> Plan:
    """Every edge runs its strongest candidate alone; of equal ones the first."""
    return {edge: (row.index(max(row)),) for edge, row in rows(alphas).items()}


def softmax(alphas: Alphas) -> Plan:
    """Every edge mixes all its candidates with the softmax of its α (DARTS, Eq. 2)."""
    return {edge: torch.softmax(alpha, dim=0) for edge, alpha in alphas.items()}


def sigmoid(alphas: Alphas) -> Plan:
    """Every edge adds all its candidates, each with the sigmoid of its own α (FairDARTS, Eq. 2)."""
    return {edge: torch.sigmoid(alpha) for edge, alpha in alphas.items()}


def mean_alpha_change(before: Alphas, now: Alphas) -> float:
    """How far α has moved: the mean over all candidates of |σ(α) − σ(α before)|, from 0 to 1.

    Args:
        before: edge -> α at an earlier moment.
        now: edge -> α, of the same candidates.
    """
    weights = [torch.sigmoid(torch.cat([alphas[edge].detach() for edge in now])) for alphas in (before, now)]
    return float((weights[1] - weights[0]).abs().mean())


class EveryEdge:
    """Every edge is relaxed, in both steps and in validation.

    It is also what a relaxation of your own looks like: three plans. A plan may keep the graph
    of α in any phase; the weight step never asks for its gradient.

    Args:
        relax: :func:`softmax` (DARTS) or :func:`sigmoid` (FairDARTS).
    """

    def __init__(self, relax: Callable[[Alphas], Plan]) -> None:
        self.relax = relax
        self.activation: Literal["softmax", "sigmoid"] = "sigmoid" if relax is sigmoid else "softmax"

    def architecture(self, alphas: Alphas, step: Step) -> Plan:
        """The plan of an architecture step; the gradient of α flows through it."""
        return self.relax(alphas)

    def weights(self, alphas: Alphas, step: Step) -> Plan:
        """The plan of a weight step."""
        return self.relax(alphas)

    def evaluation(self, alphas: Alphas) -> Plan:
        """The plan by which the supernet is validated."""
        return self.relax(alphas)


class SampledEdges:
    """A few edges are relaxed, all others run their strongest candidate (EDAS, Eq. 2, for one edge).

    They are drawn for each iteration, and stay for its architecture and its weight step. In the
    warm-up every second iteration sees −α in place of α, on all edges (Eq. 3).

    Args:
        draw: (α, iteration) -> the relaxed edges; see :mod:`strategies.sampling`.
        sign_flip_epochs: epochs with the sign flipped at every second iteration.
        relax_weights: relax the edges in the weight step, too. False is the ablation "α-max" of
            section 5.3, where operations train on the derived path alone.
    """

    activation: Literal["softmax", "sigmoid"] = "softmax"

    def __init__(
        self, draw: Callable[[Alphas, int], list[str]], sign_flip_epochs: int = 0, relax_weights: bool = True
    ) -> None:
        self.draw, self.sign_flip_epochs, self.relax_weights = draw, sign_flip_epochs, relax_weights
        self._drawn: tuple[object, list[str]] = (None, [])

    def edges(self, alphas: Alphas, iteration: int) -> list[str]:
        """The edges that are relaxed in an iteration, by α as it was when first asked."""
        key = (iteration, tuple(alphas))
        if self._drawn[0] != key:
            self._drawn = key, self.draw(alphas, iteration)
        return self._drawn[1]

    def architecture(self, alphas: Alphas, step: Step) -> Plan:
        """The plan of an architecture step: the gradient reaches the α of the relaxed edges alone."""
        relaxed = self.edges(alphas, step.iteration)
        alphas = self._signed(alphas, step)
        return {**argmax(alphas), **softmax({edge: alphas[edge] for edge in relaxed})}

    def weights(self, alphas: Alphas, step: Step) -> Plan:
        """The plan of a weight step."""
        if self.relax_weights:
            return self.architecture(alphas, step)
        return argmax(self._signed(alphas, step))

    def evaluation(self, alphas: Alphas) -> Plan:
        """The path network: every edge runs its strongest candidate."""
        return argmax(alphas)

    def _signed(self, alphas: Alphas, step: Step) -> Alphas:
        if step.epoch < self.sign_flip_epochs and step.iteration % 2 == 1:
            return {edge: -alpha for edge, alpha in alphas.items()}
        return alphas
