"""Image data sets, split into the parts that a search and a retraining learn from."""

from nas_plugins.data.module import DATASETS, ImageData

__all__ = ["DATASETS", "ImageData"]
