"""Memory format of a space on a CPU, and replacements of PyTorch functions for third-party spaces in channels_last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

from search_spaces.depthwise import depthwise, is_transformed
from search_spaces.extensions import HasMemoryFormat
from search_spaces.pointwise import subsample


def takes_channels_last(space: nn.Module) -> bool:
    """Return whether a space is searched in channels_last, in which convolutions on a CPU are faster.

    The spaces of NNI's hub are searched so. Other spaces may depend on the order of the dimensions, so they declare it
    themselves.
    """
    if isinstance(space, HasMemoryFormat):
        return space.channels_last
    return any(kind.__module__.startswith("nni.nas.hub.") for kind in type(space).__mro__)


class ChannelsLast(TorchFunctionMode):
    """Context manager: run the modules and functions of third-party spaces in channels_last on a CPU.

    - A strided 1×1 convolution is computed without the stride, on the pixels that it reads. oneDNN's AVX2 kernel for
      the weight gradient of a strided convolution writes beyond its buffer (docs/cpu_kernels.md).
    - A depthwise convolution trains as :func:`~search_spaces.depthwise.depthwise` does.
    - With ``sums``, the sum of a stack of images stays in channels_last. PyTorch's sum does not, which slows down all
      later operations. NNI's cell of NAS-Bench-201 adds its edges in this way.

    The operations of this project do not need this context.

    Args:
        sums: Whether sums of stacks keep the format, which a space may not expect that depends on the order of the
            dimensions.
    """

    def __init__(self, sums: bool = False) -> None:
        super().__init__()
        self.instead: dict[Callable[..., Any], Callable[..., Any]] = {torch.conv2d: _conv2d}
        if sums:
            self.instead |= {torch.stack: _stack, torch.sum: _sum}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch, or its replacement."""
        return self.instead.get(func, func)(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if (
        groups > 1
        and bias is None
        and _is_depthwise(input, weight, _square(stride), padding, _square(dilation), groups)
    ):
        return depthwise(input, weight, _square(stride), _square(dilation))
    rows, columns = _pair(stride) if len(_pair(stride)) == 2 else _pair(stride[0])
    if weight.shape[-2:] == (1, 1) and (rows, columns) != (1, 1) and input.device.type == "cpu":
        above, beside = (0, 0) if isinstance(padding, str) else _pair(padding)
        if above or beside:
            input = nn.functional.pad(input, (beside, beside, above, above))
        input, stride, padding = subsample(input, rows, columns), 1, 0
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _is_depthwise(input: Tensor, weight: Tensor, stride: int, padding: Any, dilation: int, groups: int) -> bool:
    channels, _, kernel, columns = weight.shape
    return (
        groups == channels == input.shape[-3]
        and input.dim() == 4
        and input.is_floating_point()
        and kernel == columns > 1
        and kernel % 2 == 1
        and stride in (1, 2)
        and dilation in (1, 2)
        and not isinstance(padding, str)
        and _square(padding) == dilation * (kernel // 2)
    )


def _square(sides: Any) -> int:
    """Return the value of both sides if they are equal, else 0."""
    rows, columns = _pair(sides) if len(_pair(sides)) == 2 else _pair(sides[0])
    return int(rows) if rows == columns else 0


def _stack(tensors: list[Tensor] | tuple[Tensor, ...], *args: Any, **kwargs: Any) -> Tensor:
    if args or kwargs or not all(map(_in_channels_last, tensors)):
        return torch.stack(tensors, *args, **kwargs)
    return torch.stack([x.permute(0, 2, 3, 1) for x in tensors]).permute(0, 1, 4, 2, 3)


def _sum(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if args != (0,) or kwargs or input.dim() != 5 or len(input) == 0 or not _in_channels_last(input[0]):
        return torch.sum(input, *args, **kwargs)
    return input.permute(0, 1, 3, 4, 2).sum(0).permute(0, 3, 1, 2)


def _in_channels_last(x: Any) -> bool:
    return (
        isinstance(x, Tensor)
        and x.dim() == 4
        and x.device.type == "cpu"
        and not is_transformed()
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
    )
