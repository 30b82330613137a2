"""The implicit gradients as plain functions, where the exact answer is known."""

import random
from functools import partial
from threading import Barrier, Thread

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from strategies.bilevel import BilevelProblem
from strategies.hypergradients import implicit, neumann_series, scaled_hessian

INVERSES = {
    "neumann": partial(neumann_series, terms=2),
    "hessian": partial(scaled_hessian, coefficient=0.1),
}
RATE = 0.05


@pytest.fixture(params=INVERSES.values(), ids=INVERSES)
def gradient(request):
    return partial(implicit, inverse=request.param)


class Quadratic:
    """L_train = ½ (w − Bα)ᵀ A (w − Bα) and L_val = cᵀα + ½ ‖w − 1‖², so that w(α) = Bα; the weights are two tensors.

    The gradient of L_val(w(α), α) is c + Bᵀ (w − 1).
    """

    def __init__(self):
        draw = partial(torch.randn, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        root = draw(5, 5)
        self.A, self.B, self.c = root @ root.T + torch.eye(5), draw(5, 3), draw(3)
        self.alpha = draw(3).requires_grad_()
        self.weights = [draw(2).requires_grad_(), draw(3).requires_grad_()]

    def problem(self, rate=RATE, **changes):
        def residual():
            return torch.cat(self.weights) - self.B @ self.alpha

        return BilevelProblem(
            train_loss=lambda: residual() @ self.A @ residual() / 2,
            val_loss=lambda: self.c @ self.alpha + (torch.cat(self.weights) - 1).square().sum() / 2,
            alphas=[self.alpha],
            weights=self.weights,
            optimizer=torch.optim.SGD(self.weights, rate),
            **changes,
        )

    def gradient(self, inverse):
        """Return the implicit gradient by hand, with a matrix in place of A⁻¹; ∇²_{α,w} L_train is −Bᵀ A."""
        v = torch.cat(self.weights).detach() - 1
        return self.c + self.B.T @ self.A @ inverse @ v


def test_a_neumann_series_approaches_the_exact_gradient():
    quadratic = Quadratic()
    (found,) = implicit(quadratic.problem(), partial(neumann_series, terms=400))
    assert torch.allclose(found, quadratic.gradient(torch.linalg.inv(quadratic.A)), atol=1e-7)


@pytest.mark.parametrize("terms", [0, 1, 2])
def test_a_neumann_series_is_the_sum_by_hand(terms):
    quadratic = Quadratic()
    step = torch.eye(5) - RATE * quadratic.A
    series = RATE * sum(torch.linalg.matrix_power(step, k) for k in range(terms + 1))
    (found,) = implicit(quadratic.problem(), partial(neumann_series, terms=terms))
    assert torch.allclose(found, quadratic.gradient(series), atol=1e-10)


def test_the_hessian_in_place_of_its_inverse_by_hand():
    quadratic = Quadratic()
    (found,) = implicit(quadratic.problem(), partial(scaled_hessian, coefficient=0.1))
    assert torch.allclose(found, quadratic.gradient(0.1 * quadratic.A), atol=1e-9)


def test_each_weight_has_the_learning_rate_of_its_group():
    quadratic = Quadratic()
    problem = quadratic.problem()
    problem.optimizer.param_groups[0]["params"] = quadratic.weights[:1]  # it does not hold the second
    problem.optimizer.add_param_group({"params": [], "lr": 9.0})
    rates = torch.tensor([RATE, RATE, 0, 0, 0], dtype=torch.float64).diag()
    series = rates + (torch.eye(5) - rates @ quadratic.A) @ rates
    (found,) = implicit(problem, partial(neumann_series, terms=1))
    assert torch.allclose(found, quadratic.gradient(series), atol=1e-10)


def test_a_scale_of_the_losses_changes_nothing(gradient):
    plain, scaled = gradient(Quadratic().problem()), gradient(Quadratic().problem(scale=2.0**16))
    assert torch.allclose(plain[0], scaled[0], atol=1e-10)


def test_two_processes_have_the_gradient_of_their_mean_losses(gradient):
    own, barrier, found = [None, None], Barrier(2), [None, None]

    def process(rank):
        def average(tensors):
            own[rank] = tensors
            barrier.wait()
            means = [(one + other) / 2 for one, other in zip(*own, strict=True)]
            barrier.wait()
            return means

        quadratic = Quadratic()
        quadratic.A *= 1 + rank
        found[rank] = gradient(quadratic.problem(average=average))[0]

    threads = [Thread(target=process, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = Quadratic()
    whole.A *= 1.5
    assert torch.allclose(found[0], gradient(whole.problem())[0], atol=1e-9)
    assert torch.equal(found[0], found[1])


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_a_step_leaves_no_trace_and_sees_one_dropout(gradient):
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    alpha, x, masks = torch.ones(8, dtype=torch.float64, requires_grad=True), torch.randn(16, 6).double(), []
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)

    def loss(labels):
        hidden = network[:3](x) * alpha
        dropped = network[3](hidden)
        masks.append(dropped == 0)
        return cross_entropy(network[4](dropped), labels)

    train, val = (torch.randint(0, 3, (16,)) for _ in range(2))
    loss(train).backward()
    optimizer.step()
    masks.clear()
    tensors = [*network.parameters(), *network.buffers(), *(s["momentum_buffer"] for s in optimizer.state.values())]
    before, generators = [tensor.clone() for tensor in tensors], states()
    problem = BilevelProblem(
        partial(loss, train),
        partial(loss, val),
        [alpha],
        list(network.parameters()),
        optimizer,
        list(network.buffers()),
    )
    (found,) = gradient(problem)
    assert found.isfinite().all()
    assert all(torch.equal(old, new) for old, new in zip(before, tensors, strict=True))
    assert states() == generators
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert all(weight.requires_grad for weight in (alpha, *network.parameters()))


def test_frozen_and_unused_weights_do_no_harm(gradient):
    quadratic = Quadratic()
    frozen, unused = torch.zeros(2), torch.zeros(2, dtype=torch.float64, requires_grad=True)
    problem = quadratic.problem()
    problem = BilevelProblem(
        problem.train_loss, problem.val_loss, problem.alphas, [frozen, *problem.weights, unused], problem.optimizer
    )
    assert torch.allclose(gradient(problem)[0], gradient(quadratic.problem())[0], atol=1e-12)
