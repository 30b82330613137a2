"""The command ``nas-plugins launch``, which runs an NNI experiment from start to end."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nni
import pandas as pd
import psutil
import requests
from nni.experiment import Experiment, RunMode, rest

from nas_plugins.errors import InputError, Terminated
from nas_plugins.files import one_line
from nas_plugins.sweep.config import read_experiment
from nas_plugins.sweep.records import read_trials, succeeded, trials_text
from nas_plugins.tasks import metric_of

_POLL_SECONDS = 1.0
_MAX_IDLE_POLLS = 15
"""Polls without a running trial after which no further trial is expected; NNI starts the next within 5 seconds."""
_UNFINISHED = ("WAITING", "RUNNING", "UNKNOWN")
"""States of trials that have not ended."""


def launch(config: str | os.PathLike[str], port: int = 8080) -> str:
    """Run an NNI experiment, show its progress, and stop it.

    Args:
        config: Config file in NNI's own format, which ``nnictl create`` reads too.
        port: Port of the web portal while the experiment runs.

    Returns:
        The ID of the experiment, with which :func:`~nas_plugins.sweep.records.read_trials` reads its trials.

    Raises:
        InputError: The config or the port cannot be used, NNI failed, or no trial succeeded.
        KeyboardInterrupt: SIGINT, SIGTERM (raised as Terminated) or SIGHUP arrived. The experiment was stopped and
            can be resumed.
    """
    if not 0 < port < 2**16:
        raise InputError(f"--port: {port} should be from 1 to 65535")
    nni.silence_stdout()
    # Trials find the commands of this Python, whether or not its environment is activated.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    settings = read_experiment(config)
    experiment = Experiment(settings)
    folder = Path(settings.experiment_working_directory, experiment.id)
    with _signals() as received:
        _run(experiment, folder, port, settings.max_trial_number, received)
    if received:
        interrupt = Terminated if received[0] == signal.SIGTERM else KeyboardInterrupt
        raise interrupt(f"stopped; nnictl resume {experiment.id} --port {port} goes on with it")
    _summarize(experiment.id, folder, port)
    return experiment.id


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP in a list instead of ending, which could leave NNI's manager running."""
    received: list[int] = []
    names = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it, to outlive its terminal
        names.append(signal.SIGHUP)
    before = {name: signal.signal(name, lambda number, frame: received.append(number)) for name in names}
    try:
        yield received
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _run(experiment: Experiment, folder: Path, port: int, planned: int | None, received: list[int]) -> None:
    """Start an experiment, follow it until it is done or a signal is received, and end all of its processes.

    Raises:
        InputError: The manager or the tuner died, or the port is in use.
    """
    log = folder / "log"
    started: set[psutil.Process] = set()
    try:
        # Detached, so that the manager and the tuner write into their log files. The experiment is stopped below.
        experiment.start(port, run_mode=RunMode.Detach)
        print(f"experiment {experiment.id}: http://localhost:{port}", flush=True)
        _watch(experiment, folder, planned, received, started)
    except RuntimeError as error:
        why = one_line(error) + _last_error(log / "dispatcher.log")
        raise InputError(f"experiment {experiment.id}: NNI's manager failed: {why}") from None
    except requests.RequestException:
        _kill(started)
        experiment._proc = None  # it was killed above, and stop() would wait for its answer
        why = _last_error(log / "nnictl_stderr.log", r"\n +at ") or "; it was stopped by nnictl, or killed"
        raise InputError(f"experiment {experiment.id}: NNI's manager does not answer{why}") from None
    finally:
        started.update(_processes(experiment.id))
        experiment.stop()
        _kill(started)  # a busy tuner does not notice the manager's end


