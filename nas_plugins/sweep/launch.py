"""An NNI experiment from its start to its end: the command ``nas-plugins launch``."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nni
import pandas as pd
import psutil
from nni.experiment import Experiment, RunMode, rest
from nni.experiment.config import ExperimentConfig

from nas_plugins.errors import InputError, Terminated
from nas_plugins.files import one_line
from nas_plugins.sweep.config import platforms, read_experiment
from nas_plugins.sweep.records import read_trials, succeeded, trials_text

_POLL = 1.0
"""Seconds between two looks at the experiment."""
_IDLE = 15
"""Looks without a trial that runs, after which none will come: NNI starts the next one within 5 seconds."""
_AT_WORK = ("WAITING", "RUNNING", "UNKNOWN")
"""States of trials that have not ended."""


def launch(config: str | os.PathLike[str], port: int = 8080) -> str:
    """Run an NNI experiment, show how far it is, and stop it.

    Args:
        config: NNI's own config file, which ``nnictl create`` reads too.
        port: of the web portal, while it runs.

    Returns:
        The ID of the experiment; :func:`~nas_plugins.sweep.records.read_trials` has its trials.

    Raises:
        InputError: the config or the port cannot be used, and nothing was started then; or no trial
            succeeded.
        KeyboardInterrupt: SIGINT, SIGTERM (then a Terminated) or SIGHUP came. The experiment is stopped and can be
            resumed.
    """
    _check_port(port)
    nni.silence_stdout()
    # Trials find the commands of this Python, whether or not its environment is activated.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    settings = read_experiment(config, here=True)
    if platforms(settings) != ["local"] or isinstance(settings.training_service, list):
        _check_port(port + 1, ", which NNI needs too for these trials,")
    experiment = Experiment(settings)
    folder = Path(settings.experiment_working_directory, experiment.id)
    log = folder / "log"
    started: set[psutil.Process] = set()
    with _signals() as (stop, came):
        try:
            # Detached: what the manager and the tuner write goes into files of its folder. It is stopped all the same.
            experiment.start(port, run_mode=RunMode.Detach)
            print(f"experiment {experiment.id}: http://localhost:{port}", flush=True)
            _watch(experiment, folder, settings.max_trial_number, stop, started)
        except RuntimeError as error:
            why = one_line(error) + _last_error(log / "dispatcher.log") + _what_there_is(folder)
            raise InputError(f"experiment {experiment.id}: NNI's manager failed: {why}") from None
        except BrokenPipeError:  # of what we print
            raise
        except OSError:  # what the manager's web server does not answer is one
            _end(started)
            if started:
                experiment._proc = None  # it is among them, and stop() would ask a process that is gone to end
            why = _last_error(log / "nnictl_stderr.log", r"\n +at ") or "; it was stopped by nnictl, or killed"
            why += _what_there_is(folder)
            raise InputError(f"experiment {experiment.id}: NNI's manager does not answer{why}") from None
        finally:
            started.update(_processes(experiment.id))
            experiment.stop()
            _end({process for process in started if _is_tuner(process)})  # at work, it does not hear its manager's end
    if came:
        interrupt = Terminated if came[0] == signal.SIGTERM else KeyboardInterrupt
        raise interrupt(f"stopped; nnictl resume {experiment.id} --port {port} goes on with it")
    _summarize(experiment.id, folder, port, settings)
    return experiment.id


def _check_port(port: int, why: str = "") -> None:
    if not 0 < port < 2**16:
        raise InputError(f"--port: {port} should be from 1 to 65535")
    for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the manager does
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((anywhere, port))
        except OSError as error:  # others: there is no IPv6
            if error.errno == errno.EADDRINUSE:
                raise InputError(f"--port: {port}{why} is in use; choose another") from None
            if error.errno == errno.EACCES:
                raise InputError(f"--port: {port}{why} may not be used; choose another, such as 8080") from None


@contextmanager
def _signals() -> Iterator[tuple[threading.Event, list[int]]]:
    """An event in place of what SIGINT, SIGTERM and SIGHUP do, and which of them came.

    At no moment may they leave NNI's manager behind.
    """
    event, came = threading.Event(), list[int]()

    def note(number: int, frame: object) -> None:
        came.append(number)
        event.set()

    names = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it; else the terminal that closes ends all
        names.append(signal.SIGHUP)
    before = {name: signal.signal(name, note) for name in names}
    try:
        yield event, came
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _watch(
    experiment: Experiment, folder: Path, planned: int | None, stop: threading.Event, started: set[psutil.Process]
) -> None:
    """Show a line of progress until the experiment is done, or is to stop; collect the processes that it started."""
    shown, idle = "", 0
    try:
        while not stop.wait(_POLL):
            started.update(_processes(experiment.id))
            state = rest.get(experiment.port, "/check-status")
            trials = read_trials(folder)
            shown = _show(trials, planned, shown)
            if state["status"] == "ERROR":
                raise RuntimeError(" ".join(state["errors"]) or f"its logs are in {folder / 'log'}")
            if state["status"] in ("DONE", "STOPPED"):
                break
            idle = 0 if trials["status"].isin(_AT_WORK).any() else idle + 1
            # NNI is never done with an experiment whose tuner, such as GridSearch, has no more trials,
            if state["status"] == "TUNER_NO_MORE_TRIAL" and idle > _IDLE and not trials.empty:
                break
            # nor with one whose tuner has died.
            if idle and _tuner_has_ended(experiment.id, folder / "log" / "dispatcher.log"):
                raise RuntimeError("its tuner has ended")
    finally:
        if sys.stdout.isatty():
            print()


def _processes(experiment: str) -> list[psutil.Process]:
    """NNI's manager of this experiment, and all that it started; not what else this process has."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has just ended
            if experiment in child.cmdline():
                return [child, *child.children(recursive=True)]
    return []


