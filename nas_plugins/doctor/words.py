"""Report of the doctor about a run, as lines of text."""

from __future__ import annotations

from nas_plugins.doctor.measures import Examination, examine
from nas_plugins.doctor.rules import LEAST_EPOCHS, findings
from nas_plugins.runs.reader import Run


def lines(run: Run) -> list[str]:
    """Return a line per finding about a run; if there are none, a line that says so.

    Args:
        run: The run.

    Raises:
        InputError: A file of the run is damaged.
    """
    if run.kind != "search":
        return ["a retraining: the doctor examines searches"]
    search = examine(run)
    if len(run.metrics) == 0 and run.alphas is None:
        return ["no epoch has ended yet"]
    early = len(run.metrics) < LEAST_EPOCHS
    nothing = f"only one epoch has ended, which is too early to judge; {state(search)}" if early else None
    return [str(finding) for finding in findings(search)] or [nothing or f"nothing found; {state(search)}"]


def state(search: Examination) -> str:
    """Return the measures of the last epoch in words."""
    if search.epochs.empty:
        return "without alphas.csv, only the accuracies were examined"
    last, parts = search.epochs.iloc[-1], []
    if last["skip_share"] == last["skip_share"]:
        parts.append(f"{last['skip_share']:.0%} skip connections")
    parts.append(f"entropy of α {last['entropy']:.2f}")
    changes = search.epochs[search.epochs["changed"] > 0]["epoch"]
    unchanged = f"unchanged since epoch {changes.max():g}" if len(changes) else "the same in all epochs"
    return ", ".join([*parts, f"genotype {unchanged}"])
