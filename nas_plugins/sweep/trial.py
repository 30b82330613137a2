"""One search, or one retraining, as a trial of an NNI experiment: the command ``nas-plugins trial``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from urllib.request import urlopen

import nni
import psutil
import pytorch_lightning as pl
import yaml
from nni.runtime.trial_command_channel import get_default_trial_command_channel

from nas_plugins.config.reader import Config, is_search, read_retrain, read_search
from nas_plugins.errors import InputError
from nas_plugins.runs.directory import CONFIG, is_first
from nas_plugins.runs.tables import read_table
from nas_plugins.training.retrain import evaluate, retrain
from nas_plugins.training.search import resume, search
from search_spaces.genotype import Genotype

PathLike = str | os.PathLike[str]

MEASURES = ("derived_val_acc", "val_acc", "train_acc")
"""Columns of metrics.csv: the first one that a run has is what it reports."""


def run_trial(
    config: PathLike, overrides: Sequence[str] = (), genotype: PathLike | None = None, output: PathLike | None = None
) -> Path:
    """Search, or retrain, with the parameters that NNI's tuner chose for this trial.

    The accuracy after every epoch is an intermediate result. The final result has "default", which
    the tuner sees, and "run", the run directory; that of a retraining also "test_acc". A search
    reports the validation accuracy of the derived network; a retraining that of its network, and
    without held-out images the test accuracy.

    A trial that NNI starts a second time, such as by ``nnictl resume``, goes on from its last
    complete epoch.

    Args:
        config: the config file of a search or of a retraining.
        overrides: ``--key value`` pairs that win over the file; what the tuner chose wins over them.
        genotype: what a retraining trains; the search space's own key ``genotype`` wins over it.
        output: the folder for the run directory ``EXPERIMENT/TRIAL``; without it the run directory
            is ``TRIAL`` in the folder that NNI gives the trial.

    Returns:
        The run directory.

    Raises:
        InputError: NNI did not start this process, or something given cannot be used.
    """
    if nni.get_trial_id() == "STANDALONE":
        raise InputError("trial: is started by NNI, as the trialCommand of an experiment; for a single run: search")
    run = _run_directory(output)
    if not is_first():  # a further process of a search on several devices, which the first one started
        return resume(run)
    signal.signal(signal.SIGINT, _die)
    manager = _Manager()
    if (run / CONFIG).exists():
        resume(run, [_Reporter(manager)])
    else:
        shutil.rmtree(run, ignore_errors=True)  # of a trial that was killed before it began
        genotype, overrides, _ = merged(config, overrides, genotype, manager.chosen)
        if genotype is None:
            search(config, run, overrides, [_Reporter(manager)])
        else:
            retrain(genotype, config, run, overrides, [_Reporter(manager)])
    manager.report("FINAL", 0, _final_result(run, is_search(run / CONFIG)))
    return run


def merged(
    config: PathLike, overrides: Sequence[str], genotype: PathLike | None, chosen: Mapping[str, Any]
) -> tuple[PathLike | None, list[str], Config]:
    """What a trial with the chosen parameters runs, checked.

    Args:
        config, overrides, genotype: as of :func:`run_trial`.
        chosen: key of the config -> value; a nested choice of NNI's, such as
            ``{"strategy": {"_name": "EDAS", "sign_flip_epochs": 5}}``, stands for the whole section.

    Returns:
        The genotype of a retraining, None for a search; all overrides; and the config with them.

    Raises:
        InputError: a key is unknown or a value is wrong.
    """
    chosen = dict(chosen)
    searches = is_search(config)
    if searches and genotype is not None:
        raise InputError(f"--genotype: {genotype}: {config} is the config of a search, which takes none")
    genotype = None if searches else chosen.pop("genotype", genotype)
    overrides = [*overrides]
    for key, value in chosen.items():
        if isinstance(value, Mapping):
            value = {"name" if name == "_name" else name: item for name, item in value.items()}
        overrides += [f"--{key}", yaml.safe_dump(value, default_flow_style=True)]
    if searches:
        settings = read_search(config, overrides)
        settings.build("strategy")
    else:
        settings = read_retrain(config, overrides)
        if genotype is None:
            raise InputError(f"{config}: a retraining needs --genotype FILE, or a key genotype in the search space")
        if not Path(genotype).is_file():
            hint = "nas-plugins trials EXPERIMENT --genotypes FOLDER copies the best ones of an experiment of searches"
            raise InputError(f"{genotype}: there is no such genotype file; {hint}")
        Genotype.load(genotype)
    return genotype, overrides, settings


def _run_directory(output: PathLike | None) -> Path:
    if output is None:
        return Path(os.environ["NNI_OUTPUT_DIR"], nni.get_trial_id())
    return Path(output, nni.get_experiment_id(), nni.get_trial_id()).absolute()


def _die(number: int, frame: object) -> None:
    """End as NNI asks a trial to, by an interrupt.

    One that dies of it is "canceled" in the portal; one that ends by itself, with a status, "failed". Nothing is lost:
    files are written whole.
    """
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


class _Manager:
    """The line to NNI's manager.

    Not nni.report_intermediate_result and the like: while NasExperiment runs a search, it puts a channel of its own in
    their place, and it leaves the number of the trial's parameters overwritten.
    """

    def __init__(self) -> None:
        self.channel = get_default_trial_command_channel()
        record = self.channel.receive_parameter()
        if os.environ.get("NNI_PLATFORM") == "local" and "NNI_TRIAL_COMMAND_CHANNEL" in os.environ:
            record = _recorded(os.environ["NNI_TRIAL_COMMAND_CHANNEL"])
        if record is None:
            raise InputError("trial: NNI's manager has no parameters for this trial")
        self.number: int | None = record["parameter_id"]
        self.chosen: Mapping[str, Any] = record["parameters"]

    def report(self, kind: Literal["PERIODICAL", "FINAL"], sequence: int, result: Any) -> None:
        self.channel.send_metric(kind, self.number, nni.get_trial_id(), sequence, result)


def _recorded(channel: str) -> Any:
    """The parameters that the portal shows for this trial, where the manager is on this machine.

    NNI's local training service hands parameters out in the order in which trials ask for them, and shows those of the
    order in which it started them: of two trials that start together, each may get what is shown for the other.

    Args:
        channel: the address that NNI gives the trial, such as ``http://localhost:8080/env/local-env/TRIAL``.
    """
    place, _, _ = channel.partition("/env/")
    for _ in range(100):  # it is recorded within the second in which the trial is started
        with suppress(OSError, ValueError, LookupError):
            answer = urlopen(f"{place}/api/v1/nni/trial-jobs/{nni.get_trial_id()}", timeout=20)
            return json.loads(json.load(answer)["hyperParameters"][0])
        time.sleep(0.5)
    return None


class _Reporter(pl.Callback):
    """Report the accuracy after every epoch."""

    def __init__(self, manager: _Manager) -> None:
        self.manager = manager

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        measure = next((name for name in MEASURES if name in trainer.callback_metrics), None)
        if measure is not None:
            self.manager.report("PERIODICAL", trainer.current_epoch, round(float(trainer.callback_metrics[measure]), 6))


def _final_result(run: Path, searched: bool) -> dict[str, Any]:
    last = read_table(run / "metrics.csv", ["epoch", "train_acc"]).iloc[-1]
    known = [round(float(last[name]), 6) for name in MEASURES if name in last and last.notna()[name]]
    result: dict[str, Any] = {"default": known[0], "run": str(run)}
    if not searched:
        result["test_acc"] = round(evaluate(run)["test_acc"], 6)
        if "val_acc" not in last or last.isna()["val_acc"]:
            result["default"] = result["test_acc"]
    return result
