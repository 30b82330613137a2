"""Training of supernets and derived networks with Lightning; exports the functions for derived networks."""

from nas_plugins.training.predict import predict, predict_masks
from nas_plugins.training.retrain import evaluate, retrain, retrain_sample

__all__ = ["evaluate", "predict", "predict_masks", "retrain", "retrain_sample"]
