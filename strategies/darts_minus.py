"""DARTS-: Robustly Stepping out of Performance Collapse Without Indicators (Chu et al., ICLR 2021)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from search_spaces.checks import require
from strategies.base import DifferentiableStrategy
from strategies.composition import Composition, adam
from strategies.relaxation import EveryEdge, softmax
from strategies.supernet.architecture import Architecture
from strategies.supernet.parts import Companion


class AuxiliarySkip(nn.Module):
    """A skip connection beside the candidates of an edge, times β, which decays to 0 over the epochs."""

    def __init__(self, skip: nn.Module, architecture: Architecture, beta: float, decay: str) -> None:
        super().__init__()
        self.skip, self.beta, self.decay = copy.deepcopy(skip), beta, decay
        self._architecture = (architecture,)  # in a tuple, since α must not appear in ``parameters()``
        for convolution in (module for module in self.skip.modules() if isinstance(module, (nn.Conv1d, nn.Conv2d))):
            convolution.reset_parameters()  # a strided skip connection starts with its own weights

    def forward(self, x: Tensor) -> Tensor:
        """Return the skipped input times the current β."""
        progress = self._architecture[0].step.progress
        rest = 1 - progress if self.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
        out: Tensor = self.beta * rest * self.skip(x)
        return out


def auxiliary_skip(beta: float = 1.0, decay: Literal["linear", "cosine"] = "linear") -> Companion:
    """Return the companion that adds an :class:`AuxiliarySkip` to every edge with a candidate ``skip_connect``."""
    require("beta", beta, 0 <= beta < float("inf"), "at least 0")
    require("decay", repr(decay), decay in ("linear", "cosine"), "linear or cosine")

    def companion(candidates: Mapping[str, nn.Module], architecture: Architecture) -> nn.Module | None:
        skip = candidates.get("skip_connect")
        return None if skip is None else AuxiliarySkip(skip, architecture, beta, decay)

    return companion


class DARTSMinus(DifferentiableStrategy):
    """The DARTS- strategy: DARTS, with an auxiliary skip connection on every edge, which fades out during the search.

    Gradients flow through it, so α of ``skip_connect`` measures the value of the operation alone. The defaults are the
    settings of the paper and of the released code.

    Args:
        beta: Factor β of the auxiliary skip connections at the start of the search, at least 0.
        decay: Decay of β to 0 over the epochs: "linear" or "cosine".
        learning_rate, weight_decay, betas, none, alpha_scale, gradient_clip_val: See :class:`~strategies.darts.DARTS`.
        common: Arguments of all strategies, see :class:`~strategies.base.DifferentiableStrategy`.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        beta: float = 1.0,
        decay: Literal["linear", "cosine"] = "linear",
        learning_rate: float = 3e-4,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        none: bool = True,
        alpha_scale: float = 1e-3,
        gradient_clip_val: float | None = 5.0,
        **common: Any,
    ) -> None:
        super().__init__(
            Composition(
                relaxation=EveryEdge(softmax),
                optimizer=adam(learning_rate, weight_decay, betas),
                none=none,
                alpha_scale=alpha_scale,
                gradient_clip_val=gradient_clip_val,
                companion=auxiliary_skip(beta, decay),
            ),
            **common,
        )
