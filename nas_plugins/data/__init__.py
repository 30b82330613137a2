"""Image data sets with the splits for search and retraining."""

from nas_plugins.data.module import DATASETS, ImageData

__all__ = ["DATASETS", "ImageData"]
