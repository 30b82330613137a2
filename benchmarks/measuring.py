"""Measure the time and the memory of search steps in a separate process.

All settings share everything that is random: α, and with it the operations that EDAS runs, and the edges that it
relaxes.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

from methods import METHODS, make

STRATEGIES = ("NNI DARTS", "DARTS", "DARTS one-level", "DARTS second order", "EDAS")
SPARING = ("DARTS recomputing", "EDAS recomputing")
"""Strategies with ``recompute``."""
CELL_LOSSES = ("FairDARTS", "D-DARTS", "D-DARTS, every batch", "D-DARTS, ablation gradient")
"""Strategies without an ablation loss, and with one on every 50th batch, on every batch, and with its gradient."""
BARE_LOOP = "EDAS, bare loop"
"""The steps of EDAS on the same supernet, without NNI's experiment and Lightning."""
DERIVED = "derived network"
"""Training steps of the network that is derived from α."""


@dataclass(frozen=True)
class Setting:
    """Settings of a measurement.

    Args:
        what: One of STRATEGIES, SPARING, CELL_LOSSES, METHODS, BARE_LOOP or DERIVED.
        cells, channels: Number of cells and channels of the network.
        batch, image: Images per batch and pixels per side.
        steps: Number of counted steps.
        warmup: Number of steps before them, which are not counted.
        threads: Number of PyTorch threads; None for its default.
        space: Name of a space in nas_plugins.
        accelerator, precision: Arguments of Lightning's Trainer.
        grouped: Whether candidates of one kind are computed together, as on an accelerator.
        compiled: Whether the steps of a search, or the derived network, are compiled.
    """

    what: str
    cells: int = 8
    channels: int = 16
    batch: int = 64
    image: int = 32
    steps: int = 3
    warmup: int = 1
    threads: int | None = None
    space: str = "DartsSpace"
    accelerator: str = "auto"
    precision: str = "32-true"
    grouped: bool = False
    compiled: bool = False


