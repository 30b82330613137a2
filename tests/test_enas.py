"""NNI's ENAS on today's Lightning."""

import torch
from nni.nas.hub.pytorch import NasBench201
from pytorch_lightning.callbacks import Callback

from strategies.enas import ENAS


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
