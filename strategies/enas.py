"""NNI's ENAS (Pham and others 2018), made to run on today's Lightning; it needs the extra ``rl``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from nni.nas.strategy import ENAS as NniENAS


class ENAS(NniENAS):
    """A controller that learns to draw paths, by the reward that they have with the weights of the supernet.

    Everything is NNI's but the loader. NNI's own hands Lightning batches with the number of their loader beside them,
    which Lightning from 2.1 on takes apart itself: NNI then takes the labels of a batch for that number. This one
    marks batches with a word, as NNI's steps read them too.

    Args: as NNI's. ``reward_metric_name`` should be what the evaluator logs as its accuracy.
    """

    def train_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        """All training batches, for the weights, and then all validation batches, for the controller."""
        return _OneAfterTheOther(train_dataloader_fn(), val_dataloader_fn())


class _OneAfterTheOther:
    def __init__(self, train: Any, val: Any) -> None:
        self.loaders = {"train": train, "val": val}

    def __len__(self) -> int:
        return sum(map(len, self.loaders.values()))

    def __iter__(self) -> Iterator[tuple[Any, str]]:
        for mode, loader in self.loaders.items():
            for batch in loader:
                yield batch, mode
