"""Derive a genotype from the α that a search has recorded."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from nas_plugins import plugins
from nas_plugins.config.reader import Config
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike
from nas_plugins.runs import directory as runs
from nas_plugins.runs.metadata import read_metadata
from nas_plugins.runs.tables import ALPHA_KEYS, read_table
from nas_plugins.training.checkpoints import read_result
from search_spaces.edges import EdgeName, NodeName, existing_edges, smallest_set
from search_spaces.genotype import Edge, Genotype, GenotypeError
from search_spaces.space import StackedSpace
from strategies.derivation import Derivation, Method, by_method, darts, derive_cell, has_fixed_inputs


def derive(
    run: PathLike,
    output: PathLike,
    method: Method | None = None,
    threshold: float | None = None,
    layers: int | None = None,
    epoch: int | None = None,
) -> Genotype:
    """Derive a genotype from the α of a search; by default the genotype that the search derived.

    Args:
        run: The run directory of the search.
        output: The genotype file to write.
        method, threshold: See :func:`strategies.derivation.derive`; None for the settings of the search. If both are
            None, a cell that would be empty is derived as ``darts``, as in the search, and the last epoch is derived
            within the targets of its costs and by the ranking of its finish.
        layers: Depth of the network; None for that of the search.
        epoch: Epoch whose final α are used, counted from 0; None for the last epoch.

    Returns:
        The genotype.

    Raises:
        InputError: The directory is not a finished search of cells, it has no such epoch, or no operation reaches the
            threshold.
    """
    run = Path(run)
    searched, derivation, how = _searched(run, method, threshold)
    alphas = _read_alphas(run, epoch, searched)
    if method is None and threshold is None and epoch is None:
        alphas = _as_searched(run, alphas)
    chosen = {label: derive_cell(derivation, label, *cell) for label, cell in alphas.items()}
    empty = []
    if method is None and threshold is None:
        empty = [label for label in alphas if not existing_edges(chosen[label])]
        chosen |= {label: darts(alphas[label].edges) for label in empty}
    cells = tuple(tuple(Edge(c.operation, c.source, c.target) for c in cell) for cell in chosen.values())
    try:
        genotype = replace(searched, cells=cells, operations=smallest_set(cells))
    except GenotypeError as error:
        raise InputError(f"{run}: {how} gives no network: {error}") from None
    if layers is not None:
        genotype = genotype.deepen(layers)
    genotype.save(output)
    if empty:  # last, so that an error is the only line that is printed
        warnings.warn(f"{', '.join(empty)}: the derivation keeps no operation; derived as 'darts'", stacklevel=2)
    return genotype


def _searched(run: Path, method: Method | None, threshold: float | None) -> tuple[Genotype, Derivation, str]:
    """Return the genotype of a finished search, the derivation to use and its name for messages."""
    settings, kind = runs.read_config(run)
    if kind != "search" or not (run / runs.ALPHAS).exists():
        raise InputError(f"{run}: no search with α to derive from: it has no {runs.ALPHAS}")
    if (run / runs.SAMPLE).exists():
        raise InputError(f"{run}: its space has no cells: what was found stands in {run / runs.SAMPLE}")
    if not runs.is_finished(run, kind):
        raise InputError(f"{run}: the search is not finished: nas-plugins resume {run}")
    return read_result(run / runs.GENOTYPE), *_derivation(settings, method, threshold)


def _derivation(config: Config, method: Method | None, threshold: float | None) -> tuple[Derivation, str]:
    """Return the derivation of the search, changed by the given method and threshold, and its name for messages."""
    ours = issubclass(plugins.find("space", config.values["space"]["name"]), StackedSpace)
    if method is None and threshold is None:
        derivation = config.build("strategy").composition.derivation
        # A search derives the cells of third-party spaces as darts, unless its own derivation fits them.
        return (derivation if ours or has_fixed_inputs(derivation) else darts), "the derivation of the search"
    settings = config.values["strategy"]
    method = method or (settings.get("derivation", "darts") if ours else "darts")
    if method == "darts" and threshold is not None:
        raise InputError(f"--threshold: {threshold}, but darts has none; it needs --method sparse or edge")
    threshold = settings.get("threshold", 0.85) if threshold is None else threshold
    try:
        return by_method(method, threshold), f"{method} with threshold {threshold}"
    except ValueError as error:
        raise InputError(f"--method, --threshold: {error}") from None


class _Cell(NamedTuple):
    """The α of a cell, and those of the inputs of its nodes, None in a search without a topology."""

    edges: dict[tuple[int, int], dict[str, float]]
    nodes: dict[int, dict[str, float]] | None


def _read_alphas(run: Path, epoch: int | None, searched: Genotype) -> dict[str, _Cell]:
    """Return the α of each cell at the end of an epoch, in the order of the genotype.

    Args:
        run: The run directory.
        epoch: The epoch; None for the last one.
        searched: The genotype that the search derived.

    Raises:
        InputError: The table has no such epoch.
    """
    file = run / runs.ALPHAS
    table = read_table(file, ALPHA_KEYS, texts=ALPHA_KEYS[1:])
    last = table["epoch"].max()
    rows = table[table["epoch"] == (last if epoch is None else epoch)].drop(columns="epoch")
    if rows.empty:
        raise InputError(f"--epoch: {epoch} should be from 0 to {last:g}, the epochs of {file}")
    cells = _by_cell(file, rows)
    # Third-party spaces name no cells; the supernet, and so the table, then starts with the cell of the first layer.
    labels = read_metadata(run).cells or _in_order_of_genotype([*cells], searched.layout)
    return {label: cells[label] for label in labels}


def _as_searched(run: Path, cells: dict[str, _Cell]) -> dict[str, _Cell]:
    """Return α as the search derived them at its end: with what its costs and its finish add to each."""
    file = next((run / name for name in (runs.FINISH, runs.COST) if (run / name).exists()), None)
    shift = {} if file is None else read_result(file)["shift"]
    return {label: cell._replace(edges=_shifted(label, cell.edges, shift)) for label, cell in cells.items()}


def _shifted(
    label: str, edges: Mapping[tuple[int, int], Mapping[str, float]], shift: Mapping[str, Mapping[str, float]]
) -> dict[tuple[int, int], dict[str, float]]:
    added = {edge: shift.get(str(EdgeName(label, *edge)), {}) for edge in edges}
    return {
        edge: {name: alpha + added[edge].get(name, 0.0) for name, alpha in alphas.items()}
        for edge, alphas in edges.items()
    }


def _in_order_of_genotype(cells: Sequence[str], layout: Sequence[int]) -> list[str]:
    """Reorder the labels of cells, given in the order in which the layers first use them."""
    by_index = dict(zip(dict.fromkeys(layout), cells, strict=False))
    return [by_index[index] for index in sorted(by_index)]


def _by_cell(file: Path, rows: pd.DataFrame) -> Mapping[str, _Cell]:
    """Return the α of each cell, by its label, from the rows of an epoch."""
    cells: dict[str, _Cell] = {}
    for row in rows.to_dict("records"):
        label, edge = row.pop("cell"), row.pop("edge")
        alphas = {key: value for key, value in row.items() if pd.notna(value)}
        cell = cells.setdefault(label, _Cell({}, None))
        name, node = EdgeName.parse(f"{label}/{edge}"), NodeName.parse(f"{label}/{edge}")
        if name is not None:
            cell.edges[name.source, name.target] = alphas
        elif node is not None:
            cells[label] = cell._replace(nodes={**(cell.nodes or {}), node.target: alphas})
        else:
            raise InputError(f"{file}: the edge {edge!r} is not that of a cell, for example 0->2")
    return cells
