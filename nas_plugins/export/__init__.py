"""Export of networks to files that do not need this project."""

from nas_plugins.export.exporter import Export, export
from nas_plugins.export.formats import FORMATS, FormatName

__all__ = ["FORMATS", "Export", "FormatName", "export"]
