"""Networks of runs as files that need no part of this project."""

from nas_plugins.export.exporter import Export, export
from nas_plugins.export.formats import FORMATS, FormatName

__all__ = ["FORMATS", "Export", "FormatName", "export"]
