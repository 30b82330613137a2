"""The command line in processes that start at once: forks of a server that has the imports behind it."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from multiprocessing import get_context
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
        atexit.register(self.process.kill)  # of a test that failed: Python waits for it

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

    def wait(self, until: Callable[[], bool]) -> None:
        """Wait until something is true, or the end."""
        while self.at_work and not until():
            self.process.join(0.005)

    def kill_after(self, seconds: float) -> None:
        """SIGKILL after so much processor time."""
        self.wait(lambda: self.seconds > seconds)
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        if self.at_work:
            os.kill(self.process.pid or 0, number)

    def end(self) -> Ended:
        """Wait for the end."""
        self.process.join()
        return Ended(self.process.exitcode, *(file.read_text() for file in self.files))


def nas_plugins(arguments: Sequence[object], log: Path) -> Ended:
    """Run a command to its end."""
    return Command(arguments, log).end()


def ranks() -> list[dict[str, str]]:
    """The environments of two processes that work together, as torch.distributed.run makes them."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
    same = address | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    return [{**same, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]


def together(
    arguments: Sequence[object], log: Path, does: Callable[[list[str]], object] | None = None
) -> list[Command]:
    """Two processes that work together; the arguments are those of a :class:`Command`."""
    return [Command(arguments, log, environment, does) for environment in ranks()]


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
