"""Searches as NNI experiments: run, resume, derive."""

from nas_plugins.training.derive import derive
from nas_plugins.training.search import resume, search

__all__ = ["derive", "resume", "search"]
