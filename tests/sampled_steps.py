"""One iteration of a strategy that samples, with everything by formulas, as the released codes were given it.

The candidates of an edge are those of :data:`OPERATIONS` and, last, ``none``.
"""

from typing import NamedTuple

import torch
from pytorch_lightning import Callback
from torch.utils.data import TensorDataset

from strategies import noise

OPERATIONS = ("skip_connect", "sep_conv_3x3", "dil_conv_3x3")
SMALL = {"channels": 2, "layers": 3, "nodes": 2, "operations": OPERATIONS}
"""Arguments of the space."""

PHASES = {"": 10, "architecture": 10, "paths": 10, "weights": 20, "gates": 30}
"""Use of the noise -> phase of its formula."""


class Iteration(NamedTuple):
    """The state after an iteration; α and their gradients are rows, edge by edge."""

    gradients: list[list[float]]
    alphas: list[list[float]]
    weights: float
    """A number in which every weight counts."""


def four_images():
    """Return images of four classes."""
    pixels = (torch.arange(4 * 3 * 8 * 8, dtype=torch.float64) * 0.37).sin()
    return TensorDataset(pixels.reshape(4, 3, 8, 8), torch.arange(4))


def four_sines(phase):
    return (phase + torch.arange(4, dtype=torch.float64)).sin()


def uniform(alphas, seed, step, name=""):
    return {edge: 0.5 + 0.45 * four_sines(PHASES[name] + 4 * i) for i, edge in enumerate(alphas)}


class Formulas(Callback):
    def on_train_start(self, trainer, searching):
        self.weights = list(searching.model.parameters())
        with torch.no_grad():
            for i, weight in enumerate(self.weights):
                values = (torch.arange(weight.numel(), dtype=torch.float64) * 0.9 + i).sin()
                weight.copy_(values.reshape(weight.shape))
            for i, alpha in enumerate(searching.architecture.alphas.values()):
                alpha.copy_(0.5 * four_sines(1 + 4 * i))


def iterate(run_search, monkeypatch, space, strategy):
    """Return the state after one iteration on :func:`four_images`."""
    monkeypatch.setattr(noise, "uniform", uniform)
    formulas = Formulas()
    run_search(space(**SMALL), strategy, batch_size=4, precision="64-true", callbacks=[formulas])
    alphas = strategy.architecture.alphas.values()
    weights = torch.cat([weight.detach().flatten() for weight in formulas.weights])
    cosines = (torch.arange(len(weights), dtype=torch.float64) * 0.01).cos()
    gradients = [alpha.grad.tolist() for alpha in alphas]
    return Iteration(gradients, [alpha.tolist() for alpha in alphas], (weights * cosines).sum().item())
