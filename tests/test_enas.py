"""NNI's ENAS on today's Lightning."""

import pandas as pd
import pytest
import torch
from nni.nas.hub.pytorch import NasBench201
from pytorch_lightning.callbacks import Callback

from nas_plugins.cli import main
from strategies.enas import ENAS

CONFIG = """
space: {name: DartsSpace, channels: 2, layers: 3, nodes: 1}
data: {dataset: digits, train_images: 70, test_images: 20, batch_size: 16}
training: {epochs: 1}
compute: {accelerator: cpu, threads: 1}
"""


class Watch(Callback):
    """Which weights and how much of the controller have been trained after each batch."""

    def __init__(self) -> None:
        self.weights, self.rewards = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.weights.append(torch.cat([w.detach().flatten() for w in pl_module.model.stem.parameters()]).clone())
        self.rewards.append(pl_module._trajectory_counter)


def test_training_batches_train_the_weights_and_validation_batches_reward_the_controller(run_search):
    watch = Watch()
    space = NasBench201(stem_out_channels=4, num_modules_per_stack=1)
    run_search(space, ENAS(reward_metric_name="val_acc"), batch_size=8, callbacks=[watch])
    moved = [not torch.equal(a, b) for a, b in zip(watch.weights, watch.weights[1:], strict=False)]
    assert moved == [True] * 3 + [False] * 4  # four batches of each kind: the weights rest when validation begins
    assert watch.rewards == [0] * 4 + [1, 2, 3, 4]


def test_its_sample_freezes_the_space(run_search):
    def space():
        return NasBench201(stem_out_channels=4, num_modules_per_stack=1)

    strategy = ENAS(reward_metric_name="val_acc", batches_per_update=2)
    (sample,) = run_search(space(), strategy).export_top_models(formatter="dict")
    assert space().freeze(sample)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


class TestCommandLine:
    @pytest.fixture
    def search(self, tmp_path):
        """Run a search with a strategy into tmp_path/run."""
        (tmp_path / "c.yaml").write_text(CONFIG)

        def run(strategy: str) -> int:
            files = ["--config", str(tmp_path / "c.yaml"), "--output", str(tmp_path / "run")]
            return main(["search", *files, "--strategy", strategy])

        return run

    def test_it_is_rewarded_by_the_accuracy_of_every_step(self, search, tmp_path, monkeypatch):
        rewards = []
        monkeypatch.setattr("nni.nas.strategy._rl_impl.TuningTrajectoryGenerator.send_reward", rewards_into(rewards))
        assert search("{name: strategies.enas.ENAS, batches_per_update: 2}") == 0
        metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")
        assert len(rewards) > 1 and metrics["val_acc"].item() == pytest.approx(sum(rewards) / len(rewards))
        assert (tmp_path / "run" / "genotype.json").exists()

    @pytest.mark.parametrize(
        ("strategy", "line"),
        [
            (
                "{name: nni.nas.strategy.ENAS, reward_metric_name: val_acc}",
                "strategy.name: nni.nas.strategy.ENAS does not run on today's Lightning; write strategies.enas.ENAS",
            ),
            (
                "{name: strategies.enas.ENAS, reward_metric_name: acc}",
                "strategy.reward_metric_name: 'acc' should be val_acc, which the search logs",
            ),
        ],
        ids=["NNI's own", "reward"],
    )
    def test_what_could_not_run_is_refused_before_anything_is_written(self, search, tmp_path, capsys, strategy, line):
        assert search(strategy) == 2
        assert capsys.readouterr().err == f"nas-plugins: {line}\n"
        assert not (tmp_path / "run").exists()


def rewards_into(rewards):
    """What NNI does with a reward, which is kept, too."""
    from nni.nas.strategy._rl_impl import TuningTrajectoryGenerator

    send = TuningTrajectoryGenerator.send_reward

    def send_reward(self, reward):
        rewards.append(reward)
        return send(self, reward)

    return send_reward
