"""A search on several devices: each process has its own images, and all share one architecture.

Lightning averages the gradients that a backward pass of the weights accumulates. The gradients of α and of a virtual
step are computed separately and averaged here.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor


def average(tensors: Sequence[Tensor | None], trainer: pl.Trainer) -> list[Tensor | None]:
    """Return the mean of each tensor over all processes, by a single reduction in float32.

    Args:
        tensors: The tensors of this process, None at the same positions in all processes.
        trainer: The Trainer of the search.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    if trainer.world_size == 1 or not given:
        return list(tensors)
    flat = torch.cat([tensor.flatten().float() for tensor in given])
    means = iter(trainer.strategy.reduce(flat, reduce_op="mean").split([tensor.numel() for tensor in given]))
    return [None if tensor is None else next(means).view_as(tensor).to(tensor.dtype) for tensor in tensors]


def check_processes(trainer: pl.Trainer) -> None:
    """Check the settings of a distributed search before its first step.

    Raises:
        ValueError: Lightning's strategy expects a gradient of every weight, or the random seeds of the processes
            differ, so they would relax different edges.
    """
    if trainer.world_size == 1:
        return
    options = getattr(trainer.strategy, "_ddp_kwargs", {})
    if options.get("find_unused_parameters") is False or "find_unused_parameters" not in options:
        raise ValueError(
            "several devices: not every operation runs in each step; give Lightning's Trainer "
            "strategy='ddp_find_unused_parameters_true'"
        )
    seed = torch.initial_seed()
    if trainer.strategy.broadcast(seed) != seed:
        raise ValueError(
            "several devices: their processes have different random seeds; call pytorch_lightning.seed_everything "
            "before the strategy is made"
        )
