"""What a run directory holds, read whole and checked: what the tables and pictures are made from.

A run may still be going: what it has not written yet is empty.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from nas_plugins.config.yaml import load_plain
from nas_plugins.errors import InputError
from nas_plugins.files import one_line, read_object, read_text
from nas_plugins.runs.metadata import read_metadata
from nas_plugins.runs.tables import ALPHA_KEYS, Kind, Weights, operations_of, read_table
from search_spaces.genotype import Genotype

METRICS = (
    "epoch", "train_loss", "train_acc", "val_loss", "val_acc", "derived_val_acc", "seconds", "peak_memory_mb",
)  # fmt: skip
LATER_METRICS = ("seconds_per_iteration", "distance", "alpha_distance")
"""Columns that not all runs have."""
SIGMOID_STRATEGIES = ("FairDARTS", "DDARTS")
"""Strategies whose operations do not compete, a weight being the sigmoid of its α; for runs that do not tell it."""


@dataclass(frozen=True)
class Run:
    """All that a run directory holds and a report shows; what is not there yet is empty or None."""

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
    recorded_weights: Weights | None = None

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def kind(self) -> Kind:
        return "search" if "space" in self.config else "retrain"

    @property
    def method(self) -> str:
        return str(get(self.config, "strategy", "name") or "search") if self.kind == "search" else "retrain"

    @property
    def weights(self) -> Weights:
        of_name: Weights = "sigmoid" if self.method.rpartition(".")[2] in SIGMOID_STRATEGIES else "softmax"
        return self.recorded_weights or of_name


def read_runs(runs: Iterable[str | os.PathLike[str] | Run]) -> list[Run]:
    """Read those runs that are not read yet; one that is named twice is there once.

    Raises:
        InputError: as :func:`read_run`.
    """
    read = [run if isinstance(run, Run) else read_run(run) for run in runs]
    return list({run.path.resolve(): run for run in read}.values())


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read a run directory.

    Raises:
        InputError: it is none, or a file in it is not what this project writes.
    """
    path = Path(path)
    if not path.is_dir():
        problem = "is no directory" if path.exists() else "does not exist"
        raise InputError(f"{path}: {problem}; give the directory of a run")
    if not (path / "config.yaml").is_file():
        raise InputError(f"{path}: is no run, it has no config.yaml; give what search or retrain made")
    text, config = _read_config(path / "config.yaml")
    return Run(
        path=path,
        config_text=text,
        config=config,
        metrics=_read_metrics(path / "metrics.csv"),
        alphas=_read_alphas(path / "alphas.csv"),
        contributions=_read_contributions(path / "contributions.csv"),
        genotype=_read_genotype(path / "genotype.json"),
        sample=_read_numbers(path / "sample.json", ()),
        network=_read_numbers(path / "network.json", ("parameters", "multiply_adds")),
        test=_read_numbers(path / "test.json", ("test_acc",)),
        recorded_weights=read_metadata(path).weights,
    )


def _read_config(path: Path) -> tuple[str, dict[str, Any]]:
    text = read_text(path)
    try:
        config = load_plain(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: is no YAML: {one_line(error)}") from None
    if not isinstance(config, dict) or not {"space", "network"} & set(config):
        raise InputError(f"{path}: has neither 'space', as a search has, nor 'network', as a retraining has")
    return text, config


def _read_metrics(path: Path) -> pd.DataFrame:
    columns = [*METRICS, *LATER_METRICS]
    if not path.exists():
        return pd.DataFrame(columns=columns, dtype=float)
    return read_table(path, METRICS).reindex(columns=columns)


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
    table = read_table(path, ("epoch", "cell", "contribution"), texts=("cell",))
    return table if len(table) else None


def _read_genotype(path: Path) -> Genotype | None:
    if not path.exists():
        return None
    try:
        return Genotype.load(path)
    except (ValueError, OSError) as error:
        raise InputError(one_line(error)) from None


def _read_numbers(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """A JSON object whose ``keys`` are numbers where they are there; empty without the file."""
    if not path.exists():
        return {}
    data = read_object(path)
    for key in keys:
        if type(data.get(key, 0)) not in (int, float) or not abs(data.get(key, 0)) < 1e18:
            raise InputError(f"{path}: {key} is {data[key]!r:.40}, no number that it can be")
    return data


def get(config: Any, *keys: str) -> Any:
    """A value deep in a config; None where there is none."""
    for key in keys:
        config = config.get(key) if isinstance(config, dict) else None
    return config
