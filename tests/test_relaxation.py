"""Relaxations: from α to the plan of the supernet."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.relaxation import EveryEdge, SampledEdges, Step, argmax, sigmoid, softmax
from strategies.sampling import SAMPLING, path_policy, policy

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
    relaxation = EveryEdge(softmax)
    for plan in (relaxation.architecture(ALPHAS, Step()), relaxation.weights(ALPHAS, Step())):
        assert all(isinstance(choice, torch.Tensor) for choice in plan.values())
    assert all(isinstance(choice, torch.Tensor) for choice in relaxation.evaluation(ALPHAS).values())


def sampled(seed=0, name="uniform", count=1, **settings):
    return SampledEdges(policy(name, seed, count), **settings)


def relaxed_in(plan):
    return [edge for edge, choice in plan.items() if isinstance(choice, torch.Tensor)]


@pytest.mark.parametrize("name", SAMPLING)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_drawn_edges_are_relaxed_and_the_same_ones_in_both_steps(name, count):
    relaxation = sampled(name=name, count=count)
    alphas = {edge: alpha.clone() for edge, alpha in ALPHAS.items()}
    for iteration in range(50):
        step = Step(iteration)
        first = relaxed_in(relaxation.architecture(alphas, step))
        for edge in first:
            alphas[edge] += torch.randn_like(alphas[edge])  # as an architecture step does
        assert sorted(first) == sorted(relaxed_in(relaxation.weights(alphas, step)))
        assert len(set(first)) == count
        assert sorted(first) == sorted(relaxation.edges(alphas, iteration))


def test_all_edges_relaxed_are_darts():
    step = Step(3)
    plans = sampled(count=3).architecture(ALPHAS, step), EveryEdge(softmax).architecture(ALPHAS, step)
    assert all(torch.equal(plans[0][edge], plans[1][edge]) for edge in ALPHAS)


def test_uniform_draws_every_edge_equally_often():
    edges = [f"edge {i}" for i in range(28)]
    alphas = {edge: torch.zeros(8) for edge in edges}
    draw = policy("uniform", seed=3)
    counts = Counter(draw(alphas, iteration)[0] for iteration in range(28 * 200))
    chi_square = sum((counts[edge] - 200) ** 2 / 200 for edge in edges)
    assert chi_square < 55.5  # the 99.9th percentile with 27 degrees of freedom


@pytest.mark.parametrize(("count", "iterations"), [(1, 28), (4, 7), (5, 6)])
def test_cyclic_relaxes_every_edge_in_a_sweep(count, iterations):
    alphas = {f"edge {i}": torch.zeros(2) for i in range(28)}
    draw = policy("cyclic", seed=0, count=count)
    for sweep in range(3):
        drawn = [edge for i in range(iterations) for edge in draw(alphas, sweep * iterations + i)]
        assert set(drawn) == set(alphas)
        assert len(drawn) == count * iterations


def test_cyclic_meets_both_signs_of_a_warm_up_on_every_edge():
    alphas = {f"edge {i}": torch.zeros(2) for i in range(28)}
    draw = policy("cyclic", seed=0)
    flipped = [draw(alphas, iteration)[0] for iteration in range(1, 28 * 12, 2)]
    assert set(flipped) == set(alphas)


def test_entropy_draws_an_edge_in_proportion_to_how_open_it_is():
    open_, decided = torch.zeros(4), torch.tensor([2.0, 0.0])
    weights = torch.softmax(decided, 0)
    openness = float(-(weights * weights.log()).sum()) / math.log(2)
    draw = policy("entropy", seed=0)
    draws = 4000
    counts = Counter(draw({"open": open_, "decided": decided}, i)[0] for i in range(draws))
    assert counts["decided"] / draws == pytest.approx(openness / (1 + openness), abs=0.03)


def test_entropy_still_draws_when_every_edge_has_decided():
    alphas = {"a": torch.tensor([900.0, 0.0]), "b": torch.tensor([0.0])}
    assert policy("entropy", seed=0, count=2)(alphas, 0) in (["a", "b"], ["b", "a"])


@given(st.sampled_from(list(SAMPLING)), st.integers(0, 2**64 - 1), st.integers(0, 10**7), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_a_draw_is_a_function_of_seed_iteration_and_alpha(name, seed, iteration, count):
    """So a resumed search and all processes of a distributed search relax the same edges."""
    assert policy(name, seed, count)(ALPHAS, iteration) == policy(name, seed, count)(dict(ALPHAS), iteration)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"name": "random"}, "sampling: 'random' should be one of uniform, cyclic, entropy"),
        ({"count": 0}, "relaxed_edges: 0 should be at least 1"),
        ({"count": 4}, "relaxed_edges: 4 should be at most 3, the edges of the space"),
    ],
    ids=str,
)
def test_bad_settings_are_named(settings_, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        sampled(**settings_).architecture(ALPHAS, Step())


@pytest.mark.parametrize("kind", ["weights", "architecture"])
@pytest.mark.parametrize("flip", ["weights", "both"])
def test_warm_up_sees_the_opposite_sign_at_every_second_iteration_of_its_epochs(flip, kind):
    relaxation = sampled(sign_flip_epochs=2, flip=flip)
    for epoch in range(4):
        for iteration in range(4):
            plan = getattr(relaxation, kind)(ALPHAS, Step(iteration, epoch))
            flipped = epoch < 2 and iteration % 2 == 1 and (kind == "weights" or flip == "both")
            seen = {edge: -alpha for edge, alpha in ALPHAS.items()} if flipped else ALPHAS
            (relaxed,) = relaxation.edges(ALPHAS, iteration)
            assert torch.equal(plan[relaxed], torch.softmax(seen[relaxed], 0))
            for edge in set(ALPHAS) - {relaxed}:
                assert plan[edge] == (int(seen[edge].argmax()),)


def test_the_gradient_in_a_flipped_iteration_is_that_of_equation_3():
    alpha = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    outputs = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    plan = sampled(sign_flip_epochs=1, flip="both").architecture({"only": alpha}, Step(1, 0))
    (plan["only"] * outputs).sum().backward()
    weights = torch.softmax(-alpha.detach(), 0)
    by_hand = -weights * (outputs - (weights * outputs).sum())
    assert torch.allclose(alpha.grad, by_hand)


def margin_of_the_best(**settings):
    """Mean lead of one candidate, the best one on each of 14 edges, after 400 architecture steps with Adam."""
    torch.manual_seed(0)
    alphas = {f"edge {i}": (1e-3 * torch.randn(7)).requires_grad_() for i in range(14)}
    optimizer = torch.optim.Adam(alphas.values(), lr=0.025, betas=(0.5, 0.999))
    relaxation = SampledEdges(policy("uniform", seed=0), **settings)
    for iteration in range(400):
        (edge,) = relaxation.edges(alphas, iteration)
        optimizer.zero_grad()
        (-relaxation.architecture(alphas, Step(iteration, 0))[edge][0]).backward()
        optimizer.step()
    return float(torch.stack([alpha[0] - alpha[1:].max() for alpha in alphas.values()]).mean())


def test_the_flip_of_architecture_steps_undoes_what_they_learn_and_that_of_weight_steps_does_not():
    assert margin_of_the_best(sign_flip_epochs=1, flip="weights") == margin_of_the_best() > 1
    assert abs(margin_of_the_best(sign_flip_epochs=1, flip="both")) < 0.2


def test_alpha_max_relaxes_no_edge_for_the_weights():
    relaxation = sampled(relax_weights=False)
    assert relaxation.weights(ALPHAS, Step(5)) == argmax(ALPHAS)
    assert any(isinstance(c, torch.Tensor) for c in relaxation.architecture(ALPHAS, Step(5)).values())


def test_weights_that_train_first_see_every_edge_relaxed():
    relaxation = sampled(weights_first_epochs=2)
    first, then = (relaxation.weights(ALPHAS, Step(5, epoch=epoch)) for epoch in (1, 2))
    assert sorted(relaxed_in(first)) == sorted(ALPHAS)
    assert len(relaxed_in(then)) == 1


def test_a_sampled_path_runs_each_candidate_as_often_as_its_softmax_says_and_depends_on_the_iteration_alone():
    path = path_policy("sampled", seed=0)
    plans = [path(ALPHAS, Step(iteration)) for iteration in range(2000)]
    for edge, alpha in ALPHAS.items():
        shares = torch.bincount(torch.tensor([plan[edge][0] for plan in plans]), minlength=len(alpha)) / len(plans)
        assert torch.allclose(shares, alpha.softmax(0), atol=0.04)
    assert path(ALPHAS, Step(7, epoch=3)) == plans[7]


def test_a_path_is_sampled_on_edges_that_are_not_relaxed():
    relaxation = sampled(path=path_policy("sampled", seed=0))
    plans = [relaxation.weights(ALPHAS, Step(iteration)) for iteration in range(50)]
    assert all(len(relaxed_in(plan)) == 1 for plan in plans)
    assert {plan["b"] for plan in plans if isinstance(plan["b"], tuple)} > {(0,)}
    assert relaxation.evaluation(ALPHAS) == argmax(ALPHAS)


def test_an_unknown_path_is_refused():
    with pytest.raises(ValueError, match="path: 'best' should be one of strongest, sampled"):
        path_policy("best", seed=0)


def test_the_path_network_is_validated_without_the_sign_of_the_warm_up():
    assert sampled(sign_flip_epochs=10).evaluation(ALPHAS) == argmax(ALPHAS)


@pytest.mark.parametrize("relax", [softmax, sigmoid])
def test_relaxed_plans_carry_the_gradient_of_alpha(relax):
    alpha = torch.zeros(3, requires_grad=True)
    assert relax({"a": alpha})["a"].requires_grad
