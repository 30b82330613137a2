"""Findings about a search in words: a function per rule, with its threshold; docs/doctor.md gives the reasons."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from nas_plugins.doctor.measures import Examination, examine
from nas_plugins.runs.reader import Run, get
from nas_plugins.runs.tables import EIGENVALUE, operations_of
from nas_plugins.tasks import TaskMetric
from strategies.relaxation import Step
from strategies.stop_rules import rise

SKIP_SHARE, FREE_SHARE = 1 / 4, 3 / 4
"""Shares of skip connections, and of operations without weights, above which a cell is reported.

P-DARTS keeps 2 skip connections of 8 operations.
"""
BY_CHANCE = 1 / 8
"""Highest probability that a cell of random candidates has as many such operations, for a cell to be reported."""
UNDECIDED = 0.97
"""Entropy from which α counts as undecided: there the best of 8 operations has about twice the weight of the others."""
KEPT = 1 / 2
"""Share of the supernet's metric above the base that the derived network should keep."""
LEAST_EPOCHS = 2
"""Minimum number of epochs to judge a search, since a single one says little."""
GROWTH, WINDOW, DISTANCE = 1.3, 5, 4
"""Stop rule of RobustDARTS: growth of the average eigenvalue, window of the averages, and distance between them."""


class Finding(NamedTuple):
    """Finding about a search.

    Args:
        rule: Name of the rule, a heading of docs/doctor.md.
        text: Description of the finding.
        advice: Suggested remedy.
    """

    rule: str
    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}; {self.advice}"


def diagnose(run: Run) -> list[Finding]:
    """Return the findings about a search, which may still be running, the most serious ones first.

    Args:
        run: The search. A retraining has no findings.

    Raises:
        InputError: A file of the run is damaged.
    """
    return findings(examine(run)) if run.kind == "search" else []


def findings(search: Examination) -> list[Finding]:
    """Return the findings about a search that has been measured."""
    broken = not_finite(search)
    if len(search.run.metrics) < LEAST_EPOCHS:
        return [broken] if broken else []
    found = [broken] if broken else [rule(search) for rule in ALPHA_RULES if len(search.epochs)]
    return [one for one in (*found, *(rule(search) for rule in METRIC_RULES)) if one is not None]


# α


def not_finite(search: Examination) -> Finding | None:
    """Report α that are infinite, or missing although nothing removes candidates."""
    alphas = search.run.alphas
    if alphas is None:
        return None
    values = alphas[operations_of(alphas)]
    bad = np.isinf(values).any(axis=1) | values.isna().all(axis=1)
    if search.composition is not None and search.composition.pruning is None:
        first = alphas[alphas["epoch"] == alphas["epoch"].min()].set_index(["cell", "edge"])[values.columns].notna()
        names = pd.MultiIndex.from_frame(alphas[["cell", "edge"]])
        bad |= (first.reindex(names).to_numpy(dtype=bool) & values.isna()).any(axis=1)
    if not bad.any():
        return None
    rows = alphas[bad]
    epoch, edges = rows["epoch"].min(), len(rows[["cell", "edge"]].drop_duplicates())
    text = f"α is infinite or NaN since epoch {epoch:g}, on {_of(edges, _edges(alphas), 'edges')}"
    return Finding("not-finite", text, "lower strategy.learning_rate and training.learning_rate")


def never_moved(search: Examination) -> Finding | None:
    """Report edges whose α is the same in all epochs, if at least two epochs should have trained it."""
    alphas = search.run.alphas
    if alphas is None or len(trained_epochs(search)) < 2:
        return None
    by_edge = alphas.groupby(["cell", "edge"], sort=False)[operations_of(alphas)]
    still = int((by_edge.max() - by_edge.min()).fillna(0).eq(0).all(axis=1).sum())
    if not still:
        return None
    if still == _edges(alphas):
        text = "α never moved: the result is that of the random numbers it began with"
        return Finding("never-moved", text, "check that strategy.learning_rate is above 0")
    text = f"α never moved on {_of(still, _edges(alphas), 'edges')}, whose operations are chosen by chance"
    return Finding("never-moved", text, "search for more epochs, or use larger parts of the data for α")


def skip_collapse(search: Examination) -> Finding | None:
    """Report cells other than reduction cells with many skip connections."""
    text = _in_cells(search.cells, "skips", SKIP_SHARE)
    if text is None:
        return None
    others = _other_methods(search, "DARTSPlus", "FairDARTS", "PDARTS", "DARTSMinus")
    advice = f"repair the cell by derive --max-skips 2, or search with {others}"
    return Finding("skip-connections", f"Collapses to skip connections: {text}", advice)


