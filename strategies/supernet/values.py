"""Value choices of a supernet: widths, kernel sizes, depths.

A relaxed width or kernel size mixes weights, not outputs: NNI's super-kernels slice the weights of each value from the
largest and sum the slices, so all values together cost one convolution.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

from nni.mutable import Categorical, MutableExpression
from nni.nas.oneshot.pytorch.supermodule.operation import MixedOperation, MixedOperationSamplingPolicy
from torch import Tensor

from strategies.relaxation import WeightedOps
from strategies.supernet.architecture import Architecture, weighted


class Value:
    """An expression over value choices, for example a width times a ratio; each choice in it is an edge.

    Args:
        expression: NNI's expression.
        architecture: α and the plan that the value follows.

    Attributes:
        labels: Labels of the choices.

    Raises:
        TypeError: A choice is not a list of values.
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
        self._evaluated: dict[tuple[Any, ...], Any] = {}

    def now(self) -> Any:
        """Return the value under the current plan, or {value: weight} if one of its choices is relaxed."""
        options: list[list[tuple[Any, Tensor | None]]] = []
        for label in self.labels:
            candidates, choice = self.architecture.candidates[label], self.architecture.plan[label]
            chosen = weighted(choice, len(candidates))
            if not isinstance(choice, (Tensor, WeightedOps)):
                chosen = chosen[:1]
            options.append([(candidates[index], weight) for index, weight in chosen])
        outcomes: dict[Any, Any] = {}
        for combination in product(*options):
            value = self.of(tuple(value for value, _ in combination))
            weights = [weight for _, weight in combination if weight is not None]
            if not weights:
                return value
            outcomes[value] = outcomes.get(value, 0) + math.prod(weights[1:], start=weights[0])
        return outcomes

    def of(self, values: tuple[Any, ...]) -> Any:
        """Return the value of the expression, given the value of each choice in the order of the labels."""
        if values not in self._evaluated:
            self._evaluated[values] = self.expression.freeze(dict(zip(self.labels, values, strict=True)))
        return self._evaluated[values]


class PlanSamplingPolicy(MixedOperationSamplingPolicy):
    """Sampling policy that takes the arguments of NNI's super-kernels from the plan.

    Args:
        operation: The super-kernel.
        architecture: α and the plan that it follows.
    """

    def __init__(self, operation: MixedOperation, architecture: Architecture) -> None:
        self.architecture = architecture
        self.values = {
            name: Value(expression, architecture) for name, expression in operation.mutable_arguments.items()
        }

    def _labels(self, memo: dict[str, Any]) -> list[str]:
        labels = dict.fromkeys(label for value in self.values.values() for label in value.labels)
        return [label for label in labels if label not in memo]

    def resample(self, operation: MixedOperation, memo: dict[str, Any]) -> dict[str, Any]:
        """Return an empty sample: the plan is set for all modules at once."""
        return {}

    def export(self, operation: MixedOperation, memo: dict[str, Any]) -> dict[str, Any]:
        """Return label -> the value with the highest α."""
        return self.architecture.strongest(self._labels(memo))

    def export_probs(self, operation: MixedOperation, memo: dict[str, Any]) -> dict[str, Any]:
        """Return label -> value -> softmax weight."""
        return self.architecture.probabilities(self._labels(memo))

    def forward_argument(self, operation: MixedOperation, name: str) -> Any:
        """Return the value of an argument, or {value: weight} if it is relaxed."""
        value = self.values.get(name)
        return operation.init_arguments[name] if value is None else value.now()
