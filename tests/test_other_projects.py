"""Projects of other people: a package of plugins for our command line, and an NNI project that uses our strategies.

tests/other_project is the package; docs/plugins.md shows its files, and the commands of that page are run here.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import torch
import torchmetrics
from nni.mutable import label_scope
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.evaluator.pytorch import ClassificationModule, DataLoader, Lightning, LightningModule, Trainer
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.hub.pytorch import NasBench201
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import model_context
from pytorch_lightning import LightningDataModule
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.core.hooks import CheckpointHooks, DataHooks, ModelHooks
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import IterableDataset, Subset, TensorDataset

from nas_plugins import DARTS, DDARTS, EDAS
from nas_plugins.cli import main
from strategies.inheritance import inherit

OTHER = Path(__file__).parent / "other_project"
PAGE = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line)[1:] for line in PAGE.splitlines() if line.startswith("nas-plugins ")]


# A package of plugins


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder that the other project is installed in: no network, and nothing in this environment changes."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(OTHER, folder / "my-nas", ignore=shutil.ignore_patterns("__pycache__"))
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet")
    install = [sys.executable, "-m", "pip", "install", *offline, "--target", folder / "site", folder / "my-nas"]
    subprocess.run(install, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "site")
        yield folder / "site"


@pytest.fixture(scope="module")
def here(site) -> Path:
    """A folder in which the commands of the page were run."""
    here = site.parent / "here"
    here.mkdir()
    shutil.copy(OTHER / "search.yaml", here)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        for number, command in enumerate(COMMANDS):
            with contextlib.redirect_stdout(io.StringIO()) as output:
                assert main(command) == 0, command
            Path(f"{number}-{command[0]}.txt").write_text(output.getvalue())
    return here


class TestPlugins:
    def test_the_page_shows_the_files_of_the_project(self):
        shown = dict(re.findall(r"`([\w/]+\.\w+)`\n\n```\w+\n(.*?)```\n", PAGE, re.DOTALL))
        assert shown == {name: (OTHER / name).read_text(encoding="utf-8") for name in shown}
        assert set(shown) == {
            "my_nas/space.py",
            "my_nas/strategy.py",
            "my_nas/cooling.py",
            "pyproject.toml",
            "search.yaml",
        }

    def test_the_page_has_commands(self):
        assert [command[0] for command in COMMANDS] == ["list", "search", "search", "search", "report"]

    def test_it_is_installed(self, site):
        assert Path(str(distribution("my-nas").locate_file("my_nas/space.py"))) == site / "my_nas" / "space.py"

    def test_its_space_and_strategy_are_listed(self, here):
        spaces, strategies = (here / "0-list.txt").read_text().split("strategies:")
        assert re.search(r"^  Blocks +my_nas.space:Blocks$", spaces, re.MULTILINE)
        assert re.search(r"^  DecidedDARTS +my_nas.strategy:DecidedDARTS$", strategies, re.MULTILINE)

    @pytest.mark.slow
    def test_a_process_with_the_package_on_its_path_lists_them(self, site, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", ".")
        command = Path(sys.executable).with_name("nas-plugins")
        done = subprocess.run([command, "list"], cwd=site, capture_output=True, text=True, check=True)
        assert "my_nas.space:Blocks\n" in done.stdout
        assert "my_nas.strategy:DecidedDARTS\n" in done.stdout

    def test_candidates_that_died_are_missing_in_the_second_epoch(self, here):
        alphas = pd.read_csv(here / "runs/c/alphas.csv")
        living = alphas.drop(columns=["epoch", "cell", "edge"]).notna().sum(axis=1)
        assert living[alphas["epoch"] == 0].tolist() == [4, 4, 4] and living[alphas["epoch"] == 1].tolist() == [2, 2, 2]

    def test_a_search_has_a_row_an_epoch_with_the_derived_network(self, here):
        metrics = pd.read_csv(here / "runs/a/metrics.csv")
        assert list(metrics["epoch"]) == [0, 1]
        assert metrics[["val_acc", "derived_val_acc"]].notna().all(axis=None)

    def test_alphas_are_arranged_by_the_labels_of_the_space(self, here):
        alphas = pd.read_csv(here / "runs/a/alphas.csv")
        assert set(alphas["cell"]) == {"block_0", "block_1", "block_2"}
        assert {"conv_3x3", "conv_5x5", "max_pool", "skip"} < set(alphas)

    def test_the_loss_of_the_strategy_decides(self, here):
        assert self.entropy(here / "runs/a") < self.entropy(here / "runs/b")

    def entropy(self, run: Path) -> float:
        table = pd.read_csv(run / "alphas.csv")
        alphas = table[table["epoch"] == 1].drop(columns=["epoch", "cell", "edge"])
        return float(torch.special.entr(torch.softmax(torch.tensor(alphas.to_numpy()), 1)).sum(1).mean())

    def test_the_sample_freezes_the_space(self, here, monkeypatch):
        monkeypatch.chdir(here)
        from my_nas.space import Blocks

        network = Blocks(image_channels=1, channels=8).freeze(json.loads(Path("runs/a/sample.json").read_text()))
        assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
        (line,) = re.findall(r"^network = .*$", PAGE, re.MULTILINE)
        assert line in Path(__file__).read_text(encoding="utf-8")

    def test_the_report_compares_the_runs(self, here):
        assert "DecidedDARTS on Blocks" in (here / "runs/report/report.html").read_text()

    def test_a_run_repeats_from_its_own_config(self, here, tmp_path):
        assert main(["search", "--config", str(here / "runs/a/config.yaml"), "--output", str(tmp_path / "again")]) == 0
        assert (tmp_path / "again/alphas.csv").read_bytes() == (here / "runs/a/alphas.csv").read_bytes()

    def test_there_is_no_genotype_to_derive(self, here, tmp_path, capsys):
        assert main(["derive", str(here / "runs/a"), "--output", str(tmp_path / "g.json")]) == 2
        assert "its space has no cells: what was found stands in" in capsys.readouterr().err

    def test_its_errors_are_one_line(self, here, tmp_path, capsys):
        arguments = ["search", "--config", str(here / "search.yaml"), "--output", str(tmp_path / "run")]
        assert main([*arguments, "--strategy.weight", "-1"]) == 2
        assert capsys.readouterr().err == "nas-plugins: strategy: weight: -1.0 should be at least 0\n"
        assert main([*arguments, "--space.blocks", "many"]) == 2
        assert "space.blocks" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


# An NNI project: its own space, its own Lightning module, its own data


class Chain(ModelSpace):
    """Three choices, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.layers = nn.Sequential(*(self.layer(f"layer_{number}") for number in range(3)))
        self.head = nn.Linear(8, 10)

    def layer(self, name: str) -> LayerChoice:
        wide = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        narrow = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        with label_scope(name):
            return LayerChoice([wide, narrow, nn.AvgPool2d(3, 1, 1)], label="operation")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.stem(x)).amax(dim=(2, 3)))


