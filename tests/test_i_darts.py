"""The strategy iDARTS, compared with its released code."""

import re

import pytest
import torch
from formula_supernet import FormulaSupernet, by_edge, largest_difference, values_of
from pytorch_lightning import Callback

from nas_plugins import DartsSpace
from strategies.i_darts import IDARTS

GRADIENTS = {
    "normal": [
        [0.237565407645, -0.481707738993, 0.723201211626, -0.479058880278],
        [-1.02127069646, 0.940998524359, 0.490361984215, -0.410089812114],
        [0.176879982037, -0.292973106938, 0.0895855065384, 0.0265076183632],
        [-0.979922209341, 0.834197364031, -0.372823609267, 0.518548454577],
        [0.0178175071744, 0.137484182764, 0.0548100460478, -0.210111735986],
    ],
    "reduce": [
        [0.197219755328, -0.745436848087, 0.862807281379, -0.314590188619],
        [-0.219380782992, 0.872426875264, 0.630005751859, -1.28305184413],
        [0.0834712580001, -0.597705607929, -0.0119639874171, 0.526198337346],
        [-0.720992072948, 0.683853739457, -0.22673218295, 0.263870516441],
        [0.0439331827552, -0.177903975115, 0.0438194015596, 0.0901513908004],
    ],
}
"""Of their commit 419a67b: the gradient of α by backward_step_unrolled of iDARTS_V2.ipynb without inner steps, learning
rate 0.025, two terms."""
EPSILON = 0.01 * 3.622654024884817
"""Their ε is 0.01 / ‖∇_w L_val‖, and ours is divided by the norm of the series, which is so many times as large."""


def test_the_gradient_is_that_of_the_released_code():
    strategy = IDARTS(epsilon=EPSILON)
    supernet = FormulaSupernet(strategy)
    gradients = strategy.composition.gradient(supernet.problem(learning_rate=0.025))
    found = values_of(supernet.architecture, dict(zip(supernet.architecture.alphas, gradients, strict=True)))
    assert largest_difference(found, by_edge(GRADIENTS)) < 1e-9


def test_it_has_the_settings_of_the_released_code():
    strategy = IDARTS()
    optimizer = strategy.composition.optimizer([torch.zeros(1, requires_grad=True)])
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": 3e-4,
        "betas": (0.5, 0.999),
        "weight_decay": 1e-3,
    }
    assert strategy.composition.weight_steps == 4


class Steps(Callback):
    """Counts the steps of α."""

    def on_train_end(self, trainer, searching):
        (alphas,) = searching._alpha_optimizers()
        self.count = int(next(iter(alphas.state.values()))["step"])


def test_an_architecture_step_follows_several_weight_steps(run_search):
    def space():
        return DartsSpace(channels=2, layers=3, nodes=2, operations=["skip_connect", "dil_conv_5x5"])

    steps = Steps()
    experiment = run_search(space(), IDARTS(weight_steps=2), batch_size=8, callbacks=[steps])  # four iterations
    assert steps.count == 2
    (sample,) = experiment.export_top_models(formatter="dict")
    assert space().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"terms": -1}, "terms: -1 should be at least 0"),
        ({"weight_steps": 0}, "weight_steps: 0 should be at least 1"),
        ({"epsilon": 0.0}, "epsilon: 0.0 should be above 0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        IDARTS(**settings)
