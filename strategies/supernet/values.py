"""Value choices of a supernet: widths, kernel sizes, depths.

A relaxed width or kernel size mixes weights, not outputs: NNI's super-kernels slice each value's
weights out of the largest and add the slices up, which costs one convolution for all values.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

from nni.mutable import Categorical, MutableExpression
from nni.nas.oneshot.pytorch.supermodule.operation import MixedOperation, MixedOperationSamplingPolicy
from torch import Tensor

from strategies.supernet.architecture import Architecture


class Value:
    """An expression over value choices, such as a width times a ratio; each choice in it is an edge.

    Args:
        expression: NNI's.
        architecture: the α and the plan that it follows.

    Attributes:
        labels: of its choices.

    Raises:
        TypeError: a choice has no list of values.
    """

    def __init__(self, expression: MutableExpression, architecture: Architecture) -> None:
        self.expression, self.architecture = expression, architecture
        choices = expression.simplify()
        for label, choice in choices.items():
            if not isinstance(choice, Categorical):
                raise TypeError(
                    f"the value choice {label!r} is {choice!r}; a differentiable strategy can search a list of values"
                )
            architecture.add_edge(label, choice.values)
        self.labels = tuple(choices)
        self._known: dict[tuple[Any, ...], Any] = {}

    def now(self) -> Any:
        """What the plan makes of it: a value, or {value: weight} where one of its choices is relaxed."""
        options: list[list[tuple[Any, Tensor | None]]] = []
        for label in self.labels:
            candidates, choice = self.architecture.candidates[label], self.architecture.plan[label]
            if isinstance(choice, Tensor):
                options.append(list(zip(candidates, choice.unbind(), strict=True)))
            else:
                options.append([(candidates[choice[0]], None)])
        outcomes: dict[Any, Any] = {}
        for combination in product(*options):
            value = self._evaluate(tuple(value for value, _ in combination))
            weights = [weight for _, weight in combination if weight is not None]
            if not weights:
                return value
            outcomes[value] = outcomes.get(value, 0) + math.prod(weights[1:], start=weights[0])
        return outcomes

    def _evaluate(self, values: tuple[Any, ...]) -> Any:
        if values not in self._known:
            self._known[values] = self.expression.freeze(dict(zip(self.labels, values, strict=True)))
        return self._known[values]


class PlanSamplingPolicy(MixedOperationSamplingPolicy):
    """What NNI's super-kernels ask for their arguments: the plan."""

    def __init__(self, operation: MixedOperation, architecture: Architecture) -> None:
        self.architecture = architecture
        self.values = {
            name: Value(expression, architecture) for name, expression in operation.mutable_arguments.items()
        }

    def _labels(self, memo: dict[str, Any]) -> list[str]:
        labels = dict.fromkeys(label for value in self.values.values() for label in value.labels)
        return [label for label in labels if label not in memo]

    def resample(self, operation: MixedOperation, memo: dict[str, Any]) -> dict[str, Any]:
        """Nothing: the plan is drawn for all modules at once."""
        return {}

    def export(self, operation: MixedOperation, memo: dict[str, Any]) -> dict[str, Any]:
        """label -> the value with the highest α."""
        return self.architecture.strongest(self._labels(memo))

    def export_probs(self, operation: MixedOperation, memo: dict[str, Any]) -> dict[str, Any]:
        """label -> value -> its softmax weight."""
        return self.architecture.probabilities(self._labels(memo))

    def forward_argument(self, operation: MixedOperation, name: str) -> Any:
        """A value, or {value: weight}."""
        value = self.values.get(name)
        return operation.init_arguments[name] if value is None else value.now()
