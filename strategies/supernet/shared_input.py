"""Calls that read the same input, to which some may write, for example ``nn.ReLU(inplace=True)``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


class SharedInput:
    """Calls of functions and modules that share an input; those that write to it receive a copy.

    Each function or module receives a copy at its first call in each mode (training or evaluation), which shows whether
    it writes. Later calls copy only for those that do. PyTorch's inference mode hides writes; there, the result of the
    training mode is used. Tensors are found in tuples, lists and dictionaries.
    """

    def __init__(self) -> None:
        self._writes: dict[tuple[Callable[..., Any], bool], bool] = {}

    def __call__(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the result of a call, leaving its arguments unchanged."""
        if torch.compiler.is_compiling():  # spaces of this project only, whose operations do not write to their input
            return call(*args, **kwargs)
        hidden = torch.is_inference_mode_enabled()
        key = call, hidden or getattr(call, "training", True)
        writes = self._writes.get(key)
        if writes is not False:
            args, kwargs = copied((args, kwargs))
        if hidden:
            return call(*args, **kwargs)
        tensors = args if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) else tree_leaves((args, kwargs))
        before = _versions(tensors)
        result = call(*args, **kwargs)
        written = before != _versions(tensors)
        if written and writes is False:
            text = (
                f"{type(call).__name__} began to write to its input, which others read: it is given copies from now on"
            )
            warnings.warn(text, stacklevel=2)
        self._writes[key] = bool(writes or written)
        return result


def _versions(values: Iterable[Any]) -> list[int]:
    return [value._version for value in values if isinstance(value, Tensor) and not value.is_inference()]


def copied(values: Any) -> Any:
    """Return copies of tensors in any structure of tuples, lists and dictionaries, in a new structure."""
    return tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, values)
