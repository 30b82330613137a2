"""Derive a genotype from the α that a search has recorded."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from nas_plugins import plugins
from nas_plugins.config.reader import Config
from nas_plugins.errors import InputError
from nas_plugins.runs import directory as runs
from nas_plugins.runs import metadata
from nas_plugins.runs.tables import ALPHA_KEYS, read_table
from nas_plugins.training.search import PathLike, _read_found
from search_spaces.edges import smallest_set
from search_spaces.genotype import Edge, Genotype, GenotypeError
from search_spaces.space import StackedSpace
from strategies.derivation import CellAlphas, Derivation, Method, by_method, connected, darts


def derive(
    run: PathLike,
    output: PathLike,
    method: Method | None = None,
    threshold: float | None = None,
    layers: int | None = None,
    epoch: int | None = None,
) -> Genotype:
    """Derive a genotype from the α of a search; with the defaults, that which the search derived.

    Args:
        run: the run directory of the search.
        output: the genotype file to write.
        method, threshold: see :func:`strategies.derivation.derive`; None for those of the search. Where both are, a
            cell that would be empty is derived as ``darts``, as in the search.
        layers: the depth of the network; None keeps that of the search.
        epoch: the α at the end of this epoch, counted from 0; None for the last one.

    Raises:
        InputError: the directory is no search, it has no such epoch, or nothing reaches the threshold.
    """
    run = Path(run)
    settings, is_search = runs.read_config(run)
    if not is_search or not (run / "alphas.csv").exists():
        raise InputError(f"{run}: no search with α to derive from: it has no alphas.csv")
    if (run / runs.SAMPLE).exists():
        raise InputError(f"{run}: its space has no cells: what was found stands in {run / runs.SAMPLE}")
    if not (run / runs.GENOTYPE).exists():
        raise InputError(f"{run}: the search is not finished: nas-plugins resume {run}")
    searched = _read_found(run / runs.GENOTYPE)
    derivation, how = _derivation(settings, method, threshold)
    alphas = _alphas(run, epoch, searched)
    chosen = {label: derivation(cell) for label, cell in alphas.items()}
    empty = []
    if method is None and threshold is None:
        empty = [label for label in alphas if not connected(chosen[label])]
        chosen |= {label: darts(alphas[label]) for label in empty}
    cells = tuple(tuple(Edge(c.operation, c.source, c.target) for c in cell) for cell in chosen.values())
    try:
        genotype = replace(searched, cells=cells, operations=smallest_set(cells))
    except GenotypeError as error:
        raise InputError(f"{run}: {how} gives no network: {error}") from None
    if layers is not None:
        genotype = genotype.deepen(layers)
    genotype.save(output)
    if empty:  # said last: what is refused is one line
        warnings.warn(f"{', '.join(empty)}: the derivation keeps no operation; derived as 'darts'", stacklevel=2)
    return genotype


def _derivation(config: Config, method: Method | None, threshold: float | None) -> tuple[Derivation, str]:
    """How to derive, and its name for people: as the search did, but for what is given."""
    ours = issubclass(plugins.find("space", config.values["space"]["name"]), StackedSpace)
    if method is None and threshold is None:
        # Cells that are not ours are derived as in the search.
        return (config.build("strategy").composition.derivation if ours else darts), "the derivation of the search"
    settings = config.values["strategy"]
    method = method or (settings.get("derivation", "darts") if ours else "darts")
    if method == "darts" and threshold is not None:
        raise InputError(f"--threshold: {threshold}, but darts has none; it needs --method sparse or edge")
    threshold = settings.get("threshold", 0.85) if threshold is None else threshold
    try:
        return by_method(method, threshold), f"{method} with threshold {threshold}"
    except ValueError as error:
        raise InputError(f"--method, --threshold: {error}") from None


def _alphas(run: Path, epoch: int | None, searched: Genotype) -> dict[str, CellAlphas]:
    """The α of each cell after an epoch, the last one where it is None, in the order of the genotype.

    Args:
        run: the run directory.
        epoch: the epoch.
        searched: what the search derived.

    Raises:
        InputError: the table has no such epoch, or is damaged: it would give another architecture.
    """
    file = run / "alphas.csv"
    table = read_table(file, ALPHA_KEYS, texts=ALPHA_KEYS[1:])
    if table.empty:
        raise InputError(f"{file}: has no epoch yet")
    epochs = pd.concat([table["epoch"], read_table(run / "metrics.csv", ["epoch"])["epoch"]])  # one of them may be cut
    first, last = epochs.min(), epochs.max()
    if epoch is not None and not (table["epoch"] == epoch).any():
        raise InputError(f"--epoch: {epoch} should be from {first:g} to {last:g}, the epochs of {file}")
    chosen = last if epoch is None else epoch
    rows = table[table["epoch"] == chosen].drop(columns="epoch")
    cells = _by_cell(file, rows)
    # A search of an earlier version tells no labels; its supernet, and so its table, begins at the first layer.
    labels = metadata.read_metadata(run).cells or _in_order_of_layers([*cells], searched.layout)
    numbers = rows.drop(columns=["cell", "edge"])
    fault = None
    if rows.empty:
        fault = f"has no epoch {last:g}, the last of the search"
    elif not _present(table, chosen).equals(_present(table, first)):
        fault = f"epoch {chosen:g} has not the edges and operations of epoch {first:g}"
    elif len(cells) != len(searched.cells):
        fault = f"has {len(cells)} cells, {runs.GENOTYPE} {len(searched.cells)}"
    elif set(labels) != set(cells):
        fault = f"has the cells {', '.join(cells)}, {metadata.FILE} {', '.join(labels)}"
    elif numbers.isin([math.inf, -math.inf]).any(axis=None):
        fault = f"an α of epoch {chosen:g} is not finite"
    if fault is not None:
        cure = f"put back the whole file, or repeat the search: nas-plugins search --config {run / runs.CONFIG}"
        raise InputError(f"{file}: {fault}; {cure}")
    return {label: cells[label] for label in labels}


def _in_order_of_layers(cells: Sequence[str], layout: Sequence[int]) -> list[str]:
    """The labels of a genotype's cells, given them in the order in which the layers have them first."""
    by_index = dict(zip(dict.fromkeys(layout), cells, strict=False))
    return [by_index[index] for index in sorted(by_index)]


def _present(table: pd.DataFrame, epoch: float) -> pd.DataFrame:
    """(cell, edge) -> which operations have an α in an epoch."""
    rows = table[table["epoch"] == epoch].drop(columns="epoch")
    return rows.set_index(["cell", "edge"]).notna().sort_index()


def _by_cell(file: Path, rows: pd.DataFrame) -> dict[str, CellAlphas]:
    """label -> α of each cell of the rows of an epoch."""
    cells: dict[str, dict[tuple[int, int], dict[str, float]]] = {}
    for row in rows.to_dict("records"):
        cell, edge = row.pop("cell"), row.pop("edge")
        try:
            source, target = (int(node) for node in edge.split("->"))
        except ValueError:
            raise InputError(f"{file}: the edge {edge!r} is not of a cell, such as 0->2") from None
        cells.setdefault(cell, {})[source, target] = {key: value for key, value in row.items() if pd.notna(value)}
    return dict(cells)
