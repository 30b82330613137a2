"""Script that runs one search of NAS-Bench-201's space, without access to the benchmark's table.

All strategies, ours and NNI's, use the same SGD, schedule, batches, augmentation, epochs and images. Half of the images
train the weights, the other half the architecture.
"""

from __future__ import annotations

import importlib.util
import json
import math
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from inspect import signature
from itertools import islice, product
from pathlib import Path
from typing import Any

import nni.nas.strategy as theirs
import pytorch_lightning as pl
import torch
from methods import METHODS, make
from nasbench201_images import Batch, Half, halves
from nni.nas.evaluator.pytorch import Lightning, LightningModule, Trainer
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.hub.pytorch import NasBench201
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import nas_plugins
from nas_plugins import DARTS, DDARTS, EDAS, FairDARTS
from nas_plugins.training.trainer import quiet
from search_spaces.files import write_text_whole
from strategies.bn_statistics import measure_bn_stats, use_bn_stats
from strategies.enas import ENAS
from strategies.finish import Finish
from strategies.memory_format import ChannelsLast
from strategies.search import SearchModule
from strategies.validation import CALIBRATION_BATCHES

OPERATIONS = {
    "none": "none",
    "skip_connect": "skip_connect",
    "conv_1x1": "nor_conv_1x1",
    "conv_3x3": "nor_conv_3x3",
    "avg_pool_3x3": "avg_pool_3x3",
}
"""Name of an operation in NNI's space -> its name in the benchmark."""

EDGES = [(source, target) for target in (1, 2, 3) for source in range(target)]
"""Edges of the cell, (from node, to node), in the order of an architecture's string."""

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Device on which Lightning trains. Afterwards it moves the network back to the CPU."""

CLIP = 5.0
"""Maximum norm of the gradient of the weights."""

PATHS = 100
"""Number of random paths through the supernet of RandomOneShot, of which the best one is the result (RSPS)."""


@dataclass(frozen=True)
class Protocol:
    """Network and training of a search; the defaults are a proxy for a machine with two cores.

    Args:
        modules: Searched cells in each of the three stages; with the two reductions 3 × modules + 2 cells in all.
        channels: Channels of the first stage.
        image_size: Pixels per side.
        train_images: Number of training images, half for the weights and half for the architecture.
        batch_size: Images per batch.
        epochs: Epochs of the search.
    """

    modules: int = 1
    channels: int = 8
    image_size: int = 16
    train_images: int = 10_000
    batch_size: int = 64
    epochs: int = 15


PROTOCOLS = {
    "proxy": Protocol(),
    "full": Protocol(modules=5, channels=16, image_size=32, train_images=50_000, epochs=50),
}
"""``full`` is the benchmark's own (Dong and Yang, NAS-Bench-201, ICLR 2020)."""


def warmup(protocol: Protocol) -> int:
    """Return the epochs of EDAS' warm-up: 10 of 25, as in the paper (section 4.1)."""
    return 2 * protocol.epochs // 5


def paced(protocol: Protocol, weights_first: int = 0) -> float:
    """Return the learning rate of α with which Adam moves α as far as in the search of the DARTS paper.

    Adam moves α by about its learning rate per step, however small the gradient is. The paper uses 3e-4 for 50 epochs
    of 25,000 images in batches of 64, which is the protocol "full". With this rate α would hardly move in a shorter
    search.

    Args:
        protocol: Protocol of the search.
        weights_first: Number of epochs in which α is not trained.
    """
    steps = (protocol.epochs - weights_first) * math.ceil(protocol.train_images / 2 / protocol.batch_size)
    return 3e-4 * 50 * math.ceil(25_000 / 64) / steps


def method(protocol: Protocol, name: str, pace: bool = False) -> OneShotStrategy:
    """Return a method of the literature with its own learning rate of α, or with one scaled as in :func:`paced`."""
    if not pace:
        return make(name, protocol.epochs)
    rate = signature(getattr(nas_plugins, name)).parameters["learning_rate"].default
    return make(name, protocol.epochs, learning_rate=rate * paced(protocol) / paced(PROTOCOLS["full"]))


def weights_first(protocol: Protocol, **common: Any) -> DARTS:
    """Return one-level DARTS that trains α after a third of the epochs, with the rate of :func:`paced`."""
    rest = protocol.epochs // 3
    return DARTS(order="one-level", warmup_epochs=rest, learning_rate=paced(protocol, rest), **common)


