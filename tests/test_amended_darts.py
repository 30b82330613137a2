"""The strategy Amended-DARTS, compared with the code of AdversarialNAS, which has its gradient."""

import re

import pytest
import torch
from formula_supernet import FormulaSupernet, by_edge, formula_space, largest_difference, values_of

from strategies.amended_darts import AmendedDARTS
from strategies.bilevel import first_order

GRADIENTS = {
    "normal": [
        [20.7204829504, -116.401592886, -469.757527767, 565.438637702],
        [-172.367388465, 313.327008862, -120.515252548, -20.444367849],
        [26.1491654009, -185.098106422, -113.496866766, 272.445807788],
        [-223.782817303, 38.6250835667, 56.2948386377, 128.862895099],
        [41.6859923368, 82.2098872708, 31.0746894307, -154.970569038],
    ],
    "reduce": [
        [-12.6157293406, -214.991049189, 162.932941753, 64.6738367767],
        [27.6934795721, 81.9713935388, -22.3647197046, -87.3001534063],
        [16.511191512, -134.00896885, 59.2164592719, 58.2813180664],
        [-102.850340099, 81.9022916561, 28.6782450682, -7.73019662485],
        [13.0029360521, 6.20796867633, 3.89384848876, -23.1047532172],
    ],
}
"""Of AdversarialNAS' commit d7ea5e0: the gradient of α by Architect_gen._backward_step_amending, η = 0.1."""


def gradients_of(strategy):
    supernet = FormulaSupernet(strategy)
    gradients = strategy.composition.gradient(supernet.problem(learning_rate=0.025))
    return values_of(supernet.architecture, dict(zip(supernet.architecture.alphas, gradients, strict=True)))


def test_the_gradient_is_that_of_the_released_code():
    assert largest_difference(gradients_of(AmendedDARTS()), by_edge(GRADIENTS)) < 1e-8


def test_without_the_amending_term_it_is_the_first_order_of_darts():
    strategy = AmendedDARTS(coefficient=0.0)
    supernet = FormulaSupernet(strategy)
    alphas = supernet.architecture.alphas
    first = values_of(supernet.architecture, dict(zip(alphas, first_order(supernet.problem(0.025)), strict=True)))
    assert largest_difference(gradients_of(strategy), first) < 1e-14


def test_its_optimizer_is_that_of_darts():
    strategy = AmendedDARTS()
    optimizer = strategy.composition.optimizer([torch.zeros(1, requires_grad=True)])
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": 3e-4,
        "betas": (0.5, 0.999),
        "weight_decay": 1e-3,
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coefficient": -0.1}, "coefficient: -0.1 should be at least 0"),
        ({"epsilon": 0.0}, "epsilon: 0.0 should be above 0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        AmendedDARTS(**settings)


def test_a_search_gives_a_network(run_search):
    (sample,) = run_search(formula_space(), AmendedDARTS(), batch_size=32).export_top_models(formatter="dict")
    assert formula_space().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)
