"""The strategy SmoothDARTS, compared with its released code."""

import re

import pytest
import torch
from formula_supernet import (
    CANDIDATES,
    EDGES,
    TRAIN,
    Formulas,
    FormulaSupernet,
    by_edge,
    formula_space,
    largest_difference,
    values_of,
)
from torch.utils.data import TensorDataset

from nas_plugins import DartsSpace
from strategies import perturbation
from strategies.bilevel import first_order
from strategies.perturbation import attacked, distribution, perturbed
from strategies.relaxation import Step, softmax
from strategies.smooth_darts import SmoothDARTS

RANDOM = {
    "normal": [
        [0.108541070898, 0.373096575096, 0.379796482112, 0.138565871894],
        [0.271030623309, 0.253367820159, 0.304647238258, 0.170954318275],
        [0, 0.0120670527398, 0.380711021453, 0.607221925807],
        [0.607440668296, 0.118175116724, 0.026818208114, 0.247566006866],
        [0.319467684204, 0.131843005449, 0.0766313084997, 0.472058001847],
    ],
    "reduce": [
        [0.416233399742, 0.441443194845, 0.142323405413, 0],
        [0.216577386502, 0.321472950486, 0.276549637686, 0.185400025326],
        [0, 0.269600692722, 0.456673630043, 0.273725677235],
        [0.295006586313, 0.0683725397044, 0.240162293793, 0.396458580189],
        [0.163359459425, 0.0186803152101, 0.237045510452, 0.580914714913],
    ],
}
ADVERSARIAL = {
    "normal": [
        [0.0488412428272, 0.416022664199, 0.442310677562, 0.0928254154112],
        [0.235047950202, 0.334327998402, 0.157012872623, 0.273611178773],
        [0, 0.191785604984, 0.408409834814, 0.399804560202],
        [0.534102215937, 0.114548401037, 0.0411427857339, 0.310206597292],
        [0.302221338172, 0, 0.0688028599195, 0.628975801908],
    ],
    "reduce": [
        [0.243466982192, 0.120820076708, 0.376193270317, 0.259519670784],
        [0.0715488111706, 0.329415120511, 0.314574191472, 0.284461876846],
        [0, 0.0952834706554, 0.394241539763, 0.510474989581],
        [0.253950156149, 0.0269135793351, 0.350910303731, 0.368225960785],
        [0.270134876043, 0, 0.135323965272, 0.594541158685],
    ],
}
"""Of their commit d3dbfed: the weights of a weight step by Random_alpha and by Linf_PGD_alpha, ε = 0.2."""
TRAINED = {"random": -8.296746213172488, "adversarial": -7.831547189145805}
"""The sum of all weights, times cosines, after a step of SGD (learning rate 0.05, clipped at 5) by these."""


@pytest.fixture
def images():
    return TensorDataset(*TRAIN)


@pytest.fixture
def formula_noise(monkeypatch):
    """The noise that the released code was given for these numbers."""

    def noise(weights, seed, step, name):
        rows = [(0.5 + 0.5 * (torch.arange(20).double() * 1.3 + cell).sin()).view(5, 4) for cell in (0, 1)]
        table = {
            f"{cell}/{edge}": rows[c][e] for c, cell in enumerate(("normal", "reduce")) for e, edge in enumerate(EDGES)
        }
        return {edge: row.roll(-1) for edge, row in table.items()}  # none is the last here

    monkeypatch.setattr(perturbation, "uniform", noise)


@pytest.mark.usefixtures("formula_noise")
@pytest.mark.parametrize(
    ("kind", "table"), [("random", RANDOM), ("adversarial", ADVERSARIAL)], ids=["random", "adversarial"]
)
def test_perturbed_weights_are_those_of_the_released_code(kind, table):
    strategy = SmoothDARTS(kind, epsilon=0.2, min_epsilon=0.2)
    supernet = FormulaSupernet(strategy)
    supernet.model.eval()
    with torch.no_grad():
        plan = softmax(supernet.architecture.alphas)
    found = strategy.composition.perturbation(plan, lambda changed: supernet.loss(changed, TRAIN), Step(0, 0, 50))
    assert largest_difference(values_of(supernet.architecture, found), by_edge(table)) < 1e-11


