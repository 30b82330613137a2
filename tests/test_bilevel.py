"""The architecture gradients as plain functions, on small problems where the exact answer is known."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from strategies.bilevel import BilevelProblem, first_order, mixed_product, one_level, second_order, virtual_step

EPSILON = 1e-8
"""Small enough that no ReLU changes its sign, where the finite difference would be wrong."""


class Relaxed(nn.Module):
    """A small network in training mode with two branches that are mixed by α."""

    def __init__(self, norm=nn.BatchNorm2d, dropout=0.0):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), norm(4), nn.ReLU())
        self.branches = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 1, bias=False)])
        self.norm = norm(4)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4, 3)

    def forward(self, x, alpha):
        x = self.stem(x)
        x = sum(share * branch(x) for share, branch in zip(alpha.softmax(0), self.branches, strict=True))
        return self.head(self.dropout(self.norm(x)).relu().mean((2, 3)))


class Batches:
    """A network, α, an optimizer that has taken some steps, and a batch for each loss, in float64."""

    def __init__(self, make_optimizer=None, **network):
        self.network = Relaxed(**network).double()
        self.alpha = torch.randn(2, dtype=torch.float64, requires_grad=True)
        self.train, self.val = (
            (torch.randn(8, 3, 6, 6, dtype=torch.float64), torch.randint(0, 3, (8,))) for _ in range(2)
        )
        self.weights = list(self.network.parameters())
        self.optimizer = (make_optimizer or partial(torch.optim.SGD, lr=0.1))(self.weights)
        for _ in range(3):
            self.optimizer.zero_grad()
            self.loss(self.train).backward()
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.alpha.grad = None

    def loss(self, batch, weights=None):
        x, y = batch
        if weights is None:
            return functional.cross_entropy(self.network(x, self.alpha), y)
        return functional.cross_entropy(functional_call(self.network, weights, (x, self.alpha)), y)

    def problem(self):
        return BilevelProblem(
            lambda: self.loss(self.train),
            lambda: self.loss(self.val),
            [self.alpha],
            self.weights,
            self.optimizer,
            list(self.network.buffers()),
        )

    def exact(self, step):
        """Return the unrolled gradient by autograd through the virtual step: step(name, w, gradient) -> w'."""
        names = [name for name, _ in self.network.named_parameters()]
        gradients = torch.autograd.grad(self.loss(self.train), self.weights, create_graph=True)
        moved = {n: step(n, w, g) for n, w, g in zip(names, self.weights, gradients, strict=True)}
        return torch.autograd.grad(self.loss(self.val, moved), self.alpha)[0]

    def momentum(self, name):
        return self.optimizer.state[self.network.get_parameter(name)]["momentum_buffer"]


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


SGD = partial(torch.optim.SGD, lr=0.3)
STEPS = {
    "plain": (SGD, lambda b, n, w, g: w - 0.3 * g),
    "momentum and decay": (
        partial(SGD, momentum=0.9, weight_decay=0.05),
        lambda b, n, w, g: w - 0.3 * (0.9 * b.momentum(n) + g + 0.05 * w),
    ),
    "nesterov": (
        partial(SGD, momentum=0.9, weight_decay=0.05, nesterov=True),
        lambda b, n, w, g: w - 0.3 * (g + 0.05 * w + 0.9 * (0.9 * b.momentum(n) + g + 0.05 * w)),
    ),
    "maximizing": (
        partial(SGD, maximize=True, weight_decay=0.05),
        lambda b, n, w, g: w - 0.3 * (-g + 0.05 * w),
    ),
    "dampened": (
        partial(SGD, momentum=0.9, dampening=0.4),
        lambda b, n, w, g: w - 0.3 * (0.9 * b.momentum(n) + 0.6 * g),
    ),
    "Adam": (
        partial(torch.optim.Adam, lr=0.3, weight_decay=0.05),
        lambda b, n, w, g: w - 0.3 * (g + 0.05 * w),
    ),
}


@pytest.mark.parametrize("kind", STEPS)
def test_the_second_order_is_the_exact_gradient_through_the_virtual_step(kind):
    make_optimizer, step = STEPS[kind]
    batches = Batches(make_optimizer)
    expected = batches.exact(partial(step, batches))
    (found,) = second_order(batches.problem(), epsilon=EPSILON)
    assert relative_error(found, expected) < 1e-4
    # The first order is far off, so the comparison is meaningful.
    assert relative_error(first_order(batches.problem())[0], expected) > 1e-2