class Digits(LightningModule):
    """Adam with a cosine over steps, and a metric that is read when an epoch ends."""

    def __init__(self) -> None:
        super().__init__()
        self.top2 = torchmetrics.Accuracy("multiclass", num_classes=10, top_k=2)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = cross_entropy(self.model(images), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        scores = self.model(images)
        self.top2.update(scores, labels)
        self.log_dict({"top1": (scores.argmax(1) == labels).float().mean(), "nll": cross_entropy(scores, labels)})

    def on_validation_epoch_end(self):
        self.log("top2", self.top2.compute())
        self.top2.reset()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.02)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


STRATEGIES = {"EDAS": lambda: EDAS(sign_flip_epochs=1, seed=0), "DDARTS": lambda: DDARTS(w_abl=0)}
EPOCHS = 3


def evaluator(folder: Path, monitor: str = "top1", **fit_kwargs) -> Lightning:
    """The evaluator of the project: it searches, and it trains what was found."""
    digits = load_digits()
    images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
    data = TensorDataset(images, torch.tensor(digits.target))
    checkpoints = ModelCheckpoint(folder, "{epoch}", monitor=monitor, mode="max", save_top_k=-1, save_last=True)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[checkpoints],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return Lightning(
        Digits(),
        trainer,
        train_dataloaders=DataLoader(Subset(data, range(400)), batch_size=40),
        val_dataloaders=DataLoader(Subset(data, range(400, 700)), batch_size=50),
        fit_kwargs=fit_kwargs,
    )


def experiment(strategy, folder: Path, name: str | None = None, **fit_kwargs) -> NasExperiment:
    torch.manual_seed(0)
    space, searching = Chain(), evaluator(folder / "checkpoints", "derived_top1", **fit_kwargs)
    config = NasExperimentConfig.default(space, searching, strategy)
    config.experiment_working_directory = folder / "nni"
    return NasExperiment(space, searching, strategy, config, name)


def run(strategy, folder: Path, **fit_kwargs) -> NasExperiment:
    running = experiment(strategy, folder, **fit_kwargs)
    try:
        running.run()
    finally:
        running.stop()
    return running


