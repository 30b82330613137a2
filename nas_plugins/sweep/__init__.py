"""Many runs as the trials of an NNI experiment."""

from nas_plugins.sweep.launch import launch
from nas_plugins.sweep.records import read_trials, save_genotypes
from nas_plugins.sweep.trial import run_trial

__all__ = ["launch", "read_trials", "run_trial", "save_genotypes"]
