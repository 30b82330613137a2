"""A search on several devices: processes with images of their own, and one architecture.

Lightning averages the gradients of the weights where a backward pass leaves them. Gradients of α, and
those of a virtual step, are computed apart, and are averaged here.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor


def average(tensors: Sequence[Tensor | None], trainer: pl.Trainer) -> list[Tensor | None]:
    """The mean of each tensor over all processes, from one message.

    Args:
        tensors: None at the same places in all processes.
        trainer: Lightning's, of these processes.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    if trainer.world_size == 1 or not given:
        return list(tensors)
    together = torch.cat([tensor.flatten().float() for tensor in given])
    means = iter(trainer.strategy.reduce(together, reduce_op="mean").split([tensor.numel() for tensor in given]))
    return [None if tensor is None else next(means).view_as(tensor).to(tensor.dtype) for tensor in tensors]


def check_processes(trainer: pl.Trainer) -> None:
    """Refuse, before the first step, what processes that search together would stumble over.

    Raises:
        ValueError: Lightning's strategy expects gradients of all weights, or the random seeds differ, with
            which each process would draw other edges.
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
