"""One search of NAS-Bench-201's space, in a process of its own, which never sees the benchmark's table.

Every strategy, ours or NNI's, gets the same SGD, schedule, batches, augmentation, epochs, and images, half of them for
the weights and half for the architecture.
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
"""The name of an operation in NNI's space -> in the benchmark."""

EDGES = [(source, target) for target in (1, 2, 3) for source in range(target)]
"""Of the cell: (from node, to node), in the order of an architecture's string."""

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Where Lightning trains, but it hands the network back on the CPU."""

CLIP = 5.0
"""The largest norm of the gradient of the weights."""

PATHS = 100
"""Random paths through the supernet of RandomOneShot, of which the best one is its answer (RSPS)."""


@dataclass(frozen=True)
class Protocol:
    """The network of a search and its training; the defaults are the proxy for two cores.

    Args:
        modules: searched cells of each of the three stages; with the two reductions 3 × modules + 2 in all.
        channels: of the first stage.
        image_size: pixels a side.
        train_images: half of them for the weights, half for the architecture.
        batch_size: images in a batch.
        epochs: of the search.
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
    """The epochs of EDAS' warm-up: 10 of 25, as in the paper (section 4.1)."""
    return 2 * protocol.epochs // 5


def paced(protocol: Protocol, weights_first: int = 0) -> float:
    """The learning rate of α at which Adam goes as far in a search as in that of DARTS' paper.

    Adam moves α by about its learning rate in a step, however small the gradient is: by 3e-4 in each of 50 epochs of
    25,000 images in batches of 64 there, which is the protocol "full" here. In a shorter search α would hardly move.

    Args:
        protocol: of the search.
        weights_first: epochs in which α rests.
    """
    steps = (protocol.epochs - weights_first) * math.ceil(protocol.train_images / 2 / protocol.batch_size)
    return 3e-4 * 50 * math.ceil(25_000 / 64) / steps


def method(protocol: Protocol, name: str, pace: bool = False) -> OneShotStrategy:
    """A method of the literature, with its own learning rate of α or with one that goes as far in a short search."""
    if not pace:
        return make(name, protocol.epochs)
    rate = signature(getattr(nas_plugins, name)).parameters["learning_rate"].default
    return make(name, protocol.epochs, learning_rate=rate * paced(protocol) / paced(PROTOCOLS["full"]))


def weights_first(protocol: Protocol, **common: Any) -> DARTS:
    """One-level DARTS whose α rests for a third of the epochs, with a rate that goes as far in a short search."""
    rest = protocol.epochs // 3
    return DARTS(order="one-level", warmup_epochs=rest, learning_rate=paced(protocol, rest), **common)


def edas_weights_first(protocol: Protocol, path: str = "strongest", **common: Any) -> EDAS:
    """One-level EDAS with two relaxed edges, after a third of the epochs for the weights of all candidates."""
    return EDAS(
        order="one-level", relaxed_edges=2, sign_flip_epochs=0, weight_decay=1e-3,
        weights_first_epochs=protocol.epochs // 3, path=path, **common,
    )  # fmt: skip


def deeper(protocol: Protocol, architectures: int, steps: int = 100) -> Finish:
    """A ranking by networks of three times the depth, each trained alone."""
    deep = replace(protocol, modules=3 * protocol.modules)
    return Finish(architectures, steps, space=partial(make_space, deep, 10))


def neighbors(protocol: Protocol) -> Finish:
    """A ranking in two rungs of the architecture of α and of all that differ from it in one edge, none left out."""
    others = len(EDGES) * (len(OPERATIONS) - 2)  # no edge of ours derives "none"
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
    # The ablation loss needs a chain of cells that are each other's inputs; the hub's space is none.
    "DDARTS, w_abl=0": lambda protocol: DDARTS(w_abl=0.0),
    **{
        f"{name}, paced" if pace else name: partial(method, name=name, pace=pace)
        for name in METHODS
        for pace in (False, True)
    },
    "NNI DARTS": lambda protocol: theirs.DARTS(),
    "NNI GumbelDARTS": lambda protocol: theirs.GumbelDARTS(),
    # What this one and NNI's ENAS export, in every epoch and at the end, is a draw from what they have learned.
    "NNI Proxyless": lambda protocol: theirs.Proxyless(),
    "NNI RandomOneShot": lambda protocol: theirs.RandomOneShot(),
    "NNI ENAS": lambda protocol: ENAS(reward_metric_name="val_acc"),  # NNI's own, with a loader for today's Lightning
}
"""Name -> the strategy by a protocol: its own defaults but for what the name says. "weights first" is paced, too."""


def missing(name: str) -> str | None:
    """What has to be installed for a strategy to run; None where nothing has."""
    return "nas-plugins[rl]" if name == "NNI ENAS" and importlib.util.find_spec("tianshou") is None else None


def architecture(sample: Mapping[str, Any]) -> str:
    """The benchmark's string of a sample of NNI's: ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``."""
    nodes: dict[int, list[str]] = {}
    for source, target in EDGES:
        nodes.setdefault(target, []).append(f"{OPERATIONS[sample[f'cell/{source}_{target}']]}~{source}")
    return "|" + "|+|".join("|".join(incoming) for incoming in nodes.values()) + "|"


def every_sample() -> list[dict[str, str]]:
    """The 15,625 architectures of the space, as samples of NNI's."""
    labels = [f"cell/{source}_{target}" for source, target in EDGES]
    return [dict(zip(labels, names, strict=True)) for names in product(OPERATIONS, repeat=len(EDGES))]