def _watch(
    experiment: Experiment, folder: Path, planned: int | None, received: list[int], started: set[psutil.Process]
) -> None:
    """Show progress until the experiment is done or a signal is received, and add its processes to ``started``.

    Raises:
        RuntimeError: The manager reports an error, or the tuner has ended.
    """
    shown, idle = "", 0
    try:
        while not received:
            time.sleep(_POLL_SECONDS)
            started.update(_processes(experiment.id))
            state = rest.get(experiment.port, "/check-status")
            trials = read_trials(folder)
            shown = _show(trials, planned, shown)
            if state["status"] == "ERROR":
                raise RuntimeError(" ".join(state["errors"]) or f"its logs are in {folder / 'log'}")
            if state["status"] in ("DONE", "STOPPED"):
                break
            idle = 0 if trials["status"].isin(_UNFINISHED).any() else idle + 1
            # NNI never ends an experiment whose tuner has no more trials, for example a grid search.
            if state["status"] == "TUNER_NO_MORE_TRIAL" and idle > _MAX_IDLE_POLLS and not trials.empty:
                break
            # Neither does NNI end an experiment whose tuner has died.
            if idle and _tuner_has_ended(experiment.id, folder / "log" / "dispatcher.log"):
                raise RuntimeError("its tuner has ended")
    finally:
        if sys.stdout.isatty():
            print()


def _processes(experiment: str) -> list[psutil.Process]:
    """Return NNI's manager of an experiment and its descendants, without other children of this process."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # the child has just ended
            if experiment in child.cmdline():
                return [child, *child.children(recursive=True)]
    return []


def _kill(started: set[psutil.Process]) -> None:
    """Kill processes, after up to 10 seconds in which a manager that nnictl stops can end them itself."""
    psutil.wait_procs([child for child in psutil.Process().children() if child in started], timeout=10)
    for process in started:
        with suppress(psutil.Error):  # it has ended, or belongs to another user
            process.kill()


def _is_tuner(process: psutil.Process) -> bool:
    """Return whether a process is NNI's dispatcher, which runs the tuner."""
    with suppress(psutil.Error):  # it has just ended
        return "--exp_params" in process.cmdline()
    return False


def _tuner_has_ended(experiment: str, log: Path) -> bool:
    """Return whether NNI's dispatcher is gone, or its thread that calls the tuner."""
    with suppress(OSError):
        if "ERROR (nni.runtime.msg_dispatcher_base/" in log.read_text(errors="replace"):
            return True
    return not any(map(_is_tuner, _processes(experiment)))


def _show(trials: pd.DataFrame, planned: int | None, before: str) -> str:
    """Print and return the progress: on a terminal in place, elsewhere only if it differs from ``before``."""
    counts = trials["status"].value_counts()
    ended = len(trials) - sum(counts.get(status, 0) for status in _UNFINISHED)
    line = f"{ended} of {planned or '?'} trials ended, {counts.get('RUNNING', 0)} running"
    failed = counts.get("FAILED", 0)
    line += f", {failed} failed" if failed else ""
    for row in succeeded(trials).head(1).itertuples():
        line += f"; best {metric_of(row.metric).text(row.value)} ({row.trial})"
    if sys.stdout.isatty():
        print(f"\r\x1b[K{line}", end="", flush=True)
    elif line != before:
        print(line, flush=True)
    return line


def _summarize(experiment: str, folder: Path, port: int) -> None:
    trials = read_trials(folder)
    best = succeeded(trials).head(1)
    if best.empty:
        raise InputError(f"experiment {experiment}: no trial succeeded{_reason(trials, folder)}")
    print(trials_text(trials))
    for row in best.itertuples():
        chosen = ", ".join(f"{key} {value}" for key, value in row.parameters.items())
        print(f"best: trial {row.trial} ({chosen}), {metric_of(row.metric).text(row.value)}: {row.run}")
    print(f"the portal again: nnictl view {experiment} --port {port}")


def _reason(trials: pd.DataFrame, folder: Path) -> str:
    """Return the last line that a failed trial wrote on this machine, after a semicolon."""
    for trial in trials.loc[trials["status"] == "FAILED", "trial"]:
        for file in folder.glob(f"environments/*/trials/{trial}/trial.stderr"):
            last = file.read_text(errors="replace").strip().rpartition("\n")[2]
            return f"; trial {trial}: {last}"
    return ""


def _last_error(log: Path, before: str = "") -> str:
    """Return the last error in a log of NNI, after a semicolon, or an empty text.

    Args:
        log: Log file.
        before: Regular expression of what follows an error, to recognize those of the manager's JavaScript.
    """
    with suppress(OSError):
        pattern = rf"^[\w.]*(?:Error|Exception): .*(?={before})"
        errors = re.findall(pattern, log.read_text(errors="replace"), re.MULTILINE)
        return "".join(f"; {error}" for error in errors[-1:])
    return ""
