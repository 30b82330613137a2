"""Run directories: their files, tables and metadata, and a run read as a whole."""

from nas_plugins.runs.directory import is_finished
from nas_plugins.runs.reader import Run, read_run, read_runs

__all__ = ["Run", "is_finished", "read_run", "read_runs"]