class Killed(Callback):
    """The machine fails in the last epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == EPOCHS - 1:
            raise RuntimeError("killed")


@pytest.fixture(scope="module", params=STRATEGIES)
def folder(request, tmp_path_factory) -> Path:
    """A folder with the name of a strategy."""
    return tmp_path_factory.mktemp(request.param, numbered=False)


@pytest.fixture(scope="module")
def searched(folder) -> NasExperiment:
    """An experiment with that strategy, which ran in that folder."""
    return run(STRATEGIES[folder.name](), folder)


class TestNniProject:
    def test_the_best_model_is_a_sample_of_its_space(self, searched):
        (sample,) = searched.export_top_models(formatter="dict")
        assert set(sample) == {f"layer_{number}/operation" for number in range(3)}
        assert Chain().freeze(sample)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)

    def test_the_frozen_model_is_trained_by_the_same_evaluator(self, searched, tmp_path):
        (sample,) = searched.export_top_models(formatter="dict")
        with model_context(sample):
            network = Chain()
        training = evaluator(tmp_path)
        training.evaluate(network)
        # Better than a guess: how much better depends on the operations that so short a search happens to find.
        assert training.trainer.callback_metrics["nll"] < math.log(10)

    def test_its_metrics_are_those_of_the_supernet_and_again_of_the_derived_network(self, searched):
        metrics = searched.evaluator.trainer.callback_metrics
        assert {"loss", "top1", "top2", "nll", "derived_top1", "derived_top2", "derived_nll"} <= set(metrics)
        for prefix in ("", "derived_"):
            assert 0 < metrics[f"{prefix}top1"] <= metrics[f"{prefix}top2"] <= 1

    def test_its_schedule_ends_where_it_should(self, searched):
        (schedule,) = searched.evaluator.trainer.lr_scheduler_configs
        assert schedule.scheduler.get_last_lr()[0] == pytest.approx(0)

    def test_from_a_checkpoint_of_lightnings_it_goes_on_as_if_nothing_had_happened(self, searched, folder, tmp_path):
        checkpoint = str(folder / "checkpoints" / "epoch=1.ckpt")
        resumed = run(STRATEGIES[folder.name](), tmp_path, ckpt_path=checkpoint)
        assert {file.stem for file in (tmp_path / "checkpoints").iterdir()} == {"epoch=2", "last"}
        assert resumed.strategy.alphas() == searched.strategy.alphas()
        assert resumed.export_top_models(formatter="dict") == searched.export_top_models(formatter="dict")

    def test_nni_resumes_an_interrupted_experiment_as_if_nothing_had_happened(self, searched, folder, tmp_path):
        interrupted = experiment(STRATEGIES[folder.name](), tmp_path)
        interrupted.evaluator.trainer.callbacks.append(Killed())
        with pytest.raises(RuntimeError, match="killed"):
            interrupted.run()
        interrupted.stop()
        resumed = experiment(STRATEGIES[folder.name](), tmp_path, interrupted.id)
        resumed.resume()
        resumed.stop()
        assert [file.stem for file in (tmp_path / "checkpoints").glob("epoch=0*")] == ["epoch=0"]
        assert resumed.strategy.alphas() == searched.strategy.alphas()

    def test_an_instance_of_the_best_model_has_the_weights_of_the_search(self, searched):
        (network,) = searched.export_top_models(formatter="instance")
        (sample,) = searched.export_top_models(formatter="dict")
        expected = inherit(searched.strategy.supernet, sample).state_dict()
        assert all(torch.equal(weight, expected[name]) for name, weight in network.state_dict().items())


class TestDDartsOnLayerChoices:
    def test_a_label_scope_is_a_cell_with_an_optimizer_of_its_own(self, tmp_path):
        optimizers = run(DDARTS(w_abl=0), tmp_path).evaluator.trainer.optimizers
        assert [len(group["params"]) for o in optimizers[1:] for group in o.param_groups] == [1, 1, 1]

    def test_the_ablation_loss_needs_cells(self, tmp_path):
        with pytest.raises(ValueError, match="Chain is none, and can be searched with w_abl=0"):
            run(DDARTS(), tmp_path)


class Plateau(Digits):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.02)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "loss"}}


class TwoOptimizers(Digits):
    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.02) for part in (self.model.stem, self.model.head)]


class Lossless(Digits):
    def training_step(self, batch, batch_idx):
        return None


class Empty(Digits):
    def training_step(self, batch, batch_idx):
        return {}


class Reading(Digits):
    """It reads what it has logged, as it may at the end of a validation, a sanity check too."""

    read: ClassVar[list[tuple[bool, float]]] = []

    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()
        self.read.append((self.trainer.sanity_checking, float(self.trainer.callback_metrics["top1"])))

    def on_validation_end(self):
        assert {"top1", "top2", "derived_top1", "derived_top2"} <= set(self.trainer.callback_metrics)


class ReadingToo(Callback):
    def on_validation_epoch_end(self, trainer, pl_module):
        assert {"top1", "derived_top1"} <= set(trainer.callback_metrics)


class ByHand(Digits):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Stream(IterableDataset):
    """Images one at a time, of which nobody knows beforehand how many they are; without a number they never end."""

    def __init__(self, images: int | None = None) -> None:
        self.images = images

    def __iter__(self):
        for number in itertools.count() if self.images is None else range(self.images):
            yield torch.rand(1, 8, 8), torch.tensor(number % 10)


class Fixed(ModelSpace):
    """Nothing to choose."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.flatten(1))


