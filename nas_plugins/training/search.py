"""Searches as NNI experiments: run and resume."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from nni.nas.evaluator.pytorch import Lightning
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.nn.pytorch import ModelSpace
from nni.tools.nnictl.constants import NNI_HOME_DIR
from pytorch_lightning.utilities.seed import isolate_rng

from nas_plugins.config.reader import Config, read_search
from nas_plugins.config.signatures import argument_names
from nas_plugins.data.module import ImageData
from nas_plugins.data.sizes import sizes
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike, one_line
from nas_plugins.runs import directory as runs
from nas_plugins.runs.metadata import write_metadata
from nas_plugins.training.checkpoints import read_result
from nas_plugins.training.costs import costs_of, read_latency, save_latency, with_counts
from nas_plugins.training.epoch_log import epoch_logs
from nas_plugins.training.inputs import example_of, training_module
from nas_plugins.training.loggers import check_loggers
from nas_plugins.training.networks import build_space
from nas_plugins.training.preflight import (
    check_choices,
    check_epochs,
    check_metric,
    check_plans,
    check_sample,
    check_space,
    check_targets,
    check_validated,
)
from nas_plugins.training.recorder import Recorder
from nas_plugins.training.retrain import Retraining
from nas_plugins.training.trainer import check_compute, check_memory, make_trainer, prepare_data, quiet, readable_errors
from search_spaces.extensions import HasGenotype
from search_spaces.genotype import Genotype, GenotypeError
from strategies.base import DifferentiableStrategy, OneShotStrategy
from strategies.cost import Latency
from strategies.memory_format import ChannelsLast
from strategies.search import SearchModule


@quiet()
def search(
    config: PathLike, output: PathLike, overrides: Sequence[str] = (), callbacks: Sequence[pl.Callback] = ()
) -> Path:
    """Search a space with a strategy, as an NNI experiment.

    Args:
        config: The config file.
        output: The run directory to make.
        overrides: ``--key value`` pairs, which take precedence over the file.
        callbacks: Lightning callbacks, called after the metrics of an epoch are written.

    Returns:
        The run directory, with ``genotype.json``, or ``sample.json`` for a space without cells.

    Raises:
        InputError: An argument or a setting cannot be used.
    """
    settings = read_search(config, overrides)
    check_compute(settings.compute)  # before the others: on several machines only Lightning knows the first process
    runs.check_output(output)
    check_loggers(settings.loggers)
    experiment = _Search(settings)
    return experiment.run(runs.create(output, settings), callbacks)


@quiet()
def resume(run: PathLike, callbacks: Sequence[pl.Callback] = ()) -> Path:
    """Continue an interrupted search or retraining from its last complete epoch.

    A finished run is left unchanged.

    Args:
        run: The run directory.
        callbacks: Lightning callbacks, called after the metrics of an epoch are written.

    Returns:
        The run directory.

    Raises:
        InputError: The directory is not a run, or its checkpoint, a table or a result is damaged.
    """
    settings, kind = runs.read_config(run)
    run = Path(run)
    if runs.is_finished(run, kind):
        for file in runs.results_of(run, kind):
            read_result(file)
        return run
    check_loggers(settings.loggers)
    if kind == "search":
        kept = run / runs.LATENCY
        return _Search(settings, read_latency(kept) if kept.exists() else None).run(run, callbacks)
    return Retraining(settings, runs.read_architecture(run)).run(run, callbacks)


class _Search:
    """A checked search, ready to run.

    Args:
        config: The settings.
        latency: The latencies that the run began with; None if there are none yet.

    Raises:
        InputError: A setting cannot be used, or the settings do not fit together.
    """

    def __init__(self, config: Config, latency: Latency | None = None) -> None:
        self.config = config
        self.data = prepare_data(config)
        if isinstance(self.data, ImageData) and self.data.val_fraction == 0:
            raise InputError(
                "data.val_fraction: 0.0 leaves no images for the architecture; 0.5 is what the papers have"
            )
        check_memory(config.compute, self.data)
        self.space = build_space(config, self.data)
        check_choices(self.space)
        if isinstance(self.data, ImageData) and not config.user:
            check_space(self.space, self.data)
        self.example = example_of(config, self.data, partial(build_space, config, self.data))
        self.strategy = config.build("strategy")
        check_metric(self.strategy, config.values["strategy"]["name"], config.task)
        self._set_finish(self.strategy)
        self.costs, self.latency = costs_of(config, self.strategy, self.space, self.example, latency)
        self._set_costs(self.strategy)
        self._try_strategy()

    def _set_costs(self, strategy: OneShotStrategy) -> None:
        if isinstance(strategy, DifferentiableStrategy):
            strategy.cost = self.costs

    def _set_finish(self, strategy: OneShotStrategy) -> None:
        """Set the metric of the final ranking, and replace the arguments of its space by a function that makes it."""
        finish = strategy.finish if isinstance(strategy, DifferentiableStrategy) else None
        if finish is None:
            return
        finish = replace(finish, metric=finish.metric or f"val_{self.config.task.metric.key}")
        check_validated(finish.measured, "strategy.finish.metric", self.config.task)
        if isinstance(finish.space, Mapping):
            unknown = finish.space.keys() - argument_names(type(self.space))
            if unknown:
                names = ", ".join(sorted(unknown))
                raise InputError(f"strategy.finish.space: {names}: no argument of the searched space")
            make = partial(build_space, self.config, self.data, **finish.space)
            try:
                with isolate_rng():
                    check_sample(self.space, make())
            except InputError as error:  # its message begins with the section space
                raise InputError(f"strategy.finish.{error}") from None
            finish = replace(finish, space=make)
        strategy.finish = finish

    def _try_strategy(self) -> None:
        """Raise an InputError if the strategy cannot search the space, tested with new instances of both."""
        pair = f"{type(self.strategy).__name__} cannot search {type(self.space).__name__}"
        with isolate_rng():
            strategy = self.config.build("strategy")
            self._set_costs(strategy)
            try:
                supernet = strategy.mutate_model(build_space(self.config, self.data))
            except (TypeError, ValueError, KeyError, NotImplementedError) as error:
                raise InputError(f"strategy.name: {pair}: {one_line(error)}") from None
            if isinstance(strategy, DifferentiableStrategy):
                check_epochs(strategy, self.config.training.epochs)
                check_plans(strategy, supernet, self.example, self.config.training.epochs, pair)
                check_targets(strategy, supernet, self.config, self.data)
                self.strategy.candidates_checked = True

    def run(self, run: Path, callbacks: Sequence[pl.Callback] = ()) -> Path:
        """Search, starting from the checkpoint of the run if it exists, and write the result.

        Args:
            run: The run directory.
            callbacks: Further Lightning callbacks.

        Returns:
            The run directory.
        """
        with runs.at_work(run), readable_errors(run / runs.CHECKPOINT, f"nas-plugins resume {run}"):
            classifies = self.config.task.metric.key in ("acc", "miou")
            classes = sizes(self.data).get("num_classes") if classifies else None
            write_metadata(run, self.space, self.strategy, classes)
            if self.latency is not None:
                save_latency(run / runs.LATENCY, self.latency, self.config)
            sample = self._search(run, callbacks)
            genotype = _genotype(self.space, sample)
            self._write_costs(run, sample)
            self._write_finish(run)
            if genotype is None:
                runs.write_json(run / runs.SAMPLE, sample)
            else:
                runs.write_genotype(run / runs.GENOTYPE, genotype)
        return run

    def _write_costs(self, run: Path, sample: dict[str, Any]) -> None:
        """Write the latencies, and the costs counted on the derived network itself."""
        if not self.costs:
            return
        with isolate_rng():
            network = build_space(self.config, self.data).freeze(sample)
        found = with_counts(self.strategy.oneshot_module.derived_costs(), network, self.example)
        runs.write_json(run / runs.COST, found)

    def _write_finish(self, run: Path) -> None:
        """Write the ranking at the end of the search, if there was one."""
        module = self.strategy.oneshot_module
        found = module.finished() if isinstance(module, SearchModule) else None
        if found is not None:
            runs.write_json(run / runs.FINISH, found)

    def _search(self, run: Path, callbacks: Sequence[pl.Callback]) -> dict[str, Any]:
        alphas = None
        if isinstance(self.strategy, DifferentiableStrategy):
            alphas = self.strategy.alphas
        elif hasattr(self.data, "architecture_dataloader"):
            _use_shuffled_images(self.strategy, self.data)
        logs = epoch_logs(self.config, run, self._current_genotype)
        checkpoint = run / runs.CHECKPOINT
        evaluator = Lightning(
            training_module(self.config, self.data),
            make_trainer(self.config, run, [Recorder(run, self.config.task, alphas), *logs, *callbacks]),
            datamodule=self.data,
            fit_kwargs={"ckpt_path": str(checkpoint)} if checkpoint.exists() else {},
        )
        settings = NasExperimentConfig.default(self.space, evaluator, self.strategy)
        # NNI locks its list of experiments with a file named after the process id. It would wait forever for the lock
        # of a killed process with the same id, as after the restart of a container.
        Path(NNI_HOME_DIR, f".experiment.lock.{os.getpid()}").unlink(missing_ok=True)
        with runs.nni_folder(run) as settings.experiment_working_directory:
            experiment = NasExperiment(self.space, evaluator, self.strategy, settings)
            try:
                # Strategies of this project set the memory format themselves.
                with nullcontext() if alphas is not None else ChannelsLast():
                    experiment.run()
                (sample,) = experiment.export_top_models(formatter="dict")
                return sample
            finally:
                experiment.stop()  # otherwise NNI stops it when the interpreter exits, with a message

    def _current_genotype(self, module: pl.LightningModule) -> Genotype | None:
        """Return the genotype that the search would derive now; None for spaces without cells or NNI's strategies."""
        if not isinstance(module, SearchModule):
            return None
        with warnings.catch_warnings(), suppress(GenotypeError):
            warnings.simplefilter("ignore", UserWarning)  # about empty cells, which is only meaningful at the end
            return _genotype(self.space, module.export())
        return None


def _use_shuffled_images(strategy: OneShotStrategy, data: Any) -> None:
    """Let one of NNI's own strategies learn the architecture from shuffled and augmented validation images.

    By default it would use the validation loader, which keeps the order of the files, class by class.
    """
    original = strategy.train_dataloader

    def train_dataloader(train: Callable[[], Any], val: Callable[[], Any]) -> Any:
        return original(train, data.architecture_dataloader)

    strategy.train_dataloader = train_dataloader  # type: ignore[method-assign]


def _genotype(space: ModelSpace, sample: Mapping[str, Any]) -> Genotype | None:
    """Return the genotype of a sample of our spaces or of DARTS in NNI's hub; None for other spaces."""
    if isinstance(space, HasGenotype):
        return space.genotype(sample)
    layers = getattr(space, "num_cells", None)
    try:
        return Genotype.from_sample(sample, layers) if isinstance(layers, int) else None
    except GenotypeError:
        return None
