"""What the tests of the strategies share: small real searches."""

import logging
from pathlib import Path

import pytest
import torch
from nni.nas.evaluator.pytorch import Classification, DataLoader
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from torch.utils.data import TensorDataset


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same random numbers."""
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
    """Run a strategy on a space through NNI's experiment, with NNI's own evaluator; give the experiment back."""
    for name in ("nni", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)

    def run(space, strategy, *, epochs=1, batch_size=8, callbacks=(), precision="32-true", weight_decay=0.0):
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
