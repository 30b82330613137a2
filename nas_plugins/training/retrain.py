"""Train derived networks from scratch, and test them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from nas_plugins.config.reader import Config, read_retrain, read_retrain_sample
from nas_plugins.config.schema import NetworkConfig
from nas_plugins.config.user_classes import errors_of
from nas_plugins.data.sizes import class_names, sizes, targets_of
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike, read_object
from nas_plugins.runs import directory as runs
from nas_plugins.training.callbacks import SampleCounter
from nas_plugins.training.checkpoints import load_tensors, load_weights, read_result, rewrite_advice, save_tensors
from nas_plugins.training.confusion import write_confusion
from nas_plugins.training.epoch_log import epoch_logs
from nas_plugins.training.inheritance import Supernet
from nas_plugins.training.inputs import example_of, training_module
from nas_plugins.training.loggers import check_loggers
from nas_plugins.training.networks import (
    auxiliary_head,
    network_of_genotype,
    network_of_sample,
    space_beside,
    warn_unused,
)
from nas_plugins.training.outputs import MATRIX, OutputMetrics
from nas_plugins.training.recorder import Recorder
from nas_plugins.training.trainer import (
    check_compute,
    check_memory,
    make_trainer,
    prepare_data,
    quiet,
    readable_errors,
)
from search_spaces.complexity import count_multiply_adds_of, count_parameters
from search_spaces.files import write_text_whole
from search_spaces.genotype import Genotype
from search_spaces.network import Network
from strategies.cost.search import Example
from strategies.supernet.trial_pass import first_samples


@quiet()
def retrain(
    genotype: PathLike,
    config: PathLike,
    output: PathLike,
    overrides: Sequence[str] = (),
    callbacks: Sequence[pl.Callback] = (),
) -> Path:
    """Train the network of a genotype, by default from scratch.

    Args:
        genotype: The genotype file.
        config: The config file.
        output: The run directory to make.
        overrides: ``--key value`` pairs, which take precedence over the file.
        callbacks: Lightning callbacks, called after the metrics of an epoch are written.

    Returns:
        The run directory, with ``weights.pt``.

    Raises:
        InputError: An argument or a setting cannot be used.
    """
    settings = read_retrain(config, overrides)
    _check(settings, output)
    return _run(settings, Genotype.load(genotype), genotype, output, callbacks)


@quiet()
def retrain_sample(
    sample: PathLike,
    config: PathLike,
    output: PathLike,
    overrides: Sequence[str] = (),
    callbacks: Sequence[pl.Callback] = (),
) -> Path:
    """Train the network of a sample of any space, by default from scratch; in a space with cells, that of its genotype.

    Args:
        sample: The sample file, a JSON object with the value of every choice by its label.
        config: The config file. Its section space takes precedence over that of the search run in which the sample
            lies, key by key.
        output: The run directory to make.
        overrides: ``--key value`` pairs, which take precedence over the file.
        callbacks: Lightning callbacks, called after the metrics of an epoch are written.

    Returns:
        The run directory, with ``weights.pt``.

    Raises:
        InputError: An argument or a setting cannot be used, or the sample is not in the space.
    """
    found = read_object(Path(sample))
    if "format" in found:
        raise InputError(f"{sample}: is a genotype, not a sample of a space: use --genotype")
    settings = read_retrain_sample(config, overrides, space_beside(sample))
    _check(settings, output)
    settings, architecture = _by_genotype(settings, found)
    return _run(settings, architecture, sample, output, callbacks)


def _check(settings: Config, output: PathLike) -> None:
    check_compute(settings.compute)  # before the others: on several machines only Lightning knows the first process
    runs.check_output(output)
    check_loggers(settings.loggers)


def _by_genotype(settings: Config, sample: dict[str, Any]) -> tuple[Config, runs.Architecture]:
    """Return the genotype of a sample of cells with settings that need no space, or the sample as it is."""
    if not isinstance(settings.derived, NetworkConfig):
        return settings, sample
    space = settings.build("space")
    without = ({name: of[name] for name in of if name != "space"} for of in (settings.values, settings.arguments))
    values, arguments = without
    return replace(settings, values=values, arguments=arguments), space.genotype(sample)


def _run(
    settings: Config,
    architecture: runs.Architecture,
    file: PathLike,
    output: PathLike,
    callbacks: Sequence[pl.Callback],
) -> Path:
    """Train the genotype or the sample of a file, and return the run directory."""
    assert settings.derived is not None
    supernet = Supernet(file) if settings.derived.weights == "inherited" else None
    if supernet is not None:
        settings = supernet.fitted(settings)
    training = Retraining(settings, architecture)
    weights = None if supernet is None else supernet.weights(training.architecture, training.data)
    if weights is not None:
        training.begin_with(weights, Path(file))
    check_memory(settings.compute, training.data)
    warn_unused(training.network, settings, training.example)
    run = runs.create(output, settings, training.architecture)
    if weights is not None and runs.is_first():
        save_tensors(weights, run / runs.INHERITED)  # for a resume before the first checkpoint
    return training.run(run, callbacks)


@quiet()
def evaluate(run: PathLike) -> dict[str, float]:
    """Test a retrained network, using only the files of its run, and write the result into the run.

    The files are ``test.json`` with the returned values, for a classification ``confusion.csv`` and
    ``class_accuracy.csv``, and for another task ``outputs.csv`` with the metrics of each label, value or class. A
    user-defined evaluator, whose outputs may be anything, has ``test.json`` only.

    Returns:
        The metrics of the task, for example ``test_acc`` (a fraction from 0 to 1), ``test_loss`` and ``images``, the
        number of test images. With a user-defined evaluator, the values that it logs in ``test_step``; with
        user-defined data, ``samples`` instead of ``images``.

    Raises:
        InputError: The directory is not a finished retraining, or its weights are damaged.
    """
    run = Path(run)
    training = load_retraining(run, "evaluate")
    training.check_test()
    targets = None if "evaluator" in training.config.user else targets_of(training.data)
    measured = [] if targets is None else [OutputMetrics(targets)]
    with readable_errors(run / runs.CHECKPOINT, f"nas-plugins evaluate {run}"):
        result = training.test(run, measured)
    for name in result if targets is None else ["test_loss"]:  # R² may be undefined
        if not math.isfinite(result[name]):
            raise InputError(
                f"{run / runs.WEIGHTS}: the {name.replace('_', ' ')} is {result[name]}, for the weights are lost; "
                "retrain with a lower training.learning_rate"
            )
    for outputs in measured:
        if MATRIX in outputs.metrics:
            write_confusion(run, outputs.computed()[MATRIX].numpy(), class_names(training.data))
        else:
            write_text_whole(run / runs.OUTPUTS, outputs.table().to_csv())
    runs.write_json(run / runs.TEST, result)
    return result


def load_retraining(run: Path, command: str, on_cpu: bool = False) -> Retraining:
    """Return a finished retraining with its trained weights, to be used on a single device.

    Args:
        run: The run directory.
        command: Name of the command that needs the run, for messages.
        on_cpu: Whether to use the CPU, on whatever device the network was trained.

    Raises:
        InputError: The directory is not a finished retraining, or its weights are damaged.
    """
    settings, kind = runs.read_config(run)
    if kind == "search" or not runs.is_finished(run, kind):
        what = "a search" if kind == "search" else f"not finished (nas-plugins resume {run} goes on with it)"
        raise InputError(f"{run}: {what}; {command} takes the run directory of a finished retraining")
    # Several processes would count some images twice to get equal shares, and this machine may have only one device.
    compute = replace(settings.compute, devices=1, nodes=1)
    if on_cpu or (compute.accelerator in ("gpu", "cuda") and not torch.cuda.is_available()):
        compute = replace(compute, accelerator="cpu", precision="32-true")
    single = replace(settings, compute=compute)
    training = Retraining(single, runs.read_architecture(run))
    weights = run / runs.WEIGHTS
    load_weights(training.network, weights, read_result(weights), f"; {rewrite_advice(run)}")
    return training


class UntestableError(InputError):
    """User-defined classes have no test."""


class Retraining:
    """A checked retraining, ready to run.

    Args:
        config: The settings.
        architecture: A genotype, which is deepened if the settings ask for more layers, or a sample of the space of the
            settings.

    Raises:
        InputError: A setting cannot be used, or the network does not fit the images.
    """

    def __init__(self, config: Config, architecture: runs.Architecture) -> None:
        assert config.derived is not None
        self.config, self.recipe = config, config.derived
        self.data = prepare_data(config)
        self.network: nn.Module
        if isinstance(architecture, Genotype):
            architecture = _deepened(architecture, config)
            self.network = network_of_genotype(architecture, config, self.data)
        else:
            self.network = network_of_sample(architecture, config, self.data)
        self.architecture = architecture
        self.module = training_module(config, self.data)
        self.module.set_model(self.network)
        self.begun = self.recipe.weights == "new"

    @cached_property
    def example(self) -> Example:
        """Return an example input of the network.

        Raises:
            InputError: User-defined classes do not fit the network.
        """
        return example_of(self.config, self.data, lambda: copy.deepcopy(self.network))

    def begin_with(self, weights: dict[str, Tensor], file: Path) -> None:
        """Load inherited weights; an auxiliary head, which no supernet has, keeps its random weights.

        Args:
            weights: The weights of the network by name.
            file: The file that the weights are from, for messages.

        Raises:
            InputError: The weights are not those of the network.
        """
        own = self.network.state_dict()
        load_weights(self.network, file, {name: own[name] for name in own if name.startswith("auxiliary.")} | weights)
        self.begun = True

    def run(self, run: Path, callbacks: Sequence[pl.Callback] = ()) -> Path:
        """Train, starting from the checkpoint of the run if it exists, and write the weights and size of the network.

        Args:
            run: The run directory.
            callbacks: Further Lightning callbacks.

        Returns:
            The run directory.
        """
        recorders = [Recorder(run, self.config.task), *epoch_logs(self.config, run)]
        trainer = make_trainer(
            self.config, run, [*recorders, *callbacks], gradient_clip_val=self.recipe.gradient_clip_val
        )
        checkpoint = run / runs.CHECKPOINT
        if not self.begun and not checkpoint.exists():
            self.begin_with(load_tensors(run / runs.INHERITED), run / runs.INHERITED)
        with runs.at_work(run), readable_errors(checkpoint, f"nas-plugins resume {run}"):
            trainer.fit(self.module, datamodule=self.data, ckpt_path=str(checkpoint) if checkpoint.exists() else None)
            runs.write_json(run / runs.NETWORK, self._size())
            weights = {name: tensor.cpu() for name, tensor in self.network.state_dict().items()}
            if trainer.is_global_zero:
                save_tensors(weights, run / runs.WEIGHTS)
        return run

    def _size(self) -> dict[str, int]:
        auxiliary = auxiliary_head(self.network)
        device = "meta" if isinstance(self.network, Network) else "cpu"
        return {
            "parameters": count_parameters(self.network) - (0 if auxiliary is None else count_parameters(auxiliary)),
            "multiply_adds": count_multiply_adds_of(self.network, first_samples(self.example, 1), device),
            **sizes(self.data),
        }

    def check_test(self) -> None:
        """Raise an UntestableError if user-defined classes cannot test a network."""
        if not is_overridden("test_dataloader", self.data, pl.LightningDataModule):
            raise UntestableError(f"data.class_path: {type(self.data).__name__} has no test_dataloader")
        if not is_overridden("test_step", self.module):
            raise UntestableError(f"evaluator.class_path: {type(self.module).__name__} has no test_step")

    def test(self, run: Path, callbacks: Sequence[pl.Callback] = ()) -> dict[str, float]:
        """Return what the module logs on the test samples, and their number.

        Raises:
            InputError: User code fails, or tests on several loaders.
        """
        counter = SampleCounter()
        trainer = make_trainer(self.config, run, [*callbacks, counter])
        with errors_of(self.config.user):
            logged = trainer.test(self.module, datamodule=self.data, verbose=False)
        if len(logged) != 1:
            raise InputError(f"data.class_path: {type(self.data).__name__} should have one loader of test samples")
        return {**logged[0], "samples" if "data" in self.config.user else "images": counter.samples}


def _deepened(genotype: Genotype, config: Config) -> Genotype:
    """Return the genotype with the number of layers that the config asks for.

    Raises:
        GenotypeError: The genotype has no such depth.
    """
    assert isinstance(config.derived, NetworkConfig)
    return genotype if config.derived.layers is None else genotype.deepen(config.derived.layers)
