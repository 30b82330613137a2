"""A small search whose α, weights and images are formulas, so that released codes can be given the same numbers."""

import torch
from pytorch_lightning import Callback
from torch.utils.data import TensorDataset

from nas_plugins import DartsSpace

OPERATIONS = ("skip_connect", "sep_conv_3x3", "max_pool_3x3")
"""The candidates, in the order of the numbers in the tests; ``none`` follows them."""

CELL = {("skip_connect", 1, 2), ("max_pool_3x3", 0, 2), ("skip_connect", 0, 3), ("max_pool_3x3", 2, 3)}
"""Both cells that the start of α stands for."""


def wave(shape, phase):
    """Return a tensor filled by a formula."""
    return torch.sin(0.7 * torch.arange(shape.numel(), dtype=torch.float64) + phase).reshape(shape)


def small_space():
    """Return a space of one normal and two reduction cells, each with two nodes of 4, 8 and 16 channels."""
    return DartsSpace(channels=4, layers=3, nodes=2, operations=OPERATIONS)


def one_batch():
    """Return four images of three classes."""
    return TensorDataset(wave(torch.Size((4, 3, 8, 8)), 0.0), torch.tensor([0, 1, 2, 1]))


class Filled(Callback):
    """Fill α and the weights before the first step, and keep the gradient of α of every step.

    Attributes:
        gradients: For each step, edge -> gradient of its α.
        weights: The weights but those of companions, in the order of the released codes.
        companions: The weights of companions.
    """

    def on_train_start(self, trainer, searching):
        model, self.architecture, self.gradients = searching.model, searching.architecture, []
        self.weights = [weight for name, weight in model.named_parameters() if "companions" not in name]
        self.companions = [weight for name, weight in model.named_parameters() if "companions" in name]
        with torch.no_grad():
            for index, alpha in enumerate(self.architecture.alphas.values()):
                alpha.copy_(wave(alpha.shape, 1.3 * index))
            for index, weight in enumerate(self.weights):
                weight.copy_(0.3 * wave(weight.shape, index) + (index == 1))  # the second is a scale
            for index, weight in enumerate(self.companions):
                weight.copy_(0.3 * wave(weight.shape, 100 + index))
            self.start = {weight: weight.clone() for weight in model.parameters()}

    def on_train_batch_end(self, trainer, searching, *_):
        self.gradients.append({edge: alpha.grad for edge, alpha in self.architecture.alphas.items()})

    def differences(self, expected):
        """Return the largest difference to the expected gradients of each step, given as rows of numbers."""
        return [
            (torch.stack([*gradients.values()]) - torch.tensor(rows, dtype=torch.float64)).abs().max().item()
            for gradients, rows in zip(self.gradients, expected, strict=True)
        ]

    def moved(self, weights):
        """Return a number in which every weight counts, by how far it has moved."""
        return sum(((w - self.start[w]) * wave(w.shape, index)).sum().item() for index, w in enumerate(weights))