TWENTY = DataLoader(TensorDataset(torch.rand(20, 1, 8, 8), torch.arange(20) % 10), batch_size=10)


def search_it(
    folder, strategy, space=Chain, module=Digits, train=TWENTY, val=TWENTY, data=None, trainer=None, **settings
) -> Trainer:
    """Search with an evaluator of parts that are given; its trainer."""
    quiet = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    trainer = trainer or Trainer(**{"max_epochs": 1, "accelerator": "cpu", **dict.fromkeys(quiet, False), **settings})
    loaders = {"datamodule": data} if data else {"train_dataloaders": train, "val_dataloaders": val}
    evaluator = Lightning(module(), trainer, **loaders)
    searched = space()
    config = NasExperimentConfig.default(searched, evaluator, strategy)
    config.experiment_working_directory = folder
    running = NasExperiment(searched, evaluator, strategy, config)
    try:
        running.run()
    finally:
        running.stop()
    return trainer


class Flat(ModelSpace):
    """It takes the numbers of an image in the order of its dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice([nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 8, 1)], label="layer")
        self.head = nn.Linear(8 * 64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x)
        return self.head(x.view(len(x), -1))


class Films(ModelSpace):
    """Images that move: a dimension more."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice([nn.Conv3d(1, 8, 3, padding=1), nn.Conv3d(1, 8, 1)], label="layer")
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x[:, :, None].expand(-1, -1, 4, -1, -1)).mean((2, 3, 4)))


class FastChain(Chain):
    """One that may be searched with the channels last."""

    channels_last = True


class Hub(NasBench201):
    """A small one of NNI's hub, for these images."""

    def __init__(self) -> None:
        super().__init__(stem_out_channels=4, num_modules_per_stack=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.expand(-1, 3, -1, -1))


class Counting(ClassificationModule):
    """It counts the images of an epoch."""

    def __init__(self) -> None:
        super().__init__(num_classes=10, export_onnx=False)
        self.images = 0

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.images += len(batch[0])

    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()
        self.log("images", float(self.images))
        self.images = 0


