"""Tables over several runs: one row per run, and one row per method over its seeds."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from numbers import Real
from typing import Any

import pandas as pd

from nas_plugins.report.labels import TARGETS, differing_settings, method_labels
from nas_plugins.report.published import read_published
from nas_plugins.report.text_table import text_table
from nas_plugins.runs.costs import amount
from nas_plugins.runs.reader import Run, read_runs
from nas_plugins.runs.tables import COSTS
from nas_plugins.tasks import METRICS, TASKS, Task, metric_of

# One row per run


PUBLISHED = "published"
"""Kind of the rows that hold published results instead of a run."""


def summary(runs: Iterable[str | os.PathLike[str] | Run], compare: str | None = None) -> pd.DataFrame:
    """Return a table with one row per run.

    Args:
        runs: Run directories or loaded runs; duplicates are dropped.
        compare: Name of a table of published results, appended as rows of kind "published".

    Returns:
        The columns of :data:`COLUMNS` and :data:`DEVIATION`, and those of the metrics of user-defined evaluators.
        Accuracies are fractions; missing measurements are empty.

    Raises:
        InputError: A directory is not a run, or there is no such table.
    """
    loaded = read_runs(runs)
    names = method_labels(loaded, shown=("data.dataset", "training.epochs", *TARGETS))
    rows = [_row(run) | {"method": name} for run, name in zip(loaded, names, strict=True)]
    if compare is not None:
        published = read_published(compare).rename(columns={"network": "run", "found_by": "method"})
        rows += published.assign(kind=PUBLISHED).to_dict("records")
    columns = list(COLUMNS)
    place = columns.index("parameters")
    columns[place:place] = dict.fromkeys(
        column for run in loaded for column in _metric_columns(run.task) if column not in COLUMNS
    )
    return pd.DataFrame(rows, columns=[*columns, DEVIATION])


def _row(run: Run) -> dict[str, Any]:
    return {
        "run": run.name,
        "kind": run.kind,
        "method": run.method,
        "dataset": run.dataset,
        "seed": run.config.get("seed"),
        "epochs": len(run.metrics),
        **{column: last(run.metrics[column]) for column in run.task.measures},
        **{f"test_{metric.key}": run.test.get(f"test_{metric.key}") for metric in run.task.metrics},
        **{metric: cost_of(run, metric) for metric in COSTS},
        "target": ", ".join(f"≤ {amount(metric, target)}" for metric, target in run.targets.items()) or None,
        "missed_by": max((cost.missed_by for cost in run.costs), default=None),
        "seconds": run.metrics["seconds"].sum(min_count=1),
        # The median, because the first epoch includes warm-up.
        "seconds_per_iteration": run.metrics["seconds_per_iteration"].median(),
        "peak_memory_mb": run.metrics["peak_memory_mb"].max(),
    }


def cost_of(run: Run, metric: str) -> float | None:
    """Return a cost of a retrained network, or of the network that a search with that cost derived; None if unknown.

    Args:
        run: The run. One that is still going has the cost of the last epoch.
        metric: One of :data:`~nas_plugins.runs.tables.COSTS`.
    """
    if run.kind == "retrain":
        return run.network.get(metric)
    derived = {cost.metric: cost.derived for cost in run.costs}
    return derived[metric] if metric in derived else last(run.metrics[f"derived_{metric}"])


def last(values: pd.Series) -> float | None:
    """Return the last value that is known, None if there is none."""
    known = values.dropna()
    return float(known.iloc[-1]) if len(known) else None


def _count(*values: float, decimals: int = 2) -> str:
    """Return values in millions with ``decimals``, or in thousands if that would leave fewer than two digits."""
    size, unit, decimals = (1e6, "M", decimals) if values[0] >= 10 ** (7 - decimals) else (1e3, "k", 1)
    return " ± ".join(f"{value / size:.{decimals}f}" for value in values) + f" {unit}"


def _missed(share: float) -> str:
    return TASKS["classification"].metric.text(share) if share > 0 else "met"


def _seconds(*values: float) -> str:
    """Return values with three significant digits of the first, and the same number of decimals for all."""
    size = math.floor(math.log10(values[0])) if 0 < values[0] < math.inf else 0
    return " ± ".join(f"{value:.{min(6, max(0, 2 - size))}f}" for value in values)


_STAGES = {"train": "train", "val": "val", "derived_val": "derived", "test": "test"}
"""Prefix of the column of a metric -> the word for it in headings."""


def _metric_columns(task: Task) -> dict[str, tuple[str, Callable[..., str]]]:
    """Return the columns of the metrics of a task: the first metric in every stage, the others in the test only.

    The headings of tasks other than classification name the metric.
    """
    columns: dict[str, tuple[str, Callable[..., str]]] = {}
    for metric in task.metrics:
        name = "" if task is TASKS["classification"] else f" {metric.short}"
        stages = _STAGES if metric is task.metric else {"test": "test"}
        columns |= {f"{stage}_{metric.key}": (f"{word}{name}", metric.text) for stage, word in stages.items()}
    return columns


COLUMNS: dict[str, tuple[str, Callable[..., str]]] = {
    "run": ("run", str),
    "kind": ("kind", str),
    "method": ("method", str),
    "dataset": ("dataset", str),
    "seed": ("seed", "{:g}".format),
    "epochs": ("epochs", "{:g}".format),
    **{column: written for task in TASKS.values() for column, written in _metric_columns(task).items()},
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
"""Column of a summary -> its heading and the function that formats its values; user-defined evaluators add others."""
DEVIATION = "test_acc_std"
"""Column of a summary with the standard deviation of a published accuracy."""


def _written(column: str) -> tuple[str, Callable[..., str]]:
    """Return the heading of a column and the function that formats its values."""
    if column in COLUMNS:
        return COLUMNS[column]
    stage = next(stage for stage in _STAGES if column.startswith(f"{stage}_"))
    metric = metric_of(column.removeprefix(f"{stage}_"))
    return f"{_STAGES[stage]} {metric.short}", metric.text


def summary_cells(table: pd.DataFrame) -> dict[str, list[str]]:
    """Return heading -> formatted texts of a summary, without empty columns and without the kind."""
    shown = [column for column in table if column not in ("kind", DEVIATION) and table[column].notna().any()]
    written = {column: _written(column) for column in shown}
    cells = {
        heading: [_format(write, value) for value in table[column]] for column, (heading, write) in written.items()
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
    used = {run.task.metric.key for run in runs}
    return [*(key for key in METRICS if key in used), *sorted(used - METRICS.keys())] or ["acc"]


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
    settings = differing_settings(retrainings, shown=("data.dataset",))
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
    columns = [name for name in table if f"{name}_n" in table]
    searched = [name for name in columns if name == "seconds_per_iteration" or name.startswith("derived_val_")]
    cells |= {_written(name)[0]: _format_means(table, name, table["searches"]) for name in searched}
    if not table["retrainings"].any():
        return cells
    cells["retrained on"] = [_format(str, kind) for kind in table["retrained_on"]]
    cells["runs"] = [str(n) for n in table["retrainings"]]
    retrained = [name for name in columns if name not in (*searched, "method")]
    return cells | {_written(name)[0]: _format_means(table, name, table["retrainings"]) for name in retrained}


def _format_means(table: pd.DataFrame, name: str, runs: pd.Series) -> list[str]:
    write: Any = _written(name)[1]
    texts = []
    for mean, deviation, n, all_runs in zip(table[name], table[f"{name}_std"], table[f"{name}_n"], runs, strict=True):
        text = write(mean, deviation) if n > 1 else write(mean) if n else "–"
        texts.append(f"n={n:g}: {text}" if 0 < n < all_runs else text)
    return texts


def results_text(table: pd.DataFrame, width: int = 120) -> str:
    """Return a table of results as aligned text of at most `width` columns; long names are wrapped."""
    cells = {heading: [text.replace(" ± ", "±") for text in texts] for heading, texts in results_cells(table).items()}
    return text_table(cells, width)
