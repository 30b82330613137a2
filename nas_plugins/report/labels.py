"""Labels of runs: their methods, with the settings in which runs of a method differ."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nas_plugins.config.costs import read_costs
from nas_plugins.runs.costs import amount
from nas_plugins.runs.reader import Run
from nas_plugins.runs.tables import COSTS

TARGETS = tuple(f"cost.{metric}" for metric in COSTS)
"""Keys by which labels name the target of each cost, for example ``cost.multiply_adds: 60k``."""


def method_labels(runs: Sequence[Run], shown: Collection[str] = ()) -> list[str]:
    """Return the method of each run, followed in brackets by the settings that differ between runs of that method.

    Args:
        runs: Runs to compare.
        shown: Config keys left out of the brackets because the reader sees them elsewhere.
    """
    return [f"{run.method}{text}" for run, text in zip(runs, differing_settings(runs, shown), strict=True)]


def differing_settings(runs: Sequence[Run], shown: Collection[str]) -> list[str]:
    """Return for each run the settings that differ between runs of its method, in brackets, as in its label."""
    texts = []
    settings = [(run.method, _settings(run)) for run in runs]
    for method, own in settings:
        others = [other for peer, other in settings if peer == method]
        keys = [key for key in own if key not in shown and any(_differs(key, own, other) for other in others)]
        # Settings of the strategy come first, then the names of space and data.
        keys.sort(key=lambda key: (not key.startswith("strategy."), not key.endswith(".name")))
        named = [f"{key.removeprefix('strategy.')}: {own[key]}" for key in keys]
        texts.append(f" ({', '.join(named)})" if named else "")
    return texts


def _differs(key: str, own: Mapping[str, str], other: Mapping[str, str]) -> bool:
    if key != "task" and other["task"] != own["task"]:
        return False  # another task already explains other settings
    name = f"{key.partition('.')[0]}.name"
    if other.get(name) != own.get(name) and (key not in other or own[key].startswith(("[", "{"))):
        return False  # the names of the two spaces already explain a missing setting or another list
    return other.get(key) != own[key]


_EARLIER = {"data.labels": None, "data.class_names": None, "data.ignore_index": 255}
"""Settings of images that runs of earlier versions lack, with the values that applied to these runs."""

_WITHOUT_EFFECT = ("data.root", "data.cache", "data.workers")
"""Settings of the data that do not affect results."""


def _settings(run: Run) -> dict[str, str]:
    """Return config key -> text of each setting, except seeds, loggers, the folder of the images and the hardware."""
    flat: dict[str, Any] = {}
    sections = {section: values for section, values in run.config.items() if section != "cost"}
    for section, values in sections.items():
        if isinstance(values, dict):
            flat |= {f"{section}.{key}": value for key, value in values.items()}
        else:
            flat[section] = values
    flat = ({} if "data.class_path" in flat else _EARLIER) | flat | {"task": run.task.name}
    for cost in read_costs(run.config.get("cost")):
        flat[f"cost.{cost.metric}"] = amount(cost.metric, cost.target)
        if cost.weight is not None:
            flat[f"cost.{cost.metric}.weight"] = cost.weight
    return {
        key: as_text(value)
        for key, value in flat.items()
        if key.rpartition(".")[2] not in ("seed", "logger")
        and key not in _WITHOUT_EFFECT
        and not key.startswith("compute.")
    }


def as_text(value: Any) -> str:
    """Return a value of a config or of a sample as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
