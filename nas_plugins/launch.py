"""An NNI experiment from its start to its end: the command ``nas-plugins launch``."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nni
import pandas as pd
from nni.common.hpo_utils import validate_search_space
from nni.experiment import Experiment, rest
from nni.experiment.config import ExperimentConfig
from nni.experiment.config.utils import unset_base_path

from nas_plugins.errors import InputError
from nas_plugins.tables import one_line
from nas_plugins.trial import merged
from nas_plugins.trials import read_trials, succeeded, trials_text

_POLL = 1.0
"""Seconds between two looks at the experiment."""
_IDLE = 15
"""Looks without a trial that runs, after which none will come: NNI starts the next one within 5 seconds."""


def launch(config: str | os.PathLike[str], port: int = 8080) -> str:
    """Run an NNI experiment, show how far it is, and stop it.

    Args:
        config: NNI's own config file, which ``nnictl create`` reads too.
        port: of the web portal, while it runs.

    Returns:
        The ID of the experiment; :func:`~nas_plugins.trials.read_trials` has its trials.

    Raises:
        InputError: the config or the port cannot be used, and nothing was started then; or no trial
            succeeded.
        KeyboardInterrupt: SIGINT or SIGTERM came. The experiment is stopped and can be resumed.
    """
    settings = read_experiment(config)
    _check_ports(port, settings)
    nni.silence_stdout()
    # Trials find the commands of this Python, whether or not its environment is activated.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    experiment = Experiment(settings)
    folder = Path(settings.experiment_working_directory, experiment.id)
    with _signals() as stop:
        try:
            experiment.start(port)
            print(f"experiment {experiment.id}: http://localhost:{port}", flush=True)
            _watch(experiment, folder, settings.max_trial_number, stop)
        except RuntimeError as error:
            raise InputError(f"experiment {experiment.id}: NNI's manager failed: {one_line(error)}") from None
        except OSError:  # what the manager's web server does not answer is one
            raise InputError(
                f"experiment {experiment.id}: NNI's manager does not answer; unless it was stopped by nnictl, "
                f"{folder / 'log'} tells why"
            ) from None
        finally:
            experiment.stop()
    if stop.is_set():
        raise KeyboardInterrupt(f"stopped; nnictl resume {experiment.id} --port {port} goes on with it")
    _summarize(experiment.id, folder, port)
    return experiment.id


def read_experiment(file: str | os.PathLike[str]) -> ExperimentConfig:
    """NNI's config of an experiment, checked, and with it what its trials would do.

    Raises:
        InputError: the file is no such config; or its trialCommand is ``nas-plugins trial`` and a key
            of the search space, or a value, cannot be used.
    """
    if not Path(file).is_file():
        raise InputError(f"{file}: there is no such file")
    try:
        settings = ExperimentConfig.load(file).canonical_copy()
        command = shlex.split(settings.trial_command or "")
    except Exception as error:  # NNI raises many kinds
        raise InputError(f"{file}: no config of an NNI experiment: {one_line(error) or type(error).__name__}") from None
    finally:
        unset_base_path()  # NNI forgets to where it refuses a file, and then fails at every other one
    if command[:2] == ["nas-plugins", "trial"]:
        parser = argparse.ArgumentParser(prog="trialCommand", add_help=False, allow_abbrev=False)
        for name in ("--config", "--genotype", "--output"):
            parser.add_argument(name)
        options, overrides = parser.parse_known_args(command[2:])
        if options.config is None:
            raise InputError(f"{file}: trialCommand: nas-plugins trial needs --config FILE")
        with _inside(Path(settings.trial_code_directory)):
            for chosen in _samples(f"{file}: searchSpace", settings.search_space):
                try:
                    merged(options.config, overrides, options.genotype, chosen)
                except ValueError as error:
                    raise InputError(f"{file}: {one_line(error)}") from None
    return settings


def _samples(where: str, space: Any) -> Iterator[dict[str, Any]]:
    """Parameters with every value of every choice, and the bounds of every range, or its middle, at least once."""
    if not isinstance(space, Mapping):
        raise InputError(f"{where}: {space!r} should have keys such as seed: {{_type: choice, _value: [0, 1]}}")
    values = {key: _values(f"{where}: {key}", spec) for key, spec in space.items()}
    first = {key: given[0] for key, given in values.items()}
    yield first
    for key, given in values.items():
        yield from ({**first, key: value} for value in given[1:])


def _values(where: str, spec: Any) -> list[Any]:
    if not isinstance(spec, Mapping) or not isinstance(spec.get("_value"), list) or not spec["_value"]:
        raise InputError(f"{where}: {spec!r} should have _type and _value, such as {{_type: choice, _value: [0, 1]}}")
    given = spec["_value"]
    if spec.get("_type") == "choice":
        return list(itertools.chain.from_iterable(_choices(where, value) for value in given))
    try:
        validate_search_space({where: dict(spec)}, raise_exception=True)
    except ValueError as error:
        raise InputError(one_line(error)) from None
    if spec["_type"] == "randint":
        return [given[0], given[1] - 1]
    if "normal" in spec["_type"]:  # which has no bounds: the middle
        return [math.exp(min(given[0], 700)) if "log" in spec["_type"] else float(given[0])]
    return [float(number) for number in given[:2]]


def _choices(where: str, value: Any) -> Iterator[Any]:
    if not isinstance(value, Mapping):
        yield value
        return
    if "_name" not in value:
        raise InputError(f"{where}: {value!r} should have a _name, as a nested choice of NNI's")
    nested = {key: spec for key, spec in value.items() if key != "_name"}
    for sample in _samples(where, nested):
        yield {"_name": value["_name"], **sample}


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in the folder in which the trials will."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _check_ports(port: int, settings: ExperimentConfig) -> None:
    services = settings.training_service
    local = not isinstance(services, list) and services.platform == "local"
    for number in [port] if local else [port, port + 1]:
        if not 0 < number < 2**16:
            raise InputError(f"--port: {number} should be from 1 to 65535")
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", number)) == 0:
                why = "" if number == port else ", which trials on other machines need,"
                raise InputError(f"--port: {number}{why} is in use; choose another")


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event in place of what SIGINT and SIGTERM do: at no moment may they leave NNI's manager behind."""
    event = threading.Event()
    before = {name: signal.signal(name, lambda *_: event.set()) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _watch(experiment: Experiment, folder: Path, planned: int | None, stop: threading.Event) -> None:
    """Show a line of progress until the experiment is done, or is to stop."""
    shown, idle = "", 0
    while not stop.wait(_POLL):
        state = rest.get(experiment.port, "/check-status")
        trials = read_trials(folder)
        shown = _show(trials, planned, shown)
        if state["status"] == "ERROR":
            raise RuntimeError(" ".join(state["errors"]) or f"its logs are in {folder / 'log'}")
        if state["status"] in ("DONE", "STOPPED"):
            break
        # NNI is never done with an experiment whose tuner, such as GridSearch, has no more trials.
        going = trials.empty or trials["status"].isin(("WAITING", "RUNNING", "UNKNOWN")).any()
        idle = 0 if going else idle + 1
        if state["status"] == "TUNER_NO_MORE_TRIAL" and idle > _IDLE:
            break
    if sys.stdout.isatty():
        print()


def _show(trials: pd.DataFrame, planned: int | None, before: str) -> str:
    """On a terminal one line that changes, elsewhere a line whenever it has changed."""
    counts = trials["status"].value_counts()
    ended = len(trials) - sum(counts.get(status, 0) for status in ("WAITING", "RUNNING", "UNKNOWN"))
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


def _summarize(experiment: str, folder: Path, port: int) -> None:
    trials = read_trials(folder)
    best = succeeded(trials).head(1)
    if best.empty:
        raise InputError(f"experiment {experiment}: no trial succeeded{_reason(trials, folder)}")
    print(trials_text(trials))
    for row in best.itertuples():
        chosen = ", ".join(f"{key} {value}" for key, value in row.parameters.items())
        print(f"best: trial {row.trial} ({chosen}), {row.value:.2%}: {row.run}")
    print(f"the portal again: nnictl view {experiment} --port {port}")


def _reason(trials: pd.DataFrame, folder: Path) -> str:
    """The last line that a trial wrote before it failed, where that is on this machine."""
    for trial in trials.loc[trials["status"] == "FAILED", "trial"]:
        for file in folder.glob(f"environments/*/trials/{trial}/trial.stderr"):
            with suppress(OSError, IndexError):
                return f"; trial {trial}: {file.read_text(errors='replace').strip().splitlines()[-1]}"
    return ""
