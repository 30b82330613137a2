"""The parts of a training: what it draws, what it writes and when it gives up."""

from __future__ import annotations

import os
import pickle
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
import yaml
from small_searches import FEW
from torch import nn
from torch.utils.data import DataLoader

from nas_plugins.cli import main
from nas_plugins.config.reader import Config, read_retrain
from nas_plugins.config.schema import NetworkConfig, Training
from nas_plugins.errors import InputError, Terminated
from nas_plugins.runs.tables import append_epoch, read_table
from nas_plugins.tasks import TASKS, Targets
from nas_plugins.training.callbacks import SeededEpochs
from nas_plugins.training.checkpoints import WholeCheckpoints, load_tensors, save_tensors
from nas_plugins.training.module import TaskModule
from nas_plugins.training.retrain import evaluate, retrain
from nas_plugins.training.search import resume, search
from nas_plugins.training.trainer import make_trainer
from search_spaces.genotype import Genotype
from search_spaces.network import Network

CELL = (("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2))
GENOTYPE = Genotype(cells=(CELL, CELL), layout=(0, 1, 1), reductions=(1, 2), concat=(2,))
DIGITS = Targets(TASKS["classification"], tuple("0123456789"))
BASE = {
    "data": {"dataset": "digits", "train_images": 120, "test_images": 40, "batch_size": 32},
    "training": {"epochs": 3},
    "compute": {"accelerator": "cpu", "threads": 1},
}
SPACE = {"channels": 2, "layers": 3, "nodes": 2, "operations": list(FEW)}
STATE = dict.fromkeys(("pytorch-lightning_version", "epoch", "state_dict", "optimizer_states", "loops", "callbacks"), 0)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """The config of a retraining."""
    file = tmp_path / "retrain.yaml"
    file.write_text(yaml.safe_dump({**BASE, "network": {"channels": 4}}))
    return file


class Draws(pl.LightningModule):
    """A module that learns nothing, and keeps what every epoch drew."""

    def __init__(self, wasteful: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.wasteful = wasteful
        self.drawn: dict[int, list[object]] = {}

    def training_step(self, batch, batch_idx):
        draws = [batch.tolist(), torch.rand(1).item(), float(np.random.rand()), random.random()]
        self.drawn.setdefault(self.current_epoch, []).append(draws)
        return self.weight.sum()

    def on_train_epoch_end(self):
        if self.wasteful:
            torch.rand(5), np.random.rand(5), random.random()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def config_of(file: Path, seed: int = 0, epochs: int = 3) -> Config:
    return read_retrain(file, ["--seed", str(seed), "--training.epochs", str(epochs)])


def draws(file: Path, run: Path, checkpoint: Path | None = None, module: Draws | None = None, **settings: int):
    module = module or Draws()
    trainer = make_trainer(config_of(file, **settings), run, [])
    trainer.fit(module, DataLoader(range(40), batch_size=10, shuffle=True), ckpt_path=checkpoint)
    return module.drawn


class TestSeededEpochs:
    def test_every_epoch_draws_something_else(self, config_file, tmp_path):
        drawn = draws(config_file, tmp_path / "run")
        assert drawn[0] != drawn[1] != drawn[2] != drawn[0]

    def test_the_same_seed_draws_the_same_whatever_was_drawn_before(self, config_file, tmp_path):
        first = draws(config_file, tmp_path / "one")
        torch.manual_seed(99)
        assert draws(config_file, tmp_path / "two", module=Draws(wasteful=True)) == first

    def test_another_seed_draws_something_else(self, config_file, tmp_path):
        assert draws(config_file, tmp_path / "one", seed=1)[0] != draws(config_file, tmp_path / "two", seed=2)[0]

    def test_an_epoch_after_a_resume_draws_what_it_would_have_drawn(self, config_file, tmp_path):
        whole = draws(config_file, tmp_path / "whole")
        draws(config_file, tmp_path / "run", epochs=1)
        resumed = draws(config_file, tmp_path / "run", tmp_path / "run/checkpoints/last.ckpt")
        assert resumed == {1: whole[1], 2: whole[2]}

    def test_its_state_is_the_next_epoch(self):
        seeded = SeededEpochs(0)
        seeded.load_state_dict({"next_epoch": 4})
        assert seeded.state_dict() == {"next_epoch": 4}


class TestWholeCheckpoints:
    def test_reads_what_it_writes(self, tmp_path):
        io, file = WholeCheckpoints(), tmp_path / "deep" / "last.ckpt"
        io.save_checkpoint({**STATE, "a": torch.ones(2), "b": {"c": [1, "x", None]}}, file)
        loaded = io.load_checkpoint(file)
        assert torch.equal(loaded["a"], torch.ones(2))
        assert loaded["b"] == {"c": [1, "x", None]}

    def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(self, tmp_path):
        io, file = WholeCheckpoints(), tmp_path / "last.ckpt"
        io.save_checkpoint(STATE, file)
        with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
            io.save_checkpoint({"large": torch.zeros(10_000), "no": lambda: None}, file)
        assert io.load_checkpoint(file) == STATE
        assert os.listdir(tmp_path) == ["last.ckpt"]

    def test_a_first_write_that_fails_leaves_nothing(self, tmp_path):
        with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
            WholeCheckpoints().save_checkpoint({"no": lambda: None}, tmp_path / "last.ckpt")
        assert os.listdir(tmp_path) == []

    def test_a_run_keeps_one_checkpoint_of_the_last_epoch(self, config_file, tmp_path):
        draws(config_file, tmp_path / "run")
        assert os.listdir(tmp_path / "run/checkpoints") == ["last.ckpt"]
        assert load_tensors(tmp_path / "run/checkpoints/last.ckpt")["epoch"] == 2


class Evil:
    """What unpickles to a new file."""

    def __init__(self, file: Path) -> None:
        self.file = str(file)

    def __reduce__(self):
        return (open, (self.file, "w"))


class TestLoadTensors:
    def test_a_file_that_would_run_something_runs_nothing(self, tmp_path):
        file, trace = tmp_path / "weights.pt", tmp_path / "trace"
        torch.save({"a": Evil(trace)}, file)
        with pytest.raises(InputError, match=r"weights\.pt: damaged, or not written by nas-plugins"):
            load_tensors(file)
        assert not trace.exists()

    def test_a_plain_pickle_that_would_run_something_runs_nothing(self, tmp_path):
        file, trace = tmp_path / "weights.pt", tmp_path / "trace"
        file.write_bytes(pickle.dumps(Evil(trace)))
        with pytest.raises(InputError, match="damaged"):
            load_tensors(file)
        assert not trace.exists()

    @pytest.mark.parametrize("keep", (0, 1, 100, 0.5, 0.99))
    def test_a_truncated_file(self, tmp_path, keep):
        file = tmp_path / "weights.pt"
        torch.save({"a": torch.zeros(1000)}, file)
        whole = file.read_bytes()
        file.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
        with pytest.raises(InputError) as caught:
            load_tensors(file)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_something_else(self, tmp_path):
        file = tmp_path / "weights.pt"
        torch.save([1, 2], file)
        with pytest.raises(InputError, match="holds a list"):
            load_tensors(file)

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(InputError, match="there is no such file"):
            load_tensors(tmp_path / "weights.pt")


class TestAppendEpoch:
    def test_makes_the_table(self, tmp_path):
        append_epoch(tmp_path / "t.csv", 0, [{"epoch": 0, "x": 1.5}, {"epoch": 0, "x": 2.5}])
        assert (tmp_path / "t.csv").read_text() == "epoch,x\n0,1.5\n0,2.5\n"

    def test_replaces_rows_of_the_same_and_later_epochs(self, tmp_path):
        file = tmp_path / "t.csv"
        for epoch in range(4):
            append_epoch(file, epoch, [{"epoch": epoch, "x": epoch}])
        append_epoch(file, 2, [{"epoch": 2, "x": 20}])
        assert pd.read_csv(file).to_dict("list") == {"epoch": [0, 1, 2], "x": [0, 1, 20]}

    def test_the_first_epoch_replaces_all(self, tmp_path):
        file = tmp_path / "t.csv"
        for epoch in (0, 1, 0):
            append_epoch(file, epoch, [{"epoch": epoch, "x": 7 * epoch}])
        assert file.read_text() == "epoch,x\n0,0\n"

    def test_keeps_what_is_empty_empty(self, tmp_path):
        file = tmp_path / "t.csv"
        for epoch in range(3):
            append_epoch(file, epoch, [{"epoch": epoch, "x": None, "y": 0.25}])
        assert file.read_text() == "epoch,x,y\n0,,0.25\n1,,0.25\n2,,0.25\n"

    def test_earlier_rows_keep_every_digit(self, tmp_path):
        file = tmp_path / "t.csv"
        values = torch.randn(200, generator=torch.Generator().manual_seed(0)).tolist()
        for epoch, value in enumerate(values):
            append_epoch(file, epoch, [{"epoch": epoch, "x": value}])
        assert list(read_table(file, ["epoch"])["x"]) == values

    def test_edges_with_other_candidates_share_the_table(self, tmp_path):
        file = tmp_path / "t.csv"
        for epoch in range(2):
            append_epoch(
                file, epoch, [{"epoch": epoch, "edge": "a", "x": 1.0}, {"epoch": epoch, "edge": "b", "y": 2.0}]
            )
        table = pd.read_csv(file)
        assert list(table["edge"]) == ["a", "b"] * 2
        assert table["x"].isna().tolist() == [False, True] * 2


LOST = ["--training.learning_rate", "1e6", "--training.weight_decay", "1e6"]
"""Weights grow a billion times in an iteration, until they are none."""


class Lose(pl.Callback):
    """Loses a parameter in the last iteration."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.is_last_batch:
            next(value for name, value in pl_module.named_parameters() if self.name in name).data.fill_(torch.nan)


class TestLossThatIsLost:
    def test_a_retraining_says_so_in_one_line(self, config_file, tmp_path):
        GENOTYPE.save(tmp_path / "g.json")
        with pytest.raises(
            InputError, match=r"^the (training|validation) loss became .* lower training\.learning_rate"
        ) as caught:
            retrain(tmp_path / "g.json", config_file, tmp_path / "run", LOST)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("strategy", ("EDAS", "DARTS", "nni.nas.strategy.DARTS"))
    def test_a_search_says_so_in_one_line(self, tmp_path, strategy):
        config = {**BASE, "space": SPACE, "strategy": {"name": strategy}}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(
            InputError, match=r"^the (training|validation) loss became .* lower training\.learning_rate"
        ) as caught:
            search(tmp_path / "c.yaml", tmp_path / "run", LOST)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run" / "genotype.json").exists()

    def test_the_checkpoint_is_never_of_the_lost_epoch(self, config_file, tmp_path):
        GENOTYPE.save(tmp_path / "g.json")
        with pytest.raises(InputError):
            retrain(tmp_path / "g.json", config_file, tmp_path / "run", LOST)
        checkpoint, metrics = tmp_path / "run/checkpoints/last.ckpt", tmp_path / "run/metrics.csv"
        if checkpoint.exists():
            assert all(weight.isfinite().all() for weight in load_tensors(checkpoint)["state_dict"].values())
        if metrics.exists():
            assert np.isfinite(pd.read_csv(metrics)["train_loss"]).all()
        with pytest.raises(InputError, match="loss became nan in epoch 0"):
            resume(tmp_path / "run")

    def test_of_the_last_iteration_the_validation_tells(self, config_file, tmp_path):
        GENOTYPE.save(tmp_path / "g.json")
        one = ["--training.epochs", "1", "--data.train_images", "64", "--data.batch_size", "64"]
        with pytest.raises(
            InputError, match=r"^the validation loss became .* in epoch 0: lower training\.learning_rate"
        ):
            retrain(tmp_path / "g.json", config_file, tmp_path / "run", [*one, *LOST])
        assert not [*(tmp_path / "run").glob("*.csv"), *(tmp_path / "run").glob("*/*.ckpt")]

    @pytest.mark.parametrize(
        ("strategy", "name", "line"),
        [
            ("EDAS", "edge", "an α became nan in epoch 0: lower strategy.learning_rate in a new run; "),
            (
                "nni.nas.strategy.DARTS",
                "stem",
                "a weight became nan in epoch 0: lower training.learning_rate in a new ",
            ),
        ],
    )
    def test_of_the_last_iteration_the_parameters_tell(self, tmp_path, strategy, name, line):
        """An α that no batch has met, and the weights of a search that NNI validates never."""
        config = {**BASE, "space": SPACE, "strategy": {"name": strategy}}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(InputError, match=f"^{re.escape(line)}"):
            search(tmp_path / "c.yaml", tmp_path / "run", callbacks=[Lose(name)])
        assert not [*(tmp_path / "run").glob("*.csv"), *(tmp_path / "run").glob("*/*.ckpt")]


@pytest.fixture(scope="module")
def retrained(tmp_path_factory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("retrained")
    GENOTYPE.save(folder / "g.json")
    config = {**BASE, "network": {"channels": 4}, "training": {"epochs": 1}}
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    return retrain(folder / "g.json", folder / "c.yaml", folder / "run")


class TestEvaluate:
    def test_weights_that_are_lost_have_no_result(self, retrained, tmp_path):
        run = shutil.copytree(retrained, tmp_path / "run")
        weights = load_tensors(run / "weights.pt")
        weights |= {name: weight * torch.nan for name, weight in weights.items() if weight.is_floating_point()}
        save_tensors(weights, run / "weights.pt")
        with pytest.raises(InputError, match=f"^{run}/weights.pt: the test loss is nan, for the weights are lost; "):
            evaluate(run)
        assert not (run / "test.json").exists()

    @pytest.mark.parametrize(
        ("kind", "status", "word"), [(KeyboardInterrupt, 130, "interrupted"), (Terminated, 143, "terminated")]
    )
    def test_one_that_is_told_to_end_says_so(self, retrained, monkeypatch, capsys, kind, status, word):
        def told(*_: object) -> None:
            raise kind

        monkeypatch.setattr(TaskModule, "test_step", told)
        assert main(["evaluate", str(retrained)]) == status
        assert capsys.readouterr().err == f"nas-plugins: {word}\n"


def cosine(share: float) -> float:
    """From 0.1 to 0.02."""
    return 0.02 + 0.08 * (1 + np.cos(np.pi * share)) / 2


def rates_of(config_file: Path, run: Path, overrides: dict[str, object] | None = None) -> list[float]:
    """The learning rate of every epoch, and that after the last."""
    given = {"--training.learning_rate": 0.1, "--training.min_learning_rate": 0.02, **(overrides or {})}
    config = read_retrain(config_file, [str(part) for item in given.items() for part in item])
    rates = []

    class Watch(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    module = TaskModule(DIGITS, config.training)
    module.set_model(Network.from_genotype(GENOTYPE, channels=4, image_channels=1))
    trainer = make_trainer(config, run, [Watch()])
    trainer.fit(module, datamodule=config.data())
    return [*rates, trainer.optimizers[0].param_groups[0]["lr"]]


def go_on(run: Path, epochs: int) -> None:
    """Make a finished run one that was stopped on its way to more epochs, and resume it."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["training"]["epochs"] = epochs
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    resume(run)


class TestTaskModule:
    def test_drop_path_grows_linearly(self, config_file, tmp_path):
        seen: dict[int, list[float]] = {}

        class Watch(pl.Callback):
            def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
                seen[trainer.current_epoch] = [cell.drop_path for cell in pl_module.model.cells]

        config = config_of(config_file, epochs=4)
        module = TaskModule(DIGITS, config.training, NetworkConfig(drop_path=0.4))
        module.set_model(Network.from_genotype(GENOTYPE, channels=4, image_channels=1))
        make_trainer(config, tmp_path / "run", [Watch()]).fit(module, datamodule=config.data())
        assert seen == {epoch: pytest.approx([0.1 * epoch] * 3) for epoch in range(4)}

    def test_the_learning_rate_falls_along_a_cosine_to_its_least(self, config_file, tmp_path):
        rates = rates_of(config_file, tmp_path / "run")
        assert rates == pytest.approx([cosine(epoch / 3) for epoch in range(4)])

    def test_the_learning_rate_restarts_after_each_period(self, config_file, tmp_path):
        """SGDR, Eq. 5: periods of 2 and 4 epochs, then one that is cut off."""
        restarts = {"--training.epochs": 7, "--training.restart_epochs": 2, "--training.restart_factor": 2}
        rates = rates_of(config_file, tmp_path / "run", restarts)
        periods = [cosine(epoch / 2) for epoch in range(2)] + [cosine(epoch / 4) for epoch in range(4)]
        assert rates == pytest.approx([*periods, cosine(0), cosine(1 / 8)])

    def test_periods_have_one_length_unless_said_otherwise(self, config_file, tmp_path):
        rates = rates_of(config_file, tmp_path / "run", {"--training.epochs": 4, "--training.restart_epochs": 2})
        assert rates == pytest.approx([cosine(0), cosine(0.5), cosine(0), cosine(0.5), cosine(0)])

    def test_a_resume_goes_on_in_the_middle_of_a_period(self, config_file, tmp_path):
        def retrained_for(epochs: int, run: Path) -> Path:
            restarts = ["--training.restart_epochs", "2", "--training.restart_factor", "2"]
            return retrain(tmp_path / "g.json", config_file, run, [*restarts, "--training.epochs", str(epochs)])

        GENOTYPE.save(tmp_path / "g.json")
        weights = load_tensors(retrained_for(6, tmp_path / "whole") / "weights.pt")
        for stop in (1, 2, 3, 5):
            stopped = retrained_for(stop, tmp_path / f"{stop}")
            (stopped / "weights.pt").unlink()
            go_on(stopped, epochs=6)
            others = load_tensors(stopped / "weights.pt")
            assert all(torch.equal(weights[name], others[name]) for name in weights), stop

    def test_so_does_a_search(self, tmp_path):
        restarts = {"restart_epochs": 2, "restart_factor": 2}
        data = {**BASE["data"], "train_images": 64}
        config = {**BASE, "data": data, "space": SPACE, "training": {"epochs": 5, **restarts}}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        whole = search(tmp_path / "c.yaml", tmp_path / "whole")
        stopped = search(tmp_path / "c.yaml", tmp_path / "stopped", ["--training.epochs", "3"])
        (stopped / "genotype.json").unlink()
        go_on(stopped, epochs=5)
        assert (whole / "alphas.csv").read_bytes() == (stopped / "alphas.csv").read_bytes()
        rates = [load_tensors(run / "checkpoints/last.ckpt")["lr_schedulers"] for run in (whole, stopped)]
        assert rates[0] == rates[1] and rates[0][0]["T_cur"] == 3

    def test_the_auxiliary_loss_has_its_weight(self):
        torch.manual_seed(0)
        images, labels = torch.randn(4, 1, 32, 32), torch.tensor([0, 1, 2, 3])
        network = Network.from_genotype(GENOTYPE, channels=4, image_channels=1, auxiliary=True).train()
        logits, auxiliary = network(images)
        losses = {}
        for weight in (0.0, 1.0):
            module = TaskModule(DIGITS, Training(), NetworkConfig(auxiliary_weight=weight))
            module.set_model(network)
            module.log = lambda *args, **kwargs: None
            losses[weight] = module.training_step((images, labels), 0).item()
        cross_entropy = nn.functional.cross_entropy
        assert losses[0.0] == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-4)
        assert losses[1.0] - losses[0.0] == pytest.approx(cross_entropy(auxiliary, labels).item(), rel=1e-4)

    def test_label_smoothing_is_that_of_the_config(self):
        logits, labels = torch.randn(4, 10), torch.arange(4)
        module = TaskModule(DIGITS, Training(label_smoothing=0.1))
        expected = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
        assert module.criterion(logits, labels) == expected


@pytest.mark.parametrize("accelerator", ("quantum", "tpu"))
def test_an_accelerator_that_is_not_there_is_one_line(config_file, tmp_path, accelerator):
    GENOTYPE.save(tmp_path / "g.json")
    with pytest.raises(InputError, match="compute") as caught:
        retrain(tmp_path / "g.json", config_file, tmp_path / "run", ["--compute.accelerator", accelerator])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