def free_of_weights(search: Examination) -> Finding | None:
    """Report cells other than reduction cells in which most operations learn nothing."""
    text = _in_cells(search.cells, "free", FREE_SHARE)
    if text is None or skip_collapse(search) is not None:
        return None
    others = _other_methods(search, "BetaDARTS", "DARTSMinus", "DOTS")
    advice = f"train the weights first (warmup_epochs), or use {others}"
    return Finding("without-weights", f"Skip connections and pooling take over: {text}", advice)


def undecided(search: Examination) -> Finding | None:
    """Report a finished search whose weights are still almost equal."""
    last = search.epochs["entropy"].iloc[-1]
    if not search.finished or not last >= UNDECIDED:
        return None
    text = f"α has not decided: the entropy of its weights is {last:.3f} at the end, of 1 for equal ones"
    return Finding("undecided", text, "search for more epochs, or raise strategy.learning_rate")


def nothing_kept(search: Examination) -> Finding | None:
    """Report cells of a finished search in which no operation reaches the threshold."""
    if not search.finished or not search.empty_cells:
        return None
    text = f"No operation reaches the threshold of the derivation in {', '.join(search.empty_cells)}: derived as darts"
    return Finding("below-threshold", text, "search for more epochs, or derive with a lower --threshold")


def still_changing(search: Examination) -> Finding | None:
    """Report a finished search whose derived network changed in the last epoch."""
    last = search.epochs.iloc[-1]
    if not search.finished or not last["changed"] > 0:
        return None
    changed = _of(int(last["changed"]), int(last["operations"]), "operations")
    text = f"The genotype still changed in the last epoch: {changed}"
    if last["rank_correlation"] == last["rank_correlation"]:
        text += f" (rank correlation of α {last['rank_correlation']:.2f})"
    return Finding("still-changing", text, "search for more epochs, or compare with derive --epoch of earlier ones")


# Metrics


class Base(NamedTuple):
    """Value of a metric, for which higher is better, that a network reaches without having learned anything.

    Args:
        metric: The metric.
        value: Highest value of a network that has learned nothing.
        of: Prediction that gives this value, in words.
    """

    metric: TaskMetric
    value: float
    of: str

    def reached(self, value: float) -> bool:
        """Return whether a value is at most 50% above the base (0.05 if that is 0) and at most 5% of the way to 1."""
        return value <= self.value + min(self.value / 2 or 0.05, 0.05 * (1 - self.value))


def base_of(search: Examination) -> Base | None:
    """Return the base of the first metric of the task that has one; None if the number of classes is unknown.

    A network that predicts the same class for all images or pixels has an accuracy or mean IoU of about 1 / classes.
    One that predicts no label has an F1 of 0, and one that predicts the mean of each value an R² of 0. The base of the
    mean absolute error cannot be known from a run.
    """
    for metric in search.run.task.metrics:
        if metric.key in ("f1", "r2"):
            return Base(metric, 0.0, "naming no label" if metric.key == "f1" else "the mean of each value")
        if metric.key in ("acc", "miou") and search.classes is not None:
            return Base(metric, 1 / search.classes, f"naming one of {search.classes} classes")
    return None


def supernet_at_chance(search: Examination) -> Finding | None:
    """Report a supernet that has learned nothing."""
    base = base_of(search)
    value = None if base is None else _last(search, f"val_{base.metric.key}")
    if base is None or value is None or not base.reached(value):
        return None
    text = f"The supernet is at chance: {base.metric.name} {base.metric.text(value)} on the validation images"
    text += f", where {base.of} gives {base.metric.text(base.value)}"
    return Finding("supernet-at-chance", text, "check the data and training.learning_rate: α learns nothing from it")


def derived_gap(search: Examination) -> Finding | None:
    """Report a derived network that is far behind the supernet, on the weights of the supernet."""
    base = base_of(search)
    if base is None:
        return None
    supernet, derived = (_last(search, f"{stage}_{base.metric.key}") for stage in ("val", "derived_val"))
    if supernet is None or derived is None or base.reached(supernet):
        return None
    values = f"{base.metric.text(derived)}, the supernet {base.metric.text(supernet)}"
    on = f"on the weights of the supernet: {base.metric.name} {values}"
    if base.reached(derived):
        text = f"The derived network is at chance {on}"
    elif derived - base.value < KEPT * (supernet - base.value):
        text = f"The derived network is far behind {on}"
    else:
        return None
    others = _other_methods(search, "EDAS", "GDAS", "SNAS")
    advice = f"retrain it before you judge, or search with {others}, which train single candidates"
    return Finding("derived-gap", text, advice)


