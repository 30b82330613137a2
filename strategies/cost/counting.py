"""Multiply-adds and activations of each module of a network, counted in a pass on the meta device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

Counts = dict[nn.Module, tuple[float, float, float]]
"""Module -> multiply-adds and activations of its own operators, without those of its submodules, and the size of all
its outputs."""


_ELEMENTWISE = {
    f"aten.{name}"
    for name in (
        "add", "sub", "mul", "div", "relu", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu",
        "native_batch_norm", "_native_batch_norm_legit_no_training",
    )
}  # fmt: skip
"""Operators whose first output has the shape that their arguments broadcast to.

Their shapes are computed here, because PyTorch would spend most of a pass on the meta device on them.
"""


def _elementwise(func: Any, args: tuple[Any, ...]) -> Any:
    if func._schema.is_mutable and "batch_norm" not in func.__name__:  # in-place operators
        return args[0]
    tensors = [arg for arg in args[:2] if isinstance(arg, Tensor)]
    whole = max(tensors, key=Tensor.dim)  # the other argument may be a number on the CPU
    if "batch_norm" in func.__name__:
        none = whole.new_empty(0)
        return whole.new_empty(whole.shape), none, none
    shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))  # type: ignore[no-untyped-call]
    return whole.new_empty(shape)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counter of the convolutions and matrix products of the innermost running module.

    Args:
        running: The modules that are running, the innermost last.
    """

    def __init__(self, running: list[nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.running = running
        self.counts: dict[nn.Module, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and str(func._overloadpacket).removesuffix("_") in _ELEMENTWISE:
            return _elementwise(func, args)
        if formula is None:
            with self:  # the parts of a composite operator
                parts = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if parts is NotImplemented else parts
        out = func(*args, **kwargs)
        if self.running:
            counts = self.counts[self.running[-1]]
            counts[0] += formula(*args, **kwargs, out_val=out) / 2
            counts[1] += next(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        return out


class _Running:
    """The modules that are running, and the total size of the outputs of each.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules: list[nn.Module] = []
        self.sizes: dict[nn.Module, float] = defaultdict(float)

    def enter(self, module: nn.Module, *_: Any) -> None:
        self.modules.append(module)

    def leave(self, module: nn.Module, _: Any, output: Any) -> None:
        self.modules.pop()
        self.sizes[module] += sum(leaf.numel() for leaf in tree_leaves(output) if isinstance(leaf, Tensor))


@contextmanager
def forward_hooks(model: nn.Module, before: Callable[..., None], after: Callable[..., None]) -> Iterator[None]:
    """Call functions before and after the forward pass of every submodule of a model, within this context.

    Args:
        model: The model.
        before: Function of the module and its arguments.
        after: Function of the module, its arguments and its output.
    """
    handles = [module.register_forward_pre_hook(before) for module in model.modules()]
    handles += [module.register_forward_hook(after, always_call=True) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def count(model: nn.Module, run: Callable[[], Any]) -> Counts:
    """Return the counts of each module that runs in a forward pass.

    Multiply-adds are those of convolutions, matrix products and attention, as PyTorch's FLOP counter counts them.
    Activations are the output values of these operators (Radosavovic et al., 2020, section 2).

    Args:
        model: The model, on the meta device.
        run: Function that runs the model.
    """
    running = _Running(model)
    with torch.no_grad(), forward_hooks(model, running.enter, running.leave), _Counter(running.modules) as counter:
        run()
    return {module: (*counter.counts[module], size) for module, size in running.sizes.items()}
