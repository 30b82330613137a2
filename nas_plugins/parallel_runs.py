"""Many runs for one question: each in a process of its own, several at a time, and none twice.

What an example or a benchmark that compares methods is made of. Started again after an interruption,
each run goes on where it stopped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from nas_plugins.runs import directory as run
from search_spaces.genotype import Genotype

T = TypeVar("T")
PathLike = str | os.PathLike[str]


def searched(output: PathLike, config: PathLike, seed: int, overrides: Sequence[object] = ()) -> Path:
    """The finished search in this directory.

    Args:
        output: the run directory.
        config: the config file; of no effect on a run that has begun.
        seed: of everything.
        overrides: ``--key value`` pairs.

    Raises:
        SystemExit: the command failed; the message is its last line.
    """
    return _finished(output, "search", "--config", config, "--seed", seed, *overrides)


def retrained(
    output: PathLike, genotype: PathLike, config: PathLike, seed: int, overrides: Sequence[object] = ()
) -> Path:
    """The finished and evaluated retraining in this directory; arguments as for :func:`searched`."""
    begun = Path(output) / run.GENOTYPE
    if begun.exists() and _cells(begun) != _cells(genotype):
        raise SystemExit(f"{output}: is a retraining of another genotype than {genotype}; give another folder")
    trained = _finished(output, "retrain", "--genotype", genotype, "--config", config, "--seed", seed, *overrides)
    if not (trained / "test.json").exists():
        command("evaluate", trained)
    return trained


def _cells(file: PathLike) -> object:
    """What a retraining has in common with its genotype: the depth may be another."""
    genotype = Genotype.load(file)
    return genotype.cells, genotype.fixed


def command(*arguments: object) -> None:
    """One nas-plugins command in a process of its own; its last line is printed.

    Raises:
        SystemExit: it failed; the message is its last line.
    """
    call = [sys.executable, "-m", "nas_plugins.cli", *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip().rpartition("\n")[2] or f"ended with status {done.returncode}: {call}")
    print(done.stdout.splitlines()[-1], flush=True)


def in_parallel(jobs: int, calls: Iterable[Callable[[], T]]) -> list[T]:
    """The results of all calls, in their order, so many of them at a time.

    Raises:
        Exception: what the first one that failed raised; those not begun are left out then.
    """
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        running = [pool.submit(call) for call in calls]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # those that have not begun when one failed
        failed = [one for one in running if not one.cancelled() and one.done() and one.exception()]
        return [one.result() for one in failed or running]


def _finished(output: PathLike, *arguments: object) -> Path:
    ends = [run.GENOTYPE, run.SAMPLE] if arguments[0] == "search" else [run.WEIGHTS]
    if any((Path(output) / file).exists() for file in ends):
        return Path(output)
    if (Path(output) / "config.yaml").exists():
        command("resume", output)
    else:
        command(*arguments, "--output", output)
    return Path(output)
