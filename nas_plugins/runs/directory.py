"""Run directories: file names, creation, locking, and what kind of run it is and whether it has finished.

On several devices each process runs the same program; only the first one writes.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from nas_plugins.config.reader import Config, Kind, kind_of, read_retrain, read_retrain_sample, read_search
from nas_plugins.config.yaml import read_yaml
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike, read_object, read_text
from search_spaces.files import remove_unfinished, write_text_whole
from search_spaces.genotype import Genotype

CONFIG, CHECKPOINT, LOCK = "config.yaml", "checkpoints/last.ckpt", ".lock"
METRICS, ALPHAS, CONTRIBUTIONS = "metrics.csv", "alphas.csv", "contributions.csv"
LATENCY, COST, FINISH = "latency.json", "cost.json", "finish.json"
METADATA, GENOTYPE, SAMPLE = "search.json", "genotype.json", "sample.json"
NETWORK, WEIGHTS, TEST = "network.json", "weights.pt", "test.json"
INHERITED = "inherited.pt"
LOGS = "logs"
CONFUSION, CLASS_ACCURACY = "confusion.csv", "class_accuracy.csv"
OUTPUTS = "outputs.csv"

Architecture = Genotype | dict[str, Any]
"""Result of a search: a genotype, or a sample of NNI for a space without cells."""


def is_first() -> bool:
    """Return whether this is the first process of a run, the only one that writes."""
    return getattr(rank_zero_only, "rank", 0) == 0


def results_of(run: Path, kind: Kind) -> list[Path]:
    """Return the existing files among those that are written at the end of a run."""
    names = (GENOTYPE, SAMPLE) if kind == "search" else (NETWORK, WEIGHTS)
    return [run / name for name in names if (run / name).exists()]


def is_finished(run: Path, kind: Kind) -> bool:
    """Return whether a run has finished: a search writes one of its two results, a retraining both."""
    return len(results_of(run, kind)) >= (1 if kind == "search" else 2)


def read_sections(run: PathLike) -> tuple[str, dict[str, Any]]:
    """Return the config of a run as text and as unchecked values.

    Raises:
        InputError: The directory is not a run, or its config is damaged.
    """
    run = Path(run)
    file = run / CONFIG
    if not file.is_file():
        raise InputError(f"{run}: is no run, it has no {CONFIG}; give what search or retrain made")
    sections = read_yaml(file)
    kind_of(sections, file)
    return read_text(file), sections


def read_config(run: PathLike) -> tuple[Config, Kind]:
    """Return the checked config of a run, and what kind of run it is.

    Raises:
        InputError: The directory is not a run, or its config is damaged.
    """
    sections, file = read_sections(run)[1], Path(run) / CONFIG
    kind = kind_of(sections)
    if kind == "retrain":
        return (read_retrain_sample if (Path(run) / SAMPLE).exists() else read_retrain)(file), kind
    strategy = sections.get("strategy", {})
    # Searches by EDAS from before there was this choice flipped both steps, and continue to do so.
    older = str(strategy.get("name")).endswith("EDAS") and "flip" not in strategy
    return read_search(file, ["--strategy.flip", "both"] if older else []), kind


def read_architecture(run: Path) -> Architecture:
    """Return the genotype of a run, or its sample.

    Raises:
        InputError: The file cannot be read.
        GenotypeError: The file does not hold a genotype.
    """
    sample = run / SAMPLE
    return read_object(sample) if sample.exists() else Genotype.load(run / GENOTYPE)


def create(output: PathLike, config: Config, architecture: Architecture | None = None) -> Path:
    """Make a run directory with its config.

    Args:
        output: The directory, which :func:`check_output` accepts.
        config: The settings of the run.
        architecture: Architecture to retrain; None for a search.

    Raises:
        InputError: The directory cannot be made, or another process makes it at the same time.
        OSError: A file cannot be written; nothing is left then.
    """
    run = Path(output)
    _write(run, config, architecture)
    return run


@rank_zero_only
def _write(run: Path, config: Config, architecture: Architecture | None) -> None:
    checkpoints, new = (run / CHECKPOINT).parent, not run.exists()
    try:
        checkpoints.mkdir(parents=True)  # succeeds in only one of several processes with the same output
    except OSError as error:
        raise InputError(f"--output: {run} cannot be made: {error.strerror}") from None
    try:
        if isinstance(architecture, Genotype):
            architecture.save(run / GENOTYPE)
        elif architecture is not None:
            write_json(run / SAMPLE, architecture)
        # Last, because a directory with a config is a run that can be resumed.
        write_text_whole(run / CONFIG, config.to_yaml())
    except BaseException:  # including interrupts: a partial directory can be neither resumed nor reused
        checkpoints.rmdir()
        for name in (GENOTYPE, SAMPLE):
            (run / name).unlink(missing_ok=True)
        if new:
            run.rmdir()
        raise


@rank_zero_only
def check_output(output: PathLike) -> None:
    """Raise an InputError if a run directory cannot be made here."""
    run = Path(output)
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        hint = f"to go on with it: nas-plugins resume {run}" if (run / CONFIG).exists() else "choose another"
        raise InputError(f"--output: {run} already exists and is not an empty folder; {hint}")
    parent = next(folder for folder in (run, *run.absolute().parents) if folder.exists())
    if not os.access(parent, os.W_OK) or not parent.is_dir():
        raise InputError(f"--output: {run} cannot be made: {parent} is not a folder that can be written")


@contextmanager
def at_work(run: Path) -> Iterator[None]:
    """Lock a run within this context, because a second process would mix its epochs with those of the first.

    The lock is a POSIX one: it ends with this process and is not inherited by the processes that load images, which
    outlive a killed run by seconds. It is on a file that nothing else opens, since closing any handle releases it.

    Raises:
        InputError: Another process works on the run.
    """
    if not is_first():
        yield
        return
    with (run / LOCK).open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{run}: another process is at work on this run; wait for its end, or stop it") from None
        for pattern in ("*.csv", "*.json", "*.pt"):  # not the files of a report, which may be written at this moment
            remove_unfinished(run, pattern)
        remove_unfinished((run / CHECKPOINT).parent, "*")
        yield


@contextmanager
def nni_folder(run: Path) -> Iterator[Path]:
    """Return the folder in which NNI writes, within this context.

    The first process uses a folder of the run directory. The others use a temporary one, because they may write before
    the first one has checked that the run directory is empty.
    """
    if is_first():
        yield run / "nni"
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


@rank_zero_only
def write_genotype(file: Path, genotype: Genotype) -> None:
    """Write a genotype atomically, in the first process only."""
    genotype.save(file)


@rank_zero_only
def write_json(file: Path, values: dict[str, Any]) -> None:
    """Write a small JSON file atomically, in the first process only."""
    write_text_whole(file, json.dumps(values, indent=2, allow_nan=False) + "\n")


say = rank_zero_only(print)
"""Print, in the first process only."""