def edas_weights_first(protocol: Protocol, path: str = "strongest", **common: Any) -> EDAS:
    """Return one-level EDAS with two relaxed edges, after a third of the epochs for the weights of all candidates."""
    return EDAS(
        order="one-level", relaxed_edges=2, sign_flip_epochs=0, weight_decay=1e-3,
        weights_first_epochs=protocol.epochs // 3, path=path, **common,
    )  # fmt: skip


def deeper(protocol: Protocol, architectures: int, steps: int = 100) -> Finish:
    """Return a final ranking by networks of three times the depth, each trained alone."""
    deep = replace(protocol, modules=3 * protocol.modules)
    return Finish(architectures, steps, space=partial(make_space, deep, 10))


def neighbors(protocol: Protocol) -> Finish:
    """Return a final ranking in two rungs of the architecture of α and of all that differ from it in one edge."""
    others = len(EDGES) * (len(OPERATIONS) - 2)  # our strategies derive "none" on no edge
    return replace(deeper(protocol, 1 + others, steps=60), exchanges=1, rungs=[(4, 400)], metric="val_loss")


STRATEGIES: dict[str, Callable[[Protocol], OneShotStrategy]] = {
    "EDAS": lambda protocol: EDAS(sign_flip_epochs=warmup(protocol)),
    "EDAS, no warm-up": lambda protocol: EDAS(sign_flip_epochs=0),
    "EDAS, one-level": lambda protocol: EDAS(sign_flip_epochs=warmup(protocol), order="one-level"),
    "EDAS, one-level, weights first": edas_weights_first,
    "EDAS, one-level, weights first, sampled paths": partial(edas_weights_first, path="sampled"),
    "EDAS, one-level, weights first, sampled paths, neighbors": lambda protocol: edas_weights_first(
        protocol, path="sampled", finish=neighbors(protocol)
    ),
    "EDAS, flip both": lambda protocol: EDAS(sign_flip_epochs=warmup(protocol), flip="both"),
    "EDAS, one-level, no warm-up": lambda protocol: EDAS(sign_flip_epochs=0, order="one-level"),
    "EDAS, cyclic": lambda protocol: EDAS(sign_flip_epochs=warmup(protocol), sampling="cyclic"),
    "DARTS": lambda protocol: DARTS(),
    "DARTS, paced": lambda protocol: DARTS(learning_rate=paced(protocol)),
    "DARTS, second order": lambda protocol: DARTS(order="second"),
    "DARTS, one-level": lambda protocol: DARTS(order="one-level"),
    "DARTS, one-level, paced": lambda protocol: DARTS(order="one-level", learning_rate=paced(protocol)),
    "DARTS, one-level, weights first": weights_first,
    "DARTS, one-level, weights first, neighbors": lambda protocol: weights_first(protocol, finish=neighbors(protocol)),
    "DARTS, one-level, weights first, ranked": lambda protocol: weights_first(protocol, finish=deeper(protocol, 12)),
    "EDAS, one-level, ranked": lambda protocol: EDAS(
        sign_flip_epochs=warmup(protocol), order="one-level", finish=deeper(protocol, 6)
    ),
    "FairDARTS": lambda protocol: FairDARTS(),
    # The ablation loss needs a chain in which each cell is an input of the next; the space of NNI's hub is not one.
    "DDARTS, w_abl=0": lambda protocol: DDARTS(w_abl=0.0),
    **{
        f"{name}, paced" if pace else name: partial(method, name=name, pace=pace)
        for name in METHODS
        for pace in (False, True)
    },
    "NNI DARTS": lambda protocol: theirs.DARTS(),
    "NNI GumbelDARTS": lambda protocol: theirs.GumbelDARTS(),
    # NNI's Proxyless and ENAS export a sample of the learned distribution, in every epoch and at the end.
    "NNI Proxyless": lambda protocol: theirs.Proxyless(),
    "NNI RandomOneShot": lambda protocol: theirs.RandomOneShot(),
    "NNI ENAS": lambda protocol: ENAS(reward_metric_name="val_acc"),  # NNI's own, with a loader for current Lightning
}
"""Name -> function from a protocol to the strategy: its defaults with the changes in the name, "paced" included in
"weights first"."""


