"""Tasks that a network is trained for: loss, metrics, and the meaning of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, Metric, R2Score
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassJaccardIndex,
    MultilabelAveragePrecision,
    MultilabelF1Score,
)

from strategies.validation import lower_is_better

TaskName = Literal["classification", "multilabel", "regression", "segmentation"]
"""Names of the tasks on images, the keys of :data:`TASKS`."""

PREFIXES = ("train_", "val_", "derived_val_")
"""Prefixes of the columns of metrics.csv that a training logs."""

DEFAULT_METRIC = "val_acc"
"""Metric of an evaluator that does not name one."""


@dataclass(frozen=True)
class Targets:
    """Targets of a data set, which the outputs of a network are compared with.

    Args:
        task: The task.
        names: Names of the outputs: classes, labels or values.
        ignore_index: Value of ignored pixels in masks.
        mean: Mean of each value over the training images, for a regression.
        std: Standard deviation of each value over the training images, for a regression.
    """

    task: ImageTask
    names: tuple[str, ...]
    ignore_index: int = 255
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def count(self) -> int:
        """Return the number of outputs per image or, in a segmentation, per pixel."""
        return len(self.names)

    def output_shape(self, images: int, size: int) -> tuple[int, ...]:
        """Return the shape of the output of a network for square images of a size in pixels."""
        return (images, self.count, size, size) if self.task.dense else (images, self.count)

    def loss(self, label_smoothing: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the loss as a function of the outputs and the targets of a batch."""
        return self.task.loss(self, label_smoothing)

    def predicted(self, outputs: Tensor) -> Tensor:
        """Return outputs as predictions: logits of classes, probabilities of labels, or values in their units."""
        return self.task.predicted(self, outputs)

    def measured(self, targets: Tensor) -> Tensor:
        """Return the targets of a batch as metrics take them: labels as integers."""
        return targets.long() if self.task.name == "multilabel" else targets

    def metrics(self, each: bool = False, **settings: Any) -> nn.ModuleDict:
        """Return new metrics by key.

        Args:
            each: Whether to measure each output separately.
            settings: Further arguments of the metrics.
        """
        return nn.ModuleDict({metric.key: metric.make(self, each, **settings) for metric in self.task.metrics})


def significant(value: float, digits: int) -> str:
    """Return a number with ``digits`` significant digits, and all before its point: 1,234,567 or 0.0012346."""
    if 10 ** (digits - 1) <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.{digits}g}"


@dataclass(frozen=True)
class TaskMetric:
    """Metric of a task.

    Args:
        key: Name in tables, after ``train_``, ``val_`` or ``test_``.
        name: Name in words.
        short: Name in the heading of a column.
        higher_is_better: Whether higher values are better.
        fraction: Whether values are fractions, which are shown in percent.
    """

    key: str
    name: str
    short: str
    higher_is_better: bool = True
    fraction: bool = True

    @property
    def label(self) -> str:
        """Return the name with the unit in which plots show it."""
        return f"{self.name} (%)" if self.fraction else self.name

    @property
    def scale(self) -> float:
        """Return the factor from values to what plots show."""
        return 100.0 if self.fraction else 1.0

    def text(self, *values: float) -> str:
        """Return a value, or a mean and a deviation, as text."""
        if self.fraction:
            return " ± ".join(f"{100 * value:.2f}" for value in values) + "%"
        return " ± ".join(significant(value, 4) for value in values)


@dataclass(frozen=True)
class ImageMetric(TaskMetric):
    """Metric of a task on images.

    Args:
        make: (targets, whether each output is measured separately, further arguments) -> metric.
    """

    make: Callable[..., Metric] = field(kw_only=True)


@dataclass(frozen=True)
class Task:
    """Task that a network is trained for, with its metrics: one of :data:`TASKS`, or that of a user-defined evaluator.

    Args:
        name: A key of :data:`TASKS`, or the name of the class of the evaluator.
        metrics: Metrics that a training logs. Runs are compared by the first one.
        outputs: Word for the outputs.
        network: Word for a network that does the task.
        raw: Word for the outputs of an exported network.
        dense: Whether a network has an output for each pixel.
        further: Whether metrics.csv also has all other metrics that are logged with one of the :data:`PREFIXES`.
    """

    name: str
    metrics: tuple[TaskMetric, ...]
    outputs: str = "outputs"
    network: str = "network"
    raw: str = "outputs"
    dense: bool = False
    further: bool = False

    @property
    def metric(self) -> TaskMetric:
        """Return the metric by which runs are compared."""
        return self.metrics[0]

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of metrics.csv that a training logs, in the order of the table."""
        keys = [metric.key for metric in self.metrics]
        own = [f"{stage}_{name}" for stage in ("train", "val") for name in ("loss", *keys)]
        return tuple(dict.fromkeys((*own, *(f"derived_val_{key}" for key in keys))))

    def columns_among(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the columns of metrics.csv, with further ones among some names."""
        others = [name for name in names if name.startswith(PREFIXES) and not name.endswith(("_step", "_epoch"))]
        return tuple(dict.fromkeys((*self.columns, *(others if self.further else ()))))

    @property
    def measures(self) -> tuple[str, ...]:
        """Return the columns in order of preference: the first one that a run has is its result."""
        return tuple(f"{stage}_{self.metric.key}" for stage in ("derived_val", "val", "train"))


