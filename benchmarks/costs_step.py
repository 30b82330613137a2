"""Script of :mod:`costs` that measures how much time a cost adds to a search step.

Within one search, steps with and without the cost come in pairs, whose order alternates: with, without; without, with.
Every step with a cost updates the multiplier, whereas a search with n batches per epoch updates it in every (n / 20)th
step.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from typing import Any

import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, Trainer
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from pytorch_lightning.callbacks import Callback
from torch.utils.data import TensorDataset

import nas_plugins
from nas_plugins import DartsSpace
from nas_plugins.config.schema import Training
from nas_plugins.tasks import TASKS, Targets
from nas_plugins.training.module import TaskModule
from nas_plugins.training.trainer import quiet
from strategies.cost import Cost
from strategies.search import SearchModule

METRIC = "multiply_adds"
CELLS, CHANNELS, BATCH, IMAGE = 8, 16, 64, 32


class Alternation(Callback):
    """Callback that disables the cost of a search in half of its steps, and times all of them.

    Attributes:
        pairs: CPU seconds of each pair of steps: ``with`` the cost, ``without`` it, and ``inside`` the gradient and the
            update of the cost, which is a part of the time with the cost.
    """

    def __init__(self) -> None:
        self.pairs: list[dict[str, float]] = []
        self._inside, self._started, self._now = 0.0, 0.0, "with"

    def on_train_start(self, trainer: Any, pl_module: SearchModule) -> None:
        """Wrap the method that adds the gradient of the cost to that of α with a timer."""
        self._costs, with_costs = pl_module.costs, pl_module.with_costs

        def timed(*arguments: Any) -> Any:
            started = time.process_time()
            gradients = with_costs(*arguments)
            self._inside += time.process_time() - started
            return gradients

        pl_module.with_costs = timed  # type: ignore[method-assign]

    def on_train_batch_start(self, trainer: Any, pl_module: SearchModule, batch: Any, batch_idx: int) -> None:
        """Begin a step; the first one, in which the candidates are profiled, is not counted."""
        pair, second = divmod(batch_idx - 1, 2)
        self._now = "without" if batch_idx and (pair + second) % 2 else "with"
        pl_module.costs = self._costs if self._now == "with" else None
        self._inside, self._started = 0.0, time.process_time()

    def on_train_batch_end(
        self, trainer: Any, pl_module: SearchModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End a step."""
        took = time.process_time() - self._started
        if batch_idx == 0:
            return
        if batch_idx % 2:
            self.pairs.append({})
        self.pairs[-1] |= {self._now: took, **({"inside": self._inside} if self._now == "with" else {})}


def measure(strategy: str, pairs: int, target: float) -> list[dict[str, float]]:
    """Return the CPU seconds of pairs of steps; see :class:`Alternation`.

    Args:
        strategy: Name in ``nas_plugins``.
        pairs: Number of pairs of steps.
        target: Target in multiply-adds, so low that the cost has a gradient in every step.
    """
    torch.manual_seed(0)
    shape = (BATCH * (2 * pairs + 1), 3, IMAGE, IMAGE)
    data = TensorDataset(torch.randn(shape), torch.randint(0, 10, shape[:1]))
    alternation = Alternation()
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    evaluator = Lightning(
        TaskModule(Targets(TASKS["classification"], tuple("0123456789")), Training(epochs=1)),
        Trainer(max_epochs=1, callbacks=[alternation], enable_model_summary=False, limit_val_batches=0, **settings),
        train_dataloaders=DataLoader(data, batch_size=BATCH),
        val_dataloaders=DataLoader(data, batch_size=BATCH),
    )
    searching = getattr(nas_plugins, strategy)(cost=Cost(METRIC, target))
    space = DartsSpace(channels=CHANNELS, layers=CELLS)
    config = NasExperimentConfig.default(space, evaluator, searching)
    with tempfile.TemporaryDirectory() as folder:
        config.experiment_working_directory = folder
        experiment = NasExperiment(space, evaluator, searching, config)
        try:
            experiment.run()
        finally:
            experiment.stop()
    return alternation.pairs


if __name__ == "__main__":
    torch.set_num_threads(1)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = measure(**json.loads(sys.argv[1]))
    print(json.dumps(found))
