"""What test_devices.py runs in two processes: searches through NNI's experiment, and retrainings."""

import json
import os
import tempfile
import warnings
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Classification, DataLoader
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from small_searches import FEW
from torch.utils.data import TensorDataset

from nas_plugins import DARTS, DDARTS, EDAS, DartsSpace, FairDARTS
from nas_plugins.runs.directory import is_first
from nas_plugins.training.retrain import evaluate, retrain

STRATEGIES = {
    "one level": partial(DARTS, order="one-level"),
    "second order": partial(DARTS, order="second"),
    "EDAS": EDAS,
    "FairDARTS": FairDARTS,
    "D-DARTS": DDARTS,
    "ablation gradient": partial(DDARTS, ablation_gradient=True, absent="skip"),
}


class Compare(pl.Callback):
    """How far α and the weights of the processes are apart after each step, and how far they moved at all."""

    def __init__(self, strategy) -> None:
        self.strategy, self.apart, self.images = strategy, 0.0, set()
        self.steps = 0

    def on_train_start(self, trainer, pl_module) -> None:
        self.start = self._parameters(pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        mine = self._parameters(pl_module)
        first = trainer.strategy.broadcast(mine)
        own = {name: float((mine[name] - first[name]).abs().max()) for name in mine}
        self.apart = max(self.apart, *own.values())
        self.moved = {name: float((mine[name] - self.start[name]).abs().max()) for name in mine}
        images = trainer.strategy.all_gather(batch["train"][0][:, 0, 0, 0])
        self.images |= set(images.flatten().tolist())
        self.steps += 1

    def _parameters(self, pl_module) -> dict:
        alphas = torch.cat([alpha.detach().clone() for alpha in self.strategy.architecture.alphas.values()])
        weights = torch.cat([weight.detach().flatten().clone() for weight in pl_module.model.parameters()])
        return {"alphas": alphas, "weights": weights}


def run(make, epochs: int = 2, batch_size: int = 3, plain: bool = False, other_seeds: bool = False, **space) -> dict:
    """Search with the strategy that a function makes, and say what was seen."""
    pl.seed_everything(int(os.environ["LOCAL_RANK"]) if other_seeds else 0, workers=True, verbose=False)
    numbers = torch.Generator().manual_seed(7)
    images, labels = torch.randn(24, 3, 8, 8, generator=numbers), torch.randint(0, 3, (24,), generator=numbers)
    halves = [TensorDataset(images[first : first + 12], labels[first : first + 12]) for first in (0, 12)]
    loaders = [DataLoader(half, batch_size=batch_size) for half in halves]
    strategy = make()
    compare = Compare(strategy)
    evaluator = Classification(
        train_dataloaders=loaders[0], val_dataloaders=loaders[1], num_classes=3, max_epochs=epochs, learning_rate=0.05,
        accelerator="cpu", devices=2, strategy="ddp" if plain else "ddp_find_unused_parameters_true",
        callbacks=[compare],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    space = DartsSpace(**{"num_classes": 3, "channels": 2, "layers": 3, "nodes": 2, "operations": FEW, **space})
    settings = NasExperimentConfig.default(space, evaluator, strategy)
    settings.experiment_working_directory = tempfile.mkdtemp()
    experiment = NasExperiment(space, evaluator, strategy, settings)
    try:
        experiment.run()
        (sample,) = experiment.export_top_models(formatter="dict")
    finally:
        experiment.stop()
    trainer = evaluator.trainer
    samples = [None, None]
    torch.distributed.all_gather_object(samples, sample)
    accuracies = [None, None]
    torch.distributed.all_gather_object(accuracies, float(trainer.callback_metrics["derived_val_acc"]))
    return {
        "apart": compare.apart,
        "moved": compare.moved,
        "images": len(compare.images),
        "steps": compare.steps,
        "same sample": samples[0] == samples[1],
        "same accuracy": accuracies[0] == accuracies[1],
    }


def compare_methods(names: list[str]) -> None:
    """Search with methods of test_methods.py, as :func:`search_and_compare`."""
    from test_methods import METHODS, STAGED

    warnings.filterwarnings("ignore")
    space = {"channels": 4, "operations": ("skip_connect", "sep_conv_3x3")}
    epochs = {name: 4 if name in STAGED else 2 for name in names}
    seen = {name: run(partial(METHODS[name], epochs[name]), epochs[name], batch_size=6, **space) for name in names}
    if torch.distributed.get_rank() == 0:
        print(json.dumps(seen), flush=True)
    torch.distributed.destroy_process_group()


class SaveWeights(pl.Callback):
    """The trained weights of each process, in a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer, pl_module) -> None:
        torch.save(dict(pl_module.named_parameters()), self.folder / f"weights_{trainer.global_rank}.pt")


def search_and_compare(arguments: list[str]) -> None:
    """Search with the strategies that are named; the first process prints what was seen of each, as JSON."""
    warnings.filterwarnings("ignore")
    names = [name for name in arguments if not name.startswith("--")]
    settings = {"plain": "--plain-ddp" in arguments, "other_seeds": "--other-seeds" in arguments}
    seen = {name: run(STRATEGIES[name], **settings) for name in names}
    if torch.distributed.get_rank() == 0:
        print(json.dumps(seen), flush=True)
    torch.distributed.destroy_process_group()


def retrain_and_save(arguments: list[str]) -> None:
    """GENOTYPE CONFIG OUTPUT: retrain; each process saves its weights beside the run directory.

    The first process prints the test accuracy, as JSON, as a trial reports it.
    """
    genotype, config, output = map(Path, arguments)
    retrain(genotype, config, output, ["--compute.devices", "2"], [SaveWeights(output.parent)])
    if is_first():
        print(json.dumps(evaluate(output)), flush=True)
