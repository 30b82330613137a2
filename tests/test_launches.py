"""Steps of a search do not wait for the values of tensors, which on an accelerator would stop it."""

from operator import methodcaller

import pytest
import torch
from pytorch_lightning.callbacks import Callback

import nas_plugins
from benchmarks.dispatches import Launches
from benchmarks.methods import METHODS, make
from nas_plugins import DartsSpace
from tests.small_searches import FEW

READS_STRONGEST = {"strategies/relaxation.rows": 2}
"""An edge that runs one candidate alone needs its index, after each step of α."""


class Steps(Callback):
    """Counts all steps of a search but the first."""

    def __init__(self):
        self.launches, self.running = Launches(), None

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx > 0:
            self.running = self.launches.counting()
            self.running.__enter__()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if self.running is not None:
            self.running.__exit__(None, None, None)


def waits_of(run_search, strategy):
    steps = Steps()
    space = DartsSpace(channels=4, layers=3, nodes=2, operations=FEW)
    run_search(space, strategy, batch_size=16, callbacks=[steps])
    assert steps.launches.operators > 100
    return dict(steps.launches.waits)


@pytest.mark.parametrize(
    "name", ["DARTS", "FairDARTS", "PCDARTS", "BetaDARTS", "DARTSMinus", "DOTS", "SmoothDARTS", "SNAS", "OLES"]
)
def test_a_step_that_runs_all_candidates_waits_for_nothing(run_search, name):
    strategy = make(name, 2) if name in METHODS else getattr(nas_plugins, name)()
    assert waits_of(run_search, strategy) == {}


def test_a_second_order_step_waits_for_nothing(run_search):
    assert waits_of(run_search, nas_plugins.DARTS(order="second")) == {}


def test_a_step_of_drnas_draws_its_samples_on_the_cpu(run_search):
    assert waits_of(run_search, make("DrNAS", 2)) == {"strategies/dirichlet._sample": 2}


def test_a_step_of_edas_reads_the_strongest_candidates(run_search):
    assert waits_of(run_search, nas_plugins.EDAS()) == READS_STRONGEST


@pytest.mark.parametrize("read", [*map(methodcaller, ("item", "tolist", "numpy", "cpu")), bool, float])
def test_every_way_to_read_a_value_is_counted(read):
    launches = Launches()
    with launches.counting():
        read(torch.ones(()))
    assert launches.waits.total() == 1
