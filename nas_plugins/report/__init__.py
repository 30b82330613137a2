"""HTML reports, tables and plots of runs."""

from nas_plugins.report.page import write_report

__all__ = ["write_report"]
