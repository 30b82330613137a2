"""The parameters that the trials of an experiment can have, by NNI's search space."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from nni.common.hpo_utils import validate_search_space
from nni.common.hpo_utils.validation import common_search_space_types

from nas_plugins.errors import InputError
from nas_plugins.files import one_line

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
"""A share of a range that leads to no whole number, nor to another that people write."""

_LARGEST = 1e15
"""Bounds beyond it are mistakes, and steps so much smaller than a bound change nothing."""


def batch(where: str, space: Any) -> list[dict[str, Any]]:
    """What NNI's BatchTuner gives: the values of its one choice, each of which has all keys."""
    specs = list(space.values()) if isinstance(space, Mapping) else []
    values = specs[0].get("_value") if len(specs) == 1 and isinstance(specs[0], Mapping) else None
    if not isinstance(values, list) or not all(isinstance(value, Mapping) for value in values):
        right = "{combine_params: {_type: choice, _value: [{seed: 0}, {seed: 1}]}}"
        raise InputError(f"{where}: {space!r:.80} should be one choice between objects with keys, such as {right}")
    return [dict(value) for value in values]


def samples(where: str, space: Any) -> Iterator[dict[str, Any]]:
    """Parameters with every value of every choice, and of every range its bounds and a number between, at least once.

    Args:
        where: the place of the search space, for messages.
        space: NNI's search space.

    Raises:
        InputError: it is none.
    """
    if not isinstance(space, Mapping):
        raise InputError(f"{where}: {space!r:.80} should have keys such as seed: {{_type: choice, _value: [0, 1]}}")
    for key in space:
        if not isinstance(key, str) or not key:
            raise InputError(f"{where}: {key!r:.80} should be a key of a config, such as seed")
    values = {key: _values(f"{where}: {key}", spec) for key, spec in space.items()}
    first = {key: given[0] for key, given in values.items()}
    yield first
    for key, given in values.items():
        yield from ({**first, key: value} for value in given[1:])


def _values(where: str, spec: Any) -> list[Any]:
    if not isinstance(spec, Mapping) or not isinstance(spec.get("_value"), list) or not spec["_value"]:
        right = "{_type: choice, _value: [0, 1]}"
        raise InputError(f"{where}: {spec!r:.80} should have _type and _value, such as {right}")
    kind, given = str(spec.get("_type")), spec["_value"]
    if kind == "choice":
        return list(itertools.chain.from_iterable(_choices(where, value) for value in given))
    if kind not in common_search_space_types:
        raise InputError(f"{where}: _type: {kind!r:.80} should be one of {', '.join(common_search_space_types)}")
    try:
        validate_search_space({where: dict(spec)}, raise_exception=True)
    except ValueError as error:
        raise InputError(one_line(error).removeprefix("search space ").replace(f'"{where}"', f"{where}:", 1)) from None
    if kind == "randint":
        return [given[0], given[1] - 1]
    if not all(abs(number) < _LARGEST for number in given):
        raise InputError(f"{where}: {kind}: {given!r:.80} should be numbers below {_LARGEST:g}")
    if kind.startswith("q") and not given[2] > max(map(abs, given[:2])) / _LARGEST:
        raise InputError(f"{where}: {kind}: its last value, {given[2]}, is a step and should be above 0")
    return _in_range(kind, *map(float, given))


def _in_range(kind: str, low: float, high: float, step: float | None = None) -> list[float]:
    """Numbers that a range of NNI's can give; where no step makes them so, one at least is not whole.

    Args:
        kind: NNI's type of the range.
        low, high: its bounds, or of a normal one its mean and deviation.
        step: what its numbers are multiples of.
    """
    if "normal" in kind:  # which has no bounds: near its middle
        numbers = [low, low + _GOLDEN_RATIO * high]
        if "log" in kind:
            numbers = [math.exp(min(number, 700)) for number in numbers]
        return numbers if step is None else [round(numbers[0] / step) * step, (round(numbers[0] / step) + 1) * step]
    if step is not None:  # NNI draws between the bounds, rounds, and moves what is out of them to the bound
        edge = (high - low) / 1e6
        steps = [round((low + edge) / step), round((low + edge) / step) + 1, round((high - edge) / step)]
        return [min(max(number * step, low), high) for number in steps]
    between = low * (high / low) ** _GOLDEN_RATIO if "log" in kind else low + _GOLDEN_RATIO * (high - low)
    return [low, high, between]


def _choices(where: str, value: Any) -> Iterator[Any]:
    if not isinstance(value, Mapping):
        yield value
        return
    if "_name" not in value:
        raise InputError(f"{where}: {value!r:.80} should have a _name, as a nested choice of NNI's")
    nested = {key: spec for key, spec in value.items() if key != "_name"}
    for sample in samples(where, nested):
        yield {"_name": value["_name"], **sample}
