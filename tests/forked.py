"""The command line in processes that start at once: forks of a server that has the imports behind it."""

from __future__ import annotations

import atexit
import os
import random
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from multiprocessing import connection, get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

import psutil
from pytorch_lightning.utilities.rank_zero import rank_zero_only

_context = get_context("forkserver")
_context.set_forkserver_preload(["pytest", "nas_plugins.cli", "nas_plugins.experiment", "nas_plugins.report"])


class Ended(NamedTuple):
    """How a command ended: its exit status, below 0 for the signal that it died of, and what it wrote."""

    status: int | None
    out: str
    err: str


class Command:
    """A command at work.

    Args:
        arguments: what follows ``nas-plugins``.
        log: a folder for what it writes.
        environment: variables that it has besides those of the tests.
        does: what it does with the arguments instead of ``nas-plugins``.
        die_at: it gets SIGKILL when it is about to make, or to move to its place, a file: the n-th time, or
            the first time for the file of this name.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        log: Path,
        environment: Mapping[str, str] | None = None,
        does: Callable[[list[str]], object] | None = None,
        die_at: int | str | None = None,
    ) -> None:
        self.files = [log / f"{len(list(log.glob('*.out')))}.{kind}" for kind in ("out", "err")]
        for file in self.files:
            file.touch()
        given = [str(argument) for argument in arguments]
        self.process: ForkServerProcess = _context.Process(
            target=_main, args=(given, self.files, environment or {}, does, die_at)
        )
        self.process.start()
        atexit.register(self.kill)  # of a test that failed: Python waits for it

    @property
    def at_work(self) -> bool:
        return self.process.is_alive()

    @property
    def seconds(self) -> float:
        """Of processor time: how far it is, however busy the machine."""
        try:
            times = psutil.Process(self.process.pid).cpu_times()
        except psutil.NoSuchProcess:
            return float("inf")
        return times.user + times.system

    def wait(self, until: Callable[[], bool], seconds: float = 300) -> None:
        """Wait until something is true, or the end.

        Raises:
            TimeoutError: neither came; the command is killed.
        """
        end = time.monotonic() + seconds
        while self.at_work and not until():
            self.process.join(0.02)
            if time.monotonic() > end:
                self.end(0)

    def kill_after(self, seconds: float) -> None:
        """SIGKILL after so much processor time."""
        self.wait(lambda: self.seconds > seconds)
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        if self.at_work:
            psutil.Process(self.process.pid).send_signal(number)

    def end(self, seconds: float = 300) -> Ended:
        """Wait for the end.

        Raises:
            TimeoutError: it did not come; the command is killed.
        """
        self.process.join(seconds)
        if self.at_work:
            self.kill()
            raise TimeoutError(f"at work after {seconds} s; it wrote: {[file.read_text() for file in self.files]}")
        return Ended(self.process.exitcode, *(file.read_text() for file in self.files))

    def kill(self) -> None:
        """End it, and what it started, if it is at work."""
        if self.at_work:
            with suppress(psutil.NoSuchProcess):  # it has just ended
                process = psutil.Process(self.process.pid)
                for one in (*process.children(recursive=True), process):
                    with suppress(psutil.NoSuchProcess):
                        one.kill()
            self.process.join()


def nas_plugins(arguments: Sequence[object], log: Path) -> Ended:
    """Run a command to its end."""
    return Command(arguments, log).end()


def run_script(arguments: list[str]) -> None:
    """Run a script with its arguments, as Python does that is called with them."""
    sys.argv = arguments
    sys.path.insert(0, str(Path(arguments[0]).parent))
    runpy.run_path(arguments[0], run_name="__main__")


def ranks() -> list[dict[str, str]]:
    """The environments of two processes that work together, as torch.distributed.run makes them."""
    same = meeting_place() | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    return [{**same, "TORCHELASTIC_RUN_ID": "test", "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]


def meeting_place() -> dict[str, str]:
    """Where processes that work together meet: a port that nothing else is given meanwhile."""
    for port in random.Random().sample(range(20_000, 30_000), 100):  # the system gives those from 32,768
        with suppress(OSError), closing(socket.create_server(("127.0.0.1", port))):
            return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    raise OSError("no port is free")


def together(
    arguments: Sequence[object], log: Path, does: Callable[[list[str]], object] | None = None, seconds: float = 300
) -> list[Ended]:
    """Run two processes that work together, to their ends, or until one fails: the other might wait for ever.

    Args:
        arguments, log, does: as of a :class:`Command`.
        seconds: after which both are killed.
    """
    both = [Command(arguments, log, environment, does) for environment in ranks()]
    end = time.monotonic() + seconds
    while (working := [one for one in both if one.at_work]) and not any(one.process.exitcode for one in both):
        connection.wait([one.process.sentinel for one in working], timeout=end - time.monotonic())
        if time.monotonic() > end:
            break
    for one in both:
        one.kill()
    return [one.end() for one in both]


def _main(
    arguments: list[str],
    files: list[Path],
    environment: Mapping[str, str],
    does: Callable[[list[str]], object] | None,
    die_at: int | str | None,
) -> None:
    os.environ |= environment
    # What Lightning reads from the environment when it is imported.
    rank_zero_only.rank = int(os.environ.get("RANK", "0"))  # type: ignore[attr-defined]
    for stream, file in zip((sys.stdout, sys.stderr), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY), stream.fileno())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
    if die_at is not None:
        _die(die_at)
    if does is None:
        from nas_plugins.cli import main as does
    sys.exit(does(arguments))


def _die(at: int | str) -> None:
    seen = 0

    def look(event: str, values: tuple[object, ...]) -> None:
        nonlocal seen
        if event in ("tempfile.mkstemp", "os.rename"):
            seen += 1
            if seen == at or (event == "os.rename" and str(values[1]).endswith(f"/{at}")):
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
