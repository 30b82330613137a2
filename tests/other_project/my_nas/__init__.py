"""A search space and a strategy for nas-plugins."""