@pytest.mark.usefixtures("formula_noise")
@pytest.mark.parametrize("kind", ["random", "adversarial"])
def test_a_weight_step_is_that_of_the_released_code(run_search, kind):
    formulas = Formulas()
    strategy = SmoothDARTS(kind, epsilon=0.2, min_epsilon=0.2, warmup_epochs=1)
    run_search(formula_space(), strategy, batch_size=4, precision="64-true", callbacks=[formulas])
    weights = formulas.model.parameters()
    total = sum((w.flatten() * torch.arange(w.numel()).double().cos()).sum().item() for w in weights)
    assert abs(total - TRAINED[kind]) < 1e-9


def test_it_has_the_settings_of_the_released_code():
    strategy = SmoothDARTS()
    optimizer = strategy.composition.optimizer([torch.zeros(1, requires_grad=True)])
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": 3e-4,
        "betas": (0.5, 0.999),
        "weight_decay": 1e-3,
    }
    assert strategy.composition.gradient is first_order
    assert strategy.composition.none


@pytest.mark.parametrize(("epoch", "radius"), [(0, 0.03), (25, 0.165), (49, 0.2946)])
def test_the_radius_grows_linearly_over_the_epochs(monkeypatch, epoch, radius):
    monkeypatch.setattr(perturbation, "uniform", lambda *_: {"edge": torch.tensor([1.0, 0.5])})
    found = perturbed("random", 0.3, 0.03, 7, seed=0)({"edge": torch.tensor([0.5, 0.5])}, None, Step(0, epoch, 50))
    assert torch.allclose(found["edge"], torch.tensor([0.5 + radius, 0.5]) / (1 + radius))


def test_the_noise_is_a_function_of_the_seed_and_the_iteration():
    plan = {"edge": torch.full((4,), 0.25), "discrete": (1,)}
    draws = [
        perturbed("random", 0.3, 0.03, 7, seed)(plan, None, Step(i, 0, 50)) for seed, i in ((1, 5), (1, 5), (1, 6))
    ]
    assert torch.equal(draws[0]["edge"], draws[1]["edge"])
    assert not torch.equal(draws[0]["edge"], draws[2]["edge"])
    assert draws[0]["discrete"] == (1,)


def test_an_attack_that_lowers_the_loss_is_taken_back():
    weights, start = {"edge": torch.tensor([0.5, 0.5])}, {"edge": torch.tensor([0.6, 0.4])}

    def highest_unmoved(moved):
        return -(moved["edge"] - weights["edge"]).abs().sum()

    assert attacked(weights, start, highest_unmoved, radius=0.1, steps=1) is weights
    assert attacked(weights, start, lambda moved: moved["edge"][0], radius=0.1, steps=1)["edge"][0] > 0.5


def test_weights_that_are_all_clipped_leave_the_largest_alone():
    assert distribution(torch.tensor([-0.3, -0.1, -0.2])).tolist() == [0, 1, 0]
    assert torch.allclose(distribution(torch.tensor([-0.3, 0.2, 1.4])), torch.tensor([0, 0.2, 1]) / 1.2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"perturbation": "none"}, "perturbation: 'none' should be one of random, adversarial"),
        ({"epsilon": 0.01}, "epsilon: 0.01 should be at least min_epsilon, 0.03, which is at least 0"),
        ({"attack_steps": 0}, "attack_steps: 0 should be at least 1"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        SmoothDARTS(**settings)


def test_an_adversarial_search_gives_a_network(run_search):
    def space():
        return DartsSpace(channels=2, layers=3, nodes=2, operations=CANDIDATES[1:])

    strategy = SmoothDARTS("adversarial", attack_steps=2)
    (sample,) = run_search(space(), strategy, precision="64-true").export_top_models(formatter="dict")
    assert space().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)
