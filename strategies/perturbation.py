"""Perturbations of the weights that mix candidates, in weight steps (SmoothDARTS).

The weights of the network then perform well for all mixtures near those of α, so that the loss is smooth over α.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from search_spaces.checks import require, require_one_of
from strategies.composition import Perturbation
from strategies.noise import uniform
from strategies.relaxation import Plan, Step

Kind = Literal["random", "adversarial"]
Weights = dict[str, Tensor]
Loss = Callable[[Weights], Tensor]


def perturbed(kind: Kind, epsilon: float, min_epsilon: float, attack_steps: int, seed: int) -> Perturbation:
    """Return a perturbation of all relaxed edges; their weights stay a distribution.

    Args:
        kind: "random": uniform noise. "adversarial": noise that raises the training loss, from :func:`attacked`.
        epsilon: Largest change of a weight at the end of the search, before the weights of an edge are normalized.
        min_epsilon: Largest change at the start of the search, from 0 to ``epsilon``. In between, it grows linearly
            over the epochs.
        attack_steps: Gradient steps of "adversarial", at least 1.
        seed: Seed of the noise.

    Raises:
        ValueError: A setting is out of range.
    """
    require_one_of("perturbation", kind, get_args(Kind))
    expected = f"at least min_epsilon, {min_epsilon}, which is at least 0"
    require("epsilon", epsilon, 0 <= min_epsilon <= epsilon < float("inf"), expected)
    require("attack_steps", attack_steps, attack_steps >= 1, "at least 1")

    def perturb(plan: Plan, loss: Callable[[Plan], Tensor], step: Step) -> Plan:
        weights = {edge: entry for edge, entry in plan.items() if isinstance(entry, Tensor)}
        if not weights:
            return plan
        radius = min_epsilon + (epsilon - min_epsilon) * step.progress
        noise = uniform(weights, seed, step, "perturbation")
        start = {edge: distribution(weight + radius * (2 * noise[edge] - 1)) for edge, weight in weights.items()}
        if kind == "adversarial":
            start = attacked(weights, start, lambda moved: loss({**plan, **moved}), radius, attack_steps)
        return {**plan, **start}

    return perturb


def attacked(weights: Weights, moved: Weights, loss: Loss, radius: float, steps: int) -> Weights:
    """Return weights within ``radius`` of the given ones after gradient ascent of the loss; unmoved if it fell.

    Args:
        weights: Edge -> weights (candidates,).
        moved: Edge -> weights (candidates,) at the start of the ascent.
        loss: Function that computes the training loss (scalar), given such weights.
        radius: Largest change of a weight, before the weights of an edge are normalized.
        steps: Number of gradient steps.
    """
    for _ in range(steps):
        leaves = {edge: weight.detach().requires_grad_() for edge, weight in moved.items()}
        slopes = torch.autograd.grad(loss(leaves), list(leaves.values()), materialize_grads=True)
        moved = {}
        for (edge, weight), slope in zip(leaves.items(), slopes, strict=True):
            change = weight.detach() + 2 * radius / steps * slope.sign() - weights[edge]
            moved[edge] = distribution(weights[edge] + change.clamp(-radius, radius))
    return weights if loss(weights).item() > loss(moved).item() else moved


def distribution(weights: Tensor) -> Tensor:
    """Return weights (candidates,) clipped to [0, 1] and divided by their sum; if all are 0, the largest becomes 1."""
    clipped = weights.clamp(0, 1)
    largest = (torch.arange(len(weights), device=weights.device) == weights.argmax()).to(weights)
    return torch.where(clipped.sum() > 0, clipped / clipped.sum(), largest)
