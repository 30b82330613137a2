"""Tables over several runs: one row per run, and one row per method over its seeds."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any

import pandas as pd

from nas_plugins.config.costs import read_costs
from nas_plugins.report.published import read_published
from nas_plugins.report.text_table import text_table
from nas_plugins.runs.costs import amount
from nas_plugins.runs.reader import Run, read_runs
from nas_plugins.runs.tables import COSTS
from nas_plugins.tasks import METRICS, TASKS

# Labels of runs and methods


TARGETS = tuple(f"cost.{metric}" for metric in COSTS)
"""Keys by which labels name the target of each cost, for example ``cost.multiply_adds: 60k``."""


def method_labels(runs: Sequence[Run], shown: Collection[str] = ()) -> list[str]:
    """Return the method of each run, followed in brackets by the settings that differ between runs of that method.

    Args:
        runs: Runs to compare.
        shown: Config keys left out of the brackets because the reader sees them elsewhere.
    """
    return [f"{run.method}{text}" for run, text in zip(runs, _differing_settings(runs, shown), strict=True)]


def _differing_settings(runs: Sequence[Run], shown: Collection[str]) -> list[str]:
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
    name = f"{key.partition('.')[0]}.name"
    if other.get(name) != own.get(name) and (key not in other or own[key].startswith(("[", "{"))):
        return False  # the names of the two spaces already explain a missing setting or another list
    return other.get(key) != own[key]


_EARLIER = {"task": "classification", "data.labels": None, "data.class_names": None, "data.ignore_index": 255}
"""Settings that runs of earlier versions lack, with the values that these had."""


def _settings(run: Run) -> dict[str, str]:
    """Return config key -> text of each setting, except seeds, loggers, the folder of the images and the hardware."""
    flat: dict[str, Any] = {}
    for section, values in run.config.items():
        if isinstance(values, dict):
            flat |= {f"{section}.{key}": value for key, value in values.items()}
        else:
            flat[section] = values
    flat = _EARLIER | flat
    flat.pop("cost", None)
    for cost in read_costs(run.config.get("cost")):
        flat[f"cost.{cost.metric}"] = amount(cost.metric, cost.target)
        flat[f"cost.{cost.metric}.weight"] = cost.weight
    return {
        key: as_text(value)
        for key, value in flat.items()
        if key.rpartition(".")[2] not in ("seed", "logger") and key != "data.root" and not key.startswith("compute.")
    }


def as_text(value: Any) -> str:
    """Return a value of a config or of a sample as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


# One row per run


PUBLISHED = "published"
"""Kind of the rows that hold published results instead of a run."""


def summary(runs: Iterable[str | os.PathLike[str] | Run], compare: str | None = None) -> pd.DataFrame:
    """Return a table with one row per run.

    Args:
        runs: Run directories or loaded runs; duplicates are dropped.
        compare: Name of a table of published results, appended as rows of kind "published".

    Returns:
        The columns of :data:`COLUMNS` and :data:`DEVIATION`. Accuracies are fractions; missing measurements are empty.

    Raises:
        InputError: A directory is not a run, or there is no such table.
    """
    loaded = read_runs(runs)
    names = method_labels(loaded, shown=("data.dataset", "training.epochs", *TARGETS))
    rows = [_row(run) | {"method": name} for run, name in zip(loaded, names, strict=True)]
    if compare is not None:
        published = read_published(compare).rename(columns={"network": "run", "found_by": "method"})
        rows += published.assign(kind=PUBLISHED).to_dict("records")
    return pd.DataFrame(rows, columns=[*COLUMNS, DEVIATION])


def _row(run: Run) -> dict[str, Any]:
    return {
        "run": run.name,
        "kind": run.kind,
        "method": run.method,
        "dataset": run.dataset,
        "seed": run.config.get("seed"),
        "epochs": len(run.metrics),
        **{column: _last(run.metrics[column]) for column in run.task.measures},
        **{f"test_{metric.key}": run.test.get(f"test_{metric.key}") for metric in run.task.metrics},
        "metric": _metric(run),
        **{metric: cost_of(run, metric) for metric in COSTS},
        "target": ", ".join(f"≤ {amount(metric, target)}" for metric, target in run.targets.items()) or None,
        "missed_by": max((cost.missed_by for cost in run.costs), default=None),
        "seconds": run.metrics["seconds"].sum(min_count=1),
        # The median, because the first epoch includes warm-up.
        "seconds_per_iteration": run.metrics["seconds_per_iteration"].median(),
        "peak_memory_mb": run.metrics["peak_memory_mb"].max(),
    }


def _metric(run: Run) -> str | None:
    """Return the metric of an evaluator of the user's in words; None for those that have columns."""
    key = run.task.metric.key
    if key in METRICS:
        return None
    values = {f"val_{key}": _last(run.metrics[f"val_{key}"]), "derived": _last(run.metrics[f"derived_val_{key}"])}
    values["test"] = run.test.get(f"test_{key}")
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items() if value is not None) or None