def measure_apart(setting: Setting, seconds: float | None = None) -> dict[str, Any]:
    """Run :func:`measure` in a new process, so that the peak memory is that of this measurement alone.

    The result also has "compilation": what was compiled, or why nothing was; empty if nothing was to be compiled.

    Args:
        setting: Settings of the measurement.
        seconds: Time limit, after which the process is killed; None for no limit.

    Raises:
        SystemExit: The process failed. The message is its error output.
        TimeoutError: The process took longer than the limit.
    """
    call = [sys.executable, __file__, json.dumps(asdict(setting))]
    try:
        answer = subprocess.run(call, check=False, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    if answer.returncode:
        sys.exit(answer.stderr)
    *messages, found = answer.stdout.splitlines()
    compilation = next((line for line in messages if line.startswith("compute.compile: ")), "")
    return {**json.loads(found), "compilation": compilation.removeprefix("compute.compile: ")}


def measure(setting: Setting) -> dict[str, Any]:
    """Return the time and the memory of the counted steps.

    Returns:
        {"seconds": wall time of each step, "cpu_seconds": CPU time of each step, on which other work on the machine has
        little effect, "first_seconds", "first_cpu_seconds": those of the very first step, "memory_mb": peak
        memory of the process, or of the accelerator}
    """
    warnings.filterwarnings("ignore")
    for logger in ("nni", "pytorch_lightning"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    import torch

    from nas_plugins.training.recorder import peak_memory_mb

    if setting.threads:
        torch.set_num_threads(setting.threads)
    clock = Clock()
    run_steps(setting, clock)
    return {
        "seconds": clock.seconds[setting.warmup :],
        "cpu_seconds": clock.cpu_seconds[setting.warmup :],
        "first_seconds": clock.seconds[0],
        "first_cpu_seconds": clock.cpu_seconds[0],
        "memory_mb": peak_memory_mb(torch.cuda.is_available()),
    }


class Meter(Protocol):
    """Measurement that is started before each step and stopped after it."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


def run_steps(setting: Setting, meter: Meter) -> dict[str, list[float]]:
    """Run the steps of the warm-up and the counted ones on random images.

    Returns:
        Edge -> final α for a search by a strategy of this project; otherwise empty.
    """
    import torch

    torch.manual_seed(0)
    shape = (setting.batch * (setting.warmup + setting.steps), 3, setting.image, setting.image)
    kind = torch.float64 if setting.precision == "64-true" else torch.float32
    data = torch.utils.data.TensorDataset(torch.randn(shape).to(kind), torch.randint(0, 10, shape[:1]))
    return {BARE_LOOP: _bare_loop, DERIVED: _derived}.get(setting.what, _search)(setting, data, meter) or {}


class Clock:
    """Meter of the wall time and the CPU time of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []

    def start(self) -> None:
        """Begin a step."""
        synchronize()
        self.started = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """End a step."""
        synchronize()
        self.seconds.append(time.perf_counter() - self.started[0])
        self.cpu_seconds.append(time.process_time() - self.started[1])


def synchronize() -> None:
    """Wait until a GPU has done all its work."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


EPOCHS = 2
"""Epochs of a search by one of METHODS. Only the first is measured, since DARTS-PT makes its choices in the last."""


def _strategy(name: str) -> Any:
    if name in METHODS:
        return make(name, EPOCHS)
    import nni.nas.strategy

    from nas_plugins import DARTS, DDARTS, EDAS, FairDARTS

    return {
        "NNI DARTS": nni.nas.strategy.DARTS,
        "DARTS": DARTS,
        "DARTS one-level": partial(DARTS, order="one-level"),
        "DARTS second order": partial(DARTS, order="second"),
        "EDAS": partial(EDAS, seed=0),
        "DARTS recomputing": partial(DARTS, recompute=True),
        "EDAS recomputing": partial(EDAS, seed=0, recompute=True),
        "FairDARTS": FairDARTS,
        "D-DARTS": partial(DDARTS, seed=0),
        "D-DARTS, every batch": partial(DDARTS, seed=0, contribution_interval=1),
        "D-DARTS, ablation gradient": partial(DDARTS, seed=0, ablation_gradient=True),
    }[name]()


def _space(setting: Setting) -> Any:
    import nas_plugins

    return getattr(nas_plugins, setting.space)(channels=setting.channels, layers=setting.cells)


def _set_alphas(alphas: dict[str, Any]) -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    for alpha in alphas.values():
        alpha.data.copy_(1e-3 * torch.randn(alpha.shape, generator=generator))


def _search(setting: Setting, data: Any, clock: Meter) -> dict[str, list[float]]:
    from nni.nas.evaluator.pytorch import DataLoader, Lightning, Trainer
    from nni.nas.experiment import NasExperiment
    from pytorch_lightning.callbacks import Callback

    from nas_plugins.config.schema import Training
    from nas_plugins.tasks import TASKS, Targets
    from nas_plugins.training.compilation import Compilation
    from nas_plugins.training.module import TaskModule

    class Timer(Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            if hasattr(module, "architecture"):
                module.architecture.grouped |= setting.grouped
                _set_alphas(module.architecture.alphas)

        def on_train_batch_start(self, *_: object) -> None:
            clock.start()

        def on_train_batch_end(self, *_: object) -> None:
            clock.stop()

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            trainer.should_stop = True

    evaluator = Lightning(
        TaskModule(Targets(TASKS["classification"], tuple("0123456789")), Training(epochs=1)),
        Trainer(
            max_epochs=EPOCHS if setting.what in METHODS else 1,
            callbacks=[*([Compilation()] if setting.compiled else []), Timer()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=int(setting.what in METHODS),  # DARTS-PT validates at the end of an epoch
            num_sanity_val_steps=0,
            accelerator=setting.accelerator,
            devices=1,
            precision=setting.precision,
        ),
        train_dataloaders=DataLoader(data, batch_size=setting.batch),
        val_dataloaders=DataLoader(data, batch_size=setting.batch),
    )
    strategy = _strategy(setting.what)
    experiment = NasExperiment(_space(setting), evaluator, strategy)
    experiment.run()
    experiment.stop()
    return {edge: [*row.values()] for edge, row in strategy.alphas().items()} if hasattr(strategy, "alphas") else {}


def _sgd(weights: Any) -> Any:
    import torch

    return torch.optim.SGD(weights, lr=0.025, momentum=0.9, weight_decay=3e-4)


def _on_device(model: Any) -> tuple[Any, Any]:
    """Return a model on the GPU, or on the CPU in the memory format of searches and retrainings, and the device."""
    import torch

    if torch.cuda.is_available():
        return model.cuda(), torch.device("cuda")
    return model.to(memory_format=torch.channels_last), torch.device("cpu")


def _bare_loop(setting: Setting, data: Any, clock: Meter) -> None:
    import torch
    from torch.nn.functional import cross_entropy

    from strategies.bilevel import frozen
    from strategies.relaxation import Step

    strategy = _strategy("EDAS")
    model, device = _on_device(strategy.mutate_model(_space(setting)))
    strategy.architecture.to(device)
    strategy.architecture.grouped = setting.grouped or device.type == "cuda"
    architecture, relaxation = strategy.architecture, strategy.composition.relaxation
    alphas = architecture.alphas
    _set_alphas(alphas)
    weights = list(model.parameters())
    weight_optimizer, alpha_optimizer = _sgd(weights), strategy.composition.optimizer(list(alphas.values()))
    for iteration, (images, labels) in enumerate(torch.utils.data.DataLoader(data, setting.batch)):
        images, labels = images.to(device), labels.to(device)
        clock.start()
        step = Step(iteration)
        with frozen(weights):
            architecture.plan = relaxation.architecture(alphas, step)
            alpha_optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            alpha_optimizer.step()
        with torch.no_grad():
            architecture.plan = relaxation.weights(alphas, step)
        weight_optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        torch.nn.utils.clip_grad_norm_(weights, 5.0)
        weight_optimizer.step()
        clock.stop()


def _derived(setting: Setting, data: Any, clock: Meter) -> None:
    import torch
    from torch.nn.functional import cross_entropy

    from nas_plugins.training.compilation import compile_arguments

    strategy = _strategy("EDAS")
    space = _space(setting)
    supernet = strategy.mutate_model(_space(setting))
    _set_alphas(strategy.architecture.alphas)
    sample: dict[str, Any] = {}
    for module in supernet.modules():
        if hasattr(module, "export"):
            sample |= module.export(sample)
    del supernet
    model, device = _on_device(space.freeze(sample))
    if setting.compiled:
        print("compute.compile: the network is compiled")
        model.compile(**compile_arguments(device, graphs=True))
    weights = list(model.parameters())
    optimizer = _sgd(weights)
    for images, labels in torch.utils.data.DataLoader(data, setting.batch):
        images, labels = images.to(device), labels.to(device)
        clock.start()
        if setting.compiled:
            torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=setting.precision == "bf16-mixed"):
            loss = cross_entropy(model(images), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 5.0)
        optimizer.step()
        clock.stop()


if __name__ == "__main__":
    print(json.dumps(measure(Setting(**json.loads(sys.argv[1])))))
