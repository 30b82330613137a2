"""Training of supernets and derived networks with Lightning; exports the functions for derived networks."""

from nas_plugins.training.retrain import evaluate, retrain

__all__ = ["evaluate", "retrain"]
