"""The strategy GDAS, compared with its released code."""

import re

import pytest
import torch
from nni.nas.nn.pytorch import InputChoice, ModelSpace
from sampled_steps import four_images, iterate

from nas_plugins import DartsSpace
from strategies.gdas import GDAS
from strategies.gumbel import HardGumbelSoftmax
from strategies.relaxation import Step


@pytest.fixture
def images():
    return four_images()


# Of AutoDL-Projects f46486e: NASNetworkGDAS(2, 1, 2, 2, 3, 10, …) after an architecture step and a weight step, with τ
# of the first of five epochs. Edges in the order of ours; none, the last candidate, is sampled on those of zeros.
GRADIENTS = [
    [0.000000000000, 0.000000000000, 0.000000000000, 0.000000000000],
    [0.071042182411, -0.025926807153, -0.023496811875, -0.021618563382],
    [-0.004792917860, -0.005134661662, 0.015870536825, -0.005942957304],
    [-0.017053268320, 0.005676853141, 0.005518533215, 0.005857881965],
    [0.024046088364, -0.068100945227, 0.022946136538, 0.021108720325],
    [0.000000000000, 0.000000000000, 0.000000000000, 0.000000000000],
    [0.137214058198, -0.047792344196, -0.044070461075, -0.045351252927],
    [0.014390864576, -0.044768665585, 0.016001818474, 0.014375982535],
    [0.000000000000, 0.000000000000, 0.000000000000, 0.000000000000],
    [0.107238587387, -0.038289221141, -0.035263444954, -0.033685921293],
]
FIRST_EDGES_AFTER = [
    [0.420435499534, 0.454348720011, 0.070260046541, -0.378101255582],
    [-0.479762137289, -0.139407749215, 0.328793299230, 0.494979123170],
]
WEIGHTS_AFTER = 5.180223788681645


def test_one_iteration_is_that_of_the_released_code(run_search, monkeypatch):
    after = iterate(run_search, monkeypatch, DartsSpace, GDAS())
    for gradient, row in zip(after.gradients, GRADIENTS, strict=True):
        assert gradient == pytest.approx(row, abs=1e-10)
    for alpha, row in zip(after.alphas, FIRST_EDGES_AFTER, strict=False):
        assert alpha == pytest.approx(row, abs=1e-10)
    assert after.weights == pytest.approx(WEIGHTS_AFTER, abs=1e-10)


def test_tau_falls_linearly_from_the_first_epoch_to_the_last():
    relaxation = HardGumbelSoftmax(seed=0)
    assert [relaxation.tau(Step(0, epoch, 5)) for epoch in range(5)] == pytest.approx([10, 7.525, 5.05, 2.575, 0.1])
    assert relaxation.tau(Step(0, 0, 1)) == 10


def test_candidates_are_sampled_with_their_probabilities_and_weight_one():
    relaxation, alphas = HardGumbelSoftmax(seed=3), {"edge": torch.tensor([1.0, 0.0, -1.0, 2.0])}
    plans = [relaxation.architecture(alphas, Step(iteration, 0, 1))["edge"] for iteration in range(1000)]
    assert all(plan.weights.tolist() == [1.0] for plan in plans)
    counts = torch.bincount(torch.tensor([plan.indices[0] for plan in plans]), minlength=4)
    assert torch.allclose(counts / 1000, torch.softmax(alphas["edge"], 0), atol=0.05)


def test_both_steps_have_samples_of_their_own_which_a_resumed_search_repeats():
    alphas = {f"edge {i}": torch.zeros(7) for i in range(28)}

    def samples(seed):
        relaxation, step = HardGumbelSoftmax(seed), Step(5, 0, 2)
        architecture = {edge: entry.indices for edge, entry in relaxation.architecture(alphas, step).items()}
        return architecture, relaxation.weights(alphas, step)

    assert samples(1) == samples(1)
    assert samples(1)[0] != samples(1)[1]
    assert samples(1)[0] != samples(2)[0]


def test_it_has_the_settings_of_the_paper():
    strategy = GDAS()
    optimizer = strategy.composition.optimizer([torch.zeros(1, requires_grad=True)])
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": 3e-4,
        "betas": (0.5, 0.999),
        "weight_decay": 1e-3,
    }
    relaxation = strategy.composition.relaxation
    assert (relaxation.tau_max, relaxation.tau_min, relaxation.seed) == (10.0, 0.1, torch.initial_seed())


@pytest.mark.parametrize("settings", [{"tau_min": 0.0}, {"tau_max": 0.05}], ids=str)
def test_a_temperature_out_of_range_is_named(settings):
    with pytest.raises(ValueError, match=re.escape("should be above 0 and at most tau_max")):
        GDAS(**settings)


def test_an_input_choice_of_two_inputs_is_refused():
    class TwoInputs(ModelSpace):
        def __init__(self):
            super().__init__()
            self.choice = InputChoice(3, n_chosen=2, label="inputs")

    with pytest.raises(TypeError, match=re.escape("the input choice 'inputs' takes more than one input")):
        GDAS().mutate_model(TwoInputs())
