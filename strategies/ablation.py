"""The ablation loss of D-DARTS (Eqs. 6 to 8): what the loss becomes without each cell."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from search_spaces.network import Network
from strategies.objective import ArchitectureBatch
from strategies.rng import generators, replay_rng
from strategies.supernet.architecture import Architecture
from strategies.supernet.cell import MixedCell

AblationMode = Literal["random", "skip"]


CONTRIBUTION = "contribution/"
"""What the name of a logged marginal contribution begins with; the label of the cell follows."""


def ablation_losses(contributions: Tensor) -> Tensor:
    """L_AB of each cell (D-DARTS, Eq. 7)::

        L_AB,i = (M_i − mean M) / mean M,   0 where mean M is 0

    Args:
        contributions: M, one for each cell.
    """
    mean = contributions.mean()
    some = mean != 0
    return torch.where(some, (contributions - mean) / torch.where(some, mean, 1), 0)


class Ablation:
    """The evaluator's loss, and for each cell its ablation loss (D-DARTS, Eqs. 6 to 8)::

        M_i = L − (L without cell i)
        L_T,i = L − weight · L_AB,i      with L_AB of ablation_losses()

    L_T,i is the loss of the α of cell i and of no other. The sign is that of the released code: M is
    negative for a useful cell, and so L_AB positive for one that is more useful than the mean, which
    Eq. 8 as printed would punish.

    M_i is logged as ``contribution/`` and the label of the cell.

    The gradient for α is exact where it is taken at the present weights (first order and one level); for the weights it
    is that of L alone, so that a second-order step would leave L_AB out of its correction.

    Args:
        weight: w_abl.
        mode: what stands for an absent cell: "random": its operations with random weights from 0 to
            1, as released; "skip": the output of the layer before it, see
            :func:`~strategies.ablation.shortcut`.
        gradient: differentiate L_AB. The released code does not: there it is a constant, and moves
            no α.
        seed: of the random weights, which are a function of it and the iteration.

    Raises:
        ValueError: a setting is out of range; later, a model that is no chain of cells.
    """

    def __init__(self, weight: float, mode: AblationMode = "random", gradient: bool = False, seed: int = 0) -> None:
        if not 0 <= weight < float("inf"):
            raise ValueError(f"w_abl: {weight} should be at least 0")
        if mode not in get_args(AblationMode):
            raise ValueError(f"ablation_mode: {mode!r} should be one of {', '.join(get_args(AblationMode))}")
        self.weight, self.mode, self.gradient, self.seed = weight, mode, gradient, seed

    def __call__(self, batch: ArchitectureBatch) -> Tensor:
        """The evaluator's loss; its gradient for the α of cell i is that of L_T,i."""
        # An evaluator may draw, such as for mixup: the losses that are compared must see the same draws.
        chain, since, again = CellChain(batch.model), generators(), batch.again

        def drawn_alike() -> Tensor:
            with replay_rng(since):
                return again()

        batch = replace(batch, again=drawn_alike)
        with chain.record_outputs() as outputs:
            loss = batch.loss()
        if self.gradient:
            return self._differentiated(batch, chain, loss, outputs)
        with batch_stats_only(batch.model), torch.no_grad():
            without = [self._without(cell, batch, chain, outputs) for cell in chain.layers]
        _contributions(batch, chain, loss, without)
        return loss  # each L_AB is a constant, and their sum is zero

    def _without(self, cell: str, batch: ArchitectureBatch, chain: CellChain, outputs: Sequence[Tensor]) -> Tensor:
        """L without a cell."""
        weights = None
        if self.mode == "random":
            weights = random_weights(batch.architecture, chain.edges[cell], f"{self.seed}/{batch.iteration}/{cell}")
        with chain.ablate(cell, outputs, batch.architecture, weights):
            return batch.again()

    def _differentiated(
        self, batch: ArchitectureBatch, chain: CellChain, loss: Tensor, outputs: Sequence[Tensor]
    ) -> Tensor:
        """The evaluator's loss, with the gradient of L_T,i for the α of cell i."""
        relaxed = {edge: weight for edge, weight in batch.architecture.plan.items() if isinstance(weight, Tensor)}
        weights = list(relaxed.values())
        # Where the network's own weights are constants, as in a first-order step, nobody needs its graph afterwards. It
        # goes before the passes without a cell have theirs, and is made once more when they are done.
        passing = not any(parameter.requires_grad for parameter in batch.model.parameters())
        own = _gradients([loss], weights, [None], keep_graph=not passing)
        with batch_stats_only(batch.model):
            without, slopes, arrived = self._each_without(batch, chain, outputs, weights)
            if passing:
                with chain.record_outputs() as outputs:
                    batch.again()
                before = _gradients(outputs, weights, arrived, keep_graph=False)
        if not passing:
            before = _gradients(outputs, weights, arrived, keep_graph=True)
        contributions = _contributions(batch, chain, loss, without)
        mean = contributions.mean()
        compared = bool(mean != 0)
        of_edge = {
            edge: contribution
            for cell, contribution in zip(chain.layers, contributions.unbind(), strict=True)
            for edge in chain.edges[cell]
        }
        total = loss.detach() if passing else loss
        for edge, weight, slope, earlier, tally in zip(relaxed, weights, own, before, slopes, strict=True):
            gradient = slope if passing else torch.zeros_like(slope)
            if edge in of_edge and compared:
                # L without cell i does not depend on α_i: ∂M_i = ∂L, and ∂ mean M = ∂L − ∂(Σ_j L without j) / n.
                of_mean = slope - (earlier + tally) / len(contributions)
                gradient = gradient - self.weight * (slope / mean - of_edge[edge] / mean**2 * of_mean)
            total = total + (gradient * (weight - weight.detach())).sum()  # zero, with that gradient
        return total

    def _each_without(
        self, batch: ArchitectureBatch, chain: CellChain, outputs: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """L without each cell, and the gradients of their sum for the weights of every edge and for the outputs.

        A pass without a cell is differentiated back to where it begins, so that one graph is held at
        a time.
        """
        slopes = [torch.zeros_like(weight) for weight in weights]
        arrived = [torch.zeros_like(output) for output in outputs]
        losses = []
        for cell, layers in chain.layers.items():
            begin, end = layers[0], layers[0] + 2
            inputs = [output.detach().requires_grad_(output.requires_grad) for output in outputs[begin:end]]
            loss = self._without(cell, batch, chain, [*outputs[:begin], *inputs, *outputs[end:]])
            found = _gradients([loss], [*inputs, *weights], [None], keep_graph=False)
            for tally, gradient in zip([*arrived[begin:end], *slopes], found, strict=True):
                tally += gradient
            losses.append(loss.detach())
        return losses, slopes, arrived


def _contributions(batch: ArchitectureBatch, chain: CellChain, loss: Tensor, without: Sequence[Tensor]) -> Tensor:
    """M of each cell (Eq. 6), logged."""
    contributions = loss.detach() - torch.stack(list(without))
    for cell, contribution in zip(chain.layers, contributions.unbind(), strict=True):
        batch.log(f"{CONTRIBUTION}{cell}", contribution)
    return contributions


def _gradients(
    of: Sequence[Tensor], inputs: Sequence[Tensor], arriving: Sequence[Tensor | None], keep_graph: bool
) -> list[Tensor]:
    """The gradient for each input; zeros where nothing depends on it."""
    heads = [head for head in zip(of, arriving, strict=True) if head[0].requires_grad]
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    if not heads or not wanted:
        return [torch.zeros_like(tensor) for tensor in inputs]
    tensors, gradients = zip(*heads, strict=True)
    found = torch.autograd.grad(
        tensors, wanted, gradients, retain_graph=keep_graph, allow_unused=True, materialize_grads=True
    )
    each = iter(found)
    return [next(each) if tensor.requires_grad else torch.zeros_like(tensor) for tensor in inputs]


class CellChain:
    """The searched cells of a supernet that is a chain of them.

    A cell is what has an architecture of its own. Where it stands in several layers, they are
    absent together.

    Args:
        model: a supernet with one :class:`~search_spaces.network.Network`, as our spaces have.

    Attributes:
        network: that network.
        layers: label of a cell -> the layers that it stands in, from the first on.
        edges: label of a cell -> its edges.

    Raises:
        ValueError: the model is no such chain.
    """

    def __init__(self, model: nn.Module) -> None:
        networks = [module for module in model.modules() if isinstance(module, Network)]
        found = [[m for m in layer.modules() if isinstance(m, MixedCell)] for net in networks for layer in net.cells]
        if len(networks) != 1 or any(len({cell.label for cell in cells}) != 1 for cells in found):
            raise ValueError(
                "w_abl: the ablation loss needs a chain of searched cells, as in DDartsSpace; "
                f"{type(model).__name__} is none, and can be searched with w_abl=0"
            )
        self.network = networks[0]
        self.layers: dict[str, list[int]] = {}
        self.edges: dict[str, list[str]] = {}
        for layer, cells in enumerate(found):
            # A layer may be built of several of NNI's cells, one for each node.
            self.layers.setdefault(cells[0].label, []).append(layer)
            self.edges[cells[0].label] = [edge for cell in cells for edge in cell.edges()]

    @contextmanager
    def record_outputs(self) -> Iterator[list[Tensor]]:
        """A list that the pass made meanwhile fills: the two outputs of the stem, then that of each layer."""
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
        """Meanwhile a cell is absent, and passes begin at its first layer.

        Args:
            label: of the cell.
            outputs: of the pass with all cells, see :meth:`recorded`.
            architecture: whose plan the cells follow.
            weights: edge -> weights of its operations, for the edges of the absent cell; without
                them the :func:`shortcut` stands for it.
        """
        cells = self.network.cells
        answers: dict[nn.Module, Callable[..., Any]] = {self.network.stem: partial(_answer, (outputs[0], outputs[1]))}
        answers |= {cells[layer]: partial(_answer, outputs[2 + layer]) for layer in range(self.layers[label][0])}
        if weights is None:
            answers |= {cells[layer]: partial(_skip, outputs[2 + layer].shape) for layer in self.layers[label]}
        plan = architecture.plan
        architecture.plan = {**plan, **(weights or {})}
        for module, answer in answers.items():
            module.forward = answer  # on the instance: its class keeps its own
        try:
            yield
        finally:
            architecture.plan = plan
            for module in answers:
                del module.forward


def _answer(output: Any, *inputs: Tensor) -> Any:
    return output


def _skip(shape: torch.Size, before: Tensor, previous: Tensor) -> Tensor:
    return shortcut(previous, shape)


def shortcut(x: Tensor, shape: Sequence[int]) -> Tensor:
    """x itself where it has that shape, else a projection without weights.

    It takes every second pixel where the resolution is halved, and the channels of x in turn until
    there are enough.

    Args:
        x: (batch, channels, height, width).
        shape: that of the result.
    """
    if x.shape == tuple(shape):
        return x
    rows, columns = (-(-own // wanted) for own, wanted in zip(x.shape[2:], shape[2:], strict=True))
    channels = torch.arange(shape[1], device=x.device) % x.shape[1]
    return x[:, channels, ::rows, ::columns]


def random_weights(architecture: Architecture, edges: Iterable[str], seed: str) -> dict[str, Tensor]:
    """edge -> a weight for each of its candidates, uniform from 0 to 1, by the seed alone."""
    alphas = {edge: architecture.alphas[edge] for edge in edges}
    generator = torch.Generator().manual_seed(random.Random(seed).getrandbits(63))
    sizes = [len(alpha) for alpha in alphas.values()]
    drawn = torch.rand(sum(sizes), generator=generator).to(next(iter(alphas.values())))
    return dict(zip(alphas, drawn.split(sizes), strict=True))


@contextmanager
def batch_stats_only(model: nn.Module) -> Iterator[None]:
    """Meanwhile batch normalizations normalize by the batch, and do not count it in their statistics.

    To put the statistics back afterwards would not do: backward passes that are yet to come hold them.
    """
    norms = [norm for norm in model.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
