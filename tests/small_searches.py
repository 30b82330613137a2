"""What the tests of the strategies share: small real searches."""

import logging
import math
import random
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from nni.nas.evaluator.pytorch import Classification, DataLoader
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.hub.pytorch import DARTS
from pytorch_lightning.callbacks import Callback
from torch.utils.data import TensorDataset

FEW = ("skip_connect", "max_pool_3x3", "sep_conv_3x3")
"""Candidates of a small space, one of each kind: nothing to compute, pooling, weights."""


class HubDarts(DARTS):
    """Space of NNI's hub with fewer candidates, for the time; test_matrix.py has it with all."""

    DARTS_OPS: ClassVar = [*FEW]


class CountedBatches(Callback):
    """Counts the batches in the running statistics of the normalizations of a search.

    Each normalization gets zeros for its input, so that a batch multiplies its running variance by 1 − momentum.
    """

    def on_fit_start(self, trainer, module):
        self.norms = [one for one in module.modules() if isinstance(one, torch.nn.BatchNorm2d)]
        for norm in self.norms:
            norm.register_forward_pre_hook(lambda _, inputs: 0 * inputs[0])

    def counts(self):
        """Return the numbers of batches that occur."""
        return {round(math.log(norm.running_var[0]) / math.log(1 - norm.momentum)) for norm in self.norms}


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same random numbers; NNI's RandomOneShot draws its paths from Python's."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_experiments():
    """NNI's list of experiments is as short as in a new home: it takes the longer, the more were before."""
    Path.home().joinpath("nni-experiments", ".experiment").unlink(missing_ok=True)


@pytest.fixture
def images():
    """32 random images of 8×8 pixels in 3 channels, with labels of 10 classes."""
    return TensorDataset(torch.randn(32, 3, 8, 8), torch.randint(0, 10, (32,)))


@pytest.fixture
def run_search(images, tmp_path):
    """Run a strategy on a space through NNI's experiment, with NNI's own evaluator; give the experiment back.

    The candidates are not tried before the first step, as in a search by the command line, which has tried them by
    then; with ``checked=False`` they are.
    """
    for name in ("nni", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)

    def run(
        space, strategy, *, epochs=1, batch_size=16, callbacks=(), precision="32-true", weight_decay=0.0, checked=True
    ):
        if hasattr(strategy, "candidates_checked"):  # one of ours
            strategy.candidates_checked = checked
        evaluator = Classification(
            num_classes=10,
            optimizer=torch.optim.SGD,
            learning_rate=0.05,
            weight_decay=weight_decay,
            train_dataloaders=DataLoader(images, batch_size=batch_size),
            val_dataloaders=DataLoader(images, batch_size=batch_size),
            max_epochs=epochs,
            callbacks=list(callbacks),
            accelerator="cpu",
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        config = NasExperimentConfig.default(space, evaluator, strategy)
        config.experiment_working_directory = tmp_path / "nni"
        experiment = NasExperiment(space, evaluator, strategy, config)
        experiment.run()
        experiment.stop()
        return experiment

    return run
