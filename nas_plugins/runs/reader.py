"""Load a whole run directory for reports and examples.

A run may still be in progress; what it has not written yet is empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from nas_plugins.config.costs import read_costs
from nas_plugins.config.reader import Kind
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike, read_object
from nas_plugins.runs import directory
from nas_plugins.runs.costs import CostResult, read_costs_of
from nas_plugins.runs.directory import kind_of, read_sections
from nas_plugins.runs.metadata import read_metadata
from nas_plugins.runs.tables import (
    ALPHA_KEYS,
    CONTRIBUTION_COLUMNS,
    COST_COLUMNS,
    DISTANCES,
    EIGENVALUE,
    Weights,
    read_table,
)
from nas_plugins.tasks import Task, task_of
from search_spaces.genotype import Genotype

_OTHER_METRICS = ("seconds", "peak_memory_mb", "seconds_per_iteration", *DISTANCES, *COST_COLUMNS, EIGENVALUE)
"""Columns of metrics.csv after those of the task."""


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
        sample: The found or the retrained sample of a space without cells.
        network: Size of a retrained network and of its images.
        test: Results of ``nas-plugins evaluate``.
        confusion: Number of test images by their class (rows) and the predicted class (columns).
        outputs: Metrics of labels, values or classes of pixels, one row for each, with its name in the column output.
        weights: Function that turns α into the weights of operations.
        targets: Metric -> the highest cost that the search aims at.
        costs: Costs of the derived network of a finished search with targets.
        ranking: Architectures that a search ranked at its end, the most likely first.
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
    confusion: pd.DataFrame | None = None
    outputs: pd.DataFrame | None = None
    weights: Weights = "softmax"
    targets: Mapping[str, float] = field(default_factory=dict)
    costs: tuple[CostResult, ...] = ()
    ranking: Sequence[dict[str, Any]] = ()

    @property
    def name(self) -> str:
        """Return the name of the run directory."""
        return self.path.resolve().name

    @property
    def kind(self) -> Kind:
        """Return whether the run is a search or a retraining."""
        return kind_of(self.config)

    @property
    def task(self) -> Task:
        """Return the task of the run."""
        return task_of(self.config)

    @property
    def found(self) -> object:
        """Return the cells or the sample that a search found or a retraining trains, comparable between both."""
        if not self.sample:
            return cells_of(self.genotype)
        return get(self.config, "space", "name"), json.dumps(self.sample, sort_keys=True)

    @property
    def dataset(self) -> str | None:
        """Return the name of the data set, or of the user-defined data module."""
        path = get(self.config, "data", "class_path")
        return get(self.config, "data", "dataset") if path is None else str(path).rpartition(".")[2]

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
        GenotypeError: Its genotype is damaged.
    """
    path = Path(path)
    text, config = read_sections(path)
    genotype = path / directory.GENOTYPE
    return Run(
        path=path,
        config_text=text,
        config=config,
        metrics=_read_metrics(path / directory.METRICS, task_of(config)),
        alphas=_read_rows(path / directory.ALPHAS, ALPHA_KEYS, texts=ALPHA_KEYS[1:]),
        contributions=_read_rows(path / directory.CONTRIBUTIONS, CONTRIBUTION_COLUMNS, texts=("cell",)),
        genotype=Genotype.load(genotype) if genotype.exists() else None,
        sample=_read_values(path / directory.SAMPLE),
        network=_read_values(path / directory.NETWORK),
        test=_read_values(path / directory.TEST),
        confusion=_read_confusion(path / directory.CONFUSION),
        outputs=_read_rows(path / directory.OUTPUTS, ["output"], texts=["output"]),
        weights=read_metadata(path).weights or "softmax",
        targets=_read_targets(path, config),
        costs=read_costs_of(path / directory.COST),
        ranking=_read_ranking(path / directory.FINISH),
    )


def _read_metrics(path: Path, task: Task) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=["epoch", *task.columns, *_OTHER_METRICS], dtype=float)
    table = read_table(path, ["epoch"])
    # Earlier versions wrote fewer columns.
    return table.reindex(columns=["epoch", *task.columns_among(table), *_OTHER_METRICS])


def _read_targets(path: Path, config: dict[str, Any]) -> dict[str, float]:
    try:
        return {cost.metric: cost.target for cost in read_costs(config.get("cost"))}
    except InputError as error:
        raise InputError(f"{path / directory.CONFIG}: {error}") from None


def _read_rows(path: Path, required: Sequence[str], texts: Sequence[str]) -> pd.DataFrame | None:
    table = read_table(path, required, texts) if path.exists() else None
    return None if table is None or table.empty else table


def _read_confusion(path: Path) -> pd.DataFrame | None:
    if not path.exists():
        return None
    table = read_table(path, ["class"], texts=["class"])
    classes, counts = table["class"], table.iloc[:, 1:].to_numpy()
    if counts.shape != (len(classes), len(classes)) or not (counts >= 0).all():
        raise InputError(f"{path}: should have a row and a column of counts for each class")
    return pd.DataFrame(counts.astype(int), classes, list(classes))


def _read_ranking(path: Path) -> list[dict[str, Any]]:
    ranking = _read_values(path).get("ranking", [])
    kinds = {"operations": dict, "metrics": dict, "chosen": bool}
    if not isinstance(ranking, list) or not all(
        isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in kinds.items()) for row in ranking
    ):
        raise InputError(f"{path}: should have a ranking of architectures with {', '.join(kinds)}")
    return ranking


def _read_values(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def get(config: Any, *keys: str) -> Any:
    """Return a nested value of a config; None if it does not exist."""
    for key in keys:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def cells_of(genotype: Genotype | None) -> object:
    """Return the parts of a genotype that its networks of any depth share."""
    return genotype and (genotype.cells, genotype.fixed)
