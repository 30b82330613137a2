"""The parts of a differentiable search, and their composition: a paper adds one part and its default settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from search_spaces.checks import require
from strategies.bilevel import Gradient, first_order
from strategies.derivation import Derivation, darts
from strategies.epoch import Pruning, StopRule
from strategies.objective import Grouping, Objective, evaluator_loss, one_group
from strategies.relaxation import Plan, Relaxation, Step
from strategies.supernet.parts import Candidate, Companion, SupernetParts
from strategies.topology import Topology

__all__ = [
    "Composition",
    "Derivation",
    "Gradient",
    "Grouping",
    "Objective",
    "OptimizerFactory",
    "Relaxation",
    "Schedule",
    "adam",
    "cosine",
]


class OptimizerFactory(Protocol):
    """Function that creates the optimizer for a group of α.

    Example::

        def sgd(alphas):
            return torch.optim.SGD(alphas, lr=0.1)
    """

    def __call__(self, alphas: Sequence[nn.Parameter], /) -> Optimizer:
        """Return the optimizer for a group of α, each of shape (candidates,)."""


class Schedule(Protocol):
    """Learning rate of α as a function of the progress of the search; it is set at the start of each epoch.

    Example::

        def linear(initial_rate, progress):
            return initial_rate * (1 - progress)
    """

    def __call__(self, initial_rate: float, progress: float, /) -> float:
        """Return the learning rate, given the initial one and the completed share of the epochs, from 0 to 1."""


class Perturbation(Protocol):
    """Function that changes the plan of a weight step, so that the weights are trained for a neighbourhood of α.

    Example::

        def random(plan, loss, step):
            return {edge: w + 0.03 * torch.rand_like(w) if isinstance(w, Tensor) else w for edge, w in plan.items()}
    """

    def __call__(self, plan: Plan, loss: Callable[[Plan], Tensor], step: Step, /) -> Plan:
        """Return the plan by which the weights are trained.

        Args:
            plan: The plan of the relaxation.
            loss: Function that computes the training loss (scalar) on the batch of the step by a plan, in evaluation
                mode and without effect on the search.
            step: The position of the search.
        """


@dataclass(frozen=True)
class Composition:
    """Everything that distinguishes one differentiable strategy from another.

    Args:
        relaxation: Relaxation, which turns α into the plan of the supernet.
        optimizer: Function that creates the optimizer for a group of α.
        objective: The loss that an architecture step minimizes.
        gradient: Function that computes the gradient of the objective with respect to α. None for one-level
            optimization: α and weights take one step together on the training images, following the plan of an
            architecture step, and the validation images are used for validation only.
        grouping: Function that divides α into groups, each with its own optimizer.
        schedule: Learning rate of α as a function of the progress, set at the start of each epoch. None keeps it
            constant.
        derivation: Function that turns the α of a cell into its discrete operations. Cells of third-party spaces are
            derived by :func:`~strategies.derivation.darts`.
        none: Whether to add the candidate ``none`` (zero) to the edges of cells.
        alpha_scale: Standard deviation of the normal distribution that α is initialized from; 0 for zeros.
        warmup_epochs: Epochs in which only weights are trained.
        gradient_clip_val: Maximum norm of the gradient of the weights. None for no limit.
        recompute: Whether to recompute relaxed edges of cells in the backward pass, for less memory and more time.
        partial_channels: K; candidates run on 1/K of the channels, and the others are passed on (PC-DARTS). Candidates
            of layer choices that cannot run on a part of the channels run on all of them.
        wider_partial_channels: K in the second half of the epochs, smaller than in the first (DrNAS). None to keep K.
        topology: Function that names the candidates of the inputs of each node of a cell, which then have α as well.
            None for no such α.
        companion: Function that creates a module beside the candidates of each edge, which derived networks do not
            have. None for no such module.
        candidate: Function that wraps each candidate. None to leave candidates unchanged.
        perturbation: Function that changes the plan of each weight step. None to leave plans unchanged.
        pruning: Function that narrows the candidates at the start of each epoch. None for no pruning.
        stop: Rule that ends the search after an epoch. None for a search of all epochs.
        trains_alphas: Function that returns whether α is stepped at a position of the search. None for all epochs after
            the warm-up.
        joint: Function that returns whether α and the weights take one step together at a position of the search. If
            the gradient is None, they always do. None for separate steps.
        weight_steps: Number of weight steps for each architecture step, unless they are joint.
        single_path: Whether paths run one candidate per edge. Spaces with input choices that take several inputs are
            then rejected.

    Raises:
        ValueError: A number is out of range.
    """

    relaxation: Relaxation
    optimizer: OptimizerFactory
    objective: Objective = evaluator_loss
    gradient: Gradient | None = first_order
    grouping: Grouping = one_group
    schedule: Schedule | None = None
    derivation: Derivation = darts
    none: bool = True
    alpha_scale: float = 1e-3
    warmup_epochs: int = 0
    gradient_clip_val: float | None = 5.0
    recompute: bool = False
    partial_channels: int = 1
    wider_partial_channels: int | None = None
    topology: Topology | None = None
    companion: Companion | None = None
    candidate: Candidate | None = None
    perturbation: Perturbation | None = None
    pruning: Pruning | None = None
    stop: StopRule | None = None
    trains_alphas: Callable[[Step], bool] | None = None
    joint: Callable[[Step], bool] | None = None
    weight_steps: int = 1
    single_path: bool = False

    def __post_init__(self) -> None:
        limit = self.gradient_clip_val
        require("gradient_clip_val", limit, limit is None or limit > 0, "above 0, or null for no limit")
        require("alpha_scale", self.alpha_scale, 0 <= self.alpha_scale < float("inf"), "at least 0")
        require("warmup_epochs", self.warmup_epochs, self.warmup_epochs >= 0, "at least 0")
        require("partial_channels", self.partial_channels, self.partial_channels >= 1, "at least 1")
        wider, expected = self.wider_partial_channels, f"from 1 to below partial_channels, {self.partial_channels}"
        require("wider_partial_channels", wider, wider is None or 1 <= wider < self.partial_channels, expected)
        require("weight_steps", self.weight_steps, self.weight_steps >= 1, "at least 1")

    @property
    def supernet_parts(self) -> SupernetParts:
        """The parts that the edges of the supernet have."""
        return SupernetParts(
            self.derivation,
            self.partial_channels,
            self.wider_partial_channels,
            self.topology,
            self.companion,
            self.candidate,
        )

    def searches(self, step: Step) -> bool:
        """Return whether α is stepped at a position of the search."""
        if step.epoch < self.warmup_epochs:
            return False
        return self.trains_alphas is None or self.trains_alphas(step)

    def is_joint(self, step: Step) -> bool:
        """Return whether α and the weights take one step together at a position of the search."""
        return self.gradient is None or (self.joint is not None and self.joint(step))


def adam(learning_rate: float, weight_decay: float, betas: tuple[float, float]) -> OptimizerFactory:
    """Return a factory of Adam optimizers.

    Args:
        learning_rate: Learning rate of α in the first epoch, at least 0.
        weight_decay: L2 penalty of α, at least 0.
        betas: Adam betas, each from 0 to below 1.

    Raises:
        ValueError: A setting is out of range.
    """
    for name, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
        require(name, value, value >= 0, "at least 0")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas: {list(betas)} should be two numbers from 0 to below 1")
    first, second = betas
    optimizer = partial(torch.optim.Adam, foreach=True)  # the α are many small tensors
    return partial(optimizer, lr=learning_rate, betas=(float(first), float(second)), weight_decay=weight_decay)


def clipped(make: OptimizerFactory, limit: float | None) -> OptimizerFactory:
    """Return a factory of optimizers that first clip the norm of the gradient of all their α, None for no limit."""
    if limit is None:
        return make

    def factory(alphas: Sequence[nn.Parameter]) -> Optimizer:
        optimizer = make(alphas)

        def clip(*_: object) -> None:
            nn.utils.clip_grad_norm_(alphas, limit)

        optimizer.register_step_pre_hook(clip)
        return optimizer

    return factory


def cosine(min_learning_rate: float) -> Schedule:
    """Return a schedule that anneals the learning rate along half a cosine (Loshchilov and Hutter, 2017).

    Args:
        min_learning_rate: Learning rate at the end of the search, at least 0.

    Raises:
        ValueError: The learning rate is negative.
    """
    low = min_learning_rate
    require("min_learning_rate", low, low >= 0, "at least 0")
    return lambda initial, progress: low + (initial - low) * (1 + math.cos(math.pi * progress)) / 2
