"""What an architecture step minimizes: the loss of the evaluator, and losses of the architecture itself.

An objective sees a batch and computes one number. Where every group of α has a loss of its own,
that number stands for all of them: its gradient for the α of a group is that of the group's loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from strategies.contributions import CellChain, random_weights, untracked
from strategies.draws import drawn_again, generators
from strategies.supernet import Architecture

Absent = Literal["random", "skip"]

CONTRIBUTION = "contribution/"
"""What the name of a logged marginal contribution begins with; the label of the cell follows."""


@dataclass(frozen=True)
class ArchitectureBatch:
    """A batch of an architecture step, as an objective sees it.

    Args:
        loss: computes the evaluator's loss on it, by the plan of the architecture; to be called once.
        again: computes that loss once more, for comparison: it counts in no metric.
        architecture: α, and the plan.
        model: the supernet.
        iteration: steps done since the search began.
        log: (name, value): the mean over an epoch appears among the evaluator's metrics.
    """

    loss: Callable[[], Tensor]
    again: Callable[[], Tensor]
    architecture: Architecture
    model: nn.Module
    iteration: int = 0
    log: Callable[[str, Tensor], None] = lambda name, value: None


Objective = Callable[[ArchitectureBatch], Tensor]
"""A batch -> what the architecture step minimizes."""

Grouping = Callable[[Mapping[str, nn.Parameter]], Sequence[Sequence[nn.Parameter]]]
"""edge -> α, to the groups of α that have a loss, or an optimizer, of their own."""


def one_group(alphas: Mapping[str, nn.Parameter]) -> list[list[nn.Parameter]]:
    """All α together."""
    return [list(alphas.values())]


def by_cell(alphas: Mapping[str, nn.Parameter]) -> list[list[nn.Parameter]]:
    """The α of each cell (D-DARTS, section 4.1); what stands in no cell is together."""
    cells: dict[str, list[nn.Parameter]] = {}
    for edge, alpha in alphas.items():
        cells.setdefault(edge.rpartition("/")[0], []).append(alpha)
    return list(cells.values())


def evaluator_loss(batch: ArchitectureBatch) -> Tensor:
    """The evaluator's loss and nothing else."""
    return batch.loss()


def total(*terms: Objective) -> Objective:
    """The sum of objectives, of which one has the evaluator's loss."""

    def objective(batch: ArchitectureBatch) -> Tensor:
        return torch.stack([term(batch) for term in terms]).sum()

    return objective


def zero_one(weight: float, grouping: Grouping = one_group) -> Objective:
    """The zero-one loss times its weight, a term to be added to another (D-DARTS, Eqs. 3 and 4; FairDARTS)::

        L_01 = − mean over α of (σ(α) − 0.5)²

    It is least where every operation is either wholly there or not at all.

    Args:
        weight: w_01.
        grouping: which α are averaged together; the losses of the groups are added.

    Raises:
        ValueError: the weight is negative.
    """
    if not 0 <= weight < float("inf"):
        raise ValueError(f"w_01: {weight} should be at least 0")

    def objective(batch: ArchitectureBatch) -> Tensor:
        groups = grouping(batch.architecture.alphas)
        distances = [(torch.sigmoid(torch.cat(tuple(group))) - 0.5).square().mean() for group in groups]
        return -weight * torch.stack(distances).sum()

    return objective


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
        absent: what stands for an absent cell: "random": its operations with random weights from 0 to
            1, as released; "skip": the output of the layer before it, see
            :func:`~strategies.contributions.shortcut`.
        gradient: differentiate L_AB. The released code does not: there it is a constant, and moves
            no α.
        seed: of the random weights, which are a function of it and the iteration.

    Raises:
        ValueError: a setting is out of range; later, a model that is no chain of cells.
    """

    def __init__(self, weight: float, absent: Absent = "random", gradient: bool = False, seed: int = 0) -> None:
        if not 0 <= weight < float("inf"):
            raise ValueError(f"w_abl: {weight} should be at least 0")
        if absent not in get_args(Absent):
            raise ValueError(f"absent: {absent!r} should be one of {', '.join(get_args(Absent))}")
        self.weight, self.absent, self.gradient, self.seed = weight, absent, gradient, seed

    def __call__(self, batch: ArchitectureBatch) -> Tensor:
        """The evaluator's loss; its gradient for the α of cell i is that of L_T,i."""
        # An evaluator may draw, such as for mixup: the losses that are compared must see the same draws.
        chain, since, again = CellChain(batch.model), generators(), batch.again

        def drawn_alike() -> Tensor:
            with drawn_again(since):
                return again()

        batch = replace(batch, again=drawn_alike)
        with chain.recorded() as outputs:
            loss = batch.loss()
        if self.gradient:
            return self._differentiated(batch, chain, loss, outputs)
        with untracked(batch.model), torch.no_grad():
            without = [self._without(cell, batch, chain, outputs) for cell in chain.layers]
        _contributions(batch, chain, loss, without)
        return loss  # each L_AB is a constant, and their sum is zero

    def _without(self, cell: str, batch: ArchitectureBatch, chain: CellChain, outputs: Sequence[Tensor]) -> Tensor:
        """L without a cell."""
        weights = None
        if self.absent == "random":
            weights = random_weights(batch.architecture, chain.edges[cell], f"{self.seed}/{batch.iteration}/{cell}")
        with chain.without(cell, outputs, batch.architecture, weights):
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
        with untracked(batch.model):
            without, slopes, arrived = self._each_without(batch, chain, outputs, weights)
            if passing:
                with chain.recorded() as outputs:
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
