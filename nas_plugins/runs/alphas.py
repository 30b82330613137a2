"""α of a search: as weights of operations, and cell by cell for the derivation of the search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from nas_plugins import plugins
from nas_plugins.config.reader import Config
from nas_plugins.errors import InputError
from nas_plugins.files import read_object
from nas_plugins.runs.directory import COST, FINISH
from nas_plugins.runs.tables import Weights, operations_of
from search_spaces.edges import EdgeName, NodeName
from search_spaces.space import StackedSpace
from strategies.composition import Composition
from strategies.derivation import Derivation, darts, has_fixed_inputs


def architecture_weights(alphas: pd.DataFrame, weights: Weights) -> pd.DataFrame:
    """Return a copy of a table of α with every α replaced by the weight of its operation on its edge.

    Args:
        alphas: Columns epoch, cell, edge and one per operation; a missing operation is NaN.
        weights: "softmax" over the operations of an edge, or "sigmoid" of each α.
    """
    values = alphas[operations_of(alphas)]
    if weights == "softmax":
        exponentials = np.exp(values.sub(values.max(axis=1), axis=0))
        values = exponentials.div(exponentials.sum(axis=1), axis=0)
    else:
        values = 1 / (1 + np.exp(-values))
    result = alphas.copy()
    result[values.columns] = values
    return result


class SearchedCell(NamedTuple):
    """α of a cell, and α of the inputs of its nodes, which is None in a search without a topology."""

    edges: dict[tuple[int, int], dict[str, float]]
    nodes: dict[int, dict[str, float]] | None


def by_cell(file: Path, rows: pd.DataFrame) -> dict[str, SearchedCell]:
    """Return the α of each cell, by its label.

    Args:
        file: The table, for error messages.
        rows: Rows of one epoch, without the column epoch.

    Raises:
        InputError: A row belongs neither to an edge of a cell nor to a node.
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


def as_searched(run: Path, cells: Mapping[str, SearchedCell]) -> dict[str, SearchedCell]:
    """Return the α from which the search derived its result, including the shift by its costs and its finish.

    Args:
        run: The run directory.
        cells: The α of the last epoch.

    Raises:
        InputError: The file of the costs or of the finish is damaged.
    """
    file = next((run / name for name in (FINISH, COST) if (run / name).exists()), None)
    shift = {} if file is None else read_object(file)["shift"]
    return {label: cell._replace(edges=_shifted(label, cell.edges, shift)) for label, cell in cells.items()}


def _shifted(
    label: str, edges: Mapping[tuple[int, int], Mapping[str, float]], shift: Mapping[str, Mapping[str, float]]
) -> dict[tuple[int, int], dict[str, float]]:
    added = {edge: shift.get(str(EdgeName(label, *edge)), {}) for edge in edges}
    return {
        edge: {name: alpha + added[edge].get(name, 0.0) for name, alpha in alphas.items()}
        for edge, alphas in edges.items()
    }


def derivation_of(config: Config, composition: Composition) -> Derivation:
    """Return the derivation of a search, which is ``darts`` for third-party spaces unless its own fits their cells.

    Args:
        config: The settings of the search.
        composition: The parts of its strategy.

    Raises:
        InputError: The space cannot be found.
    """
    derivation = composition.derivation
    return derivation if searches_our_cells(config) or has_fixed_inputs(derivation) else darts


def searches_our_cells(config: Config) -> bool:
    """Return whether the space of a search is one of this project, whose nodes may have any number of operations."""
    return issubclass(plugins.find("space", config.values["space"]["name"]), StackedSpace)
