"""Early stopping of operations whose gradients on training and validation images differ (OLES, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from search_spaces.checks import require
from search_spaces.edges import SKIP
from strategies.bilevel import BilevelProblem, Gradients
from strategies.epoch import Epoch
from strategies.supernet.architecture import Architecture

STOPPED = "stopped_operations"
"""Key of :attr:`~strategies.epoch.Epoch.memory` for the indices of the operations whose training has ended."""


class OperationStopping:
    """Comparison of the gradients of operations, to freeze those that overfit. Its methods are parts of a composition.

    Means are taken within an epoch, without its first iteration, because a resumed search has no earlier gradient.

    Args: See :class:`~strategies.oles.OLES`.

    Attributes:
        operations: The candidates with weights, in all layers, except skip connections (including those of stride 2).
        similarities: Index of an operation that is still trained -> sum of its similarities so far.
    """

    def __init__(self, threshold: float, window: int, accumulated: bool) -> None:
        require("threshold", threshold, -1 <= threshold <= 1, "from -1 to 1")
        require("window", window, window >= 1, "at least 1")
        self.threshold, self.window, self.accumulated = threshold, window, accumulated
        self.operations: list[nn.Module] = []
        self.similarities: dict[int, Tensor] = {}
        self._architecture: Architecture | None = None
        self._stopped: list[int] = []
        self._compared = -1

    def watch(self, name: str, module: nn.Module, architecture: Architecture) -> nn.Module:
        """Remember a candidate of a new supernet, and return it."""
        if architecture is not self._architecture:
            self._architecture, self.operations = architecture, []
        if name != SKIP and next(module.parameters(), None) is not None:
            self.operations.append(module)
        return module

    def begin(self, epoch: Epoch) -> None:
        """Freeze the operations that were frozen in earlier epochs, also after a resume."""
        self._stopped, self._compared, self.similarities = epoch.memory.setdefault(STOPPED, []), -1, {}
        for index in self._stopped:
            self.operations[index].requires_grad_(False)

    def gradient(self, problem: BilevelProblem) -> Gradients:
        """Return the first-order gradient of α, and compare that of the weights with the last training gradient."""
        count = len(problem.alphas)
        gradients = problem.differentiate(problem.val_loss(), [*problem.alphas, *problem.weights])
        self._compared += 1
        if self._compared > 0:
            self._compare(dict(zip(problem.weights, gradients[count:], strict=True)))
        return gradients[:count]

    def _compare(self, validation: dict[Tensor, Tensor | None]) -> None:
        for index in sorted(set(range(len(self.operations))).difference(self._stopped)):
            similarities = [
                cosine_similarity(weight.grad + found if self.accumulated else found, weight.grad, dim=0).mean()
                for weight in self.operations[index].parameters()
                if weight.grad is not None and (found := validation.get(weight)) is not None
            ]
            if similarities:
                self.similarities[index] = self.similarities.get(index, 0) + torch.stack(similarities).mean()
        if self._compared % self.window == 0 and self.similarities:
            means = torch.stack(list(self.similarities.values())) / self.window
            for index, mean in zip(self.similarities, means.tolist(), strict=True):
                if mean < self.threshold:
                    self._stopped.append(index)
                    self.operations[index].requires_grad_(False)
            self.similarities = {}
