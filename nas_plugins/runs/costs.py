"""Costs of the network that a search derived, and their targets, as cost.json holds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nas_plugins.errors import InputError
from nas_plugins.files import read_object
from nas_plugins.runs.directory import COST, say
from nas_plugins.runs.tables import COSTS

COST_NAMES = {metric: metric.replace("_", "-") for metric in COSTS}
"""Metric of a cost -> its name in texts."""

_UNITS = (("G", 1e9), ("M", 1e6), ("k", 1e3))


@dataclass(frozen=True)
class CostResult:
    """Cost of the network that a search derived.

    Args:
        metric: One of :data:`~nas_plugins.runs.tables.COSTS`.
        target: Highest cost that the network should have.
        derived: Cost of the network.
        missed_by: Share by which the cost is above the target, 0 if it meets the target.
    """

    metric: str
    target: float
    derived: float
    missed_by: float

    def __str__(self) -> str:
        """Return the cost in words, for example ``multiply-adds 58.2k of at most 60k: met``."""
        verdict = f"missed by {_rounded(100 * self.missed_by)}%" if self.missed_by > 0 else "met"
        amounts = f"{amount(self.metric, self.derived)} of at most {amount(self.metric, self.target)}"
        return f"{COST_NAMES[self.metric]} {amounts}: {verdict}"


def amount(metric: str, value: float) -> str:
    """Return a cost with three significant digits and its unit, for example ``58.2k`` or ``1.25 ms``.

    Args:
        metric: One of :data:`~nas_plugins.runs.tables.COSTS`.
        value: The cost, in milliseconds if it is a latency.
    """
    if metric == "latency":
        return f"{_rounded(value)} ms"
    rounded = float(f"{value:.3g}")  # before the choice of the unit, since 999,900 is 1M
    unit, size = next(((unit, size) for unit, size in _UNITS if rounded >= size), ("", 1.0))
    return f"{rounded / size:g}{unit}"


def _rounded(value: float) -> str:
    return f"{float(f'{value:.3g}'):g}"


def read_costs_of(file: Path) -> tuple[CostResult, ...]:
    """Return the costs in a cost.json; none if the file does not exist.

    Raises:
        InputError: The file is damaged.
    """
    if not file.exists():
        return ()
    entries = read_object(file).get("costs")
    try:
        costs = tuple(
            CostResult(cost["metric"], *(float(cost[key]) for key in ("target", "derived", "missed_by")))
            for cost in entries or ()
        )
    except (KeyError, TypeError, ValueError):
        costs = ()
    if not costs or any(cost.metric not in COSTS or cost.target <= 0 for cost in costs):
        raise InputError(f"{file}: should have costs, each with metric, target, derived and missed_by")
    return costs


def say_costs(run: Path) -> None:
    """Print a line per cost of a finished search, in the first process only."""
    for cost in read_costs_of(run / COST):
        say(f"{run}: {cost}")
