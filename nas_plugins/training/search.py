"""Searches as NNI experiments: run, resume, derive."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from nni.nas.evaluator.pytorch import Lightning
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from nni.tools.nnictl.constants import NNI_HOME_DIR

from nas_plugins.config.reader import Config, read_search
from nas_plugins.data.module import ImageData
from nas_plugins.errors import InputError
from nas_plugins.files import one_line, read_object
from nas_plugins.runs import directory as runs
from nas_plugins.runs import metadata
from nas_plugins.training.checkpoints import load_tensors
from nas_plugins.training.module import ImageClassification
from nas_plugins.training.preflight import check_enas, check_plans, check_space
from nas_plugins.training.recorder import Recorder
from nas_plugins.training.retrain import Retraining
from nas_plugins.training.trainer import check_compute, check_share, make_trainer, quiet, readable_errors
from search_spaces.genotype import Genotype, GenotypeError
from strategies.base import DifferentiableStrategy
from strategies.rng import isolate_rng

PathLike = str | os.PathLike[str]


@quiet()
def search(
    config: PathLike, output: PathLike, overrides: Sequence[str] = (), callbacks: Sequence[pl.Callback] = ()
) -> Path:
    """Search a space with a strategy, as an NNI experiment.

    Args:
        config: the config file.
        output: the run directory to make.
        overrides: ``--key value`` pairs that win over the file.
        callbacks: of Lightning, called after the metrics of an epoch are written.

    Returns:
        The run directory, with ``genotype.json``.

    Raises:
        InputError: something given cannot be used; nothing was written then.
    """
    settings = read_search(config, overrides)
    check_compute(settings.compute)  # first: on several machines only Lightning knows which process is the first
    runs.check_output(output)
    experiment = _Search(settings)
    return experiment.run(runs.create(output, settings), callbacks)


@quiet()
def resume(run: PathLike, callbacks: Sequence[pl.Callback] = ()) -> Path:
    """Go on with an interrupted search or retraining from its last complete epoch.

    A finished run is left as it is.

    Args:
        run: the run directory.
        callbacks: as of :func:`search`.

    Raises:
        InputError: the directory is no run, or its checkpoint, a table or what it found is damaged.
    """
    settings, is_search = runs.read_config(run)
    run = Path(run)
    if _finished(run, is_search):
        return run
    if is_search:
        return _Search(settings).run(run, callbacks)
    return Retraining(settings, Genotype.load(run / runs.GENOTYPE)).run(run, callbacks)


def _finished(run: Path, is_search: bool) -> bool:
    """Whether the last files of a run are there.

    Raises:
        InputError: one of them is damaged.
    """
    if is_search:
        files = [file for file in (run / runs.GENOTYPE, run / runs.SAMPLE) if file.exists()]
    else:
        files = [run / runs.WEIGHTS, run / "network.json"]
    if not files or not all(file.exists() for file in files):
        return False
    for file in files:
        _read_found(file)
    return True


def _read_found(file: Path) -> Any:
    """What a run has written at its end: a genotype, weights, or the values of a JSON file.

    Raises:
        InputError: it is damaged.
    """
    try:
        if file.name == runs.GENOTYPE:
            return Genotype.load(file)
        return load_tensors(file) if file.name == runs.WEIGHTS else read_object(file)
    except ValueError as error:
        where = "" if str(error).startswith(str(file)) else f"{file}: "
        cure = f"delete it, and nas-plugins resume {file.parent} writes it anew"
        raise InputError(f"{where}{one_line(error)}; {cure}") from None


class _Search:
    """A checked search, ready to run: making one raises what is wrong with the input."""

    def __init__(self, config: Config) -> None:
        self.config = config
        check_compute(config.compute)
        pl.seed_everything(config.seed, workers=True, verbose=False)
        self.data = config.data()
        check_share(config.compute, self.data)
        if self.data.val_fraction == 0:
            raise InputError(
                "data.val_fraction: 0.0 leaves no images for the architecture; 0.5 is what the papers have"
            )
        self.space = self._build_space()
        check_space(self.space, self.data)
        self.strategy = config.build("strategy")
        check_enas(self.strategy, self.config.values["strategy"]["name"])
        self._try_strategy()

    def _build_space(self) -> ModelSpace:
        return self.config.build(
            "space",
            num_classes=self.data.num_classes,
            image_channels=self.data.image_channels,
            image_size=self.data.image_size,
        )

    def _try_strategy(self) -> None:
        """Make a supernet of other instances of both: what cannot be searched is said before any long work."""
        with isolate_rng():
            pair = f"{type(self.strategy).__name__} cannot search {type(self.space).__name__}"
            strategy = self.config.build("strategy")
            try:
                supernet = strategy.mutate_model(self._build_space())
            except (TypeError, ValueError, KeyError, NotImplementedError) as error:
                raise InputError(f"strategy.name: {pair}: {one_line(error)}") from None
            if isinstance(strategy, DifferentiableStrategy):
                check_plans(strategy, supernet, self.data, pair)

    def run(self, run: Path, callbacks: Sequence[pl.Callback] = ()) -> Path:
        """Search, from the checkpoint of the run where there is one, and write the genotype."""
        with runs.at_work(run), readable_errors(run / runs.CHECKPOINT, f"nas-plugins resume {run}"):
            metadata.write_metadata(run, self.space, self.strategy)
            sample = self._search(run, callbacks)
            genotype = _genotype(self.space, sample)
            if genotype is None:
                runs.write_json(run / runs.SAMPLE, sample)
            else:
                runs.write_genotype(run / runs.GENOTYPE, genotype)
        return run

    def _search(self, run: Path, callbacks: Sequence[pl.Callback]) -> dict[str, Any]:
        alphas = None
        if isinstance(self.strategy, DifferentiableStrategy):
            alphas = self.strategy.alphas
        else:
            _learn_from_shuffled(self.strategy, self.data)
        checkpoint = run / runs.CHECKPOINT
        evaluator = Lightning(
            ImageClassification(self.data.num_classes, self.config.training),
            make_trainer(self.config, run, [Recorder(run, alphas), *callbacks]),
            datamodule=self.data,
            fit_kwargs={"ckpt_path": str(checkpoint)} if checkpoint.exists() else {},
        )
        settings = NasExperimentConfig.default(self.space, evaluator, self.strategy)
        # NNI locks its list of experiments by a file that is named by the process, and waits for ever for one that a
        # killed process of the same number, as in a container that starts again, has left.
        Path(NNI_HOME_DIR, f".experiment.lock.{os.getpid()}").unlink(missing_ok=True)
        with runs.nni_folder(run) as settings.experiment_working_directory:
            experiment = NasExperiment(self.space, evaluator, self.strategy, settings)
            try:
                experiment.run()
                (sample,) = experiment.export_top_models(formatter="dict")
                return sample
            finally:
                experiment.stop()  # else NNI does so, and says so, when the interpreter exits


def _learn_from_shuffled(strategy: OneShotStrategy, data: ImageData) -> None:
    """Give a strategy of NNI's, in its training batches, the held-out images as ours see them.

    It takes the validation loader to learn the architecture from, which is in order: of image files class by class.
    """
    own = strategy.train_dataloader

    def train_dataloader(train: Callable[[], Any], val: Callable[[], Any]) -> Any:
        return own(train, data.architecture_dataloader)

    strategy.train_dataloader = train_dataloader  # type: ignore[method-assign]


def _genotype(space: ModelSpace, sample: Mapping[str, Any]) -> Genotype | None:
    """The genotype of a sample, where the space has such: ours, or NNI's hub's DARTS with its labels."""
    if hasattr(space, "genotype"):
        return space.genotype(sample)
    layers = getattr(space, "num_cells", None)
    try:
        return Genotype.from_sample(sample, layers) if isinstance(layers, int) else None
    except GenotypeError:
        return None
