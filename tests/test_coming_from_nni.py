"""Arguments and habits of NNI's strategies, as docs/coming_from_nni.md has them."""

import pytest
import torch
from nni.nas.evaluator.pytorch import ClassificationModule, DataLoader, Lightning, Trainer
from nni.nas.experiment import NasExperiment
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins import MixedPrecision
from torch import nn

from nas_plugins import DARTS, DDARTS, EDAS, DartsSpace, FairDARTS
from strategies.supernet.architecture import Mixed

STRATEGIES = [DARTS, EDAS, FairDARTS, DDARTS]


class Space(ModelSpace):
    def __init__(self):
        super().__init__()
        self.conv = LayerChoice([nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 5, padding=2)], label="conv")
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


class Logged(Callback):
    def __init__(self):
        self.metrics = []

    def on_train_batch_end(self, trainer, *args):
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_learning_rate_of_alpha_may_have_the_name_of_nni(strategy):
    alpha = nn.Parameter(torch.zeros(2))
    assert strategy(arc_learning_rate=0.125).composition.optimizer([alpha]).defaults["lr"] == 0.125
    with pytest.raises(TypeError, match="arc_learning_rate: another name of learning_rate, which is given too"):
        strategy(arc_learning_rate=0.1, learning_rate=0.1)


class Doubled(Mixed):
    """A layer of the user's own with a choice that no strategy knows: which of two factors to multiply by."""

    def __init__(self, label, architecture):
        super().__init__(architecture)
        self.label = label
        architecture.add_edge(label, [1, 2])

    @classmethod
    def mutate(cls, module, name, memo, kwargs):
        return cls(module.label, kwargs["architecture"]) if isinstance(module, Factor) else None

    def edges(self):
        return (self.label,)

    def forward(self, x):
        choice = self.architecture.plan[self.label]
        factors = torch.tensor([1.0, 2.0])
        return x * ((choice * factors).sum() if isinstance(choice, torch.Tensor) else factors[choice[0]])


class Factor(nn.Module):
    label = "factor"

    def forward(self, x):
        return x


@pytest.mark.parametrize("strategy", [DARTS, EDAS, FairDARTS, lambda **kwargs: DDARTS(w_abl=0, **kwargs)])
def test_a_mutation_hook_brings_a_choice_of_the_users_own(run_search, strategy):
    space = Space()
    space.head = nn.Sequential(Factor(), space.head)
    searching = strategy(mutation_hooks=[Doubled.mutate])
    (sample,) = run_search(space, searching, epochs=4).export_top_models(formatter="dict")
    assert isinstance(space.head[0], BaseSuperNetModule)
    assert set(searching.alphas()) == {"conv", "factor"}
    assert sample["factor"] in (1, 2)


@pytest.mark.parametrize(("strategy", "weights"), [(DARTS, torch.softmax), (FairDARTS, lambda a, dim: a.sigmoid())])
def test_the_weights_of_the_candidates_are_logged_as_by_nni(run_search, strategy, weights):
    logged, searching = Logged(), strategy(log_prob_every_n_step=1)
    run_search(Space(), searching, callbacks=[logged])
    now = weights(searching.architecture.alphas["conv"], dim=0).tolist()
    assert [logged.metrics[-1][f"prob/conv/{i}"] for i in (0, 1)] == pytest.approx(now)


def test_without_the_option_no_weights_are_logged(run_search):
    logged = Logged()
    run_search(Space(), DARTS(), callbacks=[logged])
    assert not [name for name in logged.metrics[-1] if name.startswith("prob/")]
    with pytest.raises(ValueError, match="log_prob_every_n_step: 0 should be at least 1"):
        DARTS(log_prob_every_n_step=0)


def evaluator(images, module=None, val=1, **kwargs):
    loader = DataLoader(images, batch_size=8)
    return Lightning(
        module or ClassificationModule(num_classes=10),
        Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **kwargs,
        ),
        train_dataloaders=loader,
        val_dataloaders=[loader] * val,
    )


def test_a_value_logged_by_default_is_there_at_each_step_as_in_lightning(images):
    logged = Logged()
    NasExperiment(Space(), evaluator(images, callbacks=[logged]), DARTS()).run()
    losses = [metrics["train_loss"] for metrics in logged.metrics]
    assert len(set(losses)) == 4  # a mean over the epoch would appear at its end


@pytest.mark.parametrize("export", [True, "model.onnx"])
def test_an_export_of_the_supernet_is_refused_before_anything_is_written(images, tmp_path, monkeypatch, export):
    monkeypatch.chdir(tmp_path)
    module = ClassificationModule(num_classes=10, export_onnx=export)
    with pytest.raises(ValueError, match=r"export_onnx: model.onnx would be the supernet: .*space.freeze\(sample\)"):
        NasExperiment(DartsSpace(channels=2, layers=3), evaluator(images, module), EDAS()).run()
    assert not list(tmp_path.rglob("*.onnx"))


def test_several_validation_loaders_are_refused_in_one_line(images):
    with pytest.raises(ValueError, match="^a search takes one validation loader; the evaluator has several$"):
        NasExperiment(Space(), evaluator(images, val=2), EDAS()).run()


class Small(ClassificationModule):
    """A loss so small that its gradients vanish in 16 bits."""

    def __init__(self):
        super().__init__(num_classes=10, optimizer=torch.optim.SGD, learning_rate=0.1)

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * 1e-6


@pytest.mark.parametrize("order", ["first", "second", "one-level"])
def test_small_gradients_reach_alpha_in_16_bits_since_the_loss_is_scaled(images, order):
    gradients = {}
    for precision in ("16-mixed", "32-true"):
        torch.manual_seed(0)
        strategy = DARTS(order, learning_rate=0.0)
        plugins = None
        if precision == "16-mixed":
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
            plugins = [MixedPrecision("16-mixed", "cpu", scaler)]
        NasExperiment(Space(), evaluator(images, Small(), plugins=plugins), strategy).run()
        gradients[precision] = strategy.architecture.alphas["conv"].grad
    assert gradients["16-mixed"].abs().min() > 0
    torch.testing.assert_close(gradients["16-mixed"], gradients["32-true"], rtol=0.05, atol=0)


def test_a_step_whose_scaled_gradient_overflows_moves_no_alpha(images):
    strategy = DARTS(learning_rate=1.0)
    plugins = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**60, growth_interval=1000))]
    NasExperiment(Space(), evaluator(images, plugins=plugins), strategy).run()
    assert strategy.architecture.alphas["conv"].isfinite().all()
    assert strategy.architecture.alphas["conv"].abs().max() < 0.1  # as it began: all four steps overflow
