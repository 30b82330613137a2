"""``torch.compile`` of the training steps of a run, with a message about what is compiled, or why nothing is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from tqdm import tqdm

from nas_plugins.files import one_line
from nas_plugins.training.module import TaskModule
from search_spaces.space import StackedSpace
from strategies.relaxation import Step
from strategies.rng import isolate_rng
from strategies.search import SearchModule
from strategies.supernet.cell import MixedCell

BACKEND = "inductor"
"""Backend of ``torch.compile``."""

GRAPHS = 256
"""Maximum number of graphs of one function. PyTorch's 8 are too few: cells differ in channels, strides and plans."""


class Compilation(Callback):
    """Compile the training steps of a run: a derived network as a whole, a supernet cell by cell.

    Validation is not compiled, because it would need separate graphs. The random numbers and the names of the weights
    are the same as without compilation.
    """

    def __init__(self) -> None:
        self._what, self._regions = "", tuple[nn.Module, ...]()
        self._apart: SearchModule | None = None
        self._settings = ExitStack()
        self._started: float | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Mark the modules that the first step compiles, or print why nothing can be compiled."""
        device = trainer.strategy.root_device
        reason = "several devices train" if trainer.world_size > 1 else _missing(device)
        what, regions = ("", ()) if reason else regions_of(pl_module)
        if not regions:
            _tell(trainer, f"not used: {reason or what}")
            return
        if isinstance(pl_module, SearchModule) and not isinstance(regions[0], MixedCell):
            self._apart = pl_module if pl_module.architecture.grouped else None
            pl_module.architecture.grouped = False  # groups use the weights of operations without calling them
        self._what, self._regions = what, tuple(regions)
        self._settings.enter_context(torch._dynamo.config.patch(cache_size_limit=GRAPHS, suppress_errors=True))
        for region in regions:
            region.compile(**compile_arguments(device, graphs=isinstance(pl_module, TaskModule)))

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Begin a step, and time the first one."""
        if self._regions:
            torch.compiler.cudagraph_mark_step_begin()
            self._started = time.monotonic() if self._started is None else self._started

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Print the duration of the first step."""
        if self._regions and self._started:
            _tell(trainer, f"{self._what}; the first step took {time.monotonic() - self._started:.0f} s")
            self._started = 0.0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Run the validation without compilation."""
        if self._regions:
            torch.compiler.set_stance("force_eager")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Continue with the compiled modules."""
        if self._regions:
            torch.compiler.set_stance("default")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore modules and settings."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore modules and settings."""
        if self._regions:
            torch.compiler.set_stance("default")
        for region in self._regions:
            region._compiled_call_impl = None
        self._regions = ()
        if self._apart is not None:
            self._apart.architecture.grouped, self._apart = True, None
        self._settings.close()


def regions_of(module: pl.LightningModule) -> tuple[str, Sequence[nn.Module]]:
    """Return the modules to compile, each by itself, with a description; no modules, with the reason, if none can be.

    Args:
        module: The module of a retraining or of a search.
    """
    if isinstance(module, TaskModule):
        return "the network is compiled", [module.model]
    if not isinstance(module, SearchModule):
        return f"{type(module).__name__} is a module of another project", ()
    if not isinstance(module.model, StackedSpace):
        return f"{type(module.model).__name__} may have operations that write to their input", ()
    cells = [part for part in module.model.modules() if isinstance(part, MixedCell)]
    if _has_fixed_plan(module):
        return f"{len(cells)} cells are compiled", cells
    operations = [part for cell in cells for edge in cell.operations.values() for part in edge if [*part.parameters()]]
    return f"the plan changes from step to step, so that {len(operations)} operations are compiled", operations


def _has_fixed_plan(module: SearchModule) -> bool:
    """Return whether every edge runs all of its candidates in each step."""
    relaxation, alphas = module.composition.relaxation, module.architecture.living_alphas()
    first = Step(epochs=module.trainer.max_epochs)
    with isolate_rng(), torch.no_grad():
        plans: list[Mapping[str, Any]] = [relaxation.architecture(alphas, first), relaxation.weights(alphas, first)]
    return all(isinstance(entry, Tensor) for plan in plans for entry in plan.values())


def compile_arguments(device: torch.device, graphs: bool) -> dict[str, Any]:
    """Return the arguments of ``torch.compile``; with CUDA graphs, whole steps start as one."""
    if BACKEND != "inductor":
        return {"backend": BACKEND}
    return {"options": {"fallback_random": True, "triton.cudagraphs": graphs and device.type == "cuda"}}


def _missing(device: torch.device) -> str | None:
    """Return why this machine cannot compile; None if a small function can be compiled."""
    if not hasattr(torch.compiler, "set_stance"):
        return "it needs PyTorch 2.6"
    try:
        with torch._dynamo.config.patch(suppress_errors=False):
            arguments = compile_arguments(device, graphs=False)
            torch.compile(lambda x: x.sin() + 1, **arguments)(torch.ones(8, device=device))
    except Exception as error:  # the kind depends on the version, and on what is missing
        return one_line(error)[:200]
    return None


def _tell(trainer: pl.Trainer, text: str) -> None:
    if trainer.is_global_zero:
        tqdm.write(f"compute.compile: {text}")
