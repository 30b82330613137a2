"""The strategy SNAS, compared with the authors' code."""

import re

import pytest
import torch
from sampled_steps import four_images, iterate

from nas_plugins import DartsSpace
from strategies.relaxation import Step
from strategies.snas import SNAS, ConcreteEdges


@pytest.fixture
def images():
    return four_images()


# Of SNAS-Series 9a43adb (Analysis/snas): Network(2, 10, 3, …, steps=2, multiplier=2) after a step at temperature 1,
# with their reduction cells put back. Edges in the order of ours.
GRADIENTS = [
    [0.067184508087, -0.357572498397, -0.024871097736, 0.315259088046],
    [0.319067241469, -0.179497106986, -0.091097621381, -0.048472513102],
    [0.023709320630, 0.047805755781, 0.131558946151, -0.203074022562],
    [0.123745692410, -0.092160518170, -0.120801323275, 0.089216149035],
    [0.154436297166, -0.195565260372, -0.005578654487, 0.046707617693],
    [-0.041190512567, -0.018548510065, 0.077735463024, -0.017996440392],
    [-0.378746890177, 0.347898991924, -0.015366653062, 0.046214551314],
    [0.099297384378, -0.005535584454, -0.056906261535, -0.036855538389],
    [0.019307044313, 0.014570038750, -0.076494092616, 0.042617009554],
    [-0.100321208110, 0.051294081534, 0.045421934218, 0.003605192359],
]
FIRST_EDGES_AFTER = [
    [0.420435492448, 0.454948713404, 0.070860003909, -0.378701247644],
    [-0.479762137322, -0.139407749116, 0.328793299326, 0.494979123249],
]
WEIGHTS_AFTER = 5.54081905826243


def test_one_iteration_is_that_of_the_released_code(run_search, monkeypatch):
    after = iterate(run_search, monkeypatch, DartsSpace, SNAS())
    for gradient, row in zip(after.gradients, GRADIENTS, strict=True):
        assert gradient == pytest.approx(row, abs=1e-10)
    for alpha, row in zip(after.alphas, FIRST_EDGES_AFTER, strict=False):
        assert alpha == pytest.approx(row, abs=1e-10)
    assert after.weights == pytest.approx(WEIGHTS_AFTER, abs=1e-10)


def test_the_temperature_falls_linearly_as_the_authors_does():
    theirs = [0.9935333333333334, 0.9870666666666666, 0.515]  # of Temp_Scheduler.step, call 1, 2 and 75 of 150
    relaxation = ConcreteEdges(seed=0)
    assert [relaxation.temperature(Step(0, epoch, 150)) for epoch in (1, 2, 75)] == pytest.approx(theirs)
    assert relaxation.temperature(Step(0, 0, 150)) == 1.0


def test_at_a_low_temperature_the_weights_are_nearly_one_hot_samples_of_softmax():
    relaxation, alphas = ConcreteEdges(3, 0.03, 0.03), {"edge": torch.tensor([1.0, 0.0, -1.0, 2.0])}
    weights = torch.stack([relaxation.weights(alphas, Step(i, 0, 1))["edge"] for i in range(1000)])
    assert weights.max(dim=1).values.mean() > 0.97
    assert torch.allclose(weights.mean(dim=0), torch.softmax(alphas["edge"], 0), atol=0.05)


def test_alpha_and_weights_share_a_sample_which_differs_between_iterations():
    relaxation, alphas = ConcreteEdges(seed=1), {"edge": torch.zeros(7)}
    first, again, later = (relaxation.architecture(alphas, Step(i, 0, 2))["edge"] for i in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert torch.equal(first, relaxation.weights(alphas, Step(5, 0, 2))["edge"])


def test_the_gradient_of_alpha_is_clipped():
    alphas = [
        torch.nn.Parameter(torch.zeros(2)),
        torch.nn.Parameter(torch.zeros(1)),
        torch.nn.Parameter(torch.zeros(1)),
    ]
    alphas[0].grad, alphas[1].grad = torch.tensor([30.0, 0.0]), torch.tensor([40.0])
    SNAS().composition.optimizer(alphas).step()
    assert torch.cat([alphas[0].grad, alphas[1].grad]).tolist() == pytest.approx([6.0, 0.0, 8.0])
    assert alphas[2].grad is None


def test_it_has_the_settings_of_the_authors():
    composition = SNAS().composition
    optimizer = composition.optimizer([torch.zeros(1, requires_grad=True)])
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": 3e-4,
        "betas": (0.5, 0.999),
        "weight_decay": 1e-3,
    }
    assert composition.gradient is None
    assert (composition.relaxation.initial, composition.relaxation.final) == (1.0, 0.03)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"final_temperature": 0.0}, "final_temperature: 0.0 should be above 0 and at most initial_temperature, 1.0"),
        ({"initial_temperature": 0.01}, "final_temperature: 0.03 should be above 0 and at most initial_temperature, 0"),
        ({"alpha_clip_val": 0.0}, "alpha_clip_val: 0.0 should be above 0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        SNAS(**settings)
