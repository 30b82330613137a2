"""NNI's penalties on the loss of α, with a gradient that reaches α."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from nni.mutable import MutableExpression
from nni.nas.oneshot.pytorch.profiler import ExpectationProfilerPenalty
from nni.nas.oneshot.pytorch.supermodule._expression_utils import traverse_all_options
from torch import Tensor

from search_spaces.edges import NONE, EdgeName
from strategies.cost.expectation import Expectation

__all__ = ["ExpectationProfilerPenalty", "distribution", "expectation_penalty", "penalized"]


def expectation_penalty(
    penalty: ExpectationProfilerPenalty | Mapping[str, Any] | None,
) -> ExpectationProfilerPenalty | None:
    """Return the penalty, given in any form that NNI's strategies accept.

    Args:
        penalty: A penalty, or its arguments: ``profiler``, ``baseline``, ``scale``, ``nonlinear`` and ``aggregate``.

    Raises:
        TypeError: The value is neither, or a penalty of single samples.
    """
    if isinstance(penalty, Mapping):
        return ExpectationProfilerPenalty(**penalty)
    if penalty is None or isinstance(penalty, ExpectationProfilerPenalty):
        return penalty
    raise TypeError(f"penalty: {type(penalty).__name__} should be an ExpectationProfilerPenalty or a dictionary")


def distribution(expectation: Expectation) -> dict[str, dict[Any, Tensor]]:
    """Return label of NNI -> candidate -> probability (scalar), in the form that expressions of NNI's profilers take.

    The choices of a node of a cell have labels like ``normal/op_2_0`` and ``normal/input_2_0``. Both operations of a
    node have the same distribution; their sum is that of the expected operations of the node.
    """
    candidates, probabilities = expectation.architecture.candidates, expectation()
    found = {edge: _by_candidate(candidates[edge], probabilities[edge]) for edge in expectation.others}
    for (cell, target), edges in expectation.nodes.items():
        kept = expectation.kept[cell]
        operations = sum(probabilities[edge] for edge in edges)
        inputs = {name.source: probabilities[edge].sum() / kept for edge in edges if (name := EdgeName.parse(edge))}
        named = _by_candidate(candidates[edges[0]], operations / kept)
        named.pop(NONE, None)  # no derived network has it
        for slot in range(kept):
            found[f"{cell}/op_{target}_{slot}"] = named
            found[f"{cell}/input_{target}_{slot}"] = inputs
    return found


def _by_candidate(candidates: tuple[Any, ...], probabilities: Tensor) -> dict[Any, Tensor]:
    return dict(zip(candidates, probabilities.unbind(), strict=True))


def penalized(
    penalty: ExpectationProfilerPenalty, loss: Tensor, expectation: Expectation
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss with a penalty, and its parts under NNI's names.

    NNI's own function fails if an expression has whole numbers and fractions among its values.

    Args:
        penalty: The penalty.
        loss: The loss of α, a scalar.
        expectation: Expectation of the candidates of the derived network.
    """
    cost = torch.as_tensor(expected_value(penalty.profiler.expression, distribution(expectation))).to(loss)
    normalized = penalty.nonlinear_fn(cost / penalty.baseline - 1)
    total = penalty.aggregate_fn(loss, normalized)
    parts = {"loss_original": loss, "penalty": cost, "normalized_penalty": normalized, "loss_final": total}
    return total, {name: value.detach() for name, value in parts.items()}


def expected_value(expression: Any, sample: Mapping[str, Mapping[Any, Tensor]]) -> Any:
    """Return the expectation of an expression of NNI, by the probabilities of the candidates of each label."""
    if not isinstance(expression, MutableExpression):
        return expression
    function, arguments = getattr(expression, "function", None), getattr(expression, "arguments", ())
    if function in (operator.add, operator.sub):  # without the combinations of shared choices
        return function(*(expected_value(argument, sample) for argument in arguments))
    return sum(value * probability for value, probability in traverse_all_options(expression, sample))
