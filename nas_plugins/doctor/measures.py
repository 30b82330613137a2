"""Measures of a search per epoch, as pure functions of its alphas.csv."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nas_plugins.errors import InputError
from nas_plugins.runs import directory as runs
from nas_plugins.runs.alphas import SearchedCell, architecture_weights, as_searched, by_cell, derivation_of
from nas_plugins.runs.metadata import read_metadata
from nas_plugins.runs.reader import Run
from nas_plugins.runs.tables import Weights, operations_of
from search_spaces.edges import NONE, SKIP, EdgeName, NodeName, existing_edges
from strategies.composition import Composition
from strategies.derivation import Derivation, darts, derive_cell
from strategies.stop_rules import WEIGHTLESS

Derived = dict[str, set[tuple[str, str]]]
"""Cell -> the (edge, operation) of the network that would be derived."""

CELL_COLUMNS = ("epoch", "cell", "operations", "skips", "free", "skips_share", "free_share")
"""Columns of :func:`derived_cells`."""
SHARES = {"skip": "skips", "free": "free"}
"""Share of the operations in :func:`measures` -> its count in :func:`derived_cells`."""
COLUMNS = ("epoch", "skip_share", "free_share", "entropy", "rank_correlation", "operations", "changed")
"""Columns of :func:`measures`."""


@dataclass(frozen=True)
class Examination:
    """A search with its measures.

    Args:
        run: The search.
        finished: Whether it has written its result.
        composition: The parts of its strategy; None for NNI's strategies, and for classes that are not installed here.
        classes: Number of classes of its images; None if unknown.
        cells: See :func:`derived_cells`.
        epochs: See :func:`measures`.
        empty_cells: Cells for which the derivation keeps no operation after the last epoch, so that they are derived as
            ``darts``.
    """

    run: Run
    finished: bool
    composition: Composition | None
    classes: int | None
    cells: pd.DataFrame
    epochs: pd.DataFrame
    empty_cells: tuple[str, ...] = ()


def examine(run: Run) -> Examination:
    """Return the measures of a search.

    Raises:
        InputError: A file of the run is damaged.
    """
    composition, derivation = _composition(run)
    history = derived_history(run, derivation)
    finished, classes = runs.is_finished(run.path, run.kind), read_metadata(run.path).classes
    cells = derived_cells(run, history, derivation)
    epochs, empty = _epochs(run, history, cells), _empty_cells(run, derivation)
    return Examination(run, finished, composition, classes, cells, epochs, empty)


def measures(run: Run) -> pd.DataFrame:
    """Return the measures of the α of a search, with a row per epoch.

    The columns are

    - ``skip_share``, ``free_share``: skip connections, and operations without weights, as shares of the operations of
      the cells that would be derived after the epoch; empty in a space without skip connections;
    - ``entropy``: mean over the edges of the entropy of the weights, from 0 (decided) to 1 (undecided): of the softmax
      over the candidates of an edge, or of the sigmoid of each candidate;
    - ``rank_correlation``: mean over the edges of Spearman's correlation of α with that of the epoch before, from −1
      to 1; empty in the first epoch;
    - ``operations``, ``changed``: operations that would be derived, and those among them that would not have been
      derived an epoch before.

    Args:
        run: The search. One without ``alphas.csv`` has no rows.

    Raises:
        InputError: A file of the run is damaged.
    """
    return examine(run).epochs


def _epochs(run: Run, history: Mapping[float, Derived], cells: pd.DataFrame) -> pd.DataFrame:
    if run.alphas is None:
        return pd.DataFrame(columns=COLUMNS, dtype=float)
    edges = _without_nodes(run.alphas)
    mixed = edges.assign(entropy=entropy(architecture_weights(edges, run.weights)[operations_of(edges)], run.weights))
    counts = cells.groupby("epoch")[["operations", "skips", "free"]].sum().reindex(list(history))
    rows, before = [], None
    for epoch, alphas in mixed.groupby("epoch"):
        now, chosen = alphas.set_index(["cell", "edge"])[operations_of(edges)], _flat(history[epoch])
        row = {"epoch": epoch, "entropy": alphas["entropy"].mean(), "operations": len(chosen)}
        row |= {f"{kind}_share": counts[name][epoch] / counts["operations"][epoch] for kind, name in SHARES.items()}
        if before is not None:
            row |= {"rank_correlation": rank_correlation(before[0], now), "changed": len(chosen - before[1])}
        rows.append(row)
        before = now, chosen
    return pd.DataFrame(rows, columns=COLUMNS)


def entropy(weights: pd.DataFrame, function: Weights) -> pd.Series:
    """Return the normalised entropy of the weights of each edge, from 0 to 1.

    Args:
        weights: A row per edge, a column per candidate; missing candidates are NaN.
        function: "softmax" for one distribution per edge, "sigmoid" for a probability per candidate.
    """
    known = weights.notna().sum(axis=1)
    if function == "softmax":
        return (_surprise(weights).sum(axis=1) / np.log(known.clip(lower=2))).where(known > 0)
    return ((_surprise(weights) + _surprise(1 - weights)) / np.log(2)).mean(axis=1)


def _surprise(p: pd.DataFrame) -> pd.DataFrame:
    """Return −p ln p, which is 0 for 0."""
    return -p * np.log(p.where(p > 0, 1.0))


def rank_correlation(before: pd.DataFrame, now: pd.DataFrame) -> float:
    """Return the mean over edges of Spearman's rank correlation of their candidates; NaN if no edge has a ranking.

    Args:
        before, now: A row per edge, a column per candidate. Candidates that one of the two lacks are ignored, and so
            are edges on which all candidates are equal.
    """
    before = before.reindex(now.index)
    both = before.notna() & now.notna()
    x, y = (values.where(both).rank(axis=1) for values in (before, now))
    x, y = (ranks.sub(ranks.mean(axis=1), axis=0) for ranks in (x, y))
    norm = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return float(((x * y).sum(axis=1) / norm.where(norm > 0)).mean())


def derived_cells(run: Run, history: Mapping[float, Derived], derivation: Derivation) -> pd.DataFrame:
    """Return the composition of the cells that a search would derive, with a row per epoch and cell.

    Cells without any skip connection among their candidates are left out. The last epoch of a search with costs is
    derived within their targets, as the search did it; the epochs before are derived by α alone.

    Args:
        run: The search.
        history: The derived network of each epoch.
        derivation: The derivation of the search.

    Returns:
        Columns epoch, cell, operations, skips and free (operations without weights), the last three as counts; and
        skips_share and free_share, their shares among the candidates at the beginning of the search.
    """
    if run.alphas is None or SKIP not in run.alphas:
        return pd.DataFrame(columns=CELL_COLUMNS)
    candidates = _candidates(run.alphas)
    if run.costs:
        last = max(history)
        history = {**history, last: _derived(run, run.alphas[run.alphas["epoch"] == last], derivation, final=True)}
    rows = []
    for epoch, derived in history.items():
        for cell, chosen in derived.items():
            names, known = [name for _, name in chosen], candidates.get(cell, [])
            if SKIP in known:
                shares = (count / len(known) for count in _count(known))
                rows.append([epoch, cell, len(names), *_count(names), *shares])
    return pd.DataFrame(rows, columns=CELL_COLUMNS)


def _count(names: list[str]) -> tuple[int, int]:
    """Return the number of skip connections, and of operations without weights."""
    return names.count(SKIP), sum(name in WEIGHTLESS for name in names)


def _candidates(alphas: pd.DataFrame) -> dict[str, list[str]]:
    """Return cell -> the operations that its edges may have in the first epoch, without ``none``."""
    first = _without_nodes(alphas[alphas["epoch"] == alphas["epoch"].min()])
    return {
        str(cell): [name for name in operations_of(alphas) if name != NONE and rows[name].notna().any()]
        for cell, rows in first.groupby("cell")
    }


def derived_history(run: Run, derivation: Derivation) -> dict[float, Derived]:
    """Return epoch -> the network that the search would have derived after it, by α alone."""
    if run.alphas is None:
        return {}
    return {epoch: _derived(run, alphas, derivation) for epoch, alphas in run.alphas.groupby("epoch")}


def _composition(run: Run) -> tuple[Composition | None, Derivation]:
    """Return the parts of the strategy of a search and its derivation; None and ``darts`` if they are unknown."""
    try:
        with warnings.catch_warnings():  # the search itself has warned about its settings
            warnings.simplefilter("ignore")
            config = runs.read_config(run.path)[0]
            composition = getattr(config.build("strategy"), "composition", None)
        return composition, darts if composition is None else derivation_of(config, composition)
    except InputError:  # a plugin that is not installed here
        return None, darts


def _derived(run: Run, alphas: pd.DataFrame, derivation: Derivation, final: bool = False) -> Derived:
    """Return the network that would be derived by the α of an epoch: cells, and the best candidate of other choices."""
    cells, choices = _parts(run, alphas)
    if final:
        cells = as_searched(run.path, cells)
    derived: Derived = {}
    for label, cell in cells.items():
        chosen = derive_cell(derivation, label, *cell)
        kept = existing_edges(chosen) or existing_edges(darts(cell.edges))  # as the search derives an empty cell
        derived[label] = {(f"{one.source}->{one.target}", one.operation) for one in kept}
    best = choices[operations_of(choices)].idxmax(axis=1)
    for label, edge, name in zip(choices["cell"], choices["edge"], best, strict=True):
        derived.setdefault(label, set()).add((edge, name))
    return derived


def _empty_cells(run: Run, derivation: Derivation) -> tuple[str, ...]:
    if run.alphas is None:
        return ()
    cells, _ = _parts(run, run.alphas[run.alphas["epoch"] == run.alphas["epoch"].max()])
    return tuple(label for label, cell in cells.items() if not existing_edges(derive_cell(derivation, label, *cell)))


def _parts(run: Run, alphas: pd.DataFrame) -> tuple[dict[str, SearchedCell], pd.DataFrame]:
    """Return the α of each cell in an epoch, and the rows of all other choices."""
    values = alphas.drop(columns="epoch").dropna(how="all", subset=operations_of(alphas))
    names = values["cell"] + "/" + values["edge"]
    of_cells = np.array([bool(EdgeName.parse(name) or NodeName.parse(name)) for name in names], dtype=bool)
    return by_cell(run.path / runs.ALPHAS, values[of_cells]), values[~of_cells]


def _flat(derived: Derived) -> set[tuple[str, ...]]:
    return {(label, *one) for label, chosen in derived.items() for one in chosen}


def _without_nodes(alphas: pd.DataFrame) -> pd.DataFrame:
    """Return a table of α without the rows that weigh the inputs of nodes."""
    nodes = [NodeName.parse(f"cell/{edge}") is not None for edge in alphas["edge"]]
    return alphas[~np.array(nodes, dtype=bool)]
