"""A strategy composed of parts, as NNI runs it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Lightning
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy, no_default_hook
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.oneshot.pytorch.supermodule.operation import MixedOperation
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch import nn
from torch.optim import Optimizer

from search_spaces.space import StackedSpace
from strategies.bilevel import Gradient, first_order
from strategies.derivation import darts
from strategies.evaluator_hooks import serve_batches_in_parts
from strategies.objective import Grouping, Objective, evaluator_loss, one_group
from strategies.relaxation import Alphas, Plan, Step
from strategies.search import SearchModule
from strategies.supernet.architecture import Architecture
from strategies.supernet.cell import Derivation, MixedCell
from strategies.supernet.mutation import replace_choice
from strategies.supernet.values import FollowPlan


class Relaxation(Protocol):
    """How α becomes what the supernet computes; see :mod:`strategies.relaxation`.

    One that draws does so from the iteration, as ``SampledEdges`` does, and not from PyTorch's
    generator: the losses of a second-order step must all see the same plan, and leave no trace there.

    It may have ``activation``, "softmax" or "sigmoid": the weights with which a report draws α.
    """

    def architecture(self, alphas: Alphas, step: Step) -> Plan:
        """The plan of an architecture step."""

    def weights(self, alphas: Alphas, step: Step) -> Plan:
        """The plan of a weight step."""

    def evaluation(self, alphas: Alphas) -> Plan:
        """The plan by which the supernet is validated."""


OptimizerFactory = Callable[[Sequence[nn.Parameter]], Optimizer]
"""A group of α -> its optimizer."""

Schedule = Callable[[float, float], float]
"""(the first learning rate of α, the share of the search's epochs that is done) -> the learning rate."""


def adam(learning_rate: float, weight_decay: float, betas: tuple[float, float]) -> OptimizerFactory:
    """Adam for a group of α.

    Raises:
        ValueError: a setting is out of range.
    """
    for name, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
        if not value >= 0:
            raise ValueError(f"{name}: {value} should be at least 0")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas: {list(betas)} should be two numbers from 0 to below 1")
    return partial(torch.optim.Adam, lr=learning_rate, betas=betas, weight_decay=weight_decay)


def cosine(least: float) -> Schedule:
    """From the first learning rate to another along half a cosine (Loshchilov and Hutter 2017).

    Raises:
        ValueError: the last learning rate is negative.
    """
    if not least >= 0:
        raise ValueError(f"min_learning_rate: {least} should be at least 0")
    return lambda first, done: least + (first - least) * (1 + math.cos(math.pi * done)) / 2


class DifferentiableStrategy(OneShotStrategy):
    """An NNI one-shot strategy that is a composition: what a paper adds is one part, and its defaults.

    It searches any NNI model space made of cells, layer choices, input choices, repetitions and
    value choices, with any Lightning evaluator: the evaluator's training images train the weights,
    its validation images the architecture. A data module may have an ``architecture_dataloader``,
    which then serves the architecture steps (shuffled and augmented) in place of its
    ``val_dataloader``.

    Args:
        relaxation: α -> what the supernet computes.
        optimizer: makes the optimizer for a group of α.
        objective: what the architecture step minimizes.
        gradient: of the objective, for α. None for one level: α and weights take one step together
            on the training images, by the plan of an architecture step; the validation images only
            validate.
        grouping: which α share an optimizer.
        schedule: of the learning rate of α, which it sets at the start of each epoch; None leaves it.
        derivation: α of a cell -> its discrete operations; in spaces that are not ours it is ``darts``.
        none: add the candidate ``none`` (zero) to the edges of cells.
        alpha_scale: standard deviation of the normal distribution that α starts from; 0 for zeros.
        weights_first: epochs in which weights alone are trained.
        gradient_clip_val: the largest norm of the gradient of the weights; None for no limit.
        recompute: keep nothing of the relaxed edges of cells for the backward pass, which computes them again:
            less memory for more time.
        still: end the search after an epoch in which α moved less than this, on the average of the sigmoids of
            all candidates; None never does.
    """

    def __init__(
        self,
        relaxation: Relaxation,
        optimizer: OptimizerFactory,
        objective: Objective = evaluator_loss,
        gradient: Gradient | None = first_order,
        grouping: Grouping = one_group,
        schedule: Schedule | None = None,
        derivation: Derivation = darts,
        none: bool = True,
        alpha_scale: float = 1e-3,
        weights_first: int = 0,
        gradient_clip_val: float | None = 5.0,
        recompute: bool = False,
        still: float | None = None,
    ) -> None:
        super().__init__()
        if gradient_clip_val is not None and not gradient_clip_val > 0:
            raise ValueError(f"gradient_clip_val: {gradient_clip_val} should be above 0, or null for no limit")
        if not 0 <= alpha_scale < float("inf"):
            raise ValueError(f"alpha_scale: {alpha_scale} should be at least 0")
        if weights_first < 0:
            raise ValueError(f"warmup_epochs: {weights_first} should be at least 0")
        if still is not None and not still > 0:
            raise ValueError(f"still: {still} should be above 0, or null for a search of all epochs")
        self.relaxation = relaxation
        self.optimizer = optimizer
        self.objective = objective
        self.gradient = gradient
        self.grouping = grouping
        self.schedule = schedule
        self.derivation = derivation
        self.none = none
        self.alpha_scale = alpha_scale
        self.weights_first = weights_first
        self.gradient_clip_val = gradient_clip_val
        self.recompute = recompute
        self.still = still
        self.architecture = Architecture(none, alpha_scale, recompute)
        self._architecture_loader: Callable[[], Any] | None = None

    def mutate_model(self, model: ModelSpace) -> ModelSpace:
        """Make the model space a supernet, in place.

        A space may have ``initial_alphas``, edge -> candidate -> α, where it wants a search to start, and
        ``channels_last``, whether it may be searched in that memory format, which is faster on a CPU.

        Raises:
            ValueError: it is a supernet already.
            TypeError: it has a choice that cannot be searched.
        """
        if any(isinstance(module, BaseSuperNetModule) for module in model.modules()):
            raise ValueError(f"{_name(model)}: a supernet already, of an earlier search: give a fresh instance")
        self.architecture = Architecture(self.none, self.alpha_scale, self.recompute)
        model = super().mutate_model(model)
        self.architecture.start(getattr(model, "initial_alphas", {}))
        if not isinstance(model, StackedSpace):
            self._derive_as_nni(model)
        return model

    def _derive_as_nni(self, model: nn.Module) -> None:
        """NNI's own cells have the same number of operations at every node, as ``darts`` alone derives them."""
        cells = [module for module in model.modules() if isinstance(module, MixedCell)]
        if any(cell.derivation is not darts for cell in cells):
            warnings.warn(f"{type(model).__name__}: it is derived as 'darts', which alone fits its cells", stacklevel=3)
        for cell in cells:
            cell.derivation = darts

    def alphas(self) -> dict[str, dict[Any, float]]:
        """edge -> candidate -> α, at this moment."""
        return self.architecture.table()

    def default_mutation_hooks(self) -> list[Any]:
        """Replace NNI's choices by modules that follow the plan; refuse any other choice."""

        def replace(module: nn.Module, name: str, memo: dict, kwargs: dict) -> nn.Module | None:
            return replace_choice(module, name, self.architecture, self.derivation)

        return [replace, no_default_hook]

    def run_hook(self, hook: Any, name: str, module: nn.Module, memo: dict[str, Any]) -> Any:
        """As NNI runs a hook; those that a space brings may make super-kernels, which then follow the plan."""

        def policy(operation: MixedOperation, *_: Any) -> FollowPlan:
            return FollowPlan(operation, self.architecture)

        return hook(module, name, memo, {"mixed_op_sampling": policy})

    def configure_oneshot_module(self, training_module: pl.LightningModule) -> SearchModule:
        """The Lightning module of the search."""
        return SearchModule(training_module, self.architecture, self)

    def mutate_evaluator(self, evaluator: Lightning) -> Lightning:
        """Wrap the evaluator's module, and take its data.

        Raises:
            ValueError: a search cannot use the evaluator.
        """
        if not isinstance(evaluator, Lightning):
            raise ValueError(f"{_name(evaluator)}: a search takes a Lightning evaluator")
        if not evaluator.module.automatic_optimization:
            raise ValueError(f"{_name(evaluator.module)}: a search steps its optimizer: use automatic_optimization")
        self._architecture_loader = getattr(evaluator.datamodule, "architecture_dataloader", None)
        searching = super().mutate_evaluator(evaluator)
        serve_batches_in_parts(evaluator.module, searching.module)
        serve_batches_in_parts(evaluator.datamodule, evaluator.datamodule)
        return searching

    def train_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        """Pairs of a batch for the weights and one for the architecture; an epoch is one of the former.

        Raises:
            ValueError: the evaluator has several loaders.
        """
        train = _only(train_dataloader_fn(), "training")
        if self.gradient is None:
            return CombinedLoader({"train": train})
        val = _only((self._architecture_loader or val_dataloader_fn)(), "validation")
        try:
            shorter = len(train) < len(val)
        except TypeError:  # a stream has no length
            return CombinedLoader({"train": train, "val": Endless(val)}, "min_size")
        return CombinedLoader({"train": train, "val": val}, "min_size" if shorter else "max_size_cycle")

    def val_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        """The evaluator's validation images twice: for the supernet, and for the derived architecture.

        Raises:
            ValueError: the evaluator has several loaders.
        """
        return [_only(val_dataloader_fn(), "validation")] * 2


class Endless:
    """The batches of a loader, again and again."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        batch = None
        while True:
            for batch in self.loader:
                yield batch
            if batch is None:
                raise ValueError("the validation loader has no batch")


def _only(loader: Any, name: str) -> Any:
    if isinstance(loader, Sequence) and len(loader) == 1:
        return loader[0]
    if isinstance(loader, (Sequence, Mapping, CombinedLoader)):
        raise ValueError(f"a search takes one {name} loader; the evaluator has several")
    return loader


def _name(thing: object) -> str:
    return type(thing).__name__
