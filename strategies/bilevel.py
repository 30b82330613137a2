"""The architecture gradient of the bilevel problem: minimize the validation loss over α, with weights
that minimize the training loss (DARTS, Eqs. 3 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

Gradient = Callable[[Callable[[], Tensor], Sequence[Tensor], Sequence[Tensor]], list[Tensor | None]]
"""(the validation loss, all α, all weights) -> the gradient of each α, None where the loss does not depend on it."""


def first_order(loss: Callable[[], Tensor], alphas: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor | None]:
    """∇_α L_val(w, α) at the present weights (DARTS, Eq. 6 with ξ = 0).

    The weights are constants meanwhile: their gradient, half of an ordinary backward pass, is
    never computed, and the inputs of convolutions need not be kept for it.

    Args:
        loss: computes L_val, a scalar.
        alphas: the architecture parameters.
        weights: the weights of the network.
    """
    with constant(weights):
        value = loss()
        if not value.requires_grad:  # the relaxed edge lies where no path leads
            return [None] * len(alphas)
        return list(torch.autograd.grad(value, list(alphas), allow_unused=True))


@contextmanager
def constant(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Tensors that are computed with, and not differentiated."""
    trained = [tensor for tensor in tensors if tensor.requires_grad]
    for tensor in trained:
        tensor.requires_grad_(False)
    try:
        yield
    finally:
        for tensor in trained:
            tensor.requires_grad_(True)