def _end(started: set[psutil.Process]) -> None:
    """End what outlives the manager; one that nnictl stops ends all by itself, and then itself."""
    psutil.wait_procs([child for child in psutil.Process().children() if child in started], timeout=10)
    for process in started:
        with suppress(psutil.Error):  # it has ended, or is another user's
            process.kill()


def _is_tuner(process: psutil.Process) -> bool:
    """Whether it is NNI's dispatcher, in which the tuner works."""
    with suppress(psutil.Error):  # it has just ended
        return "--exp_params" in process.cmdline()
    return False


def _tuner_has_ended(experiment: str, log: Path) -> bool:
    """Whether the process of NNI's dispatcher is gone, or the thread of it that asks the tuner."""
    with suppress(OSError):
        if "ERROR (nni.runtime.msg_dispatcher_base/" in log.read_text(errors="replace"):
            return True
    return not any(map(_is_tuner, _processes(experiment)))


def _show(trials: pd.DataFrame, planned: int | None, before: str) -> str:
    """On a terminal one line that changes, elsewhere a line whenever it has changed."""
    counts = trials["status"].value_counts()
    ended = len(trials) - sum(counts.get(status, 0) for status in _AT_WORK)
    line = f"{ended} of {planned or '?'} trials ended, {counts.get('RUNNING', 0)} running"
    failed = counts.get("FAILED", 0)
    line += f", {failed} failed" if failed else ""
    best = succeeded(trials).head(1)
    for row in best.itertuples():
        line += f"; best {row.value:.2%} ({row.trial})"
    if sys.stdout.isatty():
        print(f"\r\x1b[K{line}", end="", flush=True)
    elif line != before:
        print(line, flush=True)
    return line


def _summarize(experiment: str, folder: Path, port: int, settings: ExperimentConfig) -> None:
    trials = read_trials(folder)
    best = succeeded(trials).head(1)
    if best.empty:
        raise InputError(f"experiment {experiment}: no trial succeeded{_reason(trials, folder, settings)}")
    print(trials_text(trials))
    for row in best.itertuples():
        chosen = ", ".join(f"{key} {value}" for key, value in row.parameters.items())
        print(f"best: trial {row.trial} ({chosen}), {row.value:.2%}: {row.run}")
    print(f"the portal again: nnictl view {experiment} --port {port}")


def _reason(trials: pd.DataFrame, folder: Path, settings: ExperimentConfig) -> str:
    """The last line that a trial wrote before it failed, or where that is."""
    for trial in trials.loc[trials["status"] == "FAILED", "trial"]:
        for file in folder.glob(f"environments/*/trials/{trial}/trial.stderr"):
            with suppress(OSError, IndexError):
                return f"; trial {trial}: {file.read_text(errors='replace').strip().splitlines()[-1]}"
        if platforms(settings) == ["remote"]:
            there = f"/tmp/nni-experiments/{folder.name}/envs/*/trialrunner_stdout"
            return f"; trial {trial}: {there} on the machine that ran it tells why"
    return ""


def _what_there_is(folder: Path) -> str:
    """Where to look at the trials of an experiment that failed later."""
    with suppress(InputError):
        if not succeeded(read_trials(folder)).empty:
            return f"; nas-plugins trials {folder.name} shows what it has found"
    return ""


def _last_error(log: Path, before: str = "") -> str:
    """The last error in a log of NNI's, after a semicolon; nothing where there is none.

    Args:
        log: the file.
        before: what follows it, as a regular expression: the manager's errors are not those of Python.
    """
    with suppress(OSError):
        pattern = rf"^[\w.]*(?:Error|Exception): .*(?={before})"
        errors = re.findall(pattern, log.read_text(errors="replace"), re.MULTILINE)
        return "".join(f"; {error}" for error in errors[-1:])
    return ""