@dataclass(frozen=True)
class ImageTask(Task):
    """Task on images.

    Args:
        metrics: Metrics that a training logs. Runs are compared by the first one.
        loss: (targets, label smoothing) -> loss as a function of the outputs and the targets of a batch.
        predicted: (targets, outputs) -> predictions.
        smooths: Whether the loss has label smoothing.
    """

    metrics: tuple[ImageMetric, ...]
    loss: Callable[[Targets, float], Callable[[Tensor, Tensor], Tensor]] = field(kw_only=True)
    predicted: Callable[[Targets, Tensor], Tensor] = field(kw_only=True)
    smooths: bool = field(default=True, kw_only=True)


# Losses


def _pixel_cross_entropy(targets: Targets, label_smoothing: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the mean over the pixels that are not ignored; 0 for a batch without any."""
    criterion = nn.CrossEntropyLoss(ignore_index=targets.ignore_index, label_smoothing=label_smoothing, reduction="sum")

    def loss(logits: Tensor, masks: Tensor) -> Tensor:
        pixels: Tensor = (masks != targets.ignore_index).sum().clamp(min=1)
        return criterion(logits, masks) / pixels

    return loss


def _squared_error(targets: Targets, label_smoothing: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the mean squared error of standardized values."""

    def loss(outputs: Tensor, values: Tensor) -> Tensor:
        mean, std = _statistics(targets, outputs)
        return nn.functional.mse_loss(outputs.float(), (values - mean) / std)

    return loss


# Predictions


def _in_units(targets: Targets, outputs: Tensor) -> Tensor:
    mean, std = _statistics(targets, outputs)
    return outputs.float() * std + mean


def _statistics(targets: Targets, like: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, device=like.device) for values in (targets.mean, targets.std))
    return mean, std


# Metrics


def _accuracy(targets: Targets, each: bool, **settings: Any) -> Metric:
    return MulticlassAccuracy(targets.count, average="none" if each else "micro", **_ignoring(targets), **settings)


def _intersection_over_union(targets: Targets, each: bool, **settings: Any) -> Metric:
    average: Any = "none" if each else "macro"
    return MulticlassJaccardIndex(targets.count, average=average, **_ignoring(targets), **settings)


def _ignoring(targets: Targets) -> dict[str, Any]:
    # The values of masks are checked before a run; checking them at every step would sort all pixels.
    return {"ignore_index": targets.ignore_index, "validate_args": False} if targets.task.dense else {}


def _of_labels(make: Callable[..., Metric], targets: Targets, each: bool, **settings: Any) -> Metric:
    return make(targets.count, average="none" if each else "macro", **settings)


def _absolute_error(targets: Targets, each: bool, **settings: Any) -> Metric:
    return MeanAbsoluteError(num_outputs=targets.count if each else 1, **settings)


def _r2(targets: Targets, each: bool, **settings: Any) -> Metric:
    return R2Score(multioutput="raw_values" if each else "uniform_average", **settings)


TASKS: Mapping[str, ImageTask] = {
    task.name: task
    for task in (
        ImageTask(
            "classification",
            (ImageMetric("acc", "accuracy", "accuracy", make=_accuracy),),
            outputs="classes",
            network="classifier",
            raw="logits",
            loss=lambda targets, smoothing: nn.CrossEntropyLoss(label_smoothing=smoothing),
            predicted=lambda targets, outputs: outputs,
        ),
        ImageTask(
            "multilabel",
            (
                ImageMetric("f1", "F1", "F1", make=partial(_of_labels, MultilabelF1Score)),
                ImageMetric(
                    "map", "mean average precision", "mAP", make=partial(_of_labels, MultilabelAveragePrecision)
                ),
            ),
            outputs="labels",
            network="multi-label classifier",
            raw="logits",
            loss=lambda targets, smoothing: nn.BCEWithLogitsLoss(),
            predicted=lambda targets, outputs: outputs.sigmoid(),
            smooths=False,
        ),
        ImageTask(
            "regression",
            (
                ImageMetric("mae", "mean absolute error", "MAE", False, False, make=_absolute_error),
                ImageMetric("r2", "R²", "R²", fraction=False, make=_r2),
            ),
            outputs="values",
            network="regressor",
            raw="values",
            loss=_squared_error,
            predicted=_in_units,
            smooths=False,
        ),
        ImageTask(
            "segmentation",
            (
                ImageMetric("miou", "mean IoU", "mIoU", make=_intersection_over_union),
                ImageMetric("pixel_acc", "pixel accuracy", "pixels", make=_accuracy),
            ),
            outputs="classes",
            network="segmentation network",
            raw="logits",
            loss=_pixel_cross_entropy,
            predicted=lambda targets, outputs: outputs,
            dense=True,
        ),
    )
}
"""The tasks on images by name."""

METRICS: Mapping[str, TaskMetric] = {metric.key: metric for task in TASKS.values() for metric in task.metrics}
"""The metrics of these tasks by key."""


def metric_of(key: str) -> TaskMetric:
    """Return the metric of a key; whether higher values are better is guessed from the name if no task has the key."""
    return METRICS.get(key) or TaskMetric(key, key, key, not lower_is_better(key), fraction=False)


def task_of(config: Mapping[str, Any]) -> Task:
    """Return the task of the settings of a run: that of its evaluator, or one of :data:`TASKS`.

    Runs of earlier versions have no key task and classify.
    """
    evaluator = config.get("evaluator")
    if isinstance(evaluator, Mapping):
        key = str(evaluator.get("metric", DEFAULT_METRIC)).removeprefix("val_")
        name = str(evaluator.get("class_path")).rpartition(".")[2]
        return Task(name, (metric_of(key),), further=True)
    return TASKS.get(str(config.get("task")), TASKS["classification"])
