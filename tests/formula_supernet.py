"""A small supernet whose weights, α and images are formulas, so that released codes can be given the same numbers."""

import torch
from pytorch_lightning import Callback
from torch.nn.functional import cross_entropy

from nas_plugins import DartsSpace
from strategies.bilevel import BilevelProblem
from strategies.relaxation import softmax

OPERATIONS = ("avg_pool_3x3", "skip_connect", "sep_conv_3x3")
CANDIDATES = ("none", *OPERATIONS)
"""In the order of the released codes."""
EDGES = ("0->2", "1->2", "0->3", "1->3", "2->3")


def wave(count):
    return (0.37 * torch.arange(count, dtype=torch.float64) ** 2).sin()


IMAGES = wave(2 * 4 * 3 * 8 * 8).view(2, 4, 3, 8, 8)
TRAIN, VAL = (IMAGES[0], torch.tensor([0, 1, 2, 3])), (IMAGES[1], torch.tensor([3, 1, 0, 2]))


def formula_space():
    return DartsSpace(channels=2, layers=3, nodes=2, operations=OPERATIONS)


def fill(model, architecture):
    """Set all weights and α of a supernet of :func:`formula_space`."""
    weights = list(model.parameters())
    sizes = [weight.numel() for weight in weights]
    with torch.no_grad():
        for weight, values in zip(weights, wave(sum(sizes)).split(sizes), strict=True):
            weight.copy_(values.view_as(weight))
    rows = [(torch.arange(20, dtype=torch.float64) * 0.7 + cell).sin().view(5, 4) for cell in (0, 1)]
    architecture.start(by_edge({"normal": rows[0].tolist(), "reduce": rows[1].tolist()}))


class Formulas(Callback):
    """Fill the supernet of a search; its model is kept."""

    def on_train_start(self, trainer, searching):
        self.model = searching.model
        fill(searching.model, searching.architecture)


class FormulaSupernet:
    """The filled supernet of a strategy in float64, outside of a search."""

    def __init__(self, strategy):
        self.model = strategy.mutate_model(formula_space()).double()
        self.architecture = strategy.architecture.double()
        self.weights = list(self.model.parameters())
        fill(self.model, self.architecture)

    def problem(self, learning_rate):
        """Return the bilevel problem of a step of DARTS' supernet, with SGD for the weights."""
        alphas = self.architecture.alphas
        return BilevelProblem(
            train_loss=lambda: self.loss(softmax(alphas), TRAIN),
            val_loss=lambda: self.loss(softmax(alphas), VAL),
            alphas=list(alphas.values()),
            weights=self.weights,
            optimizer=torch.optim.SGD(self.weights, learning_rate, momentum=0.9, weight_decay=3e-4),
            buffers=list(self.model.buffers()),
        )

    def loss(self, plan, batch):
        """Return the cross-entropy on a batch by a plan."""
        self.architecture.follow(plan)
        return cross_entropy(self.model(batch[0]), batch[1])


def by_edge(table):
    """Return edge -> candidate -> value, given cell -> the rows of a released code."""
    return {
        f"{cell}/{edge}": dict(zip(CANDIDATES, row, strict=True))
        for cell, rows in table.items()
        for edge, row in zip(EDGES, rows, strict=True)
    }


def values_of(architecture, tensors):
    """Return edge -> candidate -> value, given edge -> tensor (candidates,)."""
    return {
        edge: dict(zip(architecture.candidates[edge], tensor.tolist(), strict=True)) for edge, tensor in tensors.items()
    }


def largest_difference(one, other):
    """Return the largest difference between two results of :func:`by_edge` or :func:`values_of`."""
    assert one.keys() == other.keys()
    return max(abs(one[edge][name] - other[edge][name]) for edge in one for name in CANDIDATES)