HOOKS = {
    name
    for kind in (ModelHooks, DataHooks, CheckpointHooks)
    for name in vars(kind)
    if not re.search("^_|test|predict|dataloader|sharded|load_checkpoint", name)
} | {"configure_callbacks", "backward", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping"}
"""All that Lightning may ask of a module in a training that was not resumed."""


def recorded(name: str):
    """A hook that notes its call, and that the batch which it gets is one of the evaluator's."""

    def hook(self, *args, **kwargs):
        assert not any(isinstance(argument, dict) and "train" in argument for argument in args)
        Hooked.called.add(name)
        return getattr(super(Hooked, self), name)(*args, **kwargs)

    return hook


Hooked = type("Hooked", (Digits,), {"called": set(), **{name: recorded(name) for name in HOOKS}})


class Brightened(LightningDataModule):
    """Its images are changed behind the loaders, as augmentations on a GPU do it."""

    def __init__(self) -> None:
        super().__init__()
        self.train_dataloader = self.val_dataloader = lambda: TWENTY
        self.seen = 0

    def on_after_batch_transfer(self, batch, dataloader_idx):
        images, labels = batch
        self.seen += len(labels)
        return images + 1, labels


class TestWhatAnEvaluatorMayHave:
    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ({"module": Plateau}, "the evaluator's ReduceLROnPlateau cannot be stepped in a search"),
            ({"module": TwoOptimizers}, "the evaluator has 2 optimizers; a search takes one"),
            ({"module": ByHand}, "ByHand: a search steps its optimizer: use automatic_optimization"),
            ({"val": [TWENTY, TWENTY]}, "a search takes one validation loader"),
            ({"train": [TWENTY, TWENTY]}, "a search takes one training loader"),
            ({"max_epochs": -1}, "max_epochs: -1 of the evaluator should be 1 or more"),
            ({"space": Fixed}, "the model space has no choice to search"),
            ({"module": Lossless}, "training_step of the evaluator gave no loss"),
            ({"module": Empty}, "training_step of the evaluator gave no loss"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_a_search_cannot_use_is_named(self, tmp_path, parts, message):
        with pytest.raises(ValueError, match=message):
            search_it(tmp_path, DDARTS(w_abl=0), **parts)

    def test_metrics_are_there_at_the_end_of_every_validation(self, tmp_path):
        search_it(tmp_path, DARTS(), module=Reading, callbacks=[ReadingToo()])
        assert [sanity for sanity, _ in Reading.read] == [True, True, False, False]  # of the supernet and the derived

    @pytest.mark.parametrize("limits", [{"max_epochs": 1}, {"max_epochs": -1, "max_steps": 3}], ids=str)
    def test_a_trainer_that_has_done_its_work_gives_no_second_architecture(self, tmp_path, limits):
        trainer = search_it(tmp_path, DARTS(), **limits)
        with pytest.raises(ValueError, match="max_epochs: .*: the evaluator's Trainer did them: give each search an"):
            search_it(tmp_path, EDAS(), trainer=trainer)

    def test_a_space_is_searched_once(self, tmp_path):
        space = Chain()
        search_it(tmp_path, DARTS(), space=lambda: space)
        with pytest.raises(ValueError, match="Chain: a supernet already, of an earlier search: give a fresh instance"):
            search_it(tmp_path, EDAS(), space=lambda: space)

    def test_an_evaluator_that_trains_nothing_is_named(self, tmp_path):
        space, strategy, evaluator = Chain(), EDAS(), FunctionalEvaluator(len)
        config = NasExperimentConfig.default(space, evaluator, strategy)
        config.experiment_working_directory = tmp_path
        running = NasExperiment(space, evaluator, strategy, config)
        with pytest.raises(ValueError, match="FunctionalEvaluator: a search takes a Lightning evaluator"):
            running.run()
        running.stop()

    def test_a_list_of_one_loader_is_that_loader(self, tmp_path):
        trainer = search_it(tmp_path, DARTS(), train=[TWENTY], val=[TWENTY])
        assert trainer.fit_loop.epoch_loop.batch_progress.total.ready == 2

    @pytest.mark.parametrize("train", [40, None])
    @pytest.mark.parametrize("val", [8, 80, None])
    def test_images_may_come_as_streams_and_an_epoch_is_one_of_those_for_the_weights(self, tmp_path, train, val):
        loaders = (DataLoader(Stream(images), batch_size=8) for images in (train, val))
        limits = {"limit_val_batches": 2} | ({} if train else {"limit_train_batches": 5})
        trainer = search_it(tmp_path, DARTS(), Chain, Digits, *loaders, **limits)
        assert trainer.fit_loop.epoch_loop.batch_progress.total.ready == 5

    def test_a_stream_without_images_is_named(self, tmp_path):
        with pytest.raises(ValueError, match="the validation loader has no batch"):
            search_it(tmp_path, DARTS(), val=DataLoader(Stream(0), batch_size=8))

    @pytest.mark.parametrize("space", [Flat, Films], ids=lambda space: space.__name__)
    def test_a_space_keeps_the_layout_of_its_tensors(self, tmp_path, space):
        search_it(tmp_path, DARTS(), space)

    @pytest.mark.parametrize(("space", "channels_last"), [(Chain, False), (FastChain, True), (Hub, True)])
    def test_one_that_takes_a_faster_layout_gets_it(self, tmp_path, space, channels_last):
        weights = search_it(tmp_path, DARTS(), space, limit_train_batches=1).lightning_module.model.parameters()
        weight = next(one for one in weights if one.dim() == 4 and one.shape[1] > 1 and one.shape[2] > 1)
        assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last

    def test_a_module_that_inherits_from_nnis_computes_the_metrics_of_an_epoch_of_either_network(self, tmp_path):
        metrics = search_it(tmp_path, DARTS(), module=Counting).callback_metrics
        assert metrics["images"] == metrics["derived_images"] == 20

    def test_hooks_of_the_module_are_called_with_the_batches_that_they_know(self, tmp_path):
        search_it(tmp_path, DARTS(), module=Hooked, callbacks=[ModelCheckpoint(tmp_path)], enable_checkpointing=True)
        assert Hooked.called == HOOKS

    def test_those_of_a_data_module_too(self, tmp_path):
        data = Brightened()
        search_it(tmp_path, DARTS(), data=data, num_sanity_val_steps=0)
        assert data.seen == 4 * 20  # for the weights, for α, and twice to validate
