"""The architecture gradient of the bilevel problem: minimize L_val(w*(α), α) over α, where w*(α)
minimizes L_train(w, α) (DARTS, Eqs. 3 and 4; course project, section 2.2).

Nothing here knows of supernets: a loss is any function without arguments that computes a scalar
from the present values of the parameters.
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

from strategies.rng import isolate_rng

Loss = Callable[[], Tensor]

Gradients = list[Tensor | None]
"""A gradient for each parameter, None where the loss does not depend on it."""


def no_reduction(gradients: Gradients) -> Gradients:
    """The average over one process: the gradients themselves."""
    return gradients


@dataclass(frozen=True)
class BilevelProblem:
    """The bilevel problem as it stands at one iteration.

    Args:
        train_loss: computes L_train(w, α).
        val_loss: computes L_val(w, α).
        alphas: the upper-level variables α.
        weights: the lower-level variables w; those that need no gradient are constants.
        optimizer: what w takes its steps with.
        buffers: what changes in place when a loss is computed, such as running batch statistics.
        average: averages gradients over all processes that share the problem, each with images of its own.
    """

    train_loss: Loss
    val_loss: Loss
    alphas: Sequence[Tensor]
    weights: Sequence[Tensor]
    optimizer: Optimizer
    buffers: Sequence[Tensor] = ()
    average: Callable[[Gradients], Gradients] = no_reduction


class Gradient(Protocol):
    """Computes the gradient of the validation loss with respect to α.

    Example::

        def first_order(problem):
            return list(torch.autograd.grad(problem.val_loss(), problem.alphas, allow_unused=True))
    """

    def __call__(self, problem: BilevelProblem, /) -> Gradients:
        """Return a gradient of the shape of each α, or None where the loss does not depend on it."""


Order = Literal["one-level", "first", "second"]


def gradient_of(order: Order, xi: float | None = None, epsilon: float = 0.01) -> Gradient | None:
    """The gradient of α by its order; None for one level.

    Raises:
        ValueError: there is no such order, or a number is out of its range.
    """
    if order not in get_args(Order):
        raise ValueError(f"order: {order!r} should be one of {', '.join(get_args(Order))}")
    if xi is not None and order != "second":
        raise ValueError(f"xi: {xi} should be null: order {order!r} has no virtual step")
    if xi is not None and not 0 <= xi < float("inf"):
        raise ValueError(f"xi: {xi} should be at least 0, or null for the learning rate of the weights")
    if not 0 < epsilon < float("inf"):
        raise ValueError(f"epsilon: {epsilon} should be above 0")
    return {"one-level": None, "first": first_order, "second": partial(second_order, xi=xi, epsilon=epsilon)}[order]


def one_level(loss: Loss, alphas: Sequence[Tensor], descend: Callable[[Tensor], None]) -> tuple[Tensor, Gradients]:
    """∇_α L(w, α) of the loss that w descends, from the same pass: α and w learn alike (DARTS, section 3.3).

    Args:
        loss: computes L(w, α).
        alphas: the architecture parameters, leaves of the graph.
        descend: takes the step of w on the loss, by its backward method.

    Returns:
        The loss, and the gradient of each α at the weights before the step.
    """
    for alpha in alphas:
        alpha.grad = None
    value = loss()
    descend(value)
    return value.detach(), [alpha.grad for alpha in alphas]


def first_order(problem: BilevelProblem) -> Gradients:
    """∇_α L_val(w, α): the present weights stand for w*(α) (DARTS, Eq. 6 with ξ = 0).

    The weights are constants meanwhile: their gradient, half of an ordinary backward pass, is
    never computed, and the inputs of convolutions need not be kept for it.
    """
    with frozen(problem.weights):
        return problem.average(_differentiate(problem.val_loss(), problem.alphas))


def second_order(problem: BilevelProblem, xi: float | None = None, epsilon: float = 0.01) -> Gradients:
    """∇_α L_val(w', α), where w' = w − ξ ∇_w L_train(w, α) stands for w*(α) (DARTS, Eqs. 6 and 7)::

        ∇_α L_val(w', α) − ξ ∇²_{α,w} L_train(w, α) ∇_w' L_val(w', α)

    The virtual step to w' is the one that the optimizer would take: :func:`virtual_step`. It is
    taken in the weights themselves. Afterwards weights, buffers, optimizer and random generators
    are bit for bit what they were, also where a loss raises.

    Args:
        problem: the problem.
        xi: ξ; None for the learning rate that each weight has at the moment.
        epsilon: of the finite difference, see :func:`mixed_product`.
    """
    count, weights = len(problem.alphas), _trained(problem.weights)
    with preserving([*weights, *problem.buffers]):
        with frozen(problem.alphas), isolate_rng():
            gradients = problem.average(_differentiate(problem.train_loss(), weights))
        rates = virtual_step(problem.optimizer, weights, gradients, xi)
        with isolate_rng():
            gradients = problem.average(_differentiate(problem.val_loss(), [*problem.alphas, *weights]))
    # ξ goes into the direction, since weights may have different learning rates.
    direction = [None if v is None else rate * v for rate, v in zip(rates, gradients[count:], strict=True)]
    correction = mixed_product(problem, direction, epsilon)
    return [_difference(outer, inner) for outer, inner in zip(gradients[:count], correction, strict=True)]


def mixed_product(problem: BilevelProblem, direction: Gradients, epsilon: float = 0.01) -> Gradients:
    """∇²_{α,w} L_train(w, α) · d by a central difference (DARTS, Eq. 8)::

        (∇_α L_train(w + εd, α) − ∇_α L_train(w − εd, α)) / 2ε

    Args:
        problem: the problem.
        direction: d, a vector for each weight that needs a gradient, None for zeros.
        epsilon: the length of εd: the ε of the equation is this over ‖d‖, as in the paper.
    """
    weights = _trained(problem.weights)
    moved = [(weight, d) for weight, d in zip(weights, direction, strict=True) if d is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(d) for _, d in moved])) if moved else 0
    if norm == 0:
        return [None] * len(problem.alphas)
    sides = []
    for sign in (1, -1):
        with preserving([*weights, *problem.buffers]), frozen(weights), isolate_rng():
            for weight, d in moved:
                weight += d * (sign * epsilon / norm)
            torch.clear_autocast_cache()  # of the weights as they were
            sides.append(problem.average(_differentiate(problem.train_loss(), problem.alphas)))
    differences = [_difference(plus, minus) for plus, minus in zip(*sides, strict=True)]
    return [None if d is None else d * (norm / (2 * epsilon)) for d in differences]


@torch.no_grad()
def virtual_step(
    optimizer: Optimizer, weights: Sequence[Tensor], gradients: Gradients, xi: float | None = None
) -> list[float]:
    """Move the weights in place as the optimizer's next step would; the optimizer does not notice.

    SGD's momentum (dampened, Nesterov's) and weight decay are part of the step. For any other
    optimizer it is a plain one, w' = w − ξ (∇_w L + decay · w). Gradients are not clipped.

    Args:
        optimizer: of the weights; one that it does not hold stays.
        weights: w.
        gradients: ∇_w L_train(w, α); a weight without one stays.
        xi: ξ, in place of the learning rate.

    Returns:
        −∂w'/∂∇_w L for each weight: ξ for plain SGD.
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
            if before is not None:  # the first step has no velocity, and is not dampened
                share = 1 - group["dampening"]
                velocity = momentum * before + share * step
            if group["nesterov"]:
                step, slope = step + momentum * velocity, slope * (1 + momentum * share)
            else:
                step, slope = velocity, slope * share
        rate = float(group["lr"] if xi is None else xi)
        weight -= rate * step
        rates.append(rate * slope)
    torch.clear_autocast_cache()  # in mixed precision it has the weights as they were
    return rates


def _difference(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """A difference in which None is zero."""
    return a if b is None else -b if a is None else a - b


def _trained(weights: Iterable[Tensor]) -> list[Tensor]:
    return [weight for weight in weights if weight.requires_grad]


def _differentiate(loss: Tensor, parameters: Sequence[Tensor]) -> Gradients:
    if not loss.requires_grad:  # as when the relaxed edge lies where no path leads
        return [None] * len(parameters)
    wanted = _trained(parameters)
    found = iter(torch.autograd.grad(loss, wanted, allow_unused=True))
    return [next(found) if parameter.requires_grad else None for parameter in parameters]


@contextmanager
def frozen(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Tensors that are computed with, and not differentiated."""
    trained = _trained(tensors)
    for tensor in trained:
        tensor.requires_grad_(False)
    try:
        yield
    finally:
        for tensor in trained:
            tensor.requires_grad_(True)


@contextmanager
def preserving(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Tensors that are changed in place meanwhile, and have their values back afterwards."""
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
        torch.clear_autocast_cache()
