"""The strategy RobustDARTS and its stop rule, compared with the released code."""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback
from released_steps import Filled, one_batch, small_space
from torch import nn

from strategies import stop_rules
from strategies.dropout import ScheduledDropout
from strategies.relaxation import Step
from strategies.robust_darts import RobustDARTS
from strategies.stop_rules import EIGENVALUES, dominant_eigenvalue
from strategies.supernet.architecture import Architecture


@pytest.fixture
def images():
    return one_batch()


class Still(Filled):
    """A search whose steps have length 0."""

    def on_train_start(self, trainer, searching):
        super().on_train_start(trainer, searching)
        for optimizer in trainer.optimizers:
            optimizer.param_groups[0]["lr"] = 0.0
        self.memory = searching.memory


def test_the_eigenvalue_is_that_of_the_released_code(run_search):
    still = Still()
    strategy = RobustDARTS(order="first")
    run_search(small_space(), strategy, batch_size=4, precision="64-true", epochs=2, callbacks=[still])
    # Of their commit 3dec3fe: Analyzer.compute_Hw, less the decay of α (1e-3) that they add to the diagonal.
    assert still.memory == {EIGENVALUES: [pytest.approx(2.3880984301283794, abs=1e-10)]}


def stops(series, monkeypatch, **settings):
    """Return the epoch that ends a search of 50 and the epoch whose α it derives, None for neither."""
    eigenvalues = iter(series[:: settings.get("every", 2)])
    monkeypatch.setattr(stop_rules, "largest_eigenvalue", lambda loss, alphas: next(eigenvalues))
    architecture, memory = Architecture(), {}
    architecture.add_edge("normal/0->2", ["skip_connect", "sep_conv_3x3"])
    rule = dominant_eigenvalue(**settings)
    history = [{"normal/0->2": {"skip_connect": float(number), "sep_conv_3x3": 0.0}} for number in range(50)]
    for number in range(50):
        epoch = SimpleNamespace(
            step=Step(epoch=number, epochs=50),
            memory=memory,
            architecture=architecture,
            history=history[: number + 1],
            val_loss=lambda: None,
            model=nn.Identity(),
        )
        if rule(epoch):
            return number, architecture.table()["normal/0->2"]["skip_connect"]
    return None


RISING = [0.1 * 1.06**number for number in range(50)]
WAVES = [0.3 + 0.1 * math.sin(number) + 0.02 * max(0, number - 25) for number in range(50)]


@pytest.mark.parametrize(
    ("series", "settings", "expected"),
    [
        # Of their EVLocalAvg, in a loop like that of their train_search.py.
        (RISING, {}, (22, 10)),
        (RISING, {"window": 3, "distance": 2, "start": 4}, None),
        (WAVES, {}, (34, 22)),
        (WAVES, {"every": 1}, (29, 23)),
        (WAVES, {"factor": 1.8}, None),
        ([0.2] * 50, {}, None),
    ],
    ids=["rising", "near", "waves", "every", "factor", "flat"],
)
def test_it_stops_and_goes_back_as_the_released_code(series, settings, expected, monkeypatch):
    assert stops(series, monkeypatch, **settings) == expected


def test_the_last_epoch_cannot_end_early(monkeypatch):
    assert stops([0.1] * 48 + [9.0] * 2, monkeypatch, every=1, window=1, distance=1) == (48, 47)
    assert stops([0.1] * 49 + [9.0], monkeypatch, every=1, window=1, distance=1) is None


def test_the_alphas_before_the_rise_are_derived(run_search):
    class Alphas(Callback):
        def on_train_epoch_end(self, trainer, searching):
            self.history, self.now = list(searching.history), searching.architecture.table()

    alphas = Alphas()
    strategy = RobustDARTS(stop_factor=1e-9, every=1, window=1, distance=1, start=0, order="first", none=False)
    experiment = run_search(small_space(), strategy, epochs=4, batch_size=4, precision="64-true", callbacks=[alphas])
    assert len(alphas.history) == 2
    assert alphas.now == alphas.history[0] == strategy.alphas() != alphas.history[1]
    (sample,) = experiment.export_top_models(formatter="dict")
    assert small_space().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_it_has_the_settings_of_the_released_code():
    composition = RobustDARTS().composition
    optimizer = composition.optimizer([torch.zeros(1, requires_grad=True)])
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": 3e-4,
        "betas": (0.5, 0.999),
        "weight_decay": 1e-3,
    }
    assert composition.gradient.func.__name__ == "second_order"
    assert composition.candidate is None
    assert RobustDARTS(stop_factor=None).composition.stop is None


def test_paths_are_dropped_more_often_from_epoch_to_epoch():
    strategy = RobustDARTS(drop_path=0.6)
    model = strategy.mutate_model(small_space())
    dropping = [module for module in model.modules() if isinstance(module, ScheduledDropout)]
    assert len(dropping) == 3 * 5 * 3  # layers, edges, candidates
    x = torch.ones(2000, 1, 1, 1)
    for number in (0, 25, 49):
        strategy.architecture.step = Step(epoch=number, epochs=50)
        out = dropping[0](x)
        assert (out == 0).double().mean().item() == pytest.approx(0.6 * number / 49, abs=0.04)
        assert out.mean().item() == pytest.approx(1.0, abs=0.1)
    assert torch.equal(dropping[0].eval()(x), x)


def test_it_searches_with_drop_path(run_search):
    strategy = RobustDARTS(drop_path=0.3, stop_factor=None, order="first")
    experiment = run_search(small_space(), strategy, epochs=2, batch_size=4, precision="64-true")
    (sample,) = experiment.export_top_models(formatter="dict")
    assert small_space().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stop_factor": 0.0}, "stop_factor: 0.0 should be above 0, or null for a search of all epochs"),
        ({"window": 4}, "window: 4 should be odd and at least 1"),
        ({"every": 0}, "every: 0 should be at least 1"),
        ({"distance": 0}, "distance: 0 should be at least 1"),
        ({"start": -1}, "start: -1 should be at least 0"),
        ({"drop_path": 1.0}, "drop_path: 1.0 should be from 0 to below 1"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        RobustDARTS(**settings)