def missing(name: str) -> str | None:
    """Return the package that must be installed before a strategy can run; None if there is none."""
    return "nas-plugins[rl]" if name == "NNI ENAS" and importlib.util.find_spec("tianshou") is None else None


def architecture(sample: Mapping[str, Any]) -> str:
    """Return the benchmark's string of a sample of NNI: ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``."""
    nodes: dict[int, list[str]] = {}
    for source, target in EDGES:
        nodes.setdefault(target, []).append(f"{OPERATIONS[sample[f'cell/{source}_{target}']]}~{source}")
    return "|" + "|+|".join("|".join(incoming) for incoming in nodes.values()) + "|"


def every_sample() -> list[dict[str, str]]:
    """Return the 15,625 architectures of the space as samples of NNI."""
    labels = [f"cell/{source}_{target}" for source, target in EDGES]
    return [dict(zip(labels, names, strict=True)) for names in product(OPERATIONS, repeat=len(EDGES))]


class Recipe(LightningModule):
    """Training of the benchmark: SGD with Nesterov momentum and a cosine learning rate.

    Args:
        epochs: Epochs of the training.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the model."""
        return self.model(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        return cross_entropy(self(images), labels)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the accuracy and the loss of a batch, for the reward of ENAS and the final rankings."""
        images, labels = batch
        logits = self(images)
        self.log("val_acc", (logits.argmax(1) == labels).float().mean(), on_step=True, on_epoch=False)
        self.log("val_loss", cross_entropy(logits, labels), on_step=True, on_epoch=False)

    def configure_optimizers(self) -> Any:
        """Return the optimizer of the weights and its schedule."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.025, momentum=0.9, weight_decay=5e-4, nesterov=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.epochs, eta_min=0.001)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip the gradient alike for all strategies, since those of NNI have different settings for it, or none."""
        nn.utils.clip_grad_norm_([weight for group in optimizer.param_groups for weight in group["params"]], CLIP)


class Curve(Callback):
    """Callback that records the architecture that the strategy would derive after each epoch.

    Args:
        name: Function that returns the string of a sample.
    """

    def __init__(self, name: Callable[[Mapping[str, Any]], str] = architecture) -> None:
        self.name = name
        self.architectures: list[str] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, BaseOneShotLightningModule)
        self.architectures.append(self.name(pl_module.export()))


def make_space(protocol: Protocol, classes: int) -> NasBench201:
    """Return NNI's space in the memory format that is fast on a CPU."""
    space = NasBench201(protocol.channels, protocol.modules, num_labels=classes)
    return space.to(memory_format=torch.channels_last)


def make_trainer(epochs: int, **settings: Any) -> Trainer:
    """Return a Lightning trainer that only trains by default."""
    return Trainer(
        max_epochs=epochs, devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **{"limit_val_batches": 0, **settings},
    )  # fmt: skip


def search(strategy: str, seed: int, protocol: Protocol, images: Path) -> dict[str, Any]:
    """Run a search, and return its result.

    Args:
        strategy: Key of STRATEGIES.
        seed: Seed of everything but the choice of the images.
        protocol: Protocol of the search.
        images: File of :func:`nasbench201_images.prepare`.

    Returns:
        {"strategy", "seed", "settings": the protocol, "architecture": the result, "curve": epoch -> the result after
        it, "supernet_val_acc" and "derived_val_acc": accuracies on the images for the architecture, from 0 to 1, or
        None, "seconds" and "cpu_seconds": duration of the search}
    """
    pl.seed_everything(seed, verbose=False)
    train, val = halves(images)
    chosen, curve = STRATEGIES[strategy](protocol), Curve()
    sampling = type(chosen) is theirs.RandomOneShot
    # RandomOneShot alone uses Lightning's automatic optimization, which does not call the clipping of the recipe.
    special: dict[str, Any] = {"gradient_clip_val": CLIP} if sampling else {}
    if isinstance(chosen, nas_plugins.DARTSPT):  # it validates whenever it makes a choice
        special = {"limit_val_batches": 1.0}
    elif getattr(chosen, "finish", None) is not None:  # it validates at the end of the search only
        special = {"limit_val_batches": 1.0, "check_val_every_n_epoch": protocol.epochs, "num_sanity_val_steps": 0}
    evaluator = Lightning(
        Recipe(protocol.epochs),
        make_trainer(protocol.epochs, callbacks=[] if sampling else [curve], **special),
        train_dataloaders=train.loader(protocol.batch_size),
        val_dataloaders=val.loader(protocol.batch_size),
    )
    space = make_space(protocol, int(train.labels.max()) + 1)
    started = time.perf_counter(), time.process_time()
    sample = run(space, evaluator, chosen)
    module = chosen.oneshot_module.to(DEVICE)
    validated = partial(path_accuracy, module.model, train, val)
    if sampling:  # its export is a random path
        sample = best_path(module, validated, seed)
        curve.architectures = [architecture(sample)]
    took = time.perf_counter() - started[0], time.process_time() - started[1]
    found = curve.architectures
    first = protocol.epochs - 1 if sampling else 0  # a search may end early
    return {
        "strategy": strategy,
        "seed": seed,
        "settings": asdict(protocol),
        "architecture": architecture(sample),
        "curve": dict(enumerate(found, first)),
        **accuracies(module, sample, validated),
        **({"ranking": module.ranking} if isinstance(module, SearchModule) and module.ranking else {}),
        "seconds": round(took[0], 1),
        "cpu_seconds": round(took[1], 1),
    }


