"""Validation of a search: of the supernet, and of the derived network on the weights of the supernet."""

from __future__ import annotations

import copy
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, cast

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import SupervisedLearningModule
from torch import Tensor, nn
from torchmetrics import Metric

from search_spaces.extensions import HasSearchMetrics
from search_spaces.space import StackedSpace
from strategies.bn_statistics import Statistics, measure_bn_stats, use_bn_stats
from strategies.composition import Composition
from strategies.distributed import average
from strategies.evaluator_hooks import EvaluatorHooks
from strategies.memory_format import ChannelsLast, takes_channels_last
from strategies.relaxation import Plan, UnfitSettingError
from strategies.supernet.architecture import Architecture
from strategies.supernet.cell import MixedCell
from strategies.supernet.shared_input import SharedInput

SUPERNET, ARCHITECTURE, DERIVED, UNLOGGED = "", "architecture_", "derived_", "unlogged_"
"""Prefixes of logged names: for the supernet, architecture steps, and the derived network; the last is not logged."""

CALIBRATION_BATCHES = 4
"""Number of training batches on which the batch statistics of a path are measured before its validation."""


_LOWER_IS_BETTER = ("loss", "error", "mae", "mse")
"""Endings of the names of metrics for which lower values are better."""


def lower_is_better(metric: str) -> bool:
    """Return whether lower values of a metric are better, which is so if its name ends in loss, error, mae or mse."""
    return metric.endswith(_LOWER_IS_BETTER)


def score(metrics: Mapping[str, float], metric: str, setting: str = "metric") -> float:
    """Return the score of a network by one of its metrics; higher is better.

    Args:
        metrics: The metrics that the evaluator logs, by name.
        metric: Name of the metric.
        setting: Name of the setting that gives the metric, for messages.

    Raises:
        UnfitSettingError: The evaluator logs no such metric.
    """
    if metric not in metrics:
        known = ", ".join(metrics) or "what validation_step logs, which is nothing"
        raise UnfitSettingError(f"{setting}: {metric!r} should be one of {known}")
    return -metrics[metric] if lower_is_better(metric) else metrics[metric]


@contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress the warning about empty cells, which is only meaningful at the end of a search, within this context."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


