"""Counter of operator calls and of tensor values that Python reads."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READERS = ("tolist", "numpy", "__array__", "cpu")
"""Methods of a tensor that return its values to Python, or to the CPU."""
READING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal"}
"""Operators whose results Python waits for: ``item``, ``bool`` and ``float`` of a tensor, masks, comparisons."""
ROOMS = ("strategies", "search_spaces", "nas_plugins", "nni", "pytorch_lightning", "torchmetrics")


class Launches(TorchDispatchMode):
    """Count operator calls and the tensor values that Python reads within a context."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = self.launching = 0
        self.waits: Counter[str] = Counter()
        self.synchronizations = 0  # of a GPU, of which PyTorch warns

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.operators += 1
        self.launching += _launches(func)
        if func._schema.name in READING:
            self._wait()
        return func(*args, **(kwargs or {}))

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count within this context."""
        with ExitStack() as stack:
            for name in READERS:
                stack.enter_context(patch.object(torch.Tensor, name, self._counted(getattr(torch.Tensor, name))))
            if torch.cuda.is_available():
                stack.enter_context(self._synchronizing())
            stack.enter_context(self)
            yield

    @contextmanager
    def _synchronizing(self) -> Iterator[None]:
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                yield
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        self.synchronizations += sum("synchronizing CUDA operation" in str(warning.message) for warning in found)

    def _counted(self, read: Callable[..., Any]) -> Callable[..., Any]:
        def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self._wait()
            return read(tensor, *args, **kwargs)

        return counted

    def _wait(self) -> None:
        """Count a value that Python reads under the innermost calling function in one of the packages in ROOMS."""
        for frame in reversed(traceback.extract_stack()):
            if "/torch/optim/" in frame.filename:
                return  # the step counter of an optimizer, which is kept on the CPU
            room = next((part for part in Path(frame.filename).parts if part in ROOMS), None)
            if room is not None:
                self.waits[f"{room}/{Path(frame.filename).stem}.{frame.name}"] += 1
                return
        self.waits["other"] += 1


@cache
def _launches(operator: Any) -> bool:
    """Return whether an operator computes, in a kernel on an accelerator, rather than return a view or new memory."""
    schema = operator._schema
    is_view = any(result.alias_info is not None and not result.alias_info.is_write for result in schema.returns)
    others = ("aten::empty", "aten::new_empty", "aten::_unsafe_view", "profiler::")
    return not (is_view or schema.name in READING or schema.name.startswith(others))
