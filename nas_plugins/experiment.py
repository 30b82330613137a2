"""Searches as NNI experiments, and what follows them: derive, retrain, evaluate."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Lightning
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy

from nas_plugins import run as runs
from nas_plugins.config import Config, read_retrain, read_search
from nas_plugins.data import ImageData
from nas_plugins.errors import InputError
from nas_plugins.training import ImageClassification, Recorder, load_tensors, make_trainer
from search_spaces.files import write_whole
from search_spaces.genotype import Edge, Genotype, GenotypeError
from search_spaces.network import Network, count_multiply_adds, count_parameters
from strategies.base import DifferentiableStrategy
from strategies.derivation import CellAlphas, Method
from strategies.derivation import derive as derive_cell

PathLike = str | os.PathLike[str]


def search(config: PathLike, output: PathLike, overrides: Sequence[str] = ()) -> Path:
    """Search a space with a strategy, as an NNI experiment.

    Args:
        config: the config file.
        output: the run directory to make.
        overrides: ``--key value`` pairs that win over the file.

    Returns:
        The run directory, with ``genotype.json``.

    Raises:
        InputError: something given cannot be used; nothing was written then.
    """
    settings = read_search(config, overrides)
    runs.check_output(output)
    experiment = _Search(settings)
    return experiment.run(runs.create(output, settings))


def retrain(genotype: PathLike, config: PathLike, output: PathLike, overrides: Sequence[str] = ()) -> Path:
    """Train the network of a genotype from scratch.

    Args:
        genotype: the genotype file.
        config: the config file.
        output: the run directory to make.
        overrides: ``--key value`` pairs that win over the file.

    Returns:
        The run directory, with ``weights.pt``.

    Raises:
        InputError: something given cannot be used; nothing was written then.
    """
    settings = read_retrain(config, overrides)
    runs.check_output(output)
    found = Genotype.load(genotype)
    training = _Retraining(settings, found)
    run = runs.create(output, settings)
    training.genotype.save(run / runs.GENOTYPE)
    return training.run(run)


def resume(run: PathLike) -> Path:
    """Go on with an interrupted search or retraining from its last complete epoch.

    A finished run is left as it is.

    Raises:
        InputError: the directory is no run, or its checkpoint is damaged.
    """
    settings, is_search = runs.read_config(run)
    run = Path(run)
    if any((run / file).exists() for file in ([runs.GENOTYPE, runs.SAMPLE] if is_search else [runs.WEIGHTS])):
        return run
    if is_search:
        return _Search(settings).run(run)
    return _Retraining(settings, Genotype.load(run / runs.GENOTYPE)).run(run)


def derive(
    run: PathLike,
    output: PathLike,
    method: Method = "darts",
    threshold: float = 0.85,
    layers: int | None = None,
) -> Genotype:
    """Derive a genotype from the α of a search's last epoch.

    Args:
        run: the run directory of the search.
        output: the genotype file to write.
        method, threshold: see :func:`strategies.derivation.derive`.
        layers: the depth of the network; None keeps that of the search.

    Raises:
        InputError: the directory is no search, or nothing reaches the threshold.
    """
    run = Path(run)
    _, is_search = runs.read_config(run)
    if not is_search or not (run / "alphas.csv").exists():
        raise InputError(f"{run}: no search with α to derive from: it has no alphas.csv")
    if not (run / runs.GENOTYPE).exists():
        raise InputError(f"{run}: the search is not finished: nas-plugins resume {run}")
    searched = Genotype.load(run / runs.GENOTYPE)
    try:
        cells = _last_alphas(run / "alphas.csv")
        genotype = Genotype(
            cells=tuple(
                tuple(Edge(c.operation, c.source, c.target) for c in derive_cell(alphas, method, threshold))
                for alphas in cells
            ),
            layout=searched.layout,
            reductions=searched.reductions,
            concat=searched.concat,
            operations=searched.operations,
        )
    except GenotypeError as error:
        raise InputError(f"{run}: {method} with threshold {threshold} gives no network: {error}") from None
    except ValueError as error:
        raise InputError(f"--method, --threshold: {error}") from None
    if layers is not None:
        genotype = genotype.deepen(layers)
    genotype.save(output)
    return genotype


def evaluate(run: PathLike) -> dict[str, float]:
    """Test a retrained network, from the files of its run alone.

    Returns:
        ``test_acc`` (a share from 0 to 1), ``test_loss`` and ``images``; also written to test.json.

    Raises:
        InputError: the directory is no finished retraining.
    """
    run = Path(run)
    settings, is_search = runs.read_config(run)
    if is_search or not (run / runs.WEIGHTS).exists():
        what = "a search" if is_search else "not finished"
        raise InputError(f"{run}: {what}; evaluate takes the run directory of a finished retraining")
    training = _Retraining(settings, Genotype.load(run / runs.GENOTYPE))
    weights = load_tensors(run / runs.WEIGHTS)
    try:
        training.network.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{run / runs.WEIGHTS}: not the weights of this run's network: {reason}") from None
    result = training.test(run)
    runs.write_json(run / "test.json", result)
    return result


class _Search:
    """A checked search, ready to run: making one raises what is wrong with the input."""

    def __init__(self, config: Config) -> None:
        self.config = config
        pl.seed_everything(config.seed, workers=True, verbose=False)
        self.data = config.data()
        if self.data.held_out == 0:
            raise InputError("data.held_out: 0.0 leaves no images for the architecture; 0.5 is what the papers have")
        self.space: ModelSpace = config.build(
            "space", num_classes=self.data.num_classes, image_channels=self.data.image_channels
        )
        self.strategy = config.build("strategy")
        if not isinstance(self.strategy, OneShotStrategy):
            raise InputError(
                f"strategy.name: {type(self.strategy).__name__} is a multi-trial strategy; search takes one-shot ones"
            )

    def run(self, run: Path) -> Path:
        with quiet():
            sample = self._search(run)
        genotype = _genotype(self.space, sample)
        if genotype is None:
            runs.write_json(run / runs.SAMPLE, sample)
        else:
            genotype.save(run / runs.GENOTYPE)
        return run

    def _search(self, run: Path) -> dict[str, Any]:
        alphas = None
        if isinstance(self.strategy, DifferentiableStrategy):
            alphas = self.strategy.alphas
        checkpoint = run / runs.CHECKPOINT
        evaluator = Lightning(
            ImageClassification(self.data.num_classes, self.config.training),
            make_trainer(self.config, run, [Recorder(run, alphas)]),
            datamodule=self.data,
            fit_kwargs={"ckpt_path": str(checkpoint)} if checkpoint.exists() else {},
        )
        settings = NasExperimentConfig.default(self.space, evaluator, self.strategy)
        settings.experiment_working_directory = run / "nni"
        experiment = NasExperiment(self.space, evaluator, self.strategy, settings)
        try:
            experiment.run()
            (sample,) = experiment.export_top_models(formatter="dict")
            return sample
        finally:
            experiment.stop()  # else NNI does so, and says so, when the interpreter exits


class _Retraining:
    """A checked retraining, ready to run: making one raises what is wrong with the input."""

    def __init__(self, config: Config, genotype: Genotype) -> None:
        assert config.derived is not None
        self.config = config
        derived = config.derived
        self.genotype = genotype if derived.layers is None else genotype.deepen(derived.layers)
        pl.seed_everything(config.seed, workers=True, verbose=False)
        self.data = config.data()
        try:
            self.network = Network.from_genotype(
                self.genotype,
                num_classes=self.data.num_classes,
                channels=derived.channels,
                image_channels=self.data.image_channels,
                stem=derived.stem,
                auxiliary=derived.auxiliary_weight > 0,
            )
            _try_on_paper(self.network, self.data)
        except ValueError as error:
            raise InputError(f"network: {error}") from None
        self.module = ImageClassification(self.data.num_classes, config.training, derived)
        self.module.set_model(self.network)

    def run(self, run: Path) -> Path:
        derived = self.config.derived
        assert derived is not None
        trainer = make_trainer(self.config, run, [Recorder(run)], gradient_clip_val=derived.gradient_clip_val)
        checkpoint = run / runs.CHECKPOINT
        with quiet():
            trainer.fit(self.module, datamodule=self.data, ckpt_path=str(checkpoint) if checkpoint.exists() else None)
        runs.write_json(
            run / "network.json",
            {
                "parameters": count_parameters(self.network) - _auxiliary_parameters(self.network),
                "multiply_adds": count_multiply_adds(self.network, self.data.image_channels, self.data.image_size),
                "num_classes": self.data.num_classes,
                "image_channels": self.data.image_channels,
                "image_size": self.data.image_size,
            },
        )
        weights = {name: tensor.cpu() for name, tensor in self.network.state_dict().items()}
        write_whole(run / runs.WEIGHTS, lambda file: torch.save(weights, file))
        return run

    def test(self, run: Path) -> dict[str, float]:
        trainer = make_trainer(self.config, run, [])
        with quiet():
            (logged,) = trainer.test(self.module, datamodule=self.data, verbose=False)
        return {**logged, "images": self.data.lengths["test"]}


def _auxiliary_parameters(network: Network) -> int:
    return 0 if network.auxiliary is None else count_parameters(network.auxiliary)


def _try_on_paper(network: Network, data: ImageData) -> None:
    """One training pass on tensors without memory: what does not fit together is said before any long work."""
    shadow = copy.deepcopy(network).to("meta").train()
    shadow(torch.empty(2, data.image_channels, data.image_size, data.image_size, device="meta"))


def _genotype(space: ModelSpace, sample: Mapping[str, Any]) -> Genotype | None:
    """The genotype of a sample, where the space has such: ours, or NNI's hub's DARTS with its labels."""
    if hasattr(space, "genotype"):
        return space.genotype(sample)
    layers = getattr(space, "num_cells", None)
    try:
        return Genotype.from_sample(sample, layers) if isinstance(layers, int) else None
    except GenotypeError:
        return None


def _last_alphas(file: Path) -> list[CellAlphas]:
    """The α of each cell in the last epoch of alphas.csv, in the order of the file."""
    table = pd.read_csv(file, float_precision="round_trip")
    table = table[table["epoch"] == table["epoch"].max()]
    cells: dict[str, dict[tuple[int, int], dict[str, float]]] = {}
    for row in table.drop(columns="epoch").to_dict("records"):
        cell, edge = row.pop("cell"), row.pop("edge")
        try:
            source, target = (int(node) for node in edge.split("->"))
        except ValueError:
            raise InputError(f"{file}: the edge {edge!r} is not of a cell, such as 0->2") from None
        cells.setdefault(cell, {})[source, target] = {key: value for key, value in row.items() if pd.notna(value)}
    return list(cells.values())


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what NNI and Lightning say of themselves; errors are raised, and progress bars stay."""
    levels = {"nni": logging.CRITICAL, "pytorch_lightning": logging.ERROR, "lightning.pytorch": logging.ERROR}
    loggers = {logging.getLogger(name): level for name, level in levels.items()}
    before = {logger: logger.level for logger in loggers}
    for logger, level in loggers.items():
        logger.setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning|lightning|nni|torch")
            warnings.filterwarnings("ignore", category=pl.utilities.rank_zero.LightningDeprecationWarning)
            yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