def cost_of(run: Run, metric: str) -> float | None:
    """Return a cost of a retrained network, or of the network that a search with that cost derived; None if unknown.

    Args:
        run: The run. One that is still going has the cost of the last epoch.
        metric: One of :data:`~nas_plugins.runs.tables.COSTS`.
    """
    if run.kind == "retrain":
        return run.network.get(metric)
    derived = {cost.metric: cost.derived for cost in run.costs}
    return derived[metric] if metric in derived else _last(run.metrics[f"derived_{metric}"])


def _last(values: pd.Series) -> float | None:
    known = values.dropna()
    return float(known.iloc[-1]) if len(known) else None


def _count(*values: float, decimals: int = 2) -> str:
    """Return values in millions with so many decimals, or in thousands if these would leave fewer than two digits."""
    size, unit, decimals = (1e6, "M", decimals) if values[0] >= 10 ** (7 - decimals) else (1e3, "k", 1)
    return " ± ".join(f"{value / size:.{decimals}f}" for value in values) + f" {unit}"


def _missed(share: float) -> str:
    return TASKS["classification"].metric.text(share) if share > 0 else "met"


def _seconds(*values: float) -> str:
    """Return values with three significant digits of the first, and the same number of decimals for all."""
    size = math.floor(math.log10(values[0])) if 0 < values[0] < math.inf else 0
    return " ± ".join(f"{value:.{min(6, max(0, 2 - size))}f}" for value in values)


def _metric_columns() -> dict[str, tuple[str, Callable[..., str]]]:
    """Return the columns of the metrics of all tasks: in training, validation and test of the first, in test of others.

    The headings of tasks other than classification name the metric.
    """
    columns: dict[str, tuple[str, Callable[..., str]]] = {}
    for task in TASKS.values():
        stages = {"train": "train", "val": "val", "derived_val": "derived", "test": "test"}
        for metric in task.metrics:
            name = "" if task is TASKS["classification"] else f" {metric.short}"
            columns |= {f"{stage}_{metric.key}": (f"{word}{name}", metric.text) for stage, word in stages.items()}
            stages = {"test": "test"}
    return columns


COLUMNS = {
    "run": ("run", str),
    "kind": ("kind", str),
    "method": ("method", str),
    "dataset": ("dataset", str),
    "seed": ("seed", "{:g}".format),
    "epochs": ("epochs", "{:g}".format),
    **_metric_columns(),
    "metric": ("metric", str),
    "parameters": ("params", _count),
    "multiply_adds": ("mult-adds", partial(_count, decimals=1)),
    "activations": ("activations", partial(_count, decimals=1)),
    "latency": ("latency", partial(amount, "latency")),
    "target": ("target", str),
    "missed_by": ("missed", _missed),
    "seconds": ("time", "{:.0f} s".format),
    "seconds_per_iteration": ("s/iter", _seconds),
    "peak_memory_mb": ("memory", "{:.0f} MB".format),
    "gpu_days": ("GPU days", "{:g}".format),
}
"""Column of a summary -> its heading and the function that formats its values."""
DEVIATION = "test_acc_std"
"""Column of a summary with the standard deviation of a published accuracy."""


def summary_cells(table: pd.DataFrame) -> dict[str, list[str]]:
    """Return heading -> formatted texts of a summary, without empty columns and without the kind."""
    cells = {
        heading: [_format(write, value) for value in table[column]]
        for column, (heading, write) in COLUMNS.items()
        if column != "kind" and table[column].notna().any()
    }
    for row, (mean, deviation) in enumerate(zip(table["test_acc"], table[DEVIATION], strict=True)):
        if pd.notna(deviation):
            cells["test"][row] = TASKS["classification"].metric.text(mean, deviation)
    return cells


def _format(write: Any, value: Any) -> str:
    if pd.isna(value):
        return "–"
    return str(write(value)) if isinstance(value, Real) else str(value)


def summary_text(table: pd.DataFrame, width: int = 120) -> str:
    """Return a summary as aligned text of at most `width` columns; long names are wrapped.

    Published rows follow in a second table, since they have few of the columns.
    """
    published = table["kind"] == PUBLISHED
    parts = [part for part in (table[~published], table[published]) if len(part)]
    return "\n\n".join(text_table(summary_cells(part), width) for part in parts)


# One row per method


def searched_columns(runs: Iterable[Run]) -> list[str]:
    """Return the columns of a summary that the results average over searches."""
    return ["seconds_per_iteration", *(f"derived_val_{key}" for key in _keys(runs))]


def retrained_columns(runs: Iterable[Run]) -> list[str]:
    """Return the columns of a summary that the results average over retrainings."""
    return ["parameters", *(f"{stage}_{key}" for key in _keys(runs) for stage in ("train", "val", "test"))]


