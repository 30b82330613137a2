"""Layer choices, input choices and repetitions of a supernet."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nni.nas.nn.pytorch import InputChoice, LayerChoice, Repeat
from nni.nas.oneshot.pytorch.supermodule._expression_utils import weighted_sum
from torch import Tensor, nn

from search_spaces.edges import NONE
from strategies.supernet.architecture import Architecture, Mixed, add, mix, weighted
from strategies.supernet.partial_channels import can_narrow, run_on_part
from strategies.supernet.parts import NO_PARTS, SupernetParts
from strategies.supernet.shared_input import SharedInput
from strategies.supernet.values import Value


class MixedLayer(Mixed):
    """A layer choice, which is one edge.

    Candidates that change the number of channels, or have other weights than convolutions and batch normalizations, run
    on all channels even with partial channels.

    Args:
        choice: NNI's choice that this module replaces.
        architecture: α and the plan that the module follows.
        parts: Parts that the strategy adds to the edge.
    """

    def __init__(self, choice: LayerChoice, architecture: Architecture, parts: SupernetParts = NO_PARTS) -> None:
        super().__init__(architecture)
        self.label, names = choice.label, list(choice.names)
        architecture.add_edge(self.label, names)
        self.shared = SharedInput()
        candidates = {name: choice[name] for name in names}
        self.parts = parts
        self.partial = parts.partial_channels > 1 and can_narrow(candidates.values(), parts.partial_channels)
        if self.partial:
            candidates = parts.narrowed(candidates, architecture)
        # In a tuple, since they are submodules of the prepared candidates.
        self.originals = tuple(candidates.values())
        self.companion = parts.beside(candidates, architecture)
        self.candidates = nn.ModuleList(parts.prepare(candidates, architecture).values())
        # NNI's hub uses this name for its zero operation. An identity of this name skips the layer and is not zero.
        self.zero = NONE in names and not isinstance(choice[NONE], nn.Identity)
        # A candidate that declares itself zero, as NNI's does, adds nothing to the others, whatever its weight.
        zero = names.index(NONE) if self.zero and getattr(choice[NONE], "is_zero", False) is True else None
        self.skipped = zero if zero is not None and self.candidates[zero] is choice[NONE] else None
        self.add_mutable(choice.choice)

    def edges(self) -> Iterable[str]:
        return (self.label,)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Follow the plan, with the arguments of the candidates."""
        if self.partial:
            (x,) = (*args, *kwargs.values())
            return run_on_part(self._mix, x, self.parts.channels(self.architecture.step))
        return self._mix(*args, **kwargs)

    def _mix(self, *args: Any, **kwargs: Any) -> Any:
        def output(index: int, weight: Tensor | None) -> Any:
            out = self.shared(self.candidates[index], *args, **kwargs)
            if weight is None:
                return out
            return weight * out if isinstance(out, Tensor) else weighted_sum([out], [weight])

        choice = self.architecture.plan[self.label]
        run = weighted(choice, len(self.candidates))
        total = mix([one for one in run if one[0] != self.skipped] or run, output)
        if self.companion is not None and not isinstance(choice, tuple):
            return add(total, self.shared(self.companion, *args, **kwargs))
        return total

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return the candidate with the highest α, other than the zero operation ``none`` unless it is the only one.

        The weight of a zero only scales the sum of the others under softmax and has no effect under sigmoid, so its α
        does not measure its importance (DARTS, section 2.4).
        """
        if self.label in memo:
            return {}
        alphas = self.architecture.table([self.label])[self.label]
        eligible = [name for name in alphas if not (self.zero and name == NONE)] or list(alphas)
        return {self.label: max(eligible, key=alphas.__getitem__)}


class MixedInput(Mixed):
    """An input choice, which is one edge; its candidates are the inputs.

    Args:
        choice: NNI's choice that this module replaces.
        architecture: α and the plan that the module follows.

    Raises:
        TypeError: The reduction of the choice is neither sum nor mean.
    """

    def __init__(self, choice: InputChoice, architecture: Architecture) -> None:
        super().__init__(architecture)
        if choice.reduction not in ("sum", "mean"):
            raise TypeError(
                f"the input choice {choice.label!r} has the reduction {choice.reduction!r}; "
                "a differentiable strategy can search sum and mean"
            )
        self.label = choice.label
        if choice.n_chosen is None:
            text = f"the input choice {self.label!r} may take any number of inputs; it is given one"
            warnings.warn(text, stacklevel=1)
        self.n_chosen = choice.n_chosen or 1
        self.mean = choice.reduction == "mean"
        architecture.add_edge(self.label, range(choice.n_candidates))
        if self.n_chosen > 1:
            architecture.multi_input_choices.add(self.label)
        self.add_mutable(choice.choice)

    def edges(self) -> Iterable[str]:
        return (self.label,)

    def forward(self, inputs: Sequence[Any]) -> Any:
        """Follow the plan over the inputs."""
        choice = self.architecture.plan[self.label]
        chosen = weighted(choice, len(inputs))
        total = mix(chosen, lambda index, weight: inputs[index] if weight is None else weight * inputs[index])
        return total / len(choice) if self.mean and isinstance(choice, tuple) else total

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return the indices of the inputs with the highest α, ascending; of equal inputs, the first."""
        if self.label in memo:
            return {}
        alphas = self.architecture.table([self.label])[self.label]
        best = sorted(alphas, key=lambda index: -alphas[index])[: self.n_chosen]
        return {self.label: sorted(best)}


class MixedRepeat(Mixed):
    """A sequence of blocks of variable depth, which is one edge.

    A relaxed depth gives the weighted sum of the outputs at all depths; each block runs once.

    Args:
        repeat: NNI's repetition that this module replaces.
        architecture: α and the plan that the module follows.
    """

    def __init__(self, repeat: Repeat, architecture: Architecture) -> None:
        super().__init__(architecture)
        self.blocks = repeat.blocks
        self.depth = Value(repeat.depth_choice, architecture)
        self.shared = SharedInput()
        # NNI's hub aligns the two outputs of a stage of cells if the stage has a single cell.
        align: Callable[[], nn.Module | None] = getattr(repeat, "first_cell_transformation_factory", lambda: None)
        self.align_first = align()
        self.add_mutable(repeat.depth_choice)

    def edges(self) -> Iterable[str]:
        return self.depth.labels

    def forward(self, x: Any) -> Any:
        """Follow the plan, with the input and the output of the blocks."""
        depth_now = self.depth.now()
        weights = depth_now if isinstance(depth_now, dict) else {depth_now: None}
        outputs = {0: x}
        for depth in range(1, max(weights) + 1):
            # Outputs to be mixed must keep their values: a block may write to its input or return it.
            x = self.shared(self.blocks[depth - 1], x)
            outputs[depth] = x
        if self.align_first is not None and 1 in weights:
            before, previous = outputs[1]
            outputs[1] = self.align_first(before), previous
        return weighted_sum([outputs[depth] for depth in weights], list(weights.values()))


def refuse_multi_input(architecture: Architecture) -> None:
    """Check that every path of the supernet runs one candidate per edge.

    Raises:
        TypeError: An input choice takes more than one input.
    """
    for label in sorted(architecture.multi_input_choices):
        raise TypeError(
            f"the input choice {label!r} takes more than one input, and a path of this strategy runs one candidate an "
            "edge: n_chosen should be 1"
        )
