"""The ReLU or the pooling at the beginning of operations, shared by operations that read the same node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeGuard

from torch import Tensor, nn
from torch.nn import functional

from search_spaces.operations import FactorizedReduce

_BEGINNINGS = (nn.ReLU, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d)


@dataclass(frozen=True)
class Beginning:
    """The ReLU or the pooling at the beginning of an operation. Operations with equal beginnings can share its output.

    Args:
        kind: Class of the module.
        settings: Settings of the module.
        module: Module with these settings.
    """

    kind: type[nn.Module]
    settings: str
    module: nn.Module = field(compare=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the output for an input, which is not changed."""
        if self.kind is nn.ReLU:  # the module may write to its input
            return functional.relu(x)
        output: Tensor = self.module(x)
        return output


def split_beginning(operation: nn.Module) -> tuple[Beginning | None, nn.Module]:
    """Divide an operation into the ReLU or the pooling at its beginning, None if it has none, and the rest.

    The rest of a chain is the chain itself with an identity at its beginning, so that the names of its weights do not
    change. An operation with hooks is not divided, because its hooks would not be called, or with another input.
    """
    place = "0" if is_chain(operation) else "relu" if type(operation) is FactorizedReduce else None
    first = operation if place is None else operation.get_submodule(place)
    if type(first) not in _BEGINNINGS or has_hooks(operation) or has_hooks(first):
        return None, operation
    settings = {name: getattr(first, name) for name in type(first).__constants__}  # type: ignore[attr-defined]
    if place is None:
        operation = nn.Identity()
    else:
        setattr(operation, place, nn.Identity())
    return Beginning(type(first), repr(settings), first), operation


def is_chain(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Return whether a module is a sequence of submodules that it runs one after another."""
    # Subclasses of Sequential may override forward.
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and len(module) > 0


def has_hooks(module: nn.Module) -> bool:
    """Return whether a call of a module also calls hooks."""
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))