class Recipe(LightningModule):
    """The benchmark's training: SGD with Nesterov momentum, the learning rate falling along a cosine.

    Args:
        epochs: of the training.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def forward(self, images: Tensor) -> Tensor:
        """The logits of the model."""
        return self.model(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        images, labels = batch
        return cross_entropy(self(images), labels)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the accuracy and the loss of a batch: the reward of ENAS, and what a ranking at the end goes by."""
        images, labels = batch
        logits = self(images)
        self.log("val_acc", (logits.argmax(1) == labels).float().mean(), on_step=True, on_epoch=False)
        self.log("val_loss", cross_entropy(logits, labels), on_step=True, on_epoch=False)

    def configure_optimizers(self) -> Any:
        """The optimizer of the weights and its schedule."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.025, momentum=0.9, weight_decay=5e-4, nesterov=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.epochs, eta_min=0.001)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip alike for all: NNI's strategies have different settings for it, or none."""
        nn.utils.clip_grad_norm_([weight for group in optimizer.param_groups for weight in group["params"]], CLIP)


class Curve(Callback):
    """The architecture that the strategy would give after each epoch.

    Args:
        name: the string of a sample.
    """

    def __init__(self, name: Callable[[Mapping[str, Any]], str] = architecture) -> None:
        self.name = name
        self.architectures: list[str] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, BaseOneShotLightningModule)
        self.architectures.append(self.name(pl_module.export()))


def make_space(protocol: Protocol, classes: int) -> NasBench201:
    """NNI's space, in the memory layout that is fast on a CPU."""
    space = NasBench201(protocol.channels, protocol.modules, num_labels=classes)
    return space.to(memory_format=torch.channels_last)


def make_trainer(epochs: int, **settings: Any) -> Trainer:
    """Lightning's trainer, which only trains."""
    return Trainer(
        max_epochs=epochs, devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **{"limit_val_batches": 0, **settings},
    )  # fmt: skip


def search(strategy: str, seed: int, protocol: Protocol, images: Path) -> dict[str, Any]:
    """A search.

    Args:
        strategy: one of STRATEGIES.
        seed: of everything but the choice of the images.
        protocol: of the search.
        images: file of :func:`nasbench201_images.prepare`.

    Returns:
        {"strategy", "seed", "settings": the protocol, "architecture": the answer, "curve": epoch -> the answer after
        it, "supernet_val_acc" and "derived_val_acc": on the images for the architecture, from 0 to 1, or None,
        "seconds" and "cpu_seconds": of the search}
    """
    pl.seed_everything(seed, verbose=False)
    train, val = halves(images)
    chosen, curve = STRATEGIES[strategy](protocol), Curve()
    sampling = type(chosen) is theirs.RandomOneShot
    # Its optimization alone is Lightning's automatic one, which asks the strategy's module to clip, not the recipe.
    special: dict[str, Any] = {"gradient_clip_val": CLIP} if sampling else {}
    if isinstance(chosen, nas_plugins.DARTSPT):  # it validates whenever it makes a choice
        special = {"limit_val_batches": 1.0}
    elif getattr(chosen, "finish", None) is not None:  # at the end of the search only
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
    if sampling:  # what it exports is a random path
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
    """The sample that an NNI experiment ends with."""
    settings = NasExperimentConfig.default(space, evaluator, strategy)
    with tempfile.TemporaryDirectory() as folder:
        settings.experiment_working_directory = folder
        experiment = NasExperiment(space, evaluator, strategy, settings)
        try:
            with ChannelsLast():
                experiment.run()
            (sample,) = experiment.export_top_models(top_k=1, formatter="dict")
        finally:
            experiment.stop()
    return sample


def best_path(module: BaseOneShotLightningModule, validated: Callable[[], float], seed: int) -> dict[str, str]:
    """The best of a few random paths on the supernet's weights (Li and Talwalkar, RSPS, UAI 2019)."""
    paths = random.Random(seed).sample(every_sample(), PATHS)

    def worth(path: dict[str, str]) -> float:
        follow(module, path)
        return validated()

    return max(paths, key=worth)


def follow(module: BaseOneShotLightningModule, sample: Mapping[str, Any]) -> bool:
    """Make NNI's supernet run a path; whether it is one that runs paths, and not all candidates at once."""
    followed = [part.resample(memo=dict(sample)) for part in module.supernet_modules()]
    return any(followed)


def accuracies(
    module: BaseOneShotLightningModule, sample: Mapping[str, Any], validated: Callable[[], float]
) -> dict[str, float | None]:
    """What the supernet, and in it the derived architecture, are worth; None for what the supernet cannot run."""
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
    """:func:`accuracy` with batch statistics of what the supernet runs at the moment."""
    device = next(model.parameters()).device
    batches = [images.to(device) for images, _ in islice(train.plain(64), CALIBRATION_BATCHES)]
    with use_bn_stats(measure_bn_stats(model, lambda: [model(images) for images in batches])):
        return accuracy(model, val)


@torch.no_grad()
def accuracy(model: nn.Module, val: Half) -> float:
    """The share of images that the model gets right."""
    model.eval()
    device = next(model.parameters()).device
    right = [(model(images.to(device)).argmax(1).cpu() == labels).sum() for images, labels in val.plain(500)]
    return int(torch.stack(right).sum()) / len(val)


def main(output: str, images: str, settings: dict[str, int], **what: Any) -> None:
    """Search, and write the result whole."""
    torch.set_num_threads(1)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = search(protocol=Protocol(**settings), images=Path(images), **what)
    write_text_whole(output, json.dumps(found, indent=1))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
