"""Doctor: measures of a search over its epochs, and findings about it in words."""

from nas_plugins.doctor.measures import measures
from nas_plugins.doctor.rules import Finding, diagnose

__all__ = ["Finding", "diagnose", "measures"]
