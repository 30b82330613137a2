"""Config section cost: the costs that a search keeps low."""

from __future__ import annotations

import math
import os
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import PositiveFloat

from nas_plugins.errors import InputError
from nas_plugins.files import one_line

Metric = Literal["parameters", "multiply_adds", "activations", "latency"]

_ALIASES = {"flops": "multiply_adds", "macs": "multiply_adds", "params": "parameters"}
_UNITS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}


@dataclass
class CostConfig:
    """Cost that a search keeps low.

    Args:
        metric: ``parameters``, ``multiply_adds`` (``flops`` in most papers), ``activations`` or ``latency``.
        target: Highest cost that the derived network should have, a number optionally followed by k, M or G. Latency is
            in milliseconds for one image.
        weight: Weight of the term max(0, expected cost / target − 1) in the loss of α; null for a multiplier that the
            search adapts to meet the target.
        table: File of ``nas-plugins latency``; null to measure latency on this machine.
        device: Name of the device for which the table must have been measured; null for this one.
    """

    metric: Metric
    target: PositiveFloat
    weight: PositiveFloat | None = None
    table: str | None = None
    device: str | None = None


def read_costs(section: Any) -> tuple[CostConfig, ...]:
    """Return the costs of a config.

    Args:
        section: The value of the key ``cost``: a section, or a list of sections.

    Raises:
        InputError: A key is unknown or a value is wrong; the message names it.
    """
    if section is None:
        return ()
    entries = section if isinstance(section, list) else [section]
    costs = tuple(map(_read, entries))
    metrics = [cost.metric for cost in costs]
    for metric in metrics:
        if metrics.count(metric) > 1:
            raise InputError(f"cost: {metric} is there {metrics.count(metric)} times: one target is enough")
    return costs


def plain(costs: tuple[CostConfig, ...]) -> list[dict[str, Any]]:
    """Return costs in plain YAML types."""
    return [asdict(cost) for cost in costs]


def _read(entry: Any) -> CostConfig:
    if not isinstance(entry, dict):
        raise InputError(f"cost: {entry!r} should be a section, such as {{metric: multiply_adds, target: 30M}}")
    parser = ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_class_arguments(CostConfig, "cost")
    known = list(CostConfig.__dataclass_fields__)
    for key in entry:
        if key not in known:
            raise InputError(f"unknown key cost.{key}; known are {', '.join(known)}")
    for key in ("metric", "target"):
        if entry.get(key) is None:
            raise InputError(f"cost.{key}: is missing, as in {{metric: multiply_adds, target: 30M}}")
    metric = entry["metric"]
    given = {**entry, "metric": _ALIASES.get(str(metric).lower(), metric), "target": _amount(entry["target"])}
    try:
        parsed = parser.parse_object({"cost": given}).cost
    except (ArgumentError, TypeError) as error:
        raise InputError(one_line(error)) from None
    weight = None if parsed.weight is None else float(parsed.weight)
    read = CostConfig(parsed.metric, float(parsed.target), weight, parsed.table, parsed.device)
    if weight == math.inf:
        raise InputError(f"cost.weight: {weight} should be a number")
    if read.device is not None and read.table is None:
        raise InputError(f"cost.device: {read.device!r} is the device of cost.table, which is missing")
    if read.metric != "latency" and (read.table or read.device):
        raise InputError(f"cost.table: is for latency; {read.metric} are counted")
    if read.table:
        read.table = os.path.abspath(os.path.expanduser(read.table))
    return read


def _amount(value: Any) -> Any:
    """Return the number that a text like 30M stands for, and other values unchanged."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d*\.?\d+(?:[eE][-+]?\d+)?)\s*([kKMGB]?)\s*", value)
        if match is not None:
            value = float(match[1]) * _UNITS[match[2]]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return value
    raise InputError(f"cost.target: {value!r} should be a number, such as 30M or 30e6")
