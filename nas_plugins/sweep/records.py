"""What NNI has recorded of the trials of an experiment, whether it runs or not."""

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
from search_spaces.genotype import Genotype

STATUSES = ("WAITING", "RUNNING", "SUCCEEDED", "FAILED", "USER_CANCELED", "SYS_CANCELED", "EARLY_STOPPED", "UNKNOWN")
"""What NNI calls the states of a trial."""


def experiment_folder(experiment: str | os.PathLike[str]) -> Path:
    """The folder of an experiment.

    Args:
        experiment: its ID, or the folder itself.

    Raises:
        InputError: there is no such experiment.
    """
    folders = [Path(experiment)]
    known = Experiments().get_all_experiments().get(str(experiment))
    if known:
        folders.append(Path(known["logDir"], str(experiment)))
    for folder in folders:
        if (folder / "db" / "nni.sqlite").is_file():
            return folder
    raise InputError(f"{experiment}: neither the folder of an NNI experiment nor one of nnictl experiment list --all")


def read_trials(experiment: str | os.PathLike[str]) -> pd.DataFrame:
    """The trials of an experiment, the best one first and those without a final result last.

    Args:
        experiment: its ID or its folder.

    Returns:
        Columns trial (its ID), status (as NNI names it; of a stopped experiment, whose resume starts what had not
        ended again, never RUNNING but WAITING), value (the final result), run (the run
        directory, empty where the trial told none) and parameters (key -> value, as chosen).

    Raises:
        InputError: there is no such experiment, or its records cannot be read.
    """
    folder = experiment_folder(experiment)
    file = folder / "db" / "nni.sqlite"
    trials: dict[str, dict[str, Any]] = {}
    try:
        with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as records:
            events = "SELECT trialJobId, event, data FROM TrialJobEvent WHERE trialJobId <> '' ORDER BY rowid"
            for trial, event, data in records.execute(events):
                row = trials.setdefault(trial, {"trial": trial, "value": None, "run": "", "parameters": {}})
                if event in STATUSES:
                    row["status"] = event
                if data:
                    chosen = _object(json.loads(data)).get("parameters") or {}
                    row["parameters"] = chosen if isinstance(chosen, dict) else {"parameters": chosen}
            finals = "SELECT trialJobId, data FROM MetricData WHERE type = 'FINAL' ORDER BY rowid"
            for trial, data in records.execute(finals):
                result = json.loads(json.loads(data))
                if not isinstance(result, dict):
                    result = {"default": result}
                run = result.get("run", "")
                if not isinstance(run, str):
                    raise TypeError(f"the run of trial {trial} is {run!r:.40}, no directory")
                trials[trial] |= {"value": float(result["default"]), "run": run}
    except (sqlite3.Error, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{file}: not the records of NNI's trials: {one_line(error)}") from None
    if Experiments().get_all_experiments().get(folder.name, {}).get("status") == "STOPPED":
        for row in trials.values():
            if row.get("status") == "RUNNING":
                row["status"] = "WAITING"
    table = pd.DataFrame(list(trials.values()), columns=["trial", "status", "value", "run", "parameters"])
    return table.astype({"value": float}).sort_values("value", ascending=False, kind="stable", ignore_index=True)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.40} should be an object with keys")
    return value


def succeeded(trials: pd.DataFrame) -> pd.DataFrame:
    """Those that ended with a final result."""
    return trials[(trials["status"] == "SUCCEEDED") & trials["value"].notna()]


def trials_text(trials: pd.DataFrame) -> str:
    """The trials as aligned text, a column for each parameter."""
    parameters = pd.DataFrame(trials["parameters"].tolist(), index=trials.index)
    table = pd.concat([trials[["trial", "status"]], parameters, trials[["value", "run"]]], axis=1)
    return table.to_string(index=False, na_rep="–", float_format="{:.4g}".format)


def save_genotypes(trials: pd.DataFrame, count: int, output: str | os.PathLike[str]) -> list[Path]:
    """Copy the genotypes of the best trials: ``1.json``, ``2.json``, and so on.

    Args:
        trials: what :func:`read_trials` gives.
        count: how many.
        output: the folder for them.

    Returns:
        The files.

    Raises:
        InputError: there are not so many, or the run directory of one is not on this machine.
    """
    best = succeeded(trials)
    if best.empty:
        raise InputError("--genotypes: no trial has succeeded")
    if not 0 < count <= len(best):
        raise InputError(f"--best: {count} should be from 1 to {len(best)}, the trials that succeeded")
    found = [Path(run, GENOTYPE) for run in best["run"].head(count)]
    missing = [str(file) for file in found if not file.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: not there; trials on other machines need an --output that all machines share")
    genotypes = [Genotype.load(file) for file in found]
    files = [Path(output, f"{place}.json") for place in range(1, count + 1)]
    for genotype, file in zip(genotypes, files, strict=True):
        genotype.save(file)
    return files