def test_xi_replaces_the_learning_rate():
    batches = Batches(partial(SGD, momentum=0.9))
    expected = batches.exact(lambda n, w, g: w - 0.05 * (0.9 * batches.momentum(n) + g))
    assert relative_error(second_order(batches.problem(), xi=0.05, epsilon=EPSILON)[0], expected) < 1e-4


def test_weights_with_different_learning_rates_have_their_own_xi():
    def make_optimizer(weights):
        return torch.optim.SGD([{"params": weights[:3], "lr": 0.5}, {"params": weights[3:]}], lr=0.1)

    batches = Batches(make_optimizer)
    slow = {name for name, _ in list(batches.network.named_parameters())[3:]}
    expected = batches.exact(lambda n, w, g: w - (0.1 if n in slow else 0.5) * g)
    assert relative_error(second_order(batches.problem(), epsilon=EPSILON)[0], expected) < 1e-4


def test_the_virtual_step_is_the_step_that_the_optimizer_takes_next():
    for make_optimizer, _ in list(STEPS.values())[:5]:
        batches = Batches(make_optimizer)
        gradients = list(torch.autograd.grad(batches.loss(batches.train), batches.weights))
        before = [w.detach().clone() for w in batches.weights]
        virtual_step(batches.optimizer, batches.weights, gradients)
        virtual = [w.detach().clone() for w in batches.weights]
        for w, old, gradient in zip(batches.weights, before, gradients, strict=True):
            w.data.copy_(old)
            w.grad = gradient
        batches.optimizer.step()
        assert all(torch.allclose(a, b, atol=1e-14) for a, b in zip(virtual, batches.weights, strict=True))


def test_with_xi_zero_the_second_order_is_the_first():
    batches = Batches(partial(SGD, momentum=0.9, weight_decay=0.05))
    (expected,), (found,) = first_order(batches.problem()), second_order(batches.problem(), xi=0.0)
    assert torch.equal(found, expected)


def test_the_finite_difference_comes_nearer_with_the_square_of_epsilon():
    # The loss is smooth, so the error of the central difference is of order ε².
    class Smooth(Relaxed):
        def forward(self, x, alpha):
            x = self.stem[1](self.stem[0](x)).tanh()
            x = sum(share * branch(x) for share, branch in zip(alpha.softmax(0), self.branches, strict=True))
            return self.head(self.norm(x).tanh().mean((2, 3)))

    batches = Batches(SGD)
    batches.network.__class__ = Smooth
    expected = batches.exact(lambda n, w, g: w - 0.3 * g)
    errors = [relative_error(second_order(batches.problem(), epsilon=e)[0], expected) for e in (0.1, 0.01)]
    assert errors[1] < errors[0] / 50


def states(batches):
    tensors = [*batches.weights, *batches.network.buffers(), batches.alpha]
    tensors += [value for state in batches.optimizer.state.values() for value in state.values() if value is not None]
    return [t.detach().clone() for t in tensors]


def draws():
    return random.random(), np.random.random(), torch.rand(1).item()


@pytest.mark.parametrize("fails_at", [None, "train 1", "val 1", "train 2", "train 3"])
def test_everything_is_bit_for_bit_what_it_was_also_when_a_loss_raises(fails_at):
    batches = Batches(partial(SGD, momentum=0.9, weight_decay=0.05), dropout=0.5)
    calls = {"train": 0, "val": 0}

    def loss(kind, batch):
        draws()
        calls[kind] += 1
        value = batches.loss(batch)
        if fails_at == f"{kind} {calls[kind]}":
            raise ArithmeticError("the loss raises")
        return value

    problem = BilevelProblem(
        lambda: loss("train", batches.train),
        lambda: loss("val", batches.val),
        [batches.alpha],
        batches.weights,
        batches.optimizer,
        list(batches.network.buffers()),
    )
    before = states(batches)
    places = [w.data_ptr() for w in batches.weights]
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    expected = draws()
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    if fails_at:
        with pytest.raises(ArithmeticError):
            second_order(problem)
    else:
        second_order(problem)
    assert draws() == expected
    assert all(torch.equal(a, b) for a, b in zip(before, states(batches), strict=True))
    assert [w.data_ptr() for w in batches.weights] == places
    assert all(w.requires_grad and w.grad is None for w in batches.weights)
    assert batches.alpha.requires_grad and batches.alpha.grad is None


