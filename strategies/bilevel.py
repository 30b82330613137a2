"""The architecture gradient of the bilevel problem: minimize the validation loss over α, with weights
that minimize the training loss (DARTS, Eqs. 3 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Gradient = Callable[[Callable[[], Tensor], Sequence[Tensor]], list[Tensor | None]]
"""(the validation loss, all α) -> the gradient of each α, None where the loss does not depend on it."""


def first_order(loss: Callable[[], Tensor], alphas: Sequence[Tensor]) -> list[Tensor | None]:
    """∇_α L_val(w, α) at the present weights (DARTS, Eq. 6 with ξ = 0).

    The gradient of the weights, two thirds of an ordinary backward pass over convolutions, is
    never computed.

    Args:
        loss: computes L_val, a scalar.
        alphas: the architecture parameters.
    """
    return list(torch.autograd.grad(loss(), list(alphas), allow_unused=True))
