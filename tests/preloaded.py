"""What the processes of forked.py find imported."""

import gc

gc.disable()  # nothing of it is garbage

import pytest  # noqa: F401

import nas_plugins.cli
import nas_plugins.experiment
import nas_plugins.report  # noqa: F401

gc.freeze()
gc.enable()
