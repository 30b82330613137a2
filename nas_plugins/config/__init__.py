"""Configs of searches and retrainings: YAML files and overrides, read into checked settings."""

from nas_plugins.config.reader import Config, Kind, read_kind, read_retrain, read_retrain_sample, read_search
from nas_plugins.config.schema import Compute, NetworkConfig, Recipe, Training

__all__ = [
    "Compute",
    "Config",
    "Kind",
    "NetworkConfig",
    "Recipe",
    "Training",
    "read_kind",
    "read_retrain",
    "read_retrain_sample",
    "read_search",
]
