"""The NNI strategy that runs a composition of search parts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import pytorch_lightning as pl
from nni.nas.evaluator.pytorch import Lightning
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import MutationHook, OneShotStrategy, no_default_hook
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.oneshot.pytorch.supermodule.operation import MixedOperation
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch import nn

from search_spaces.checks import require
from search_spaces.deprecation import argument_aliases
from search_spaces.extensions import HasInitialAlphas
from search_spaces.space import StackedSpace
from strategies.composition import Composition, adam, cosine
from strategies.cost.penalty import ExpectationProfilerPenalty, expectation_penalty
from strategies.cost.profile import Profiler, profiled_form
from strategies.cost.search import Example, cost_tables
from strategies.cost.table import CostTable
from strategies.cost.targets import Cost
from strategies.derivation import darts, has_fixed_inputs
from strategies.evaluator_hooks import serve_batches_in_parts
from strategies.finish import Finish, FinishArguments
from strategies.inheritance import inherit
from strategies.rng import isolate_rng
from strategies.search import SearchModule
from strategies.supernet.architecture import Architecture
from strategies.supernet.cell import MixedCell
from strategies.supernet.choices import refuse_multi_input
from strategies.supernet.mutation import replace_choice
from strategies.supernet.values import PlanSamplingPolicy

__all__ = ["Composition", "DifferentiableStrategy", "MutationHook", "OneShotStrategy", "adam", "cosine"]


LOGS = "at least 1, or null for no such logs"
"""Valid intervals between two logs, for messages."""


class DifferentiableStrategy(OneShotStrategy):
    """An NNI one-shot strategy around a composition.

    Searches any NNI model space made of cells, layer choices, input choices, repetitions and value choices, with any
    Lightning evaluator. The training images of the evaluator train the weights, its validation images the
    architecture. A data module may have an ``architecture_dataloader``, which serves the architecture steps (shuffled
    and augmented) in place of its ``val_dataloader``.

    Args:
        composition: The parts of the search.
        mutation_hooks: Further hooks of NNI, which replace modules of the space by user-defined supernet modules.
        log_prob_every_n_step: Interval in batches between two logs of the weights of all candidates, under
            ``prob/<edge>/<candidate>``. None for no such logs.
        log_eigenvalue_every_n_epoch: Interval in epochs between two logs of the largest eigenvalue of the Hessian of
            the validation loss for α, under ``dominant_eigenvalue``. It takes a backward pass for each α. None for no
            such logs.
        cost: Costs of the derived network that the search keeps low, for example
            ``Cost("multiply_adds", target=30e6)``. None for no costs.
        penalty: A penalty of NNI on the loss of α: an ``ExpectationProfilerPenalty``, or a dictionary of its arguments.
        finish: Settings of a ranking of likely architectures at the end of the search: a
            :class:`~strategies.finish.Finish`, or a dictionary of its arguments. None to derive by α alone.
        parts: The fields of a :class:`~strategies.composition.Composition`, instead of a composition.

    Attributes:
        composition: The parts of the search.
        architecture: α and the current plan.
        candidates_checked: Whether the candidates of the space are known to fit together. If False, a search tries them
            before its first step.
        warmup_argument: Name of the argument for the epochs in which only weights are trained.
    """

    warmup_argument: ClassVar[str] = "warmup_epochs"

    def __init__(
        self,
        composition: Composition | None = None,
        *,
        mutation_hooks: list[MutationHook] | None = None,
        log_prob_every_n_step: int | None = None,
        log_eigenvalue_every_n_epoch: int | None = None,
        cost: Cost | Sequence[Cost] | None = None,
        penalty: ExpectationProfilerPenalty | Mapping[str, Any] | None = None,
        finish: Finish | FinishArguments | None = None,
        **parts: Any,
    ) -> None:
        super().__init__(mutation_hooks)
        every_step, every_epoch = log_prob_every_n_step, log_eigenvalue_every_n_epoch
        require("log_prob_every_n_step", every_step, every_step is None or every_step >= 1, LOGS)
        require("log_eigenvalue_every_n_epoch", every_epoch, every_epoch is None or every_epoch >= 1, LOGS)
        self.log_prob_every_n_step = log_prob_every_n_step
        self.candidates_checked = False
        self.composition = composition or _composition(parts)
        self.log_eigenvalue_every_n_epoch = log_eigenvalue_every_n_epoch
        if every_epoch is not None and self.composition.gradient is None:
            raise ValueError(
                f"log_eigenvalue_every_n_epoch: {every_epoch} should be null: α is not searched on validation images"
            )
        self.cost = (cost,) if isinstance(cost, Cost) else tuple(cost or ())
        for one in self.cost:
            require("cost", one, isinstance(one, Cost), "a Cost, or several of them")
        self.penalty = expectation_penalty(penalty)
        self.finish = finish if finish is None or isinstance(finish, Finish) else Finish(**finish)
        self._profile: Callable[[Example], list[CostTable]] | None = None
        self.architecture = self._new_architecture()
        self._architecture_loader: Callable[[], Any] | None = None

    def __init_subclass__(cls, **settings: Any) -> None:
        """Let subclasses also accept ``learning_rate`` under its name in NNI's strategies."""
        super().__init_subclass__(**settings)
        if "__init__" in vars(cls):
            accepting = argument_aliases(arc_learning_rate="learning_rate")
            cls.__init__ = accepting(cls.__init__)  # type: ignore[method-assign]

    def _new_architecture(self) -> Architecture:
        composition = self.composition
        return Architecture(composition.none, composition.alpha_scale, composition.recompute)

    def mutate_model(self, model: ModelSpace) -> ModelSpace:
        """Turn the model space into a supernet, in place.

        :mod:`search_spaces.extensions` lists what a space may define besides its choices.

        Args:
            model: The model space.

        Returns:
            The same object. Afterwards, its ``freeze`` returns derived networks with the weights of the supernet.

        Raises:
            ValueError: The model is already a supernet.
            TypeError: The model has a choice that cannot be searched by this strategy.
        """
        if any(isinstance(module, BaseSuperNetModule) for module in model.modules()):
            raise ValueError(f"{_name(model)}: a supernet already, of an earlier search: give a fresh instance")
        self.architecture = self._new_architecture()
        if any(cost.table is None for cost in self.cost):
            self._profile = partial(cost_tables, self.cost, self.profiler(model))
        model = super().mutate_model(model)
        if self.composition.single_path:
            refuse_multi_input(self.architecture)
        if isinstance(model, HasInitialAlphas):
            self.architecture.start(model.initial_alphas)
        if not isinstance(model, StackedSpace):
            self._derive_by_darts(model)
        if self.composition.partial_channels == 1:  # weights of partial channels fit no derived network
            model.freeze = partial(inherit, model)
        return model

    def profiler(self, space: ModelSpace) -> Callable[[Example], Profiler]:
        """Return a function that makes the profiler of a space, given an example of the input of its model.

        Args:
            space: The model space, before it becomes a supernet; it is not changed.
        """
        composition = Composition(self.composition.relaxation, self.composition.optimizer, none=self.composition.none)
        strategy = DifferentiableStrategy(composition, mutation_hooks=self.extra_mutation_hooks)
        with isolate_rng():  # the random numbers of the search are the same with and without costs
            supernet = strategy.mutate_model(profiled_form(space))
        return partial(Profiler, supernet, strategy.architecture)

    def _derive_by_darts(self, model: nn.Module) -> None:
        # NNI's own cells have the same number of operations at every node.
        cells = [module for module in model.modules() if isinstance(module, MixedCell)]
        if cells and not has_fixed_inputs(self.composition.derivation):
            warnings.warn(f"{type(model).__name__}: it is derived as 'darts', which alone fits its cells", stacklevel=3)
            for cell in cells:
                cell.derivation = darts

    def alphas(self) -> dict[str, dict[Any, float]]:
        """Return the current α: edge -> candidate -> α."""
        return self.architecture.table()

    def default_mutation_hooks(self) -> list[Any]:
        """Return the hooks that replace NNI's choices by modules which follow the plan."""

        def replace(
            module: nn.Module, name: str, memo: dict[str, Any], kwargs: dict[str, Any]
        ) -> BaseSuperNetModule | None:
            return replace_choice(module, name, self.architecture, self.composition.supernet_parts)

        return [replace, no_default_hook]

    def run_hook(self, hook: Any, name: str, module: nn.Module, memo: dict[str, Any]) -> Any:
        """Run a hook with α and the plan, and with the policy for super-kernels, which hooks may create."""

        def policy(operation: MixedOperation, *_: Any) -> PlanSamplingPolicy:
            return PlanSamplingPolicy(operation, self.architecture)

        return hook(module, name, memo, {"mixed_op_sampling": policy, "architecture": self.architecture})

    def configure_oneshot_module(self, training_module: pl.LightningModule) -> SearchModule:
        """Return the LightningModule of the search."""
        module = SearchModule(
            training_module,
            self.architecture,
            self.composition,
            self.log_prob_every_n_step,
            self.candidates_checked,
            self.cost,
            self._profile,
            self.penalty,
            self.finish,
        )
        module.log_eigenvalue_every_n_epoch = self.log_eigenvalue_every_n_epoch
        return module

    def mutate_evaluator(self, evaluator: Lightning) -> Lightning:
        """Wrap the module and the data loaders of the evaluator.

        Raises:
            ValueError: The evaluator is not a Lightning evaluator, it optimizes manually, or it would export its model.
        """
        if not isinstance(evaluator, Lightning):
            raise ValueError(f"{_name(evaluator)}: a search takes a Lightning evaluator")
        if not evaluator.module.automatic_optimization:
            raise ValueError(f"{_name(evaluator.module)}: a search steps its optimizer: use automatic_optimization")
        if getattr(evaluator.module, "export_onnx", None) is not None:
            raise ValueError(
                f"export_onnx: {evaluator.module.export_onnx} would be the supernet: use export_onnx=False, and after "
                "the search torch.onnx.export(space.freeze(sample), …) with the sample of export_top_models"
            )
        self._architecture_loader = getattr(evaluator.datamodule, "architecture_dataloader", None)
        searching = super().mutate_evaluator(evaluator)
        serve_batches_in_parts(evaluator.module, searching.module)
        serve_batches_in_parts(evaluator.datamodule, evaluator.datamodule)
        return searching

    def train_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        """Return a loader of batches {"train": for the weights, "val": for the architecture}.

        An epoch has as many batches as the training loader. For one-level optimization there is no "val".

        Raises:
            ValueError: The evaluator has several training or validation loaders.
        """
        train = _only(train_dataloader_fn(), "training")
        if self.composition.gradient is None:
            return CombinedLoader({"train": train})
        val = _only((self._architecture_loader or val_dataloader_fn)(), "validation")
        try:
            shorter = len(train) < len(val)
        except TypeError:  # an iterable data set has no length
            return CombinedLoader({"train": train, "val": Endless(val)}, "min_size")
        return CombinedLoader({"train": train, "val": val}, "min_size" if shorter else "max_size_cycle")

    def val_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        """Return the validation loader twice: for the supernet, and for the derived network.

        Raises:
            ValueError: The evaluator has several validation loaders.
        """
        return [_only(val_dataloader_fn(), "validation")] * 2


def _composition(parts: Mapping[str, Any]) -> Composition:
    # A separate function, so that jsonargparse does not mistake the parts for arguments of every strategy.
    return Composition(**parts)


class Endless:
    """A loader that repeats the batches of another without end.

    Args:
        loader: The loader, whose length may be unknown.
    """

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
    """Return the only loader that the evaluator has."""
    if isinstance(loader, Sequence) and len(loader) == 1:
        return loader[0]
    if isinstance(loader, (Sequence, Mapping, CombinedLoader)):
        raise ValueError(f"a search takes one {name} loader; the evaluator has several")
    return loader


def _name(instance: object) -> str:
    return type(instance).__name__
