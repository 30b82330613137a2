"""Supernets: α, the plan that the modules follow, and the modules that replace NNI's choices."""
