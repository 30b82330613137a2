"""NNI's ENAS (Pham et al., ICML 2018) for current versions of Lightning; requires the extra ``rl``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
from nni.nas.oneshot.pytorch.sampling import EnasLightningModule
from nni.nas.strategy import ENAS as NniENAS


class ENAS(NniENAS):
    """NNI's ENAS strategy: a controller learns to sample paths whose reward on the supernet's weights is high.

    Differs from NNI's class in two ways. NNI's loader yields (batch, loader index), and since version 2.1 Lightning
    unpacks such a pair itself, so NNI would mistake the labels for the index. The loader of this class yields (batch,
    "train" or "val"), which NNI's steps accept as well. NNI finds a reward only if the evaluator logs it at every step;
    this class logs every reward at every step.

    Args:
        reward_metric_name: Metric that the evaluator logs in its ``validation_step`` and the controller maximizes, for
            example the accuracy.
        nni_arguments: The other arguments of NNI's ENAS.
    """

    def __init__(self, reward_metric_name: str = "val_acc", **nni_arguments: Any) -> None:
        super().__init__(reward_metric_name=reward_metric_name, **nni_arguments)

    def configure_oneshot_module(self, training_module: pl.LightningModule) -> EnasLightningModule:
        """Return NNI's LightningModule, with the reward logged at every step."""
        names = (
            "batches_per_update", "log_prob_every_n_step", "replay_buffer_size", "reward_metric_name", "policy_fn",
            "update_kwargs", "warmup_epochs", "penalty",
        )  # fmt: skip
        return _RewardLoggingModule(training_module, **{name: getattr(self, name) for name in names})

    def train_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        """Return a loader of all training batches, for the weights, then all validation batches, for the controller."""
        return _SequentialLoaders(train_dataloader_fn(), val_dataloader_fn())


class _RewardLoggingModule(EnasLightningModule):
    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        self.training_module.log = self._log

    def _log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        if name == self.reward_metric_name and not args:  # positional arguments may include on_step and on_epoch
            kwargs |= {"on_step": True, "on_epoch": True}
        self.log(name, value, *args, **kwargs)


class _SequentialLoaders:
    def __init__(self, train: Any, val: Any) -> None:
        self.loaders = {"train": train, "val": val}

    def __len__(self) -> int:
        return sum(map(len, self.loaders.values()))

    def __iter__(self) -> Iterator[tuple[Any, str]]:
        for mode, loader in self.loaders.items():
            for batch in loader:
                yield batch, mode
