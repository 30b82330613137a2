"""Image data sets with the splits for search and retraining."""

from nas_plugins.data.conventions import DATASETS
from nas_plugins.data.module import ImageData

__all__ = ["DATASETS", "ImageData"]
