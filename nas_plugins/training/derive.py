"""Derive a genotype from the α that a search has recorded."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nas_plugins.config.reader import Config
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike
from nas_plugins.runs import directory as runs
from nas_plugins.runs.alphas import SearchedCell, as_searched, by_cell, derivation_of, searches_our_cells
from nas_plugins.runs.metadata import read_metadata
from nas_plugins.runs.tables import ALPHA_KEYS, read_table
from nas_plugins.training.checkpoints import read_result
from search_spaces.edges import existing_edges, smallest_set
from search_spaces.genotype import Edge, Genotype, GenotypeError
from strategies.derivation import Derivation, Method, by_method, darts, derive_cell, few_skips


def derive(
    run: PathLike,
    output: PathLike,
    method: Method | None = None,
    threshold: float | None = None,
    layers: int | None = None,
    epoch: int | None = None,
    max_skips: int | None = None,
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
        max_skips: Maximum number of skip connections in each cell, at least 0: see
            :class:`~strategies.derivation.FewSkips`. None for the limit of the search only. With a maximum, costs may
            be above their targets.

    Returns:
        The genotype.

    Raises:
        InputError: The directory is not a finished search of cells, it has no such epoch, no operation reaches the
            threshold, or the maximum is negative.
    """
    if max_skips is not None and max_skips < 0:
        raise InputError(f"--max-skips: {max_skips} should be at least 0")
    run = Path(run)
    searched, derivation, how = _searched(run, method, threshold)
    alphas = _read_alphas(run, epoch, searched)
    if method is None and threshold is None and epoch is None:
        alphas = as_searched(run, alphas)
    limited = few_skips(derivation, max_skips)
    chosen = {label: derive_cell(limited, label, *cell) for label, cell in alphas.items()}
    empty = []
    if method is None and threshold is None:
        empty = [label for label in alphas if not existing_edges(chosen[label])]
        chosen |= {label: derive_cell(few_skips(darts, max_skips), label, *alphas[label]) for label in empty}
    cells = tuple(tuple(Edge(c.operation, c.source, c.target) for c in cell) for cell in chosen.values())
    try:
        genotype = replace(searched, cells=cells, operations=smallest_set(cells), max_skips=max_skips)
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
    if method is None and threshold is None:
        return derivation_of(config, config.build("strategy").composition), "the derivation of the search"
    settings = config.values["strategy"]
    method = method or (settings.get("derivation", "darts") if searches_our_cells(config) else "darts")
    if method == "darts" and threshold is not None:
        raise InputError(f"--threshold: {threshold}, but darts has none; it needs --method sparse or edge")
    threshold = settings.get("threshold", 0.85) if threshold is None else threshold
    try:
        return by_method(method, threshold), f"{method} with threshold {threshold}"
    except ValueError as error:
        raise InputError(f"--method, --threshold: {error}") from None


def _read_alphas(run: Path, epoch: int | None, searched: Genotype) -> dict[str, SearchedCell]:
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
    cells = by_cell(file, rows)
    # Third-party spaces name no cells; the supernet, and so the table, then starts with the cell of the first layer.
    labels = read_metadata(run).cells or _in_order_of_genotype([*cells], searched.layout)
    return {label: cells[label] for label in labels}


def _in_order_of_genotype(cells: Sequence[str], layout: Sequence[int]) -> list[str]:
    """Reorder the labels of cells, given in the order in which the layers first use them."""
    by_index = dict(zip(dict.fromkeys(layout), cells, strict=False))
    return [by_index[index] for index in sorted(by_index)]
