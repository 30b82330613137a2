"""Load a whole run directory, checked, for reports and examples.

A run may still be in progress; what it has not written yet is empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nas_plugins.errors import InputError
from nas_plugins.files import PathLike, one_line, read_object
from nas_plugins.runs import directory
from nas_plugins.runs.directory import kind_of, read_sections
from nas_plugins.runs.metadata import read_metadata
from nas_plugins.runs.tables import (
    ALPHA_KEYS,
    CONTRIBUTION_COLUMNS,
    DISTANCES,
    LOGGED_METRICS,
    Kind,
    Weights,
    operations_of,
    read_table,
)
from search_spaces.genotype import Genotype

_REQUIRED_METRICS = ("epoch", *LOGGED_METRICS, "seconds", "peak_memory_mb")
_OPTIONAL_METRICS = ("seconds_per_iteration", *DISTANCES)


@dataclass(frozen=True)
class Run:
    """Contents of a run directory; what has not been written yet is empty or None.

    Args:
        path: The run directory.
        config_text: The config as it was written.
        config: The settings by section and key.
        metrics: One row per epoch, with all columns of metrics.csv.
        alphas: One row per epoch and edge, with a column per operation.
        contributions: One row per epoch and cell.
        genotype: The derived or the retrained genotype.
        sample: The sample that a search of a space without cells found.
        network: Size of a retrained network and of its images.
        test: Results of ``nas-plugins evaluate``.
        weights: Function that turns α into the weights of operations.
    """

    path: Path
    config_text: str
    config: dict[str, Any]
    metrics: pd.DataFrame
    alphas: pd.DataFrame | None
    contributions: pd.DataFrame | None
    genotype: Genotype | None
    sample: dict[str, Any]
    network: dict[str, Any]
    test: dict[str, Any]
    weights: Weights = "softmax"

    @property
    def name(self) -> str:
        """Return the name of the run directory."""
        return self.path.resolve().name

    @property
    def kind(self) -> Kind:
        """Return whether the run is a search or a retraining."""
        return kind_of(self.config)

    @property
    def method(self) -> str:
        """Return the name of the strategy; ``"retrain"`` for a retraining."""
        return str(get(self.config, "strategy", "name") or "search") if self.kind == "search" else "retrain"


def read_runs(runs: Iterable[PathLike | Run]) -> list[Run]:
    """Load the runs that are not loaded yet, without duplicates.

    Raises:
        InputError: See :func:`read_run`.
    """
    read = [run if isinstance(run, Run) else read_run(run) for run in runs]
    return list({run.path.resolve(): run for run in read}.values())


def read_run(path: PathLike) -> Run:
    """Load a run directory.

    Raises:
        InputError: The directory is not a run, or one of its files is damaged.
    """
    path = Path(path)
    text, config = read_sections(path)
    return Run(
        path=path,
        config_text=text,
        config=config,
        metrics=_read_metrics(path / directory.METRICS),
        alphas=_read_alphas(path / directory.ALPHAS),
        contributions=_read_contributions(path / directory.CONTRIBUTIONS),
        genotype=_read_genotype(path / directory.GENOTYPE),
        sample=_read_numbers(path / directory.SAMPLE, ()),
        network=_read_numbers(path / directory.NETWORK, ("parameters", "multiply_adds")),
        test=_read_numbers(path / directory.TEST, ("test_acc",)),
        weights=read_metadata(path).weights or "softmax",
    )


def _read_metrics(path: Path) -> pd.DataFrame:
    columns = [*_REQUIRED_METRICS, *_OPTIONAL_METRICS]
    if not path.exists():
        return pd.DataFrame(columns=columns, dtype=float)
    return read_table(path, _REQUIRED_METRICS).reindex(columns=columns)


def _read_alphas(path: Path) -> pd.DataFrame | None:
    if not path.exists():
        return None
    table = read_table(path, ALPHA_KEYS, texts=ALPHA_KEYS[1:])
    if not operations_of(table):
        raise InputError(f"{path}: has no column of an operation beside epoch, cell and edge")
    return table if len(table) else None


def _read_contributions(path: Path) -> pd.DataFrame | None:
    if not path.exists():
        return None
    table = read_table(path, CONTRIBUTION_COLUMNS, texts=("cell",))
    return table if len(table) else None


def _read_genotype(path: Path) -> Genotype | None:
    if not path.exists():
        return None
    try:
        return Genotype.load(path)
    except (ValueError, OSError) as error:
        raise InputError(one_line(error)) from None


def _read_numbers(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Return a JSON object, checking that the values of ``keys`` are numbers; empty if the file does not exist."""
    if not path.exists():
        return {}
    data = read_object(path)
    for key in keys:
        if not isinstance(data.get(key, 0), int | float):
            raise InputError(f"{path}: {key} is {data[key]!r:.40}, no number that it can be")
    return data


def get(config: Any, *keys: str) -> Any:
    """Return a nested value of a config; None if it does not exist."""
    for key in keys:
        config = config.get(key) if isinstance(config, dict) else None
    return config
