"""Trials of an NNI experiment, read from its database, also while it runs."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pandas as pd
from nni.tools.nnictl.config_utils import Experiments

from nas_plugins.errors import InputError
from nas_plugins.files import one_line
from nas_plugins.runs.directory import GENOTYPE
from nas_plugins.tasks import metric_of
from search_spaces.genotype import Genotype

STATUSES = ("WAITING", "RUNNING", "SUCCEEDED", "FAILED", "USER_CANCELED", "SYS_CANCELED", "EARLY_STOPPED", "UNKNOWN")
"""States of a trial, as NNI names them."""


def experiment_folder(experiment: str | os.PathLike[str]) -> Path:
    """Return the folder of an experiment.

    Args:
        experiment: ID of the experiment, or the folder itself.

    Raises:
        InputError: There is no such experiment.
    """
    known = Experiments().get_all_experiments().get(str(experiment))
    folder = Path(known["logDir"], str(experiment)) if known else Path(experiment)
    if not (folder / "db" / "nni.sqlite").is_file():
        raise InputError(f"{experiment}: no experiment of nnictl experiment list --all, nor the folder of one")
    return folder


def read_trials(experiment: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the trials of an experiment, the best one first and those without a final result last.

    Args:
        experiment: ID of the experiment, or its folder.

    Returns:
        Columns trial (its ID), status (one of :data:`STATUSES`), value (the final result), run (the run directory,
        empty if the trial reported none), parameters (key -> chosen value) and metric (key of the metric of the value).
        In a stopped experiment a trial is never RUNNING but WAITING, since a resume starts it again.

    Raises:
        InputError: There is no such experiment, or its records cannot be read.
    """
    folder = experiment_folder(experiment)
    file = folder / "db" / "nni.sqlite"
    try:
        with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            rows, least = _read_rows(database), _minimizes(database)
    except (sqlite3.Error, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{file}: not the records of NNI's trials: {one_line(error)}") from None
    table = pd.DataFrame(rows, columns=["trial", "status", "value", "run", "parameters", "metric"])
    if Experiments().get_all_experiments().get(folder.name, {}).get("status") == "STOPPED":
        table["status"] = table["status"].replace("RUNNING", "WAITING")
    table = table.astype({"value": float})
    if least is None:
        least = any(not metric_of(name).higher_is_better for name in table["metric"])
    return table.sort_values("value", ascending=least, kind="stable", ignore_index=True)


def _minimizes(database: sqlite3.Connection) -> bool | None:
    """Return whether the tuner of the experiment minimizes; None if its settings do not specify it."""
    try:
        rows = database.execute("SELECT params FROM ExperimentProfile ORDER BY revision DESC LIMIT 1").fetchall()
    except sqlite3.OperationalError:  # no such table: NNI writes it when an experiment starts
        return None
    tuner = json.loads(rows[0][0]).get("tuner") if rows else None
    mode = (tuner.get("classArgs") or {}).get("optimize_mode") if isinstance(tuner, dict) else None
    return None if mode is None else mode == "minimize"


def _read_rows(database: sqlite3.Connection) -> list[dict[str, Any]]:
    """Return a row of :func:`read_trials` for each trial, in the order in which NNI started them."""
    trials: dict[str, dict[str, Any]] = {}
    events = "SELECT trialJobId, event, data FROM TrialJobEvent WHERE trialJobId <> '' ORDER BY rowid"
    for trial, event, data in database.execute(events):
        row = trials.setdefault(trial, {"trial": trial, "value": None, "run": "", "parameters": {}, "metric": "acc"})
        if event in STATUSES:
            row["status"] = event
        if data:
            chosen = json.loads(data).get("parameters") or {}
            row["parameters"] = chosen if isinstance(chosen, dict) else {"parameters": chosen}
    for trial, data in database.execute("SELECT trialJobId, data FROM MetricData WHERE type = 'FINAL' ORDER BY rowid"):
        result = json.loads(json.loads(data))
        if not isinstance(result, dict):
            result = {"default": result}
        trials[trial] |= {"value": float(result["default"]), "run": os.fspath(result.get("run", ""))}
        trials[trial]["metric"] = str(result.get("metric", "acc"))
    return list(trials.values())


def succeeded(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that ended with a final result."""
    return trials[(trials["status"] == "SUCCEEDED") & trials["value"].notna()]


def trials_text(trials: pd.DataFrame) -> str:
    """Return the trials as aligned text, with a column for each parameter."""
    parameters = pd.DataFrame(trials["parameters"].tolist(), index=trials.index)
    table = pd.concat([trials[["trial", "status"]], parameters, trials[["value", "run"]]], axis=1)
    return table.to_string(index=False, na_rep="–", float_format="{:.4g}".format)


def save_genotypes(trials: pd.DataFrame, count: int, output: str | os.PathLike[str]) -> list[Path]:
    """Copy the genotypes of the best trials to ``1.json``, ``2.json``, and so on.

    Args:
        trials: Trials as :func:`read_trials` returns them.
        count: Number of genotypes.
        output: Folder for the copies.

    Returns:
        The files, the best one first.

    Raises:
        InputError: Fewer trials succeeded.
        OSError: The run directory of a trial is not on this machine.
    """
    best = succeeded(trials)
    if not 0 < count <= len(best):
        raise InputError(f"--best: {count} should be from 1 to {len(best)}, the number of trials that succeeded")
    genotypes = [Genotype.load(Path(run, GENOTYPE)) for run in best["run"].head(count)]
    files = [Path(output, f"{place}.json") for place in range(1, count + 1)]
    for genotype, file in zip(genotypes, files, strict=True):
        genotype.save(file)
    return files
