"""The memory format of a space on a CPU, and the convolutions that corrupt the heap in channels_last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

from search_spaces.extensions import HasMemoryFormat
from search_spaces.pointwise import subsample


def takes_channels_last(space: nn.Module) -> bool:
    """Return whether a space is searched in channels_last, in which convolutions on a CPU are faster.

    The spaces of NNI's hub are. Another space may depend on the order of the dimensions, so it decides itself.
    """
    if isinstance(space, HasMemoryFormat):
        return space.channels_last
    return any(kind.__module__.startswith("nni.nas.hub.") for kind in type(space).__mro__)


class UnstridedPointwise(TorchFunctionMode):
    """Context manager: compute strided 1×1 convolutions on a CPU without the stride, on the pixels that they read.

    oneDNN's AVX2 kernel for the weight gradient of a strided one writes beyond its buffer (docs/cpu_kernels.md). The
    operations of this project are :class:`~search_spaces.pointwise.PointwiseConv2d` and need no context; this is for
    the modules and functions of other spaces.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch, a convolution through :func:`_conv2d`."""
        called = _conv2d if func is torch.conv2d else func
        return called(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    rows, columns = _pair(stride) if len(_pair(stride)) == 2 else _pair(stride[0])
    if weight.shape[-2:] == (1, 1) and (rows, columns) != (1, 1) and input.device.type == "cpu":
        above, beside = (0, 0) if isinstance(padding, str) else _pair(padding)
        if above or beside:
            input = nn.functional.pad(input, (beside, beside, above, above))
        input, stride, padding = subsample(input, rows, columns), 1, 0
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
