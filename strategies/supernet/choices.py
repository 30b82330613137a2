"""Layer choices, input choices and repetitions of a supernet."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nni.nas.nn.pytorch import InputChoice, LayerChoice, Repeat
from nni.nas.oneshot.pytorch.supermodule._expression_utils import weighted_sum
from torch import Tensor, nn

from strategies.derivation import NONE
from strategies.supernet.architecture import Architecture, Mixed, mix
from strategies.supernet.values import Value


class MixedLayer(Mixed):
    """A layer choice: one edge."""

    def __init__(self, choice: LayerChoice, architecture: Architecture) -> None:
        super().__init__(architecture)
        self.label, names = choice.label, list(choice.names)
        architecture.add_edge(self.label, names)
        self.candidates = nn.ModuleList(choice[name] for name in names)
        # By name, as NNI's hub does; an identity of that name is a layer that is left out, and no zero.
        self.zero = NONE in names and not isinstance(choice[NONE], nn.Identity)
        self.add_mutable(choice.choice)

    def edges(self) -> Iterable[str]:
        return (self.label,)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Follow the plan, with the arguments of the candidates."""

        def output(index: int, weight: Tensor | None) -> Any:
            out = self.candidates[index](*args, **kwargs)
            if weight is None:
                return out
            return weight * out if isinstance(out, Tensor) else weighted_sum([out], [weight])

        return mix(self.architecture.plan[self.label], len(self.candidates), output)

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """The candidate with the highest α, but for the zero that NNI's hub names ``none``.

        What a zero weighs scales the sum of the others under softmax, and does nothing under sigmoid, so that its α
        says nothing about its worth (DARTS, section 2.4). A choice that has nothing else gives it all the same.
        """
        if self.label in memo:
            return {}
        names = self.architecture.candidates[self.label]
        alphas = dict(zip(names, self.architecture.alphas[self.label].tolist(), strict=True))
        considered = [name for name in names if not (self.zero and name == NONE)] or names
        return {self.label: max(considered, key=alphas.__getitem__)}


class MixedInput(Mixed):
    """An input choice: one edge, whose candidates are the inputs."""

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
        total = mix(choice, len(inputs), lambda i, weight: inputs[i] if weight is None else weight * inputs[i])
        return total / len(choice) if self.mean and not isinstance(choice, Tensor) else total

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """The inputs with the highest α, in order."""
        if self.label in memo:
            return {}
        alpha = self.architecture.alphas[self.label].tolist()
        best = sorted(range(len(alpha)), key=lambda index: -alpha[index])[: self.n_chosen]  # of equal ones the first
        return {self.label: sorted(best)}


class MixedRepeat(Mixed):
    """Blocks one after the other, of which the first few run: how many is an edge.

    Relaxed, it is the sum of what each depth gives, each times its weight. The blocks up to the
    deepest one run once.
    """

    def __init__(self, repeat: Repeat, architecture: Architecture) -> None:
        super().__init__(architecture)
        self.blocks = repeat.blocks
        self.depth = Value(repeat.depth_choice, architecture)
        # NNI's hub aligns the outputs of a stage of cells that may have a single one.
        align: Callable[[], nn.Module | None] = getattr(repeat, "first_cell_transformation_factory", lambda: None)
        self.align_first = align()
        self.add_mutable(repeat.depth_choice)

    def edges(self) -> Iterable[str]:
        return self.depth.labels

    def forward(self, x: Any) -> Any:
        """The same input and output as the blocks."""
        found = self.depth.now()
        weights = found if isinstance(found, dict) else {found: None}
        outputs = {0: x}
        for depth in range(1, max(weights) + 1):
            x = self.blocks[depth - 1](x)
            outputs[depth] = x
        if self.align_first is not None and 1 in weights:
            before, previous = outputs[1]
            outputs[1] = self.align_first(before), previous
        return weighted_sum([outputs[depth] for depth in weights], list(weights.values()))
