"""Results of a GPU check: tables and a page."""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import torch

from search_spaces.files import write_text_whole


@dataclass(frozen=True)
class Machine:
    """Accelerator and time limit of the check.

    Args:
        accelerator: "gpu" or "cpu".
        dry: Whether networks are small.
        start: Start of the check, by ``time.monotonic``.
        seconds: Length of the whole check.
    """

    accelerator: str
    dry: bool
    start: float
    seconds: float

    def done(self) -> float:
        """Return the share of the time that has passed."""
        return (time.monotonic() - self.start) / self.seconds

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.seconds - (time.monotonic() - self.start)


class Results:
    """Tables of the parts of a check, and the page; both are written after each part.

    Args:
        output: Folder for the tables and the page.
        machine: The machine that is checked.
    """

    def __init__(self, output: Path, machine: Machine) -> None:
        self.output, self.machine = output, machine
        self.tables: dict[str, pd.DataFrame] = {}
        self.failed = False

    def add(self, name: str, part: Callable[[], Iterator[dict[str, Any]]]) -> None:
        """Run a part, and write its rows; if it fails, those before the failure and the error."""
        rows: list[dict[str, Any]] = []
        try:
            rows.extend(part())
        except (Exception, SystemExit) as error:
            self.failed = True
            traceback.print_exc()
            rows.append({"failed": f"{type(error).__name__}: {str(error)[-500:]}"})
        self.tables[name] = pd.DataFrame(rows)
        minutes = self.machine.done() * self.machine.seconds / 60
        print(f"{name}: {len(rows)} rows, after {minutes:.1f} minutes", flush=True)
        write_text_whole(self.output / f"{name}.csv", self.tables[name].to_csv(index=False))
        write_text_whole(self.output / "gpu_check.html", page(self.machine, self.tables))


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>GPU check</title><style>
body { margin: 0; background: #f8fafc; color: #0f172a; font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 18px; margin: 0 0 8px; }
p { color: #64748b; margin: 0 0 14px; }
section { background: #fff; border: 1px solid #e2e8f0; border-radius: 10px; padding: 18px; margin: 16px 0; }
section { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th { text-align: left; color: #64748b; border-bottom: 1px solid #cbd5e1; }
th, td { padding: 5px 14px 5px 0; vertical-align: top; white-space: nowrap; }
</style></head><body><main>
<h1>GPU check</h1><p>{{ device }} · PyTorch {{ torch }} · Python {{ python }}</p>
{% for title, about, table in parts %}
<section><h2>{{ title }}</h2><p>{{ about }}</p>{{ table | safe }}</section>
{% endfor %}
</main></body></html>
"""
TITLES = {
    "correct": ("Correctness", "Against the CPU, and against a search without interruption."),
    "steps": ("Cost of a step", "An architecture step and a weight step, median. Convolutions in 32 bits use TF32."),
    "compiled": ("Compiled", "Steps with torch.compile, in a separate process. The first step includes compiling."),
    "launches": ("Launches", "Operator calls of a step, and values that Python reads (waits)."),
    "kernels": ("Single operations", "Forward and backward pass of a group of candidates, batch 64."),
    "search": ("A real search", "In the rest of the time."),
}


def page(machine: Machine, tables: dict[str, pd.DataFrame]) -> str:
    """Return the HTML page of all parts."""
    parts = [(*TITLES[name], table.to_html(index=False, border=0, na_rep="")) for name, table in tables.items()]
    return (
        jinja2.Environment(autoescape=True)
        .from_string(PAGE)
        .render(
            parts=parts,
            device="CPU, a dry run on small networks" if machine.dry else torch.cuda.get_device_name(),
            torch=torch.__version__,
            python=platform.python_version(),
        )
    )
