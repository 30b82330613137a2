"""Run searches and retrainings in parallel subprocesses, skipping those already finished.

Used by the examples and benchmarks that compare methods. Interrupted runs are resumed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from nas_plugins.files import PathLike
from nas_plugins.runs import directory as run
from nas_plugins.runs.reader import cells_of
from search_spaces.genotype import Genotype

T = TypeVar("T")


def searched(output: PathLike, config: PathLike, seed: int, overrides: Sequence[object] = ()) -> Path:
    """Run, resume or skip a search, and return its run directory.

    Args:
        output: Run directory.
        config: Config file; ignored if the run already exists.
        seed: Seed of the run.
        overrides: ``--key value`` pairs.

    Raises:
        SystemExit: The command failed. The message is the last line of its error output.
    """
    return _finished(output, "search", "--config", config, "--seed", seed, *overrides)


def retrained(
    output: PathLike, genotype: PathLike, config: PathLike, seed: int, overrides: Sequence[object] = ()
) -> Path:
    """Run, resume or skip a retraining and its evaluation, and return the run directory.

    Args:
        output: Run directory.
        genotype: Genotype file to retrain.
        config: Config file; ignored if the run already exists.
        seed: Seed of the run.
        overrides: ``--key value`` pairs.

    Raises:
        SystemExit: The command failed, or the directory holds a retraining of another genotype.
    """
    existing = Path(output) / run.GENOTYPE
    if existing.exists() and cells_of(Genotype.load(existing)) != cells_of(Genotype.load(genotype)):
        raise SystemExit(f"{output}: is a retraining of another genotype than {genotype}; give another folder")
    trained = _finished(output, "retrain", "--genotype", genotype, "--config", config, "--seed", seed, *overrides)
    if not (trained / run.TEST).exists():
        command("evaluate", trained)
    return trained


def command(*arguments: object) -> None:
    """Run a nas-plugins command in a subprocess and print the last line of its output.

    Raises:
        SystemExit: The command failed. The message is the last line of its error output.
    """
    call = [sys.executable, "-m", "nas_plugins.cli", *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip().rpartition("\n")[2] or f"ended with status {done.returncode}: {call}")
    print(done.stdout.splitlines()[-1], flush=True)


def in_parallel(jobs: int, calls: Iterable[Callable[[], T]]) -> list[T]:
    """Make calls in parallel threads and return their results in order.

    Args:
        jobs: Number of calls at a time.
        calls: Functions without arguments.

    Raises:
        Exception: The error of the first call that failed. Calls that have not started are skipped then.
    """
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        running = [pool.submit(call) for call in calls]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
        finally:
            pool.shutdown(cancel_futures=True)
    return [future.result() for future in running if not future.cancelled()]


def _finished(output: PathLike, *arguments: object) -> Path:
    if run.is_finished(Path(output), "search" if arguments[0] == "search" else "retrain"):
        return Path(output)
    if (Path(output) / run.CONFIG).exists():
        command("resume", output)
    else:
        command(*arguments, "--output", output)
    return Path(output)
