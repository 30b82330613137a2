"""Relaxations: α -> what every edge computes."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.relaxation import SingleEdge, Softmax, Step, argmax, sigmoid, softmax

ALPHAS = {"a": torch.tensor([0.1, 0.9, 0.4]), "b": torch.tensor([2.0, -1.0, 0.0, 0.5]), "c": torch.tensor([0.0, 0.0])}


def test_softmax_weights_each_edge_by_itself():
    plan = softmax(ALPHAS)
    for edge, alpha in ALPHAS.items():
        assert torch.allclose(plan[edge], alpha.exp() / alpha.exp().sum())


def test_sigmoid_weights_each_candidate_by_itself():
    assert torch.allclose(sigmoid(ALPHAS)["b"], 1 / (1 + (-ALPHAS["b"]).exp()))


def test_argmax_runs_the_strongest_candidate_and_of_equal_ones_the_first():
    assert argmax(ALPHAS) == {"a": (1,), "b": (0,), "c": (0,)}


def test_darts_mixes_every_edge_in_every_phase():
    relaxation = Softmax()
    for plan in (relaxation.architecture(ALPHAS, Step()), relaxation.weights(ALPHAS, Step())):
        assert all(isinstance(choice, torch.Tensor) for choice in plan.values())
    assert all(isinstance(choice, torch.Tensor) for choice in relaxation.evaluation(ALPHAS).values())


def test_single_edge_relaxes_one_edge_and_the_same_one_in_both_steps():
    relaxation = SingleEdge(seed=0)
    for iteration in range(50):
        step = Step(iteration)
        plans = relaxation.architecture(ALPHAS, step), relaxation.weights(ALPHAS, step)
        relaxed = [[edge for edge, choice in plan.items() if isinstance(choice, torch.Tensor)] for plan in plans]
        assert relaxed == [[relaxation.edge(ALPHAS, iteration)]] * 2


def test_single_edge_draws_every_edge_equally_often():
    edges = [f"edge {i}" for i in range(28)]
    alphas = {edge: torch.zeros(8) for edge in edges}
    draws = 28 * 200
    counts = Counter(SingleEdge(seed=3).edge(alphas, iteration) for iteration in range(draws))
    chi_square = sum((counts[edge] - 200) ** 2 / 200 for edge in edges)
    assert chi_square < 55.5  # the 99.9th percentile with 27 degrees of freedom


@given(st.integers(0, 2**40), st.integers(0, 10**7))
@settings(max_examples=30, deadline=None)
def test_single_edge_draws_by_seed_and_iteration_alone(seed, iteration):
    assert SingleEdge(seed).edge(ALPHAS, iteration) == SingleEdge(seed).edge(dict(ALPHAS), iteration)


def test_warm_up_sees_the_opposite_sign_at_every_second_iteration_of_its_epochs():
    relaxation = SingleEdge(seed=0, warmup_epochs=2)
    for epoch in range(4):
        for iteration in range(4):
            plan = relaxation.architecture(ALPHAS, Step(iteration, epoch))
            flipped = epoch < 2 and iteration % 2 == 1
            seen = {edge: -alpha for edge, alpha in ALPHAS.items()} if flipped else ALPHAS
            relaxed = relaxation.edge(ALPHAS, iteration)
            assert torch.equal(plan[relaxed], torch.softmax(seen[relaxed], 0))
            for edge in set(ALPHAS) - {relaxed}:
                assert plan[edge] == (int(seen[edge].argmax()),)


def test_the_gradient_in_a_flipped_iteration_is_that_of_equation_3():
    alpha = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    outputs = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    plan = SingleEdge(seed=0, warmup_epochs=1).architecture({"only": alpha}, Step(1, 0))
    (plan["only"] * outputs).sum().backward()
    weights = torch.softmax(-alpha.detach(), 0)
    by_hand = -weights * (outputs - (weights * outputs).sum())
    assert torch.allclose(alpha.grad, by_hand)


def test_alpha_max_relaxes_no_edge_for_the_weights():
    relaxation = SingleEdge(seed=0, relax_weights=False)
    assert relaxation.weights(ALPHAS, Step(5)) == argmax(ALPHAS)
    assert any(isinstance(c, torch.Tensor) for c in relaxation.architecture(ALPHAS, Step(5)).values())


def test_the_path_network_is_validated_without_the_sign_of_the_warm_up():
    assert SingleEdge(seed=0, warmup_epochs=10).evaluation(ALPHAS) == argmax(ALPHAS)


@pytest.mark.parametrize("relax", [softmax, sigmoid])
def test_relaxed_plans_carry_the_gradient_of_alpha(relax):
    alpha = torch.zeros(3, requires_grad=True)
    assert relax({"a": alpha})["a"].requires_grad