def test_all_training_losses_of_a_finite_difference_see_the_same_dropout():
    """Otherwise the difference of two dropout masks, divided by a small ε, would dominate the gradient."""
    batches = Batches(SGD, dropout=0.5)
    fine, coarse = (second_order(batches.problem(), epsilon=e)[0] for e in (1e-9, 1e-8))
    assert relative_error(fine, coarse) < 1e-3


def test_weights_that_are_no_part_of_the_loss_or_of_training_stay_out_of_it():
    batches = Batches(SGD)
    expected = second_order(batches.problem())[0]
    frozen = nn.Parameter(torch.ones(3, dtype=torch.float64), requires_grad=False)
    unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
    problem = batches.problem()
    more = BilevelProblem(
        problem.train_loss,
        problem.val_loss,
        [*problem.alphas, torch.ones(2, dtype=torch.float64, requires_grad=True)],
        [frozen, *problem.weights, unused],
        problem.optimizer,
        problem.buffers,
    )
    found, of_the_unused = second_order(more)
    assert torch.equal(found, expected) and of_the_unused is None
    assert not frozen.requires_grad


def test_in_mixed_precision_the_losses_see_the_weights_that_moved():
    """Autocast caches cast weights; without clearing the cache all four losses would use the same weights."""
    w = nn.Parameter(torch.ones(4, 4))
    alpha = torch.ones((), requires_grad=True)
    x = torch.eye(4)
    problem = BilevelProblem(
        lambda: (functional.linear(x, w) * alpha).float().square().sum(),
        lambda: (functional.linear(x, w) * alpha).float().sum(),
        [alpha],
        [w],
        torch.optim.SGD([w], lr=0.25),
    )
    exact = second_order(problem)[0]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = second_order(problem, epsilon=1.0)[0]
    # L_train = Σ (αw)², so w' = w − 2ξ α² w = 0.5, and by hand: Σ w' − ξ Σ 4 α w · α = 8 − 16
    assert exact.item() == pytest.approx(-8, rel=1e-3)
    assert mixed.item() == pytest.approx(-8, rel=0.05)


def test_the_mixed_product_of_a_quadratic_is_exact():
    alpha = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    w = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    problem = BilevelProblem(lambda: (w - alpha) ** 2, lambda: alpha * w, [alpha], [w], torch.optim.SGD([w], lr=0.1))
    (product,) = mixed_product(problem, [torch.tensor(3.0, dtype=torch.float64)])
    assert product.item() == pytest.approx(-6.0, rel=1e-9)  # ∂²/∂α∂w (w − α)² = −2


def test_one_level_gives_the_gradient_of_alpha_at_the_weights_before_their_step():
    batches = Batches(SGD)
    expected = torch.autograd.grad(batches.loss(batches.train), [batches.alpha, *batches.weights])
    before = [w.detach().clone() for w in batches.weights]
    value = batches.loss(batches.train).item()
    batches.alpha.grad = torch.ones(2, dtype=torch.float64)  # from an earlier step

    def descend(loss):
        loss.backward()
        batches.optimizer.step()

    loss, (of_alpha,) = one_level(lambda: batches.loss(batches.train), [batches.alpha], descend)
    assert torch.equal(of_alpha, expected[0])
    for w, old, gradient in zip(batches.weights, before, expected[1:], strict=True):
        assert torch.allclose(w, old - 0.3 * gradient)
    assert loss.item() == value and not loss.requires_grad


def test_an_alpha_of_the_training_loss_alone_is_reached_through_the_virtual_step():
    """α is the strength of a penalty: L_train = (w − 1)² + αw², L_val = (w − 3)²."""
    w = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1)
    problem = BilevelProblem(lambda: (w - 1) ** 2 + alpha * w**2, lambda: (w - 3) ** 2, [alpha], [w], optimizer)
    # w' = w − 0.1 (2 (w − 1) + 2αw) = 1.6, and ∂L_val/∂α = 2 (w' − 3) · (−0.1 · w²) = 1.12
    assert second_order(problem)[0].item() == pytest.approx(1.12, rel=1e-9)


def test_the_first_order_differentiates_the_validation_loss_at_the_present_weights():
    batches = Batches()
    (expected,) = torch.autograd.grad(batches.loss(batches.val), [batches.alpha])
    assert torch.allclose(first_order(batches.problem())[0], expected, atol=1e-15)
