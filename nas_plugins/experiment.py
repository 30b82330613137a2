"""Searches as NNI experiments: run, resume, derive."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from nni.nas.evaluator.pytorch import Lightning
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from nni.tools.nnictl.constants import NNI_HOME_DIR

from nas_plugins import facts, plugins
from nas_plugins import run as runs
from nas_plugins.callbacks import Recorder
from nas_plugins.checkpoints import load_tensors
from nas_plugins.checks import check_enas, try_out, try_plans
from nas_plugins.config import Config, read_search
from nas_plugins.data import ImageData
from nas_plugins.errors import InputError
from nas_plugins.fitting import ImageClassification, check_compute, check_share, guarded, make_trainer, quiet
from nas_plugins.tables import ALPHA_KEYS, one_line, read_object, read_table
from nas_plugins.training import Retraining
from search_spaces.edges import smallest_set
from search_spaces.genotype import Edge, Genotype, GenotypeError
from search_spaces.space import StackedSpace
from strategies.base import DifferentiableStrategy
from strategies.derivation import CellAlphas, Method, by_method, connected, darts
from strategies.draws import draws_undone
from strategies.mixed_cell import Derivation

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


def derive(
    run: PathLike,
    output: PathLike,
    method: Method | None = None,
    threshold: float | None = None,
    layers: int | None = None,
    epoch: int | None = None,
) -> Genotype:
    """Derive a genotype from the α of a search; with the defaults, that which the search derived.

    Args:
        run: the run directory of the search.
        output: the genotype file to write.
        method, threshold: see :func:`strategies.derivation.derive`; None for those of the search. Where both are, a
            cell that would be empty is derived as ``darts``, as in the search.
        layers: the depth of the network; None keeps that of the search.
        epoch: the α at the end of this epoch, counted from 0; None for the last one.

    Raises:
        InputError: the directory is no search, it has no such epoch, or nothing reaches the threshold.
    """
    run = Path(run)
    settings, is_search = runs.read_config(run)
    if not is_search or not (run / "alphas.csv").exists():
        raise InputError(f"{run}: no search with α to derive from: it has no alphas.csv")
    if (run / runs.SAMPLE).exists():
        raise InputError(f"{run}: its space has no cells: what was found stands in {run / runs.SAMPLE}")
    if not (run / runs.GENOTYPE).exists():
        raise InputError(f"{run}: the search is not finished: nas-plugins resume {run}")
    searched = _read_found(run / runs.GENOTYPE)
    derivation, how = _derivation(settings, method, threshold)
    alphas = _alphas(run, epoch, searched)
    chosen = {label: derivation(cell) for label, cell in alphas.items()}
    empty = []
    if method is None and threshold is None:
        empty = [label for label in alphas if not connected(chosen[label])]
        chosen |= {label: darts(alphas[label]) for label in empty}
    cells = tuple(tuple(Edge(c.operation, c.source, c.target) for c in cell) for cell in chosen.values())
    try:
        genotype = replace(searched, cells=cells, operations=smallest_set(cells))
    except GenotypeError as error:
        raise InputError(f"{run}: {how} gives no network: {error}") from None
    if layers is not None:
        genotype = genotype.deepen(layers)
    genotype.save(output)
    if empty:  # said last: what is refused is one line
        warnings.warn(f"{', '.join(empty)}: the derivation keeps no operation; derived as 'darts'", stacklevel=2)
    return genotype


def _derivation(config: Config, method: Method | None, threshold: float | None) -> tuple[Derivation, str]:
    """How to derive, and its name for people: as the search did, but for what is given."""
    ours = issubclass(plugins.find("space", config.values["space"]["name"]), StackedSpace)
    if method is None and threshold is None:
        # Cells that are not ours are derived as in the search.
        return (config.build("strategy").derivation if ours else darts), "the derivation of the search"
    settings = config.values["strategy"]
    method = method or (settings.get("derivation", "darts") if ours else "darts")
    if method == "darts" and threshold is not None:
        raise InputError(f"--threshold: {threshold}, but darts has none; it needs --method sparse or edge")
    threshold = settings.get("threshold", 0.85) if threshold is None else threshold
    try:
        return by_method(method, threshold), f"{method} with threshold {threshold}"
    except ValueError as error:
        raise InputError(f"--method, --threshold: {error}") from None


class _Search:
    """A checked search, ready to run: making one raises what is wrong with the input."""

    def __init__(self, config: Config) -> None:
        self.config = config
        check_compute(config.compute)
        pl.seed_everything(config.seed, workers=True, verbose=False)
        self.data = config.data()
        check_share(config.compute, self.data)
        if self.data.held_out == 0:
            raise InputError("data.held_out: 0.0 leaves no images for the architecture; 0.5 is what the papers have")
        self.space = self._build_space()
        try_out(self.space, self.data)
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
        with draws_undone():
            pair = f"{type(self.strategy).__name__} cannot search {type(self.space).__name__}"
            strategy = self.config.build("strategy")
            try:
                supernet = strategy.mutate_model(self._build_space())
            except (TypeError, ValueError, KeyError, NotImplementedError) as error:
                raise InputError(f"strategy.name: {pair}: {one_line(error)}") from None
            if isinstance(strategy, DifferentiableStrategy):
                try_plans(strategy, supernet, self.data, pair)

    def run(self, run: Path, callbacks: Sequence[pl.Callback] = ()) -> Path:
        """Search, from the checkpoint of the run where there is one, and write the genotype."""
        with runs.at_work(run), guarded(run / runs.CHECKPOINT, f"nas-plugins resume {run}"):
            facts.write_facts(run, self.space, self.strategy)
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


def _alphas(run: Path, epoch: int | None, searched: Genotype) -> dict[str, CellAlphas]:
    """The α of each cell after an epoch, the last one where it is None, in the order of the genotype.

    Args:
        run: the run directory.
        epoch: the epoch.
        searched: what the search derived.

    Raises:
        InputError: the table has no such epoch, or is damaged: it would give another architecture.
    """
    file = run / "alphas.csv"
    table = read_table(file, ALPHA_KEYS, texts=ALPHA_KEYS[1:])
    if table.empty:
        raise InputError(f"{file}: has no epoch yet")
    epochs = pd.concat([table["epoch"], read_table(run / "metrics.csv", ["epoch"])["epoch"]])  # one of them may be cut
    first, last = epochs.min(), epochs.max()
    if epoch is not None and not (table["epoch"] == epoch).any():
        raise InputError(f"--epoch: {epoch} should be from {first:g} to {last:g}, the epochs of {file}")
    chosen = last if epoch is None else epoch
    rows = table[table["epoch"] == chosen].drop(columns="epoch")
    cells = _by_cell(file, rows)
    # A search of an earlier version tells no labels; its supernet, and so its table, begins at the first layer.
    labels = facts.read_facts(run).cells or _in_order_of_layers([*cells], searched.layout)
    numbers = rows.drop(columns=["cell", "edge"])
    fault = None
    if rows.empty:
        fault = f"has no epoch {last:g}, the last of the search"
    elif not _present(table, chosen).equals(_present(table, first)):
        fault = f"epoch {chosen:g} has not the edges and operations of epoch {first:g}"
    elif len(cells) != len(searched.cells):
        fault = f"has {len(cells)} cells, {runs.GENOTYPE} {len(searched.cells)}"
    elif set(labels) != set(cells):
        fault = f"has the cells {', '.join(cells)}, {facts.FILE} {', '.join(labels)}"
    elif numbers.isin([math.inf, -math.inf]).any(axis=None):
        fault = f"an α of epoch {chosen:g} is not finite"
    if fault is not None:
        cure = f"put back the whole file, or repeat the search: nas-plugins search --config {run / runs.CONFIG}"
        raise InputError(f"{file}: {fault}; {cure}")
    return {label: cells[label] for label in labels}


def _in_order_of_layers(cells: Sequence[str], layout: Sequence[int]) -> list[str]:
    """The labels of a genotype's cells, given them in the order in which the layers have them first."""
    by_index = dict(zip(dict.fromkeys(layout), cells, strict=False))
    return [by_index[index] for index in sorted(by_index)]


def _present(table: pd.DataFrame, epoch: float) -> pd.DataFrame:
    """(cell, edge) -> which operations have an α in an epoch."""
    rows = table[table["epoch"] == epoch].drop(columns="epoch")
    return rows.set_index(["cell", "edge"]).notna().sort_index()


def _by_cell(file: Path, rows: pd.DataFrame) -> dict[str, CellAlphas]:
    """label -> α of each cell of the rows of an epoch."""
    cells: dict[str, dict[tuple[int, int], dict[str, float]]] = {}
    for row in rows.to_dict("records"):
        cell, edge = row.pop("cell"), row.pop("edge")
        try:
            source, target = (int(node) for node in edge.split("->"))
        except ValueError:
            raise InputError(f"{file}: the edge {edge!r} is not of a cell, such as 0->2") from None
        cells.setdefault(cell, {})[source, target] = {key: value for key, value in row.items() if pd.notna(value)}
    return dict(cells)
