"""Costs of architectures: differentiable expected costs, targets of a search, and NNI's penalties."""

from strategies.cost.latency import Latency, measure_latency
from strategies.cost.profile import ProfileError, Profiler
from strategies.cost.table import CostTable
from strategies.cost.targets import Cost, Metric

__all__ = ["Cost", "CostTable", "Latency", "Metric", "ProfileError", "Profiler", "measure_latency"]
