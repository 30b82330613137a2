"""The ablation loss of D-DARTS (Eqs. 6 to 8), and the chain of cells that it ablates."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from search_spaces.checks import require, require_one_of
from search_spaces.network import Network
from strategies.bn_statistics import batch_stats_only, norms_with_stats
from strategies.objective import ArchitectureBatch
from strategies.rng import generators, replay_rng
from strategies.supernet.architecture import Architecture
from strategies.supernet.cell import MixedCell

AblationMode = Literal["random", "skip"]

CONTRIBUTION = "contribution/"
"""Prefix of the logged name of a marginal contribution; the label of the cell follows."""


def ablation_losses(contributions: Tensor) -> Tensor:
    """Return L_AB of each cell (D-DARTS, Eq. 7)::

        L_AB,i = (M_i − mean M) / mean M,   0 where mean M is 0

    Args:
        contributions: M, of shape (cells,).
    """
    mean = contributions.mean()
    nonzero = mean != 0
    return torch.where(nonzero, (contributions - mean) / torch.where(nonzero, mean, 1), 0)


class Ablation:
    """Objective that adds the ablation loss of each cell to the evaluator's loss (D-DARTS, Eqs. 6 to 8)::

        M_i = L − (L without cell i)
        L_T,i = L − weight · L_AB,i      with L_AB of ablation_losses()

    L_T,i is the loss of the α of cell i only. The sign is that of the released code: M is negative for a useful cell,
    so L_AB is positive for a cell that is more useful than the mean. Eq. 8 as printed would penalize such a cell.

    M_i is logged as ``contribution/`` and the label of the cell.

    The gradient for α is exact at the current weights (first order and one level). The gradient for the weights is that
    of L alone, so a second-order step would leave L_AB out of its correction.

    Args:
        weight: w_abl, at least 0.
        mode: Replacement of an ablated cell. "random": its operations with random weights from 0 to 1, as in the
            released code. "skip": the output of the layer before it, see :func:`shortcut`.
        gradient: Whether to differentiate L_AB. In the released code it is a constant, which does not change α.
        seed: Seed of the random weights, which depend only on this seed, the iteration and the cell.
        interval: Interval in batches between two measurements of M if L_AB is a constant, at least 1. The first batch
            of each epoch is measured. With a gradient, every step needs M.

    Raises:
        ValueError: A setting is out of range. When called: the model is not a chain of cells.
    """

    def __init__(
        self, weight: float, mode: AblationMode = "random", gradient: bool = False, seed: int = 0, interval: int = 1
    ) -> None:
        require("w_abl", weight, 0 <= weight < float("inf"), "at least 0")
        require_one_of("ablation_mode", mode, get_args(AblationMode))
        self.weight, self.mode, self.gradient, self.seed = weight, mode, gradient, seed
        require("contribution_interval", interval, interval >= 1, "at least 1")
        self.interval = interval
        self._chain: CellChain | None = None

    def __call__(self, batch: ArchitectureBatch) -> Tensor:
        """Return the evaluator's loss, whose gradient for the α of cell i is that of L_T,i."""
        if not self.gradient and batch.batch_idx % self.interval:
            return batch.loss()
        if self._chain is None or self._chain.model is not batch.model:
            self._chain = CellChain(batch.model)
        # An evaluator may use random numbers, for example for mixup: all compared losses must use the same ones.
        chain, state, again = self._chain, generators(), batch.again

        def replayed() -> Tensor:
            with replay_rng(state):
                return again()

        batch = replace(batch, again=replayed)
        with chain.record_outputs() as outputs:
            loss = batch.loss()
        if self.gradient:
            return self._with_gradient(batch, chain, loss, outputs)
        with batch_stats_only(chain.norms), torch.no_grad():
            ablated = [self._ablated_loss(cell, batch, chain, outputs) for cell in chain.layers]
        _log_contributions(batch, chain, loss, ablated)
        return loss  # each L_AB is a constant, and their sum is zero

    def _ablated_loss(self, cell: str, batch: ArchitectureBatch, chain: CellChain, outputs: Sequence[Tensor]) -> Tensor:
        """Return L without a cell."""
        weights = None
        if self.mode == "random":
            weights = random_weights(batch.architecture, chain.edges[cell], f"{self.seed}/{batch.iteration}/{cell}")
        with chain.ablate(cell, outputs, batch.architecture, weights):
            return batch.again()

    def _with_gradient(
        self, batch: ArchitectureBatch, chain: CellChain, loss: Tensor, outputs: Sequence[Tensor]
    ) -> Tensor:
        """Return the evaluator's loss, with the gradient of L_T,i for the α of cell i."""
        relaxed = {edge: weight for edge, weight in batch.architecture.plan.items() if isinstance(weight, Tensor)}
        edge_weights = list(relaxed.values())
        # With constant network weights, as in a first-order step, only these gradients need the graph of this pass. It
        # is freed before the ablated passes build their graphs, and the pass is repeated after them.
        repeat = not any(parameter.requires_grad for parameter in batch.model.parameters())
        loss_gradients = _gradients([loss], edge_weights, [None], keep_graph=not repeat)
        with batch_stats_only(chain.norms):
            ablated, direct, at_outputs = self._ablated_gradients(batch, chain, outputs, edge_weights)
            if repeat:
                with chain.record_outputs() as outputs:
                    batch.again()
                upstream = _gradients(outputs, edge_weights, at_outputs, keep_graph=False)
        if not repeat:
            upstream = _gradients(outputs, edge_weights, at_outputs, keep_graph=True)
        contributions = _log_contributions(batch, chain, loss, ablated)
        mean = contributions.mean()
        mean_is_nonzero = bool(mean != 0)
        contribution_of = {
            edge: contribution
            for cell, contribution in zip(chain.layers, contributions.unbind(), strict=True)
            for edge in chain.edges[cell]
        }
        total = loss.detach() if repeat else loss
        for edge, weight, own, above, below in zip(
            relaxed, edge_weights, loss_gradients, upstream, direct, strict=True
        ):
            gradient = own if repeat else torch.zeros_like(own)
            if edge in contribution_of and mean_is_nonzero:
                # L without cell i does not depend on α_i: ∂M_i = ∂L, and ∂ mean M = ∂L − ∂(Σ_j L without j) / n.
                mean_gradient = own - (above + below) / len(contributions)
                gradient = gradient - self.weight * (own / mean - contribution_of[edge] / mean**2 * mean_gradient)
            total = total + (gradient * (weight - weight.detach())).sum()  # zero, with this gradient
        return total

    def _ablated_gradients(
        self, batch: ArchitectureBatch, chain: CellChain, outputs: Sequence[Tensor], edge_weights: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return L without each cell, and the gradients of the sum of these for the edge weights and the outputs.

        An ablated pass is differentiated back to its first layer only, so that one graph is held at a time.
        """
        at_weights = [torch.zeros_like(weight) for weight in edge_weights]
        at_outputs = [torch.zeros_like(output) for output in outputs]
        losses = []
        for cell, layers in chain.layers.items():
            begin, end = layers[0], layers[0] + 2
            inputs = [output.detach().requires_grad_(output.requires_grad) for output in outputs[begin:end]]
            loss = self._ablated_loss(cell, batch, chain, [*outputs[:begin], *inputs, *outputs[end:]])
            gradients = _gradients([loss], [*inputs, *edge_weights], [None], keep_graph=False)
            for accumulated, gradient in zip([*at_outputs[begin:end], *at_weights], gradients, strict=True):
                accumulated += gradient
            losses.append(loss.detach())
        return losses, at_weights, at_outputs


def _log_contributions(batch: ArchitectureBatch, chain: CellChain, loss: Tensor, ablated: Sequence[Tensor]) -> Tensor:
    """Log and return M of each cell (Eq. 6)."""
    contributions = loss.detach() - torch.stack(list(ablated))
    for cell, contribution in zip(chain.layers, contributions.unbind(), strict=True):
        batch.log(f"{CONTRIBUTION}{cell}", contribution)
    return contributions


def _gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], grad_outputs: Sequence[Tensor | None], keep_graph: bool
) -> list[Tensor]:
    """Return the gradient for each input, or zeros if no output depends on it."""
    pairs = [pair for pair in zip(outputs, grad_outputs, strict=True) if pair[0].requires_grad]
    trained = [tensor for tensor in inputs if tensor.requires_grad]
    if not pairs or not trained:
        return [torch.zeros_like(tensor) for tensor in inputs]
    differentiable, arriving = zip(*pairs, strict=True)
    gradients = iter(
        torch.autograd.grad(
            differentiable, trained, arriving, retain_graph=keep_graph, allow_unused=True, materialize_grads=True
        )
    )
    return [next(gradients) if tensor.requires_grad else torch.zeros_like(tensor) for tensor in inputs]


class CellChain:
    """The searched cells of a supernet that is a chain of cells.

    Layers whose cells have the same label share one architecture, so they are ablated together.

    Args:
        model: A supernet with one :class:`~search_spaces.network.Network`, as the spaces of this project have.

    Attributes:
        model: The supernet.
        network: The network of the supernet.
        layers: Label of a cell -> indices of its layers, ascending.
        edges: Label of a cell -> names of its edges.
        norms: Batch normalizations with running statistics.

    Raises:
        ValueError: The model is not a chain of cells.
    """

    def __init__(self, model: nn.Module) -> None:
        networks = [module for module in model.modules() if isinstance(module, Network)]
        found = [[m for m in layer.modules() if isinstance(m, MixedCell)] for net in networks for layer in net.cells]
        if len(networks) != 1 or any(len({cell.label for cell in cells}) != 1 for cells in found):
            raise ValueError(
                "w_abl: the ablation loss needs a chain of searched cells, as in DDartsSpace; "
                f"{type(model).__name__} is none, and can be searched with w_abl=0"
            )
        self.model, self.network, self.norms = model, networks[0], norms_with_stats(model)
        self.layers: dict[str, list[int]] = {}
        self.edges: dict[str, list[str]] = {}
        for layer, cells in enumerate(found):
            # A layer may be built of several of NNI's cells, one for each node.
            self.layers.setdefault(cells[0].label, []).append(layer)
            self.edges[cells[0].label] = [edge for cell in cells for edge in cell.edges()]

    @contextmanager
    def record_outputs(self) -> Iterator[list[Tensor]]:
        """Record the one forward pass that is made in this context.

        Yields:
            A list that the pass fills with the two outputs of the stem and the output of each layer.

        Raises:
            ValueError: There was not exactly one forward pass.
        """
        outputs: list[Tensor] = []
        hooks = [self.network.stem.register_forward_hook(lambda *call: outputs.extend(call[-1]))]
        hooks += [cell.register_forward_hook(lambda *call: outputs.append(call[-1])) for cell in self.network.cells]
        try:
            yield outputs
        finally:
            for hook in hooks:
                hook.remove()
        if len(outputs) != 2 + len(self.network.cells):
            raise ValueError("the ablation loss needs an evaluator that runs the network once on a batch")

    @contextmanager
    def ablate(
        self,
        label: str,
        outputs: Sequence[Tensor],
        architecture: Architecture,
        weights: Mapping[str, Tensor] | None = None,
    ) -> Iterator[None]:
        """Ablate one cell in this context; forward passes resume at its first layer.

        Args:
            label: Label of the cell.
            outputs: Outputs of the full pass, from :meth:`record_outputs`.
            architecture: The plan that the cells follow.
            weights: Edge -> weights (candidates,) of its operations, for each edge of the ablated cell. None replaces
                the cell by the :func:`shortcut`.
        """
        cells = self.network.cells
        forwards: dict[nn.Module, Callable[..., Any]] = {
            self.network.stem: partial(_recorded, (outputs[0], outputs[1]))
        }
        forwards |= {cells[layer]: partial(_recorded, outputs[2 + layer]) for layer in range(self.layers[label][0])}
        if weights is None:
            forwards |= {cells[layer]: partial(_skip, outputs[2 + layer].shape) for layer in self.layers[label]}
        plan = architecture.plan
        architecture.plan = {**plan, **architecture.of_all(weights or {})}
        for module, forward in forwards.items():
            module.forward = forward  # an attribute of the instance, which overrides the method
        try:
            yield
        finally:
            architecture.plan = plan
            for module in forwards:
                del module.forward


def _recorded(output: Any, *inputs: Tensor) -> Any:
    return output


def _skip(shape: torch.Size, before: Tensor, previous: Tensor) -> Tensor:
    return shortcut(previous, shape)


def shortcut(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Return x if it has the given shape, else a projection of x without weights.

    The projection takes every second pixel if the resolution is halved, and repeats the channels of x cyclically.

    Args:
        x: Features (batch, channels, height, width).
        shape: Shape of the result.
    """
    if x.shape == tuple(shape):
        return x
    rows, columns = (-(-size // target) for size, target in zip(x.shape[2:], shape[2:], strict=True))
    channels = torch.arange(shape[1], device=x.device) % x.shape[1]
    return x[:, channels, ::rows, ::columns]


def random_weights(architecture: Architecture, edges: Iterable[str], seed: str) -> dict[str, Tensor]:
    """Return a weight (candidates,) for each edge, uniform from 0 to 1 and determined by the seed alone."""
    living = architecture.living_alphas()
    alphas = {edge: living[edge] for edge in edges if edge in living}
    generator = torch.Generator().manual_seed(random.Random(seed).getrandbits(63))
    sizes = [len(alpha) for alpha in alphas.values()]
    weights = torch.rand(sum(sizes), generator=generator).to(next(iter(alphas.values())))
    return dict(zip(alphas, torch.split(weights, sizes), strict=True))
