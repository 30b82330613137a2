"""The command ``nas-plugins trial``: one search or one retraining as a trial of an NNI experiment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.request import urlopen

import nni
import psutil
import pytorch_lightning as pl
import yaml
from nni.runtime.trial_command_channel import get_default_trial_command_channel

from nas_plugins.config.reader import read_kind, read_retrain, read_retrain_sample, read_search
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike, read_object
from nas_plugins.runs.costs import read_costs_of
from nas_plugins.runs.directory import CONFIG, COST, METRICS, NETWORK, is_first, read_sections
from nas_plugins.runs.tables import COSTS, read_table
from nas_plugins.tasks import task_of
from nas_plugins.training.networks import space_beside
from nas_plugins.training.retrain import UntestableError, evaluate, retrain, retrain_sample
from nas_plugins.training.search import resume, search
from search_spaces.genotype import Genotype


class Job(NamedTuple):
    """Job of a trial: a retraining of a genotype file or of a sample file, or a search if there is neither.

    Args:
        genotype: Genotype file to retrain.
        sample: Sample file to retrain.
        overrides: ``--key value`` pairs, which take precedence over the config.
    """

    genotype: PathLike | None
    sample: PathLike | None
    overrides: list[str]


def run_trial(
    config: PathLike,
    overrides: Sequence[str] = (),
    genotype: PathLike | None = None,
    output: PathLike | None = None,
    sample: PathLike | None = None,
) -> Path:
    """Search, or retrain, with the parameters that NNI's tuner chose for this trial.

    The first metric of the task, such as the accuracy, or the metric of the evaluator is an intermediate result after
    every epoch. The final result has "default", which the tuner uses, "run", the run directory, for a retraining e.g.
    "test_acc", "parameters" and "multiply_adds", and for a search with costs those of the derived network, e.g.
    "latency"; "metric" is the key of the metric, e.g. "acc". For the mean absolute error, lower values are better, so
    the tuner has to minimize. A search reports the metric of the derived network on the validation images. A retraining
    reports the metric of its network on the validation images, or without a validation split on the test images.

    A trial that NNI starts a second time, e.g. on ``nnictl resume``, continues from its last complete epoch.

    Args:
        config: Config file of a search or of a retraining.
        overrides: ``--key value`` pairs, which take precedence over the file; the tuner's parameters take precedence
            over both.
        genotype: Genotype file to retrain; a key ``genotype`` in the search space takes precedence.
        output: Folder for the run directory ``EXPERIMENT/TRIAL``; by default the run directory is ``TRIAL`` in the
            folder that NNI gives the trial.
        sample: Sample file to retrain; a key ``sample`` in the search space takes precedence.

    Returns:
        The run directory.

    Raises:
        InputError: NNI did not start this process, or an argument cannot be used.
    """
    if nni.get_trial_id() == "STANDALONE":
        raise InputError("trial: is started by NNI, as the trialCommand of an experiment; for a single run: search")
    run = _run_directory(output)
    if not is_first():  # a process started by the first one of a search on several devices
        return resume(run)
    signal.signal(signal.SIGINT, _end)
    manager = _Manager()
    if (run / CONFIG).exists():
        reporter = _Reporter(manager, run)
        before = manager.reported_epochs()
        resume(run, [reporter])
        if before is not None:
            reporter.report_missed(before)
    else:
        shutil.rmtree(run, ignore_errors=True)  # left by a trial that was killed before its first epoch
        job = merged(config, overrides, genotype, manager.chosen, sample)
        given = (config, run, job.overrides, [_Reporter(manager, run)])
        if job.genotype is not None:
            retrain(job.genotype, *given)
        elif job.sample is not None:
            retrain_sample(job.sample, *given)
        else:
            search(*given)
    manager.report("FINAL", 0, _final_result(run, read_kind(run / CONFIG) == "search"))
    return run


def merged(
    config: PathLike,
    overrides: Sequence[str],
    genotype: PathLike | None,
    chosen: Mapping[str, Any],
    sample: PathLike | None = None,
) -> Job:
    """Return the checked job of a trial with the chosen parameters.

    Args:
        config, overrides, genotype, sample: See :func:`run_trial`.
        chosen: Key of the config -> value. A nested choice, e.g.
            ``{"strategy": {"_name": "EDAS", "sign_flip_epochs": 5}}``, replaces the whole section.

    Raises:
        InputError: A key is unknown, or a value is wrong.
    """
    chosen = dict(chosen)
    searches = read_kind(config) == "search"
    for name, file in (("genotype", genotype), ("sample", sample)):
        if searches and file is not None:
            raise InputError(f"--{name}: {file}: {config} is the config of a search, which takes none")
    if not searches:
        genotype, sample = chosen.pop("genotype", genotype), chosen.pop("sample", sample)
    job = Job(genotype, sample, [*overrides])
    for key, value in chosen.items():
        if isinstance(value, Mapping):
            value = {"name" if name == "_name" else name: item for name, item in value.items()}
        job.overrides.extend([f"--{key}", yaml.safe_dump(value, default_flow_style=True)])
    if searches:
        read_search(config, job.overrides).build("strategy")
    else:
        _check_retraining(config, job)
    return job


def _check_retraining(config: PathLike, job: Job) -> None:
    """Raise an InputError, or a GenotypeError, if a retraining cannot read its config and the file that it trains."""
    if job.genotype is not None and job.sample is not None:
        raise InputError(f"genotype, sample: a retraining takes one of {job.genotype} and {job.sample}")
    if job.genotype is not None:
        read_retrain(config, job.overrides)
        Genotype.load(job.genotype)
    elif job.sample is not None:
        read_object(Path(job.sample))
        read_retrain_sample(config, job.overrides, space_beside(job.sample))
    else:
        raise InputError(
            f"{config}: a retraining needs --genotype FILE, or a key genotype in the search space; for a space without "
            "cells --sample FILE, or a key sample"
        )


def _run_directory(output: PathLike | None) -> Path:
    if output is None:
        return Path(os.environ["NNI_OUTPUT_DIR"], nni.get_trial_id())
    return Path(output, nni.get_experiment_id(), nni.get_trial_id()).absolute()


def _end(number: int, frame: object) -> None:
    """End the process by the interrupt with which NNI cancels a trial.

    NNI counts a trial that is ended by this signal as canceled, and one that exits with a status as failed. No data are
    lost, since files are written atomically.
    """
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


class _Manager:
    """Connection to NNI's manager.

    It replaces ``nni.report_intermediate_result`` and ``nni.report_final_result``: while NasExperiment runs a search,
    these use a channel of NasExperiment, which also overwrites the number of the trial's parameters.

    Raises:
        InputError: The manager has no parameters for this trial.
    """

    def __init__(self) -> None:
        self.channel = get_default_trial_command_channel()
        record = self.channel.receive_parameter()
        local = os.environ.get("NNI_PLATFORM") == "local" and "NNI_TRIAL_COMMAND_CHANNEL" in os.environ
        self.portal = os.environ["NNI_TRIAL_COMMAND_CHANNEL"].partition("/env/")[0] if local else None
        if self.portal is not None:
            record = _parameters_in(self.portal)
        if record is None:
            raise InputError("trial: NNI's manager has no parameters for this trial")
        self.number: int | None = record["parameter_id"]
        self.chosen: Mapping[str, Any] = record["parameters"]

    def report(self, kind: Literal["PERIODICAL", "FINAL"], sequence: int, result: Any) -> None:
        self.channel.send_metric(kind, self.number, nni.get_trial_id(), sequence, result)

    def reported_epochs(self) -> set[int] | None:
        """Return the epochs of this trial that the manager has on record; None if it is on another machine."""
        if self.portal is None:
            return None
        metrics = _ask(self.portal, "metric-data")
        return {metric["sequence"] for metric in metrics if metric["type"] == "PERIODICAL"}


def _ask(portal: str, what: str) -> Any:
    return json.load(urlopen(f"{portal}/api/v1/nni/{what}/{nni.get_trial_id()}", timeout=20))


def _parameters_in(portal: str) -> Any:
    """Return the parameters that the portal shows for this trial, or None; the manager must be on this machine.

    NNI's local training service hands out parameters in the order in which trials ask for them, but shows them in the
    order in which it started the trials, so that of two trials that start together each may get the other's.

    Args:
        portal: Address of the portal, e.g. ``http://localhost:8080``.
    """
    for _ in range(100):  # the manager records them within a second of the start
        with suppress(OSError, ValueError, LookupError):
            return json.loads(_ask(portal, "trial-jobs")["hyperParameters"][0])
        time.sleep(0.5)
    return None


class _Reporter(pl.Callback):
    """Callback that reports the result after every epoch: the first measure of the task that the run has.


    Args:
        manager: Connection to NNI's manager.
        run: The run directory.
    """

    def __init__(self, manager: _Manager, run: Path) -> None:
        self.manager, self.run = manager, run
        self.reported: set[int] = set()

    @cached_property
    def measures(self) -> tuple[str, ...]:
        return task_of(read_sections(self.run)[1]).measures

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._report(trainer.current_epoch, trainer.callback_metrics)

    def _report(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        measure = next((name for name in self.measures if name in metrics), None)
        if measure is not None:
            self.manager.report("PERIODICAL", epoch, round(float(metrics[measure]), 6))
            self.reported.add(epoch)

    def report_missed(self, before: set[int]) -> None:
        """Report the epochs that were neither on record before the resume nor reported by this process.

        A manager that is being stopped no longer accepts a result that a trial is about to report.
        """
        for _, row in read_table(self.run / METRICS, ["epoch", *self.measures]).iterrows():
            if row["epoch"] not in before | self.reported:
                self._report(int(row["epoch"]), row.dropna())


def _final_result(run: Path, searched: bool) -> dict[str, Any]:
    task = task_of(read_sections(run)[1])
    last = read_table(run / METRICS, ["epoch", *task.measures]).iloc[-1].dropna()
    measure = next(name for name in task.measures if name in last)
    result: dict[str, Any] = {"default": round(float(last[measure]), 6), "run": str(run)}
    result["metric"] = task.metric.key
    if searched:
        result |= {cost.metric: cost.derived for cost in read_costs_of(run / COST)}
    else:
        size = read_object(run / NETWORK)
        tested = f"test_{task.metric.key}"
        with suppress(UntestableError):  # user-defined classes need no test
            result[tested] = round(evaluate(run)[tested], 6)
        result |= {metric: size[metric] for metric in COSTS if metric in size}
        if f"val_{task.metric.key}" not in last:
            result["default"] = result[tested]
    return result
