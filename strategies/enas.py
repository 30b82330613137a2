"""NNI's ENAS (Pham and others 2018), made to run on today's Lightning; it needs the extra ``rl``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
from nni.nas.oneshot.pytorch.sampling import EnasLightningModule
from nni.nas.strategy import ENAS as NniENAS


class ENAS(NniENAS):
    """A controller that learns to draw paths, by the reward that they have with the weights of the supernet.

    Two things are not NNI's. NNI's own loader hands Lightning batches with the number of their loader beside them,
    which Lightning from 2.1 on takes apart itself: NNI then takes the labels of a batch for that number. This one
    marks batches with a word, as NNI's steps read them too. And NNI sees a reward only where the evaluator logs it at
    every step: here it does.

    Args:
        reward_metric_name: what the evaluator logs in its ``validation_step`` and the controller makes as large as it
            can, such as the accuracy.
        of_nni: the other arguments of NNI's ENAS.
    """

    def __init__(self, reward_metric_name: str = "val_acc", **of_nni: Any) -> None:
        super().__init__(reward_metric_name=reward_metric_name, **of_nni)

    def configure_oneshot_module(self, training_module: pl.LightningModule) -> EnasLightningModule:
        """NNI's Lightning module, which sees what it logs."""
        names = (
            "batches_per_update", "log_prob_every_n_step", "replay_buffer_size", "reward_metric_name", "policy_fn",
            "update_kwargs", "warmup_epochs", "penalty",
        )  # fmt: skip
        return _Rewarded(training_module, **{name: getattr(self, name) for name in names})

    def train_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        """All training batches, for the weights, and then all validation batches, for the controller."""
        return _OneAfterTheOther(train_dataloader_fn(), val_dataloader_fn())


class _Rewarded(EnasLightningModule):
    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)  # type: ignore[arg-type]
        self.training_module.log = self._log

    def _log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        if name == self.reward_metric_name and not args:  # on_step, on_epoch may be given by position
            kwargs |= {"on_step": True, "on_epoch": True}
        self.log(name, value, *args, **kwargs)


class _OneAfterTheOther:
    def __init__(self, train: Any, val: Any) -> None:
        self.loaders = {"train": train, "val": val}

    def __len__(self) -> int:
        return sum(map(len, self.loaders.values()))

    def __iter__(self) -> Iterator[tuple[Any, str]]:
        for mode, loader in self.loaders.items():
            for batch in loader:
                yield batch, mode
