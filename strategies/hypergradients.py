"""Architecture gradients by the implicit function theorem, with approximations of the inverse Hessian.

If the weights w minimize L_train(w, α), the gradient of L_val(w(α), α) with respect to α is::

    ∇_α L_val − ∇²_{α,w} L_train · H⁻¹ ∇_w L_val,   H = ∇²_{w,w} L_train

The weights of a search are not at a minimum, and H⁻¹ is too expensive; the methods differ in their substitute for H⁻¹.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from strategies.bilevel import (
    BilevelProblem,
    Gradients,
    frozen,
    hessian_product,
    mixed_product,
    preserving,
    trained,
    unscaled,
)
from strategies.rng import isolate_rng


class InverseHessian(Protocol):
    """Function that approximates the product of H⁻¹ and a vector.

    Example::

        def identity(problem, vector):
            return list(vector)
    """

    def __call__(self, problem: BilevelProblem, vector: Sequence[Tensor], /) -> list[Tensor]:
        """Return the product, given a tensor for each weight that requires a gradient."""


def implicit(problem: BilevelProblem, inverse: InverseHessian, epsilon: float = 0.01) -> Gradients:
    """Return ∇_α L_val − ∇²_{α,w} L_train · H⁻¹ ∇_w L_val at the current weights.

    Weights, buffers, optimizer and random generators are restored. All training losses use the same dropout masks.

    Args:
        problem: The problem.
        inverse: Approximation of the product with H⁻¹.
        epsilon: Step size of the finite difference, see :func:`~strategies.bilevel.mixed_product`.
    """
    count, weights = len(problem.alphas), trained(problem.weights)
    with preserving(problem.buffers), isolate_rng():
        gradients = problem.differentiate(problem.val_loss(), [*problem.alphas, *weights])
    direction = inverse(problem, _dense(gradients[count:], weights))
    correction = mixed_product(problem, [*direction], epsilon)
    return [
        outer if outer is None or inner is None else outer - inner
        for outer, inner in zip(gradients[:count], correction, strict=True)
    ]


def neumann_series(problem: BilevelProblem, vector: Sequence[Tensor], terms: int) -> list[Tensor]:
    """Return Σ γ (I − γH)^k · v over k from 0 to ``terms`` (iDARTS), which approaches H⁻¹ v for small γ.

    The products with H are exact: they differentiate the gradient of the training loss, whose graph serves all of them.

    Args:
        problem: The problem, whose optimizer gives γ, the learning rate of each weight.
        vector: v.
        terms: K, the number of products with H.
    """
    rates = {weight: float(group["lr"]) for group in problem.optimizer.param_groups for weight in group["params"]}
    weights = trained(problem.weights)
    term = [rates.get(weight, 0.0) * v for weight, v in zip(weights, vector, strict=True)]
    total = list(term)
    with preserving(problem.buffers), frozen(problem.alphas), isolate_rng():
        loss = problem.train_loss() * problem.scale
        slopes = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
        for _ in range(terms):
            along = torch.stack([(slope * t).sum() for slope, t in zip(slopes, term, strict=True)]).sum()
            scaled = torch.autograd.grad(along, weights, retain_graph=True, materialize_grads=True)
            products = _dense(problem.average(unscaled(scaled, problem.scale)), weights)
            term = [t - rates.get(w, 0.0) * h for w, t, h in zip(weights, term, products, strict=True)]
            total = [a + b for a, b in zip(total, term, strict=True)]
    return total


def scaled_hessian(
    problem: BilevelProblem, vector: Sequence[Tensor], coefficient: float, epsilon: float = 0.01
) -> list[Tensor]:
    """Return η H v, which stands for H⁻¹ v in the amending term (Amended-DARTS), by a central difference::

        η (∇_w L_train(w + εv, α) − ∇_w L_train(w − εv, α)) / 2ε

    Args:
        problem: The problem.
        vector: v.
        coefficient: η.
        epsilon: Norm of εv.
    """
    weights = trained(problem.weights)
    products = hessian_product(problem, [*vector], weights, epsilon)
    return [coefficient * product for product in _dense(products, weights)]


def _dense(gradients: Gradients, weights: Sequence[Tensor]) -> list[Tensor]:
    pairs = zip(weights, gradients, strict=True)
    return [torch.zeros_like(weight) if gradient is None else gradient for weight, gradient in pairs]