class Validation(EvaluatorHooks):
    """Part of a search module that validates and logs.

    Every metric that the ``validation_step`` of the evaluator logs appears twice: under its own name for the supernet,
    and with the prefix ``derived_`` for the derived network on the weights of the supernet.

    Args:
        training_module: The Lightning module of the evaluator.
        architecture: α and the plan that the supernet follows.
        composition: The parts of the search.
    """

    def __init__(
        self, training_module: pl.LightningModule, architecture: Architecture, composition: Composition
    ) -> None:
        super().__init__(training_module)
        self.architecture = architecture
        self.composition = composition
        self._log_prefix = ""
        self._shared = SharedInput()  # several passes read a batch
        self._metric_places: list[tuple[nn.Module, str]] = []
        self.metric_copies: dict[str, nn.ModuleList] = nn.ModuleDict()  # type: ignore[assignment]
        self._recent: deque[Any] = deque(maxlen=CALIBRATION_BATCHES)
        self._validated: dict[str, tuple[Plan, Statistics]] = {}
        self._statistics_in_use = ExitStack()
        self._prefix_in_use: str | None = None
        self._measured: dict[str, Any] | None = None
        self._supernet_modules: tuple[Any, list[Any]] | None = None

    def teardown(self, stage: str) -> None:
        """Restore the running statistics if a validation was interrupted."""
        self._use_statistics(None)
        super().teardown(stage)

    def setup(self, stage: str | None = None) -> None:
        """Find the metrics of the evaluator, and copy them for each prefix."""
        super().setup(stage)
        self.training_module.log = self._log
        self._metric_places = [
            (parent, name)
            for parent in self.training_module.modules()
            for name, child in parent.named_children()
            if isinstance(child, Metric)
        ]
        metrics = [parent.get_submodule(name) for parent, name in self._metric_places]
        # Includes the originals: Lightning looks for metrics only once, possibly while a copy replaces an original.
        self.metric_copies["own"] = nn.ModuleList(metrics)
        for prefix in (ARCHITECTURE, DERIVED, UNLOGGED):
            self.metric_copies[prefix] = nn.ModuleList(copy.deepcopy(metric) for metric in metrics)

    def on_validation_epoch_start(self) -> None:
        """Fix the two plans that this epoch validates, and measure the batch statistics of each."""
        sample = self._derived()
        self._log_metrics_of(sample)
        for prefix, plan in (
            (SUPERNET, self.architecture.of_all(self._evaluation())),
            (DERIVED, self._plan_of(sample)),
        ):
            self.architecture.plan = plan
            # There is nothing to measure before the first training batch, as in Lightning's sanity check.
            self._validated[prefix] = plan, self._statistics() if self._recent else {}
        self.training_module.on_validation_epoch_start()

    def _evaluation(self) -> Plan:
        return self.composition.relaxation.evaluation(self.architecture.living_alphas())

    def _statistics(self) -> Statistics:
        """Return the batch statistics of the plan on the last training batches of all processes."""
        local = measure_bn_stats(self.training_module, self._run_recent_batches)
        averaged = iter(average([value for values in local.values() for value in values], self.trainer))
        return {norm: tuple(cast(Tensor, next(averaged)) for _ in values) for norm, values in local.items()}

    def _run_recent_batches(self) -> None:
        for batch in list(self._recent)[-CALIBRATION_BATCHES:]:
            self._loss(batch, 0, UNLOGGED)
        self._reset_copies(UNLOGGED)

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Forward the hook; before the first batch of the derived network, also end the epoch of the supernet."""
        if dataloader_idx == 1 and batch_idx == 0:
            end = self.training_module.on_validation_epoch_end
            # The method of NNI's evaluators reports metrics that Lightning computes only after both loaders.
            if end.__func__ is not SupervisedLearningModule.on_validation_epoch_end:
                end()
            with self._logged_as(DERIVED):
                self.training_module.on_validation_epoch_start()
        with self._logged_as(DERIVED if dataloader_idx else SUPERNET):
            self.training_module.on_validation_batch_start(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Validate the supernet (first loader) or the derived network (second loader) on a batch."""
        prefix = DERIVED if dataloader_idx else SUPERNET
        self._use_statistics(prefix)
        self.architecture.plan, _ = self._validated[prefix]
        with self._logged_as(prefix):
            return self.training_module.validation_step(batch, batch_idx)

    def _use_statistics(self, prefix: str | None) -> None:
        """Normalize by the batch statistics measured for a prefix from now on, None for the running ones."""
        # Kept over the batches of a loader, because replacing those of a large supernet takes as long as a small pass.
        if prefix != self._prefix_in_use:
            self._statistics_in_use.close()
            if prefix is not None:
                self._statistics_in_use.enter_context(use_bn_stats(self._validated[prefix][1]))
            self._prefix_in_use = prefix

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Forward the hook, with the prefix of the loader."""
        with self._logged_as(DERIVED if dataloader_idx else SUPERNET):
            self.training_module.on_validation_batch_end(outputs, batch, batch_idx)
        self._publish_in_sanity_check()

    def on_validation_epoch_end(self) -> None:
        """Forward the hook, with the prefix of the derived network."""
        self._use_statistics(None)
        with self._logged_as(DERIVED):
            self.training_module.on_validation_epoch_end()
        self._publish_in_sanity_check()

    def _publish_in_sanity_check(self) -> None:
        """Publish the metrics of both loaders to callbacks; with several loaders Lightning omits this here."""
        results = self.trainer._results
        if not self.trainer.sanity_checking or results is None:
            return
        index = results.dataloader_idx
        for loader in (None, 0, 1):
            results.dataloader_idx = loader
            self.trainer._logger_connector._callback_metrics.update(results.metrics(on_step=False)["callback"])
        results.dataloader_idx = index

    def _log_metrics_of(self, sample: Mapping[str, Any]) -> None:
        """Log the metrics of the space for a derived network."""
        if not isinstance(self.model, HasSearchMetrics):
            return
        for name, value in self.model.search_metrics(self.architecture.table(), sample).items():
            self.log(name, float(value), on_step=False, on_epoch=True, batch_size=1)

    def supernet_modules(self) -> list[Any]:
        """Return the supernet modules, found once: a walk through a large supernet takes longer than a derivation."""
        if self._supernet_modules is None or self._supernet_modules[0] is not self.model:
            self._supernet_modules = self.model, list(super().supernet_modules())
        return self._supernet_modules[1]

    def derived_plan(self) -> Plan:
        """Return the plan that makes the supernet compute the derived network."""
        return self._plan_of(self._derived())

    def _derived(self) -> dict[str, Any]:
        """Return the sample of the derived network."""
        with without_warnings():
            sample: dict[str, Any] = self.export()
        return sample

    def _plan_of(self, sample: Mapping[str, Any]) -> Plan:
        plan = self.architecture.path(sample)
        for module in self.supernet_modules():
            if isinstance(module, MixedCell):
                plan |= module.derived_plan(sample)
        return plan

    @contextmanager
    def _logged_as(self, prefix: str) -> Iterator[None]:
        """Log under a prefix in this context, with separate copies of the evaluator's metrics.

        A torchmetrics object accumulates over an epoch and must not mix the supernet with the derived network.
        """
        for (parent, name), metric in zip(self._metric_places, self.metric_copies[prefix or "own"], strict=True):
            parent._modules[name] = metric
        self._log_prefix = prefix
        try:
            yield
        finally:
            self._log_prefix = ""
            for (parent, name), metric in zip(self._metric_places, self.metric_copies["own"], strict=True):
                parent._modules[name] = metric

    def _reset_copies(self, prefix: str) -> None:
        for metric in self.metric_copies[prefix]:
            metric.reset()  # type: ignore[operator]

    def _log(self, name: str, value: Any, prog_bar: bool = False, *args: Any, **kwargs: Any) -> None:
        if self._log_prefix == UNLOGGED:
            if self._measured is not None:
                self._measured[name] = value
            return
        kwargs["add_dataloader_idx"] = False
        if kwargs.get("on_epoch", not self.trainer.training):
            kwargs.setdefault("sync_dist", True)  # the mean over all processes
        self.log(self._log_prefix + name, value, prog_bar and not self._log_prefix, *args, **kwargs)

    def _channels_last(self) -> AbstractContextManager[object]:
        # The operations of a StackedSpace do not need this context, which costs a little time in each call of PyTorch.
        return nullcontext() if isinstance(self.model, StackedSpace) else ChannelsLast(takes_channels_last(self.model))

    def _scaler(self) -> torch.amp.GradScaler | None:
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def _loss_scale(self) -> float:
        scaler = self._scaler()
        return 1.0 if scaler is None else scaler.get_scale()

    def _loss(self, batch: Any, batch_idx: int, prefix: str = SUPERNET) -> Tensor:
        """Return the evaluator's loss on a batch, by the current plan."""
        with self._logged_as(prefix):
            result = self._shared(self.training_module.training_step, batch, batch_idx)
        loss: Tensor | None = result.get("loss") if isinstance(result, Mapping) else result
        if loss is None:
            raise ValueError("training_step of the evaluator gave no loss: a search needs one of every batch")
        return loss
