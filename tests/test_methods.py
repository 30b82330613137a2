"""What every method must do: search our spaces and NNI's, be resumed, and run in several processes."""

import json
import logging
from functools import partial
from typing import NamedTuple

import pytest
import torch
import two_processes
from forked import together
from nni.nas.evaluator.pytorch import Classification, DataLoader
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.hub.pytorch import NasBench201
from pytorch_lightning.callbacks import Checkpoint
from small_searches import HubDarts
from torch.utils.data import TensorDataset

from nas_plugins.training.callbacks import SeededEpochs
from search_spaces.darts import DartsSpace
from strategies.amended_darts import AmendedDARTS
from strategies.beta_darts import BetaDARTS
from strategies.darts_minus import DARTSMinus
from strategies.darts_plus import DARTSPlus
from strategies.darts_pt import DARTSPT
from strategies.dots import DOTS
from strategies.dr_nas import DrNAS
from strategies.gdas import GDAS
from strategies.i_darts import IDARTS
from strategies.oles import OLES
from strategies.p_darts import PDARTS
from strategies.pc_darts import PCDARTS
from strategies.proxyless import Proxyless
from strategies.robust_darts import RobustDARTS
from strategies.smooth_darts import SmoothDARTS
from strategies.snas import SNAS

METHODS = {
    "AmendedDARTS": lambda epochs: AmendedDARTS(),
    "BetaDARTS": lambda epochs: BetaDARTS(),
    "DARTSMinus": lambda epochs: DARTSMinus(),
    "DARTSPT": lambda epochs: DARTSPT(projection_epochs=max(1, epochs // 2)),
    "DARTSPlus": lambda epochs: DARTSPlus(skip_limit=None, stable_epochs=4),
    "DOTS": lambda epochs: DOTS(stages=(0.25, 0.5, 0.75) if epochs == 4 else (0.0, 0.0, 0.0)),
    "DrNAS": lambda epochs: DrNAS(keep=2, partial_channels=2, wider_partial_channels=1),
    "GDAS": lambda epochs: GDAS(),
    "IDARTS": lambda epochs: IDARTS(weight_steps=1),
    "OLES": lambda epochs: OLES(threshold=1.0, window=1),
    "PCDARTS": lambda epochs: PCDARTS(partial_channels=2, warmup_epochs=epochs // 4),
    "PDARTS": lambda epochs: PDARTS(keep=(3, 2)),
    "Proxyless": lambda epochs: Proxyless(weight_steps=1, warmup_epochs=epochs // 4),
    "RobustDARTS": lambda epochs: RobustDARTS(
        1e-9, every=1, window=1, distance=1, start=1, drop_path=0.3, order="first"
    ),
    "SNAS": lambda epochs: SNAS(),
    "SmoothDARTS": lambda epochs: SmoothDARTS(perturbation="adversarial", attack_steps=2),
    "SmoothDARTS, random": lambda epochs: SmoothDARTS(),
}
"""Method -> its strategy, with settings by which its parts act in a search of so many epochs of one step."""
STAGED = ("DARTSPT", "DARTSPlus", "DOTS", "DrNAS", "PCDARTS", "PDARTS", "Proxyless", "RobustDARTS")
"""Methods that do something else in later epochs."""


def ours():
    return DartsSpace(channels=4, layers=3, nodes=2, operations=("skip_connect", "sep_conv_3x3"))


NNIS = {
    "DARTS": lambda: HubDarts(width=4, num_cells=3, dataset="cifar"),
    "NasBench201": lambda: NasBench201(stem_out_channels=4, num_modules_per_stack=1),
}
"""Spaces of NNI's hub: of cells, and of layers to choose."""
ON_THE_HUB = [
    *((name, "NasBench201") for name in METHODS),
    *((name, "DARTS") for name in ("DOTS", "DrNAS", "PCDARTS", "PDARTS")),
    pytest.param("DARTSPT", "DARTS", marks=pytest.mark.slow),
]
"""Methods that do to cells what they do to layers search our cells below, which become the same supernet."""
PRUNING = ("DARTSPT", "DOTS", "DrNAS", "PDARTS")
RESUMED = {name: (1, 2) if name in PRUNING else (1,) if name in STAGED else (0,) for name in METHODS}
"""Method -> the epochs after which it is resumed: where it prunes, before that and after it."""
EPOCHS = {name: 4 if name in STAGED else 2 for name in METHODS}


@pytest.fixture
def images():
    """One batch."""
    return TensorDataset(torch.randn(8, 3, 8, 8), torch.randint(0, 10, (8,)))


@pytest.mark.parametrize(("method", "space"), ON_THE_HUB)
@pytest.mark.filterwarnings("ignore:.*it is derived as 'darts'")
def test_it_searches_the_spaces_of_nnis_hub_and_its_sample_freezes_them(run_search, method, space):
    (sample,) = run_search(NNIS[space](), METHODS[method](1)).export_top_models(formatter="dict")
    assert NNIS[space]().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


class EpochCheckpoints(Checkpoint):
    """Saves Lightning's checkpoint after some epochs, and remembers which epochs were done."""

    def __init__(self, folder, saved):
        self.folder, self.saved, self.epochs = folder, saved, []

    def on_train_epoch_end(self, trainer, module):
        self.epochs.append(trainer.current_epoch)
        if trainer.current_epoch in self.saved:
            trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


class Searched(NamedTuple):
    """What a search ends with."""

    epochs: list
    alphas: dict
    living: dict
    weights: dict
    sample: dict


def search(method, folder, images, ckpt_path=None):
    """Search with a checkpoint of Lightning's after each epoch that is resumed, or from one."""
    for name in ("nni", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.manual_seed(0)
    loader = partial(DataLoader, images, batch_size=8)
    checkpoints = EpochCheckpoints(folder, () if ckpt_path else RESUMED[method])
    evaluator = Classification(
        num_classes=10, train_dataloaders=loader(), val_dataloaders=loader(), max_epochs=EPOCHS[method],
        learning_rate=0.05, accelerator="cpu", callbacks=[SeededEpochs(0), checkpoints], logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    evaluator.fit_kwargs = {"ckpt_path": ckpt_path}
    space, strategy = ours(), METHODS[method](EPOCHS[method])
    strategy.candidates_checked = True
    settings = NasExperimentConfig.default(space, evaluator, strategy)
    settings.experiment_working_directory = folder / "nni"
    experiment = NasExperiment(space, evaluator, strategy, settings)
    experiment.run()
    experiment.stop()
    (sample,) = experiment.export_top_models(formatter="dict")
    living = dict(strategy.architecture.living)
    return Searched(checkpoints.epochs, strategy.alphas(), living, strategy.oneshot_module.model.state_dict(), sample)


@pytest.mark.parametrize("method", METHODS)
def test_from_a_checkpoint_of_lightnings_it_goes_on_as_if_nothing_had_happened(method, tmp_path, images):
    whole = search(method, tmp_path / "whole", images)
    assert ours().freeze(whole.sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    for epoch in RESUMED[method]:
        resumed = search(method, tmp_path / f"{epoch}", images, str(tmp_path / "whole" / f"{epoch}.ckpt"))
        assert resumed.epochs == whole.epochs[epoch + 1 :] != []
        assert (resumed.alphas, resumed.living, resumed.sample) == (whole.alphas, whole.living, whole.sample)
        assert all(torch.equal(resumed.weights[name], weight) for name, weight in whole.weights.items())


@pytest.mark.slow
def test_two_processes_have_the_same_alpha_and_weights_after_every_step(tmp_path):
    both = together([*METHODS], tmp_path, two_processes.compare_methods)
    assert [done.status for done in both] == [0, 0], both[0].err + both[1].err
    found = json.loads(both[0].out.splitlines()[-1])
    for method in METHODS:
        assert found[method]["apart"] == 0, method
        assert min(found[method]["moved"].values()) > 1e-4, method
        assert found[method]["same sample"] and found[method]["same accuracy"], method
