"""Mutation of a model space into a supernet: each of NNI's choices is replaced by a module that follows the plan."""

from __future__ import annotations

from typing import Any

from nni.mutable import MutableExpression
from nni.nas.nn.pytorch import Cell, InputChoice, LayerChoice, MutableModule, Repeat
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.oneshot.pytorch.supermodule.operation import NATIVE_MIXED_OPERATIONS, MixedOperation
from torch import nn

from strategies.supernet.architecture import Architecture
from strategies.supernet.cell import MixedCell
from strategies.supernet.choices import MixedInput, MixedLayer, MixedRepeat
from strategies.supernet.parts import SupernetParts
from strategies.supernet.values import PlanSamplingPolicy

SUPER_KERNELS: dict[type, type[MixedOperation]] = {kind.bound_type: kind for kind in NATIVE_MIXED_OPERATIONS}
"""Class that takes value choices as arguments -> NNI's super-kernel, which holds the weights of all values."""


def replace_choice(
    module: nn.Module, name: str, architecture: Architecture, parts: SupernetParts
) -> BaseSuperNetModule | None:
    """Return the supernet module that replaces a module with a choice, None for any other module.

    Args:
        module: A module of a model space.
        name: Its name in the model space, for error messages.
        architecture: The architecture that receives the edges of the choice.
        parts: Parts that the strategy adds to the edges.

    Raises:
        TypeError: The choice cannot be searched.
    """
    # The types must match exactly, because a subclass may interpret its choice differently.
    if type(module) is Cell:
        return MixedCell(module, architecture, parts)
    if type(module) is LayerChoice:
        return MixedLayer(module, architecture, parts)
    if type(module) is InputChoice:
        return MixedInput(module, architecture)
    is_plain_repeat = isinstance(module, Repeat) and type(module).forward is Repeat.forward
    if is_plain_repeat and isinstance(module.depth_choice, MutableExpression):
        return MixedRepeat(module, architecture)
    if not isinstance(module, MutableModule) or isinstance(module, BaseSuperNetModule) or not module.mutables:
        return None
    if type(module) in SUPER_KERNELS:
        return _super_kernel(module, architecture)
    labels = ", ".join(map(repr, dict.fromkeys(label for mutable in module.mutables for label in mutable.simplify())))
    raise TypeError(
        f"{name} ({type(module).__name__}) has the choice {labels}, which a differentiable strategy cannot search: "
        "it searches cells, layer and input choices, the depth of Repeat, and arguments of "
        f"{', '.join(kind.__name__ for kind in SUPER_KERNELS)}"
    )


def _super_kernel(module: Any, architecture: Architecture) -> MixedOperation:
    # As in NNI's own supernets, with another sampling policy.
    mixed = SUPER_KERNELS[type(module)](module.trace_kwargs)
    mixed.sampling_policy = PlanSamplingPolicy(mixed, architecture)
    return mixed
