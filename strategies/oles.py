"""OLES: Operation-Level Early Stopping for Robustifying Differentiable NAS (Jiang et al., NeurIPS 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from search_spaces.deprecation import argument_aliases
from search_spaces.edges import SKIP
from strategies.base import DifferentiableStrategy
from strategies.bilevel import BilevelProblem, Gradients
from strategies.composition import Composition, adam
from strategies.epoch import Epoch
from strategies.relaxation import EveryEdge, softmax
from strategies.supernet.architecture import Architecture

STOPPED = "stopped_operations"
"""Key of :attr:`~strategies.epoch.Epoch.memory` for the indices of the operations whose training has ended."""


class OLES(DifferentiableStrategy):
    """The OLES strategy: DARTS that ends the training of each operation when it overfits the training images.

    The weights of an operation are frozen when their gradients on training and on validation images differ in
    direction, on average over ``window`` iterations. α and all other weights are trained on. The defaults are the
    settings of the released code.

    Args:
        threshold: Mean cosine similarity of the gradients below which an operation is frozen, from −1 to 1.
        window: Number of iterations in the mean, at least 1.
        accumulated: Whether the training gradient is compared with its sum with the validation gradient, as in the
            released code, instead of with the validation gradient alone (the paper). The threshold depends on it.
        learning_rate: Learning rate of the α optimizer (``arc_learning_rate`` in NNI's strategies), at least 0.
        weight_decay: L2 penalty of the α optimizer, at least 0.
        betas: Adam betas of the α optimizer, each from 0 to below 1.
        none: Whether to add the candidate ``none`` to the edges of cells.
        alpha_scale: Standard deviation of the normal distribution that α is initialized from; 0 for zeros.
        warmup_epochs: Epochs in which only weights are trained.
        gradient_clip_val: Maximum norm of the gradient of the weights. None for no limit.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    @argument_aliases(arc_learning_rate="learning_rate")
    def __init__(
        self,
        threshold: float = 0.4,
        window: int = 20,
        accumulated: bool = True,
        learning_rate: float = 3e-4,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        none: bool = True,
        alpha_scale: float = 1e-3,
        warmup_epochs: int = 0,
        gradient_clip_val: float | None = 5.0,
        **common: Any,
    ) -> None:
        self.early_stopping = OperationStopping(threshold, window, accumulated)
        super().__init__(
            Composition(
                relaxation=EveryEdge(softmax),
                optimizer=adam(learning_rate, weight_decay, betas),
                gradient=self.early_stopping.gradient,
                candidate=self.early_stopping.watch,
                pruning=self.early_stopping.begin,
                none=none,
                alpha_scale=alpha_scale,
                warmup_epochs=warmup_epochs,
                gradient_clip_val=gradient_clip_val,
            ),
            **common,
        )


class OperationStopping:
    """Compares the gradients of operations, and freezes those that overfit. Its methods are parts of a composition.

    Means are taken within an epoch, and its first iteration compares nothing, because a resumed search has no earlier
    gradient.

    Args: See :class:`OLES`.

    Attributes:
        operations: The candidates with weights, in all layers; skip connections, also those of stride 2, excepted.
        similarities: Sum of the similarities so far of the operations that are trained, by index.
    """

    def __init__(self, threshold: float, window: int, accumulated: bool) -> None:
        if not -1 <= threshold <= 1:
            raise ValueError(f"threshold: {threshold} should be from -1 to 1")
        if window < 1:
            raise ValueError(f"window: {window} should be at least 1")
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
        """Freeze what was frozen in the epochs before, also after a resume."""
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
