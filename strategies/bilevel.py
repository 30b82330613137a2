"""Architecture gradients of the bilevel problem (DARTS, Eqs. 3 and 4; course project, section 2.2).

The problem is to minimize L_val(w*(α), α) over α, where w*(α) minimizes L_train(w, α). This module is independent of
supernets: a loss is any function without arguments that computes a scalar from the current values of the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from search_spaces.checks import require, require_one_of
from strategies.rng import isolate_rng

Loss = Callable[[], Tensor]
"""Function that computes a scalar from the current values of the parameters."""

Gradients = list[Tensor | None]
"""Gradient for each parameter, or None if the loss does not depend on it."""


def no_reduction(gradients: Gradients) -> Gradients:
    """Return the gradients unchanged, their average over a single process."""
    return gradients


@dataclass(frozen=True)
class BilevelProblem:
    """The bilevel problem at one iteration of a search.

    Args:
        train_loss: Function that computes L_train(w, α).
        val_loss: Function that computes L_val(w, α).
        alphas: The upper-level variables α.
        weights: The lower-level variables w. Those that do not require a gradient are constants.
        optimizer: The optimizer of w.
        buffers: Tensors that a loss changes in place, for example running batch statistics.
        average: Function that averages gradients over all processes of a distributed search.
        scale: Factor by which losses are multiplied for the backward pass, and gradients divided after it. In half
            precision, small gradients would vanish without it.
    """

    train_loss: Loss
    val_loss: Loss
    alphas: Sequence[Tensor]
    weights: Sequence[Tensor]
    optimizer: Optimizer
    buffers: Sequence[Tensor] = ()
    average: Callable[[Gradients], Gradients] = no_reduction
    scale: float = 1.0

    def differentiate(self, loss: Tensor, parameters: Sequence[Tensor]) -> Gradients:
        """Return the gradient of a loss for each parameter, averaged over all processes.

        None stands for a parameter on which the loss does not depend, or that requires no gradient.
        """
        if not loss.requires_grad:  # for example when no path leads through the relaxed edge
            return self.average([None] * len(parameters))
        scaled = torch.autograd.grad(loss * self.scale, trained(parameters), allow_unused=True)
        gradients = iter(unscaled(scaled, self.scale))
        return self.average([next(gradients) if parameter.requires_grad else None for parameter in parameters])


class Gradient(Protocol):
    """Function that computes the gradient of the validation loss with respect to α.

    Example::

        def first_order(problem):
            return problem.differentiate(problem.val_loss(), problem.alphas)
    """

    def __call__(self, problem: BilevelProblem, /) -> Gradients:
        """Return a gradient of the shape of each α, or None if the loss does not depend on it."""


Order = Literal["one-level", "first", "second"]


def gradient_of(order: Order, xi: float | None = None, epsilon: float = 0.01) -> Gradient | None:
    """Return the architecture gradient of an order, None for one-level optimization.

    Args:
        order: "first" for :func:`first_order`, "second" for :func:`second_order`, "one-level" for :func:`one_level`.
        xi: Step size ξ of the second order, at least 0. None for the learning rate of the weights.
        epsilon: Step size of the finite difference of the second order, above 0.

    Raises:
        ValueError: The order is unknown, or a number is out of range.
    """
    require_one_of("order", order, get_args(Order))
    if xi is not None and order != "second":
        raise ValueError(f"xi: {xi} should be null: order {order!r} has no virtual step")
    require("xi", xi, xi is None or 0 <= xi < float("inf"), "at least 0, or null for the learning rate of the weights")
    require("epsilon", epsilon, 0 < epsilon < float("inf"), "above 0")
    return {"one-level": None, "first": first_order, "second": partial(second_order, xi=xi, epsilon=epsilon)}[order]


def one_level(loss: Loss, alphas: Sequence[Tensor], descend: Callable[[Tensor], None]) -> tuple[Tensor, Gradients]:
    """Take a weight step, and return ∇_α L(w, α) from the same backward pass (DARTS, section 3.3).

    Args:
        loss: Function that computes L(w, α).
        alphas: The architecture parameters, leaves of the graph.
        descend: Function that takes the step of w, given the loss, by calling ``backward`` on the loss.

    Returns:
        The detached loss, and the gradient of each α at the weights before the step.
    """
    for alpha in alphas:
        alpha.grad = None
    value = loss()
    descend(value)
    return value.detach(), [alpha.grad for alpha in alphas]


def first_order(problem: BilevelProblem) -> Gradients:
    """Return ∇_α L_val(w, α): the current weights stand for w*(α) (DARTS, Eq. 6 with ξ = 0).

    The weights are frozen: their gradient, half of an ordinary backward pass, is not computed, and the inputs of
    convolutions are not kept for it.
    """
    with frozen(problem.weights):
        return problem.differentiate(problem.val_loss(), problem.alphas)


def second_order(problem: BilevelProblem, xi: float | None = None, epsilon: float = 0.01) -> Gradients:
    """Return ∇_α L_val(w', α), where w' = w − ξ ∇_w L_train(w, α) stands for w*(α) (DARTS, Eqs. 6 and 7)::

        ∇_α L_val(w', α) − ξ ∇²_{α,w} L_train(w, α) ∇_w' L_val(w', α)

    The virtual step to w' is the step of the optimizer, see :func:`virtual_step`, taken in place. Weights, buffers,
    optimizer and random generators are restored bit for bit, even if a loss raises.

    Args:
        problem: The problem.
        xi: Step size ξ. None for the current learning rate of each weight.
        epsilon: Step size of the finite difference, see :func:`mixed_product`.
    """
    count, weights = len(problem.alphas), trained(problem.weights)
    with preserving([*weights, *problem.buffers]):
        with frozen(problem.alphas), isolate_rng():
            gradients = problem.differentiate(problem.train_loss(), weights)
        rates = virtual_step(problem.optimizer, weights, gradients, xi)
        with isolate_rng():
            gradients = problem.differentiate(problem.val_loss(), [*problem.alphas, *weights])
    # ξ is a factor of the direction, because weights may have different learning rates.
    direction = [None if v is None else rate * v for rate, v in zip(rates, gradients[count:], strict=True)]
    correction = mixed_product(problem, direction, epsilon)
    return [_difference(outer, inner) for outer, inner in zip(gradients[:count], correction, strict=True)]


def mixed_product(problem: BilevelProblem, direction: Gradients, epsilon: float = 0.01) -> Gradients:
    """Return ∇²_{α,w} L_train(w, α) · d by a central difference (DARTS, Eq. 8)::

        (∇_α L_train(w + εd, α) − ∇_α L_train(w − εd, α)) / 2ε

    Args:
        problem: The problem.
        direction: d, a tensor for each weight that requires a gradient, None for zeros.
        epsilon: Norm of εd; the ε of the equation is this divided by ‖d‖, as in the paper.
    """
    return hessian_product(problem, direction, problem.alphas, epsilon)


def hessian_product(
    problem: BilevelProblem, direction: Gradients, parameters: Sequence[Tensor], epsilon: float = 0.01
) -> Gradients:
    """Return ∇²_{p,w} L_train(w, α) · d for parameters p, α or the weights, by a central difference.

    Args:
        problem: The problem.
        direction: d, see :func:`mixed_product`.
        parameters: p.
        epsilon: Norm of εd.
    """
    weights = trained(problem.weights)
    differentiated = set(parameters)
    constant = [tensor for tensor in (*weights, *problem.alphas) if tensor not in differentiated]
    moved = [(weight, d) for weight, d in zip(weights, direction, strict=True) if d is not None]
    if not moved:
        return [None] * len(parameters)
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(d) for _, d in moved]))
    norm = norm.clamp_min(torch.finfo(norm.dtype).tiny)  # a test for 0 would wait for the accelerator
    sides = []
    for sign in (1, -1):
        with preserving([*weights, *problem.buffers]), frozen(constant), isolate_rng():
            with torch.no_grad():
                for weight, d in moved:
                    weight += d * (sign * epsilon / norm)
            torch.clear_autocast_cache()  # it holds casts of the weights before the move
            sides.append(problem.differentiate(problem.train_loss(), parameters))
    differences = [_difference(plus, minus) for plus, minus in zip(*sides, strict=True)]
    return [None if d is None else d * (norm / (2 * epsilon)) for d in differences]


@torch.no_grad()
def virtual_step(
    optimizer: Optimizer, weights: Sequence[Tensor], gradients: Gradients, xi: float | None = None
) -> list[float]:
    """Move the weights in place as the next step of the optimizer would, without changing its state.

    The step of SGD includes momentum (with dampening and Nesterov's) and weight decay. The step of any other optimizer
    is w' = w − ξ (∇_w L + decay · w). Gradients are not clipped.

    Args:
        optimizer: The optimizer of the weights. A weight that it does not hold is not moved.
        weights: w.
        gradients: ∇_w L_train(w, α). A weight whose gradient is None is not moved.
        xi: ξ. None for the learning rate of each weight.

    Returns:
        −∂w'/∂∇_w L for each weight: ξ for plain SGD, 0 for a weight that is not moved.
    """
    groups = {weight: group for group in optimizer.param_groups for weight in group["params"]}
    rates = []
    for weight, gradient in zip(weights, gradients, strict=True):
        group = groups.get(weight)
        if gradient is None or group is None:
            rates.append(0.0)
            continue
        slope = -1.0 if group.get("maximize") else 1.0
        step = slope * gradient + group.get("weight_decay", 0) * weight
        if isinstance(optimizer, SGD) and group["momentum"] != 0:
            momentum, before = group["momentum"], optimizer.state.get(weight, {}).get("momentum_buffer")
            velocity, share = step, 1.0
            if before is not None:  # the first step of SGD has no velocity and is not dampened
                share = 1 - group["dampening"]
                velocity = momentum * before + share * step
            if group["nesterov"]:
                step, slope = step + momentum * velocity, slope * (1 + momentum * share)
            else:
                step, slope = velocity, slope * share
        rate = float(group["lr"] if xi is None else xi)
        weight -= rate * step
        rates.append(rate * slope)
    torch.clear_autocast_cache()  # it holds casts of the weights before the step
    return rates


def _difference(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Return a − b, where None stands for zero."""
    return a if b is None else -b if a is None else a - b


def trained(weights: Iterable[Tensor]) -> list[Tensor]:
    """Return the weights that require a gradient."""
    return [weight for weight in weights if weight.requires_grad]


def unscaled(gradients: Iterable[Tensor | None], scale: float) -> Gradients:
    """Return gradients divided by a factor; None stays None."""
    return [gradient if gradient is None or scale == 1 else gradient / scale for gradient in gradients]


@contextmanager
def frozen(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Exclude tensors from differentiation in this context."""
    unfrozen = trained(tensors)
    for tensor in unfrozen:
        tensor.requires_grad_(False)
    try:
        yield
    finally:
        for tensor in unfrozen:
            tensor.requires_grad_(True)


@contextmanager
def preserving(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Restore the values of tensors at the end of this context, in place."""
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
        torch.clear_autocast_cache()
