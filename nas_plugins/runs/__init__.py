"""Run directories: their files, tables and metadata, and a run read as a whole."""

from nas_plugins.runs.directory import (
    ALPHAS,
    CHECKPOINT,
    CONFIG,
    CONTRIBUTIONS,
    GENOTYPE,
    METADATA,
    METRICS,
    NETWORK,
    SAMPLE,
    TEST,
    WEIGHTS,
    is_finished,
    kind_of,
)
from nas_plugins.runs.reader import Run, read_run, read_runs

__all__ = [
    "ALPHAS",
    "CHECKPOINT",
    "CONFIG",
    "CONTRIBUTIONS",
    "GENOTYPE",
    "METADATA",
    "METRICS",
    "NETWORK",
    "SAMPLE",
    "TEST",
    "WEIGHTS",
    "Run",
    "is_finished",
    "kind_of",
    "read_run",
    "read_runs",
]