def curvature_grows(search: Examination) -> Finding | None:
    """Report a growing eigenvalue of the validation Hessian, in a search that measures it."""
    known = search.run.metrics[["epoch", EIGENVALUE]].dropna()
    values = known[EIGENVALUE].tolist()
    for count in range(WINDOW + DISTANCE, len(values) + 1):
        before = np.mean(values[count - DISTANCE - WINDOW : count - DISTANCE])
        if before > 0 and (growth := rise(values[:count], WINDOW, DISTANCE)) > GROWTH:
            epoch = known["epoch"].iloc[count - 1]
            text = f"The curvature of the validation loss grew by a factor of {growth:.2f} up to epoch {epoch:g}"
            return Finding("curvature", text, "use RobustDARTS, which ends there, or SmoothDARTS; or derive --epoch")
    return None


ALPHA_RULES: tuple[Callable[[Examination], Finding | None], ...] = (
    never_moved,
    skip_collapse,
    free_of_weights,
    undecided,
    nothing_kept,
    still_changing,
)
"""Rules that need finite α, in the order of their findings."""
METRIC_RULES: tuple[Callable[[Examination], Finding | None], ...] = (supernet_at_chance, derived_gap, curvature_grows)
"""Rules that need metrics.csv alone."""


def trained_epochs(search: Examination) -> list[float]:
    """Return the epochs in which α was trained; all epochs if the parts of the strategy are unknown."""
    epochs, planned = list(search.epochs["epoch"]), get(search.run.config, "training", "epochs")
    if search.composition is None or not isinstance(planned, int):
        return epochs
    return [epoch for epoch in epochs if search.composition.searches(Step(epoch=int(epoch), epochs=planned))]


def _in_cells(cells: pd.DataFrame, kind: str, share: float) -> str | None:
    """Describe the cells with too many operations of a kind: the worst one, and since when; None if there are none.

    Args:
        cells: See :func:`~nas_plugins.doctor.measures.derived_cells`; reduction cells do not count.
        kind: Column with the number of these operations.
        share: Share of all operations that they should not exceed.
    """
    cells = cells[~cells["cell"].astype(str).str.startswith("reduce")]
    many = [
        count > max(1, share * operations) and _tail(count, operations, chance) <= BY_CHANCE
        for count, operations, chance in zip(cells[kind], cells["operations"], cells[f"{kind}_share"], strict=True)
    ]
    cells = cells.assign(is_so=np.array(many, dtype=bool))
    now = cells[(cells["epoch"] == cells["epoch"].max()) & cells["is_so"]]
    if now.empty:
        return None
    worst = now.loc[(now[kind] / now["operations"]).idxmax()]
    history = cells[cells["cell"] == worst["cell"]]
    since = history[~history["is_so"]]["epoch"].max() + 1
    text = f"{_of(worst[kind], worst['operations'], 'operations')} of {worst['cell']}"
    text += f" since epoch {since:g}" if since == since else " in all epochs"
    others = len(now) - 1
    return text + (f", and {others} more {'cell' if others == 1 else 'cells'}" if others else "")


def _other_methods(search: Examination, *names: str) -> str:
    """Return the names of strategies other than that of the search, as a list in words."""
    others = [name for name in names if name != search.run.method]
    return f"{', '.join(others[:-1])} or {others[-1]}"


def _tail(count: int, of: int, chance: float) -> float:
    """Return the probability of at least ``count`` successes in ``of`` trials with the same chance."""
    return sum(math.comb(of, k) * chance**k * (1 - chance) ** (of - k) for k in range(count, of + 1))


def _edges(alphas: pd.DataFrame) -> int:
    return len(alphas[["cell", "edge"]].drop_duplicates())


def _of(part: int, whole: int, name: str) -> str:
    return f"{part} of {whole} {name}"


def _last(search: Examination, column: str) -> float | None:
    """Return the last value of a column of metrics.csv; None for a search of another task, without that column."""
    values = search.run.metrics.get(column, pd.Series(dtype=float))
    return None if values.empty or pd.isna(values.iloc[-1]) else float(values.iloc[-1])
