"""Calls of modules that read the same input, where one of them may write to it, as ``nn.ReLU(inplace=True)`` does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


class SharedInput:
    """Calls modules with an input that others read too; a module that writes to its input is given a copy.

    Every module is given a copy at its first call in each mode (training or evaluation), which shows whether it writes.
    Later calls copy only for those that do. PyTorch's inference mode hides it; there the training mode decides.
    """

    def __init__(self) -> None:
        self._writes: dict[tuple[nn.Module, bool], bool] = {}

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Return the output of a module, leaving its arguments unchanged."""
        key = module, module.training
        writes = self._writes.get(key)
        if writes is None and torch.is_inference_mode_enabled():
            writes = self._writes.get((module, True))
        if writes is False:
            return module(*args, **kwargs)
        args, kwargs = tree_map(_copied, (args, kwargs))
        before = [tensor._version for tensor in _versioned(args, kwargs)]
        output = module(*args, **kwargs)
        if writes is None and not torch.is_inference_mode_enabled():
            self._writes[key] = before != [tensor._version for tensor in _versioned(args, kwargs)]
        return output


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _versioned(*values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and not leaf.is_inference()]
