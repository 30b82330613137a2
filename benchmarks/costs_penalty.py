"""Searches with a penalty of NNI, by NNI's DARTS and by ours, in a space in which the penalty alone should decide.

The space is a layer choice between a 7×7 and a 3×3 convolution, and the labels are unrelated to the images.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import nni.nas.nn.pytorch as nas
import nni.nas.strategy as theirs
import torch
from nni.nas.evaluator.pytorch import Classification, DataLoader
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from nni.nas.profiler.pytorch.flops import FlopsProfiler
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from nas_plugins import DARTS
from nas_plugins.training.trainer import quiet
from strategies.cost import Cost

EPOCHS, RATE = 5, 1e-2
SCALES = (0.0, 10.0)
TARGET = 30_000
"""Multiply-adds between those of the two networks."""


class Space(nas.ModelSpace):
    """Layer choice between two convolutions, followed by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        candidates = {"7x7": nn.Conv2d(3, 8, 7, padding=3), "3x3": nn.Conv2d(3, 8, 3, padding=1)}
        self.conv = nas.LayerChoice(candidates, label="conv")
        self.head = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(self.conv(images).mean((2, 3)))


def searched(
    strategy: OneShotStrategy, make_space: Callable[[], nas.ModelSpace] = Space, classes: int = 2
) -> dict[str, Any]:
    """Run a search, and return the derived operation and the final α: {"derived", "alpha_7x7", "alpha_3x3"}.

    Args:
        strategy: The strategy.
        make_space: Function that returns a space with a single choice, between 7×7 and 3×3.
        classes: Number of classes.
    """
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(64, 3, 8, 8), torch.randint(0, classes, (64,)))
    loaders = {f"{part}_dataloaders": DataLoader(data, batch_size=8) for part in ("train", "val")}
    silent: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    evaluator = Classification(num_classes=classes, max_epochs=EPOCHS, accelerator="cpu", **loaders, **silent)
    space = make_space()
    config = NasExperimentConfig.default(space, evaluator, strategy)
    with tempfile.TemporaryDirectory() as folder:
        config.experiment_working_directory = folder
        experiment = NasExperiment(space, evaluator, strategy, config)
        try:
            experiment.run()
            (sample,) = experiment.export_top_models(top_k=1, formatter="dict")
        finally:
            experiment.stop()
    # NNI keeps α among the parameters of a supernet module.
    own = (each for name, each in strategy.oneshot_module.named_parameters() if "_arch_alpha" in name)
    alpha = next(iter(strategy.alphas().values())).values() if isinstance(strategy, DARTS) else next(own).tolist()
    (derived,) = sample.values()
    return {"derived": derived, **dict(zip(("alpha_7x7", "alpha_3x3"), alpha, strict=True))}


def main() -> list[dict[str, Any]]:
    """Return a row for each search."""
    profiler = FlopsProfiler(Space(), torch.randn(1, 3, 8, 8))
    baseline = float(profiler.profile({"conv": "3x3"}))
    rows = []
    for scale in SCALES:
        penalty = {"profiler": profiler, "baseline": baseline, "scale": scale, "aggregate": "add"}
        made = {"NNI DARTS": theirs.DARTS(arc_learning_rate=RATE, penalty=dict(penalty))}
        made["DARTS"] = DARTS(learning_rate=RATE, penalty=dict(penalty))
        rows += [{"strategy": n, "cost": f"penalty, scale {scale:g}", **searched(each)} for n, each in made.items()]
    limited = DARTS(learning_rate=RATE, cost=Cost("multiply_adds", TARGET))
    return [*rows, {"strategy": "DARTS", "cost": f"target {TARGET:,}", **searched(limited)}]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = main()
    print(json.dumps(found))
