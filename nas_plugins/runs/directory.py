"""Run directories: what a search or a retraining leaves, and how it is found again.

On several devices each process runs the same program; the first one alone writes.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from nas_plugins.config.reader import Config, is_search, read_retrain, read_search
from nas_plugins.errors import InputError
from search_spaces.files import remove_unfinished, write_text_whole
from search_spaces.genotype import Genotype

CONFIG, GENOTYPE, SAMPLE, WEIGHTS = "config.yaml", "genotype.json", "sample.json", "weights.pt"
CHECKPOINT = "checkpoints/last.ckpt"


def is_first() -> bool:
    """Whether this is the first of the processes of a run, which alone writes."""
    return getattr(rank_zero_only, "rank", 0) == 0


def create(output: str | os.PathLike[str], config: Config, genotype: Genotype | None = None) -> Path:
    """Make a run directory with its config.

    Args:
        output: the directory; it must not exist, or be empty.
        config: the settings of the run.
        genotype: what a retraining trains.

    Raises:
        InputError: there is something in it, or it cannot be written.
    """
    run = Path(output)
    check_output(run)
    _write(run, config, genotype)
    return run


@rank_zero_only
def _write(run: Path, config: Config, genotype: Genotype | None) -> None:
    text = config.to_yaml()
    checkpoints, new = (run / CHECKPOINT).parent, not run.exists()
    try:
        checkpoints.mkdir(parents=True)  # of several processes that were told one output, one alone can
    except FileExistsError:
        raise InputError(f"--output: {run} is being made by another process; choose another") from None
    except OSError as error:
        raise InputError(f"--output: {run} cannot be made: {error.strerror}") from None
    try:
        if genotype is not None:
            genotype.save(run / GENOTYPE)
        # Last: the directory is a run, and can be resumed, from the moment that it has a config.
        write_text_whole(run / CONFIG, text)
    except BaseException as error:  # also an interrupt: what is left could be neither resumed nor made anew
        for file in (run / GENOTYPE, run / CONFIG):
            file.unlink(missing_ok=True)
        checkpoints.rmdir()
        if new:
            run.rmdir()
        if isinstance(error, OSError):
            raise InputError(f"--output: {run} cannot be written: {error.strerror}") from None
        raise


@rank_zero_only
def check_output(output: str | os.PathLike[str]) -> None:
    """Raise an InputError where a run directory cannot be made, before any long work."""
    run = Path(output)
    try:
        taken = run.exists() and (not run.is_dir() or any(run.iterdir()))
        parent = next(folder for folder in (run, *run.absolute().parents) if folder.exists())
    except OSError as error:
        raise InputError(f"--output: {run} cannot be read: {error.strerror}") from None
    if not os.access(parent, os.W_OK) or not parent.is_dir():
        raise InputError(f"--output: {run} cannot be made: {parent} is not a folder that can be written")
    if taken:
        hint = f"to go on with it: nas-plugins resume {run}" if (run / CONFIG).exists() else "choose another"
        raise InputError(f"--output: {run} already exists and is not an empty folder; {hint}")


def read_config(run: str | os.PathLike[str]) -> tuple[Config, bool]:
    """The config of a run, and whether it is a search.

    Raises:
        InputError: the directory is no run.
    """
    file = Path(run) / CONFIG
    if not file.is_file():
        raise InputError(f"{run}: no run directory: it has no {CONFIG}")
    search = is_search(file)
    return (read_search(file) if search else read_retrain(file)), search


@contextmanager
def at_work(run: Path) -> Iterator[None]:
    """Meanwhile no other process works on this run: a second one would mix its epochs with those of the first.

    Raises:
        InputError: another one does.
    """
    with ExitStack() as held:
        if is_first():
            file = held.enter_context((run / CONFIG).open("r+"))  # to write, as shares over a network want it
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system unlocks it when the process ends
            except BlockingIOError:
                raise InputError(
                    f"{run}: another process is at work on this run; wait for its end, or stop it"
                ) from None
            # Processes that load images outlive one that is killed, for seconds: they must not hold the lock.
            os.register_at_fork(after_in_child=file.close)
            for pattern in ("*.csv", "*.json", "*.pt"):  # not what a report is writing
                remove_unfinished(run, pattern)
            remove_unfinished((run / CHECKPOINT).parent, "*")
        yield


@contextmanager
def nni_folder(run: Path) -> Iterator[Path]:
    """Where NNI writes: in the run directory, but for the processes after the first one, which may come to it before
    the first one has looked whether it is empty."""
    if is_first():
        yield run / "nni"
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


@rank_zero_only
def write_genotype(file: Path, genotype: Genotype) -> None:
    """Write a genotype, whole or not at all."""
    genotype.save(file)


@rank_zero_only
def write_json(file: Path, values: dict[str, Any]) -> None:
    """Write a small JSON file, whole or not at all."""
    write_text_whole(file, json.dumps(values, indent=2, allow_nan=False) + "\n")


say = rank_zero_only(print)
"""Print, in the first process alone."""
