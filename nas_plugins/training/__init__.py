"""Training of supernets and derived networks with Lightning."""

from nas_plugins.training.retrain import evaluate, retrain

__all__ = ["evaluate", "retrain"]