def run(space: ModelSpace, evaluator: Lightning, strategy: OneShotStrategy) -> dict[str, Any]:
    """Run an NNI experiment, and return the sample that it derives."""
    settings = NasExperimentConfig.default(space, evaluator, strategy)
    with tempfile.TemporaryDirectory() as folder:
        settings.experiment_working_directory = folder
        experiment = NasExperiment(space, evaluator, strategy, settings)
        try:
            with ChannelsLast(sums=True):
                experiment.run()
            (sample,) = experiment.export_top_models(top_k=1, formatter="dict")
        finally:
            experiment.stop()
    return sample


def best_path(module: BaseOneShotLightningModule, validated: Callable[[], float], seed: int) -> dict[str, str]:
    """Return the best of a few random paths with the weights of the supernet (Li and Talwalkar, RSPS, UAI 2019)."""
    paths = random.Random(seed).sample(every_sample(), PATHS)

    def worth(path: dict[str, str]) -> float:
        follow(module, path)
        return validated()

    return max(paths, key=worth)


def follow(module: BaseOneShotLightningModule, sample: Mapping[str, Any]) -> bool:
    """Make NNI's supernet run a path, and return False if it can only run all candidates at once."""
    followed = [part.resample(memo=dict(sample)) for part in module.supernet_modules()]
    return any(followed)


def accuracies(
    module: BaseOneShotLightningModule, sample: Mapping[str, Any], validated: Callable[[], float]
) -> dict[str, float | None]:
    """Return the accuracies of the supernet and of the derived architecture in it; None for one that cannot be run."""
    found: dict[str, float | None] = {"supernet_val_acc": None, "derived_val_acc": None}
    if isinstance(module, SearchModule):
        with torch.no_grad():
            alphas = module.architecture.living_alphas()
            module.architecture.follow(module.composition.relaxation.evaluation(alphas))
        found["supernet_val_acc"] = validated()
        module.architecture.plan = module.derived_plan()
        found["derived_val_acc"] = validated()
    else:
        found["derived_val_acc" if follow(module, sample) else "supernet_val_acc"] = validated()
    return found


def path_accuracy(model: nn.Module, train: Half, val: Half) -> float:
    """Return :func:`accuracy` with the batch statistics of the operations that the supernet currently runs."""
    device = next(model.parameters()).device
    batches = [images.to(device) for images, _ in islice(train.plain(64), CALIBRATION_BATCHES)]
    with use_bn_stats(measure_bn_stats(model, lambda: [model(images) for images in batches])):
        return accuracy(model, val)


@torch.no_grad()
def accuracy(model: nn.Module, val: Half) -> float:
    """Return the share of images that the model classifies correctly."""
    model.eval()
    device = next(model.parameters()).device
    right = [(model(images.to(device)).argmax(1).cpu() == labels).sum() for images, labels in val.plain(500)]
    return int(torch.stack(right).sum()) / len(val)


def main(output: str, images: str, settings: dict[str, int], **what: Any) -> None:
    """Search, and write the result atomically."""
    torch.set_num_threads(1)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = search(protocol=Protocol(**settings), images=Path(images), **what)
    write_text_whole(output, json.dumps(found, indent=1))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
