"""α of a search cell by cell, as derivations take them, and the derivation of a search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from nas_plugins import plugins
from nas_plugins.config.reader import Config
from nas_plugins.errors import InputError
from nas_plugins.files import read_object
from nas_plugins.runs.directory import COST
from search_spaces.edges import EdgeName, NodeName
from search_spaces.space import StackedSpace
from strategies.derivation import Derivation, darts, has_fixed_inputs


class SearchedCell(NamedTuple):
    """The α of a cell, and those of the inputs of its nodes, None in a search without a topology."""

    edges: dict[tuple[int, int], dict[str, float]]
    nodes: dict[int, dict[str, float]] | None


def by_cell(file: Path, rows: pd.DataFrame) -> dict[str, SearchedCell]:
    """Return the α of each cell, by its label.

    Args:
        file: The table, for error messages.
        rows: Rows of one epoch, without the column epoch.

    Raises:
        InputError: A row is not that of an edge of a cell, nor of a node.
    """
    cells: dict[str, SearchedCell] = {}
    for row in rows.to_dict("records"):
        label, edge = row.pop("cell"), row.pop("edge")
        alphas = {key: value for key, value in row.items() if pd.notna(value)}
        cell = cells.setdefault(label, SearchedCell({}, None))
        name, node = EdgeName.parse(f"{label}/{edge}"), NodeName.parse(f"{label}/{edge}")
        if name is not None:
            cell.edges[name.source, name.target] = alphas
        elif node is not None:
            cells[label] = cell._replace(nodes={**(cell.nodes or {}), node.target: alphas})
        else:
            raise InputError(f"{file}: the edge {edge!r} is not that of a cell, for example 0->2")
    return cells


def within_targets(run: Path, cells: Mapping[str, SearchedCell]) -> dict[str, SearchedCell]:
    """Return α as the search derived them at its end: with what its costs take from the α of each candidate.

    Args:
        run: The run directory.
        cells: The α of the last epoch.

    Raises:
        InputError: The file of the costs is damaged.
    """
    file = run / COST
    shift = read_object(file)["shift"] if file.exists() else {}
    return {label: cell._replace(edges=_shifted(label, cell.edges, shift)) for label, cell in cells.items()}


def _shifted(
    label: str, edges: Mapping[tuple[int, int], Mapping[str, float]], shift: Mapping[str, Mapping[str, float]]
) -> dict[tuple[int, int], dict[str, float]]:
    added = {edge: shift.get(str(EdgeName(label, *edge)), {}) for edge in edges}
    return {
        edge: {name: alpha + added[edge].get(name, 0.0) for name, alpha in alphas.items()}
        for edge, alphas in edges.items()
    }


def derivation_of(config: Config) -> Derivation:
    """Return the derivation of a search, which is ``darts`` for third-party spaces unless its own fits their cells.

    Raises:
        InputError: The space or the strategy cannot be found.
    """
    derivation: Derivation = config.build("strategy").composition.derivation
    return derivation if searches_our_cells(config) or has_fixed_inputs(derivation) else darts


def searches_our_cells(config: Config) -> bool:
    """Return whether the space of a search is one of this project, whose nodes may have any number of operations."""
    return issubclass(plugins.find("space", config.values["space"]["name"]), StackedSpace)
