"""Accuracy or another metric against cost over runs, with the Pareto front: networks that no other beats in both."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from nas_plugins.report.labels import TARGETS, method_labels
from nas_plugins.report.style import INK, MUTED, SPARE_COLOURS, STYLE, save
from nas_plugins.report.summary import cost_of, last
from nas_plugins.runs.costs import COST_NAMES, amount
from nas_plugins.runs.reader import Run
from nas_plugins.tasks import Task

_MEASURED = {
    "retrain": ("test", "retrained networks"),
    "search": ("validation", "derived networks, with the weights of the supernet"),
}


@dataclass(frozen=True)
class Front:
    """Metric and cost of networks that can be compared: of one task and data set, all retrained or all derived.

    Args:
        dataset: Name of the data set.
        task: The task, whose metric, such as the accuracy, is shown.
        measured: Name of the metric, and description of the networks, for the labels of the plot.
        metric: The cost; one of :data:`~nas_plugins.runs.tables.COSTS`.
        runs: A row per run: cost, value (of the metric), series (its method) and point, the label that it shares with
            the other seeds.
    """

    dataset: str
    task: Task
    measured: tuple[str, str]
    metric: str
    runs: pd.DataFrame

    @property
    def points(self) -> pd.DataFrame:
        """Return a row per point in the order of the costs: mean and sample deviation over the seeds, and ``best``.

        ``best`` marks the Pareto front.
        """
        groups = self.runs.groupby(["series", "point"], sort=False)[["cost", "value"]]
        table = groups.mean().join(groups.std().fillna(0).add_suffix("_std")).reset_index()
        higher = self.task.metric.higher_is_better
        table = table.sort_values(["cost", "value"], ascending=[True, not higher], ignore_index=True)
        quality = table["value"] if higher else -table["value"]
        return table.assign(best=quality > quality.cummax().shift(fill_value=-math.inf))


def fronts(runs: Sequence[Run]) -> list[Front]:
    """Return the front of each data set and task, of tested retrainings or, without these, of searches with costs.

    The cost is the one that most runs have; if there are several, the one for which most searches have a target, or
    without targets the multiply-adds.

    Args:
        runs: Searches and retrainings. A retraining is named after the target of the search that found its network.
    """
    found = []
    for task, dataset in dict.fromkeys(map(_compared, runs)):
        own = [run for run in runs if _compared(run) == (task, dataset)]
        tested = [run for run in own if run.kind == "retrain" and run.test]
        searches = [run for run in own if run.kind == "search" and run.targets]
        # Networks that are retrained on this data set may have been found by searches on another one.
        known = [run for run in runs if run.kind == "search" and run.task == task]
        front = _front(dataset, tested, known) or _front(dataset, searches, known)
        found += [] if front is None else [front]
    return found


def _compared(run: Run) -> tuple[Task, str]:
    """Return the task and the name of the data set of a run."""
    return run.task, str(run.dataset)


def _front(dataset: str, runs: Sequence[Run], searches: Sequence[Run]) -> Front | None:
    """Return the front of runs of one kind; None if fewer than two points have a cost."""
    if not runs:
        return None
    targets = Counter(metric for search in searches for metric in search.targets)
    metrics = [*(metric for metric, _ in targets.most_common()), "multiply_adds", "parameters"]
    metric = max(metrics, key=lambda metric: sum(cost_of(run, metric) is not None for run in runs))
    origins = [_origin(run, searches) for run in runs]
    series = _series(runs, origins)
    table = pd.DataFrame(
        {
            "cost": [cost_of(run, metric) for run in runs],
            "value": [_value(run) for run in runs],
            "series": series,
            "point": _points(runs, origins, series, metric),
        }
    )
    table = table.astype({"cost": float, "value": float}).dropna()
    task, (where, networks) = runs[0].task, _MEASURED[runs[0].kind]
    measured = f"{where} {task.metric.name}", networks
    return Front(dataset, task, measured, metric, table) if table["cost"].nunique() > 1 else None


def _value(run: Run) -> float | None:
    key = run.task.metric.key
    if run.kind == "retrain":
        return run.test.get(f"test_{key}")
    return last(run.metrics[f"derived_val_{key}"])


def _origin(run: Run, searches: Sequence[Run]) -> Run | None:
    """Return the search that found the network of a run: the run itself, if it is one."""
    if run.kind == "search":
        return run
    return next((search for search in searches if search.found is not None and search.found == run.found), None)


def _series(runs: Sequence[Run], origins: Sequence[Run | None]) -> list[str]:
    """Return the method by which the network of each run was found, with settings other than targets that differ."""
    found = [origin for origin in origins if origin is not None]
    names = iter(method_labels(found, shown=("data.dataset", *TARGETS)))
    own = method_labels(runs, shown=("data.dataset", "genotype", "sample", *TARGETS))
    labels = []
    for run, origin, label in zip(runs, origins, own, strict=True):
        method = "networks" if origin is None else next(names)
        labels.append(f"{method}, {label}" if run.kind == "retrain" and label != run.method else method)
    return labels


def _points(runs: Sequence[Run], origins: Sequence[Run | None], series: Sequence[str], metric: str) -> list[str]:
    """Return the target of each run; without a target, a name that runs of a series with the same network share."""
    count = Counter(run.name for run in runs)
    names: dict[tuple[str, object], str] = {}
    points = []
    for run, origin, method in zip(runs, origins, series, strict=True):
        target = None if origin is None else origin.targets.get(metric)
        own = run.name if count[run.name] == 1 else str(run.path)
        points.append(names.setdefault((method, run.found), own) if target is None else f"≤ {amount(metric, target)}")
    return points


def plot_front(front: Front, path: str | os.PathLike[str]) -> Path:
    """Plot a metric against cost: each run, mean and deviation over the seeds of a target, and the Pareto front.

    Args:
        front: The front to plot.
        path: PNG file to write.
    """
    points = front.points
    scale = front.task.metric.scale
    points[["value", "value_std"]] *= scale
    runs = front.runs.assign(value=scale * front.runs["value"])
    series = list(dict.fromkeys(front.runs["series"]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 5), layout="constrained")
        axis = figure.subplots()
        best = points[points["best"]]
        right = max(front.runs["cost"].max(), points["cost"].max())
        steps = [*zip(best["cost"], best["value"], strict=True), (right, best["value"].iloc[-1])]
        axis.step(*zip(*steps, strict=True), where="post", color=MUTED, linewidth=1.4, label="Pareto front", zorder=1.5)
        for number, name in enumerate(series):
            colour = SPARE_COLOURS[number % len(SPARE_COLOURS)]
            _series_points(axis, points[points["series"] == name], runs[runs["series"] == name], colour)
        _labels(axis, points)
        _cost_axis(axis, front)
        axis.set_ylabel(f"{front.measured[0]} (%)" if front.task.metric.fraction else front.measured[0])
        axis.set_title(front.measured[1])
        axis.margins(x=0.09, y=0.14)
        figure.legend(loc="outside upper left", ncols=min(4, 1 + len(series)))
        return save(figure, path)


def _series_points(axis: Axes, points: pd.DataFrame, runs: pd.DataFrame, colour: str) -> None:
    """Draw the points of one method: means as large dots with their deviations, single runs as small ones."""
    name = points["series"].iloc[0]
    if len(runs) > len(points):
        axis.plot(runs["cost"], runs["value"], "o", color=colour, alpha=0.35, markersize=4, linestyle="")
        axis.errorbar(
            points["cost"], points["value"], xerr=points["cost_std"], yerr=points["value_std"],
            fmt="none", ecolor=colour, elinewidth=1.1, alpha=0.7,
        )  # fmt: skip
    axis.plot(points["cost"], points["value"], "o", color=colour, markersize=8, linestyle="", label=name)


def _labels(axis: Axes, points: pd.DataFrame) -> None:
    """Name each point: those of the front on their upper left, where no other can be, the others on the lower right."""
    for _, point in points.iterrows():
        place, side, edge = ((-7, 6), "right", "bottom") if point["best"] else ((7, -6), "left", "top")
        axis.annotate(
            point["point"], (point["cost"], point["value"]), place, textcoords="offset points", ha=side,
            va=edge, color=INK, fontsize=8.5,
        )  # fmt: skip


def _cost_axis(axis: Axes, front: Front) -> None:
    """Scale and name the axis of the costs: logarithmic if the largest is more than eight times the smallest."""
    costs = front.runs["cost"]
    if costs.min() > 0 and costs.max() > 8 * costs.min():
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        axis.xaxis.set_major_locator(MaxNLocator(8))
    axis.xaxis.set_major_formatter(lambda value, _: amount(front.metric, value))
    axis.set_xlabel(f"{COST_NAMES[front.metric]} for one image" if front.metric != "parameters" else "parameters")
    axis.tick_params(length=0, which="both")
