"""Latency of each candidate, measured on a device."""

from __future__ import annotations

import platform
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from strategies.cost.counting import forward_hooks
from strategies.cost.profile import Assignment, Measured, Profiler
from strategies.cost.table import CostTable
from strategies.supernet.architecture import Mixed

WARMUP, REPEATS = 3, 15
"""Number of warm-up passes and of measured passes for each plan."""


@dataclass(frozen=True)
class Latency:
    """Latencies of the candidates of a space.

    Args:
        table: Milliseconds for one sample.
        device: Name of the device on which they were measured.
        spread: Median over all modules of the interquartile range of a latency, relative to the latency.
    """

    table: CostTable
    device: str
    spread: float

    def to_json(self) -> dict[str, Any]:
        """Return the latencies in plain JSON types."""
        return {"device": self.device, "unit": "ms", "spread": round(self.spread, 4), **self.table.to_json()}

    @classmethod
    def from_json(cls, values: Any) -> Latency:
        """Return latencies from the output of :meth:`to_json`.

        Raises:
            ValueError: The value is not a table of latencies.
        """
        table = CostTable.from_json(values)
        device, spread = values.get("device"), values.get("spread", 0.0)
        if not isinstance(device, str) or not isinstance(spread, (int, float)):
            raise ValueError("does not name the device on which latencies were measured, or their spread")
        return cls(table, device, float(spread))


def device_name(device: torch.device) -> str:
    """Return the name of a device, with the number of threads of a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    threads = torch.get_num_threads()
    return f"{next(named, platform.processor() or platform.machine())}, {threads} thread{'s' if threads > 1 else ''}"


def measure_latency(profiler: Profiler, device: torch.device) -> Latency:
    """Return the latencies of all candidates, each the median over several passes.

    The time of a network is taken as the sum over its modules. The time that a supernet spends outside of its
    candidates is left out.

    Args:
        profiler: The supernet.
        device: The device to measure on.
    """
    stopwatch = _Stopwatch(profiler, device)
    (table,) = profiler.tables(stopwatch.measure, profiler.dependencies(slice(3)), 1)
    return Latency(table, device_name(device), statistics.median(stopwatch.spreads or [0.0]))


class _Stopwatch:
    """Stopwatch for the modules of a supernet.

    Args: See :func:`measure_latency`.
    """

    def __init__(self, profiler: Profiler, device: torch.device) -> None:
        self.profiler, self.device = profiler, device
        self.model = profiler.supernet.to(device)
        self.copies = {original: copy for copy, original in profiler.original.items()}
        self.input = tree_map(self._noise, profiler.example)
        self.spreads: list[float] = []
        self._starts: list[float] = []
        self._inner: list[float] = [0.0]
        self._times: dict[nn.Module, float] = {}

    def _noise(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.is_floating_point():
            return torch.randn(leaf.shape, dtype=leaf.dtype, device=self.device)
        return torch.zeros(leaf.shape, dtype=leaf.dtype, device=self.device)

    @torch.no_grad()
    def measure(self, plan: Assignment) -> Measured:
        """Return the milliseconds of each module by a plan, without its submodules."""
        self.profiler.follow(plan)
        args, kwargs = self.input
        times: dict[nn.Module, list[float]] = defaultdict(list)
        with forward_hooks(self.model, self._enter, self._leave):
            for index in range(WARMUP + REPEATS):
                self._times = {}
                self.model(*args, **kwargs)
                if index >= WARMUP:
                    for module, seconds in self._times.items():
                        times[module].append(1000 * seconds)
        found = {}
        for module, values in times.items():
            low, middle, high = statistics.quantiles(values, n=4)
            if not isinstance(module, Mixed):
                found[self.copies[module]] = (middle,)
                self.spreads.append((high - low) / middle if middle > 0 else 0.0)
        return found

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _enter(self, *_: Any) -> None:
        self._inner.append(0.0)
        self._starts.append(self._now())

    def _leave(self, module: nn.Module, *_: Any) -> None:
        whole = self._now() - self._starts.pop()
        own = whole - self._inner.pop()
        self._inner[-1] += whole
        self._times[module] = self._times.get(module, 0.0) + own
