"""Public functions for searches as NNI experiments: search, resume and derive."""

from nas_plugins.training.derive import derive
from nas_plugins.training.search import resume, search

__all__ = ["derive", "resume", "search"]
