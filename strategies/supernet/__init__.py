"""The supernet: α, the plan that its modules follow, and the modules that replace NNI's choices."""