def _keys(runs: Iterable[Run]) -> list[str]:
    """Return the keys of the metrics by which the runs are compared, in the order of the tasks."""
    used = {run.task.name for run in runs}
    return [task.metric.key for name, task in TASKS.items() if name in used] or [TASKS["classification"].metric.key]


def results(runs: Iterable[str | os.PathLike[str] | Run]) -> pd.DataFrame:
    """Return the results of each search method and of the retrained networks it found, over all seeds.

    Searches that share all settings except the seeds form one method. A method has one row per kind
    of retraining (data set and settings, except the seeds) that trained cells found by one of its
    searches, at any network depth, or the same sample of the same space, and a single row if nothing
    of what it found was retrained. Unfinished runs are left out.

    Args:
        runs: Run directories or loaded runs; duplicates are dropped.

    Returns:
        Columns method, searches (count), retrained_on and retrainings (count), and for every measure
        its mean, sample standard deviation (``_std``; empty for a single run) and number of runs that
        have it (``_n``). Empty if no retraining belongs to a search and no method was searched twice.

    Raises:
        InputError: A directory is not a run.
    """
    loaded = read_runs(runs)
    searches = [run for run in loaded if run.kind == "search" and (run.genotype or run.sample)]
    retrainings = [run for run in loaded if run.kind == "retrain" and run.network]
    datasets = [run.dataset or "–" for run in retrainings]
    settings = _differing_settings(retrainings, shown=("data.dataset",))
    kinds = _grouped(retrainings, [f"{dataset}{text}" for dataset, text in zip(datasets, settings, strict=True)])
    searched_on, retrained_on = searched_columns(loaded), retrained_columns(loaded)
    rows = []
    for method, found in _grouped(searches, method_labels(searches)).items():
        known = {run.found for run in found}
        own = {kind: [run for run in group if run.found in known] for kind, group in kinds.items()}
        for kind, group in {kind: group for kind, group in own.items() if group}.items() or [(None, [])]:
            row = {"method": method, "searches": len(found), **_mean_and_std(found, searched_on)}
            rows.append(row | {"retrained_on": kind, "retrainings": len(group), **_mean_and_std(group, retrained_on)})
    searched, retrained = _mean_and_std([], searched_on), _mean_and_std([], retrained_on)
    table = pd.DataFrame(rows, columns=["method", "searches", *searched, "retrained_on", "retrainings", *retrained])
    return table if table["retrainings"].any() or (table["searches"] > 1).any() else table[:0]


def _grouped(runs: Sequence[Run], names: Sequence[str]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {name: [] for name in names}
    for run, name in zip(runs, names, strict=True):
        groups[name].append(run)
    return groups


def _mean_and_std(runs: Sequence[Run], columns: Sequence[str]) -> dict[str, float]:
    table = pd.DataFrame([_row(run) for run in runs], columns=list(columns)).astype(float)
    statistics: dict[str, float] = {}
    for name, values in table.items():
        statistics |= {f"{name}": values.mean(), f"{name}_std": values.std(), f"{name}_n": values.count()}
    return statistics


def results_cells(table: pd.DataFrame) -> dict[str, list[str]]:
    """Return heading -> formatted texts of a table of results; empty if the table has no rows.

    A mean over fewer runs than the row counts is marked with their number: "n=2: 95.59 ± 0.06%".
    """
    if table.empty:
        return {}
    cells = {"method": list(table["method"]), "searches": [str(n) for n in table["searches"]]}
    columns = [name for name in table if name in COLUMNS]
    searched = [name for name in columns if name == "seconds_per_iteration" or name.startswith("derived_val_")]
    cells |= {COLUMNS[name][0]: _format_means(table, name, table["searches"]) for name in searched}
    if not table["retrainings"].any():
        return cells
    cells["retrained on"] = [_format(str, kind) for kind in table["retrained_on"]]
    cells["runs"] = [str(n) for n in table["retrainings"]]
    retrained = [name for name in columns if name not in (*searched, "method")]
    return cells | {COLUMNS[name][0]: _format_means(table, name, table["retrainings"]) for name in retrained}


def _format_means(table: pd.DataFrame, name: str, runs: pd.Series) -> list[str]:
    write: Any = COLUMNS[name][1]
    texts = []
    for mean, deviation, n, all_runs in zip(table[name], table[f"{name}_std"], table[f"{name}_n"], runs, strict=True):
        text = write(mean, deviation) if n > 1 else write(mean) if n else "–"
        texts.append(f"n={n:g}: {text}" if 0 < n < all_runs else text)
    return texts


def results_text(table: pd.DataFrame, width: int = 120) -> str:
    """Return a table of results as aligned text of at most `width` columns; long names are wrapped."""
    cells = {heading: [text.replace(" ± ", "±") for text in texts] for heading, texts in results_cells(table).items()}
    return text_table(cells, width)
