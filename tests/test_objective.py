"""Architecture losses: the zero-one loss, and the ablation loss against plain implementations of Eqs. 6 to 8."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nni.nas.hub.pytorch import DARTS as HubDarts
from small_searches import FEW
from torch import nn
from torch.nn.functional import cross_entropy

from nas_plugins import DDARTS
from search_spaces.cell import Preprocess
from search_spaces.d_darts import DDartsSpace
from search_spaces.darts import DartsSpace
from search_spaces.fine_tuned import FineTunedDartsSpace
from strategies.ablation import Ablation, CellChain, ablation_losses, random_weights, shortcut
from strategies.fair_darts import FairDARTS
from strategies.objective import ArchitectureBatch, by_cell, evaluator_loss, one_group, total, zero_one
from strategies.relaxation import Step, sigmoid
from strategies.supernet.architecture import Architecture


class Supernet:
    """A supernet of three layers in float64 with random α, a batch of images, and the values that an objective logs."""

    def __init__(self, space, iteration=3):
        strategy = FairDARTS()
        self.model = strategy.mutate_model(space).double()
        self.architecture = strategy.architecture.double()
        self.alphas = self.architecture.alphas
        for alpha in self.alphas.values():
            nn.init.normal_(alpha)
        self.images, self.labels = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
        self.iteration, self.logged = iteration, {}

    def loss(self, plan=None):
        self.architecture.plan = self.architecture.plan if plan is None else plan
        return cross_entropy(self.model(self.images), self.labels)

    def apply(self, objective):
        """Return the objective of the batch, by the plan of the current α."""
        self.architecture.plan = sigmoid(self.alphas)
        return objective(
            ArchitectureBatch(
                self.loss, self.loss, self.architecture, self.model, Step(self.iteration), self.logged.__setitem__
            )
        )

    def contributions(self):
        return torch.stack(list(self.logged.values()))

    def cells(self):
        """Return label -> its layers."""
        return CellChain(self.model).layers

    def losses_by_hand(self, mode):
        """Return L, and L without each cell by a full pass."""
        plan = sigmoid(self.alphas)
        without = [self.without(cell, layers, plan, mode) for cell, layers in self.cells().items()]
        return self.loss(plan), torch.stack(without)

    def without(self, cell, layers, plan, mode):
        if mode == "random":
            edges = [edge for edge in plan if edge.startswith(f"{cell}/")]
            weights = random_weights(self.architecture, edges, f"0/{self.iteration}/{cell}")
            return self.loss({**plan, **weights})
        self.architecture.plan = plan
        network = self.model.network
        before, previous = network.stem(self.images)
        for layer, module in enumerate(network.cells):
            out = module(before, previous)
            before, previous = previous, shortcut(previous, out.shape) if layer in layers else out
        return cross_entropy(network.classifier(previous.mean(dim=(2, 3))), self.labels)

    def gradient_by_hand(self, w_abl, w_01, mode, differentiable):
        """Return edge -> the gradient of L_T,i for its α, where i is its cell."""
        loss, without = self.losses_by_hand(mode)
        ablation = ablation_losses(loss - without)
        if not differentiable:
            ablation = ablation.detach()
        gradients = {}
        for index, cell in enumerate(self.cells()):
            own = {edge: alpha for edge, alpha in self.alphas.items() if edge.startswith(f"{cell}/")}
            zero_one_loss = -((torch.sigmoid(torch.cat(list(own.values()))) - 0.5) ** 2).mean()
            objective = loss + w_01 * zero_one_loss - w_abl * ablation[index]
            found = torch.autograd.grad(objective, list(own.values()), retain_graph=True)
            gradients |= dict(zip(own, found, strict=True))
        return gradients


def own_cells():
    return DDartsSpace(channels=2, layers=3, nodes=2, operations=FEW)


SPACES = {
    "a cell a layer": own_cells,
    "shared cells": lambda: DartsSpace(channels=2, layers=3, nodes=2, operations=FEW),
    "attention after each cell": lambda: FineTunedDartsSpace(channels=2, layers=3, nodes=2, operations=FEW),
    "fixed operations on edges": lambda: DartsSpace(
        channels=2, layers=3, nodes=2, operations=FEW, fixed=["skip_connect normal/0->2"]
    ),
}


def alphas_of(**edges):
    architecture = Architecture(none=False, scale=0.0)
    for edge, values in edges.items():
        name = edge.replace("_to_", "->").replace("__", "/")
        architecture.add_edge(name, [f"op{i}" for i in range(len(values))])
        architecture.alphas[name].data.copy_(torch.tensor(values))
    return ArchitectureBatch(lambda: torch.tensor(1.0), lambda: torch.tensor(1.0), architecture, nn.Identity())


# The zero-one loss


def test_the_zero_one_loss_is_equation_3_by_hand():
    batch = alphas_of(a__0_to_2=[0.0, 1.0986123], b__0_to_2=[-1.0986123, 30.0, 0.0])  # σ = 0.5, 0.75; 0.25, 1, 0.5
    assert zero_one(2.0)(batch).item() == pytest.approx(-2 * (0.0625 + 0.0625 + 0.25) / 5)
    by_cells = -2 * (0.0625 / 2 + (0.0625 + 0.25) / 3)
    assert zero_one(2.0, by_cell)(batch).item() == pytest.approx(by_cells)


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=8), st.floats(0, 100))
def test_the_zero_one_loss_is_at_most_zero_and_least_where_all_has_been_decided(values, weight):
    value = zero_one(weight)(alphas_of(a__0_to_2=values)).item()
    assert -weight / 4 - 1e-5 * weight <= value <= 0


def test_an_objective_may_be_a_sum():
    batch = alphas_of(a__0_to_2=[30.0])
    assert total(evaluator_loss, zero_one(8.0), zero_one(4.0))(batch).item() == pytest.approx(1 - 2 - 1)


def test_alphas_are_grouped_by_cell():
    alphas = alphas_of(a__0_to_2=[0.0], b__0_to_2=[0.0], a__1_to_2=[0.0], layer=[0.0]).architecture.alphas
    names = {id(alpha): edge for edge, alpha in alphas.items()}
    groups = [[names[id(alpha)] for alpha in group] for group in by_cell(alphas)]
    assert groups == [["a/0->2", "a/1->2"], ["b/0->2"], ["layer"]]
    assert len(one_group(alphas)) == 1


# The ablation loss


@pytest.mark.parametrize(
    ("contributions", "losses"),
    [([-1.0, -2.0, -6.0], [-2 / 3, -1 / 3, 1.0]), ([2.0, 4.0], [-1 / 3, 1 / 3]), ([-1.0, 1.0], [0, 0]), ([5.0], [0])],
    ids=str,
)
def test_the_ablation_loss_is_equation_7_by_hand(contributions, losses):
    assert ablation_losses(torch.tensor(contributions)).tolist() == pytest.approx(losses)


@given(st.lists(st.floats(-10, -0.1), min_size=1, max_size=9), st.floats(0.1, 10))
def test_ablation_losses_compare_cells_and_add_up_to_zero(contributions, scale):
    contributions = torch.tensor(contributions, dtype=torch.float64)
    losses = ablation_losses(contributions)
    assert losses.sum().item() == pytest.approx(0, abs=1e-9)
    assert torch.allclose(losses, ablation_losses(scale * contributions))
    assert losses[contributions.argmin()] == losses.max()  # the most useful cell has the highest loss


@pytest.mark.parametrize("mode", ["random", "skip"])
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_contributions_are_those_of_whole_passes(space, mode):
    supernet = Supernet(space())
    loss = supernet.apply(Ablation(0.5, mode))
    with torch.no_grad():
        whole, without = supernet.losses_by_hand(mode)
    assert torch.allclose(loss, whole)
    assert torch.allclose(supernet.contributions(), whole - without)
    assert list(supernet.logged) == [f"contribution/{cell}" for cell in supernet.cells()]


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("mode", ["random", "skip"])
@pytest.mark.parametrize("space", [own_cells, SPACES["shared cells"]], ids=["a cell a layer", "shared cells"])
@pytest.mark.parametrize("trained", [True, False], ids=["weights trained", "weights constant"])
def test_the_loss_of_a_cell_reaches_its_own_alpha_alone(space, mode, differentiable, trained):
    supernet = Supernet(space())
    supernet.model.requires_grad_(trained)
    objective = total(Ablation(0.5, mode, differentiable), zero_one(7.0, by_cell))
    found = torch.autograd.grad(supernet.apply(objective), list(supernet.alphas.values()))
    expected = supernet.gradient_by_hand(0.5, 7.0, mode, differentiable)
    for edge, gradient in zip(supernet.alphas, found, strict=True):
        assert torch.allclose(gradient, expected[edge], rtol=1e-7, atol=1e-12), edge


@pytest.mark.parametrize("mode", ["random", "skip"])
def test_the_gradient_of_the_ablation_loss_is_that_of_finite_differences(mode):
    supernet = Supernet(own_cells())
    alphas = list(supernet.alphas.values())
    objectives = [Ablation(0.5, mode, gradient) for gradient in (True, False)]
    exact, plain = (torch.autograd.grad(supernet.apply(objective), alphas) for objective in objectives)

    def loss_of(cell):
        with torch.no_grad():
            supernet.apply(objectives[1])
        return -0.5 * ablation_losses(supernet.contributions())[cell].item()

    for edge in ("cell_0/1->2", "cell_1/0->3", "cell_2/2->3"):
        cell, place = int(edge[5]), list(supernet.alphas).index(edge)
        sides = []
        for step in (1e-5, -1e-5):
            alphas[place].data[2] += step
            sides.append(loss_of(cell))
            alphas[place].data[2] -= step
        difference = (sides[0] - sides[1]) / 2e-5
        assert (exact[place] - plain[place])[2].item() == pytest.approx(difference, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("trained", [True, False], ids=["weights trained", "weights constant"])
def test_an_evaluator_that_draws_draws_alike_for_all_losses_that_are_compared(gradient, trained):
    supernet, plain = Supernet(own_cells()), []
    supernet.model.requires_grad_(trained)
    with torch.no_grad():
        plain = supernet.losses_by_hand("random")
    deterministic = supernet.loss
    supernet.loss = lambda: torch.rand(()).double() * deterministic()
    state = torch.get_rng_state()
    loss = supernet.apply(Ablation(0.5, gradient=gradient))
    once = torch.rand(1)
    torch.set_rng_state(state)
    drawn = torch.rand(()).double()
    assert torch.allclose(loss, drawn * plain[0])
    assert torch.allclose(supernet.contributions(), drawn * (plain[0] - plain[1]))
    assert torch.equal(torch.rand(1), once)  # only one random number was drawn


@pytest.mark.parametrize("mode", ["random", "skip"])
def test_the_objective_of_d_darts_is_equations_3_6_7_and_8(mode):
    supernet = Supernet(own_cells())
    strategy = DDARTS(w_abl=0.3, w_01=5.0, ablation_mode=mode, ablation_gradient=True, seed=0)
    found = torch.autograd.grad(supernet.apply(strategy.composition.objective), list(supernet.alphas.values()))
    expected = supernet.gradient_by_hand(0.3, 5.0, mode, differentiable=True)
    for edge, gradient in zip(supernet.alphas, found, strict=True):
        assert torch.allclose(gradient, expected[edge], rtol=1e-7, atol=1e-12), edge


def test_d_darts_has_the_weights_of_the_paper():
    supernet = Supernet(own_cells())
    found, expected = [], []
    for strategy, gradients in (
        (DDARTS(seed=0), supernet.gradient_by_hand(0.5, 7.0, "random", differentiable=False)),
        (DDARTS(seed=0, ablation_gradient=True), supernet.gradient_by_hand(0.5, 7.0, "random", differentiable=True)),
    ):
        found += torch.autograd.grad(supernet.apply(strategy.composition.objective), list(supernet.alphas.values()))
        expected += gradients.values()
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(
    ("layers", "passes"),
    # All layers once, and for each ablated cell its first layer and all later ones.
    [(3, [1 + 1, 1 + 2, 1 + 3]), (4, [1 + 1, 1 + 2, 1 + 3, 1 + 4])],
)
def test_layers_before_an_absent_cell_are_not_run_again(layers, passes, gradient):
    supernet = Supernet(DDartsSpace(channels=2, layers=layers, nodes=1, operations=FEW))
    counts = []
    for number, cell in enumerate(module for module in supernet.model.modules() if isinstance(module, Preprocess)):
        counts.append(0)
        cell.register_forward_hook(lambda *_, number=number: counts.__setitem__(number, counts[number] + 1))
    convolution = supernet.model.network.stem.layers
    stems = []
    convolution.register_forward_hook(lambda *_: stems.append(1))
    supernet.apply(Ablation(0.5, "random", gradient))
    assert counts == passes
    assert len(stems) == 1


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("mode", ["random", "skip"])
@pytest.mark.parametrize("trained", [True, False], ids=["weights trained", "weights constant"])
def test_it_leaves_what_one_pass_leaves(mode, gradient, trained):
    supernet = Supernet(own_cells())
    supernet.model.requires_grad_(trained)
    before = {name: buffer.clone() for name, buffer in supernet.model.named_buffers()}
    supernet.loss(sigmoid(supernet.alphas))
    after_one = {name: buffer.clone() for name, buffer in supernet.model.named_buffers()}
    for name, buffer in supernet.model.named_buffers():
        buffer.copy_(before[name])
    state = torch.get_rng_state()
    objective = Ablation(0.5, mode, gradient)
    supernet.apply(objective).backward()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(buffer, after_one[name]) for name, buffer in supernet.model.named_buffers())
    assert list(supernet.architecture.plan) == list(supernet.alphas)
    # Every cell recomputes its edges by its own α.
    loss = supernet.loss(sigmoid(supernet.alphas))
    assert torch.allclose(loss, supernet.loss(sigmoid(supernet.alphas)))
    assert not any("forward" in vars(module) for module in supernet.model.modules())


@pytest.mark.parametrize("mode", ["random", "skip"])
@pytest.mark.parametrize("trained", [True, False], ids=["weights trained", "weights constant"])
def test_relaxed_edges_that_are_computed_again_give_the_same_gradient(mode, trained):
    supernet, found = Supernet(own_cells()), []
    supernet.model.requires_grad_(trained)
    for recompute in (False, True):
        supernet.architecture.recompute = recompute
        before = {name: buffer.clone() for name, buffer in supernet.model.named_buffers()}
        loss = supernet.apply(Ablation(0.5, mode, gradient=True))
        found.append(torch.autograd.grad(loss, list(supernet.alphas.values())))
        for name, buffer in supernet.model.named_buffers():
            buffer.copy_(before[name])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


def test_random_weights_are_a_function_of_the_seed_and_the_iteration():
    found = {}
    for iteration, seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(0)
        supernet = Supernet(own_cells(), iteration)
        supernet.apply(Ablation(0.5, seed=seed))
        found[iteration, seed] = supernet.contributions()
        supernet.apply(Ablation(0.5, seed=seed))
        assert torch.equal(supernet.contributions(), found[iteration, seed])
    assert not torch.equal(found[1, 0], found[2, 0])
    assert not torch.equal(found[1, 0], found[1, 5])


def test_random_weights_are_from_zero_to_one():
    architecture = alphas_of(a__0_to_2=[9.0] * 500, a__1_to_2=[9.0] * 500).architecture
    weights = random_weights(architecture, architecture.alphas, "0")
    values = torch.cat(list(weights.values()))
    assert values.min() >= 0 and values.max() < 1 and 0.4 < values.mean() < 0.6
    assert list(weights) == ["a/0->2", "a/1->2"]


@pytest.mark.parametrize(("size", "halved"), [(8, 4), (7, 4), (2, 1), (1, 1)])
def test_a_shortcut_keeps_what_fits_and_projects_the_rest(size, halved):
    x = torch.randn(2, 3, size, size)
    assert shortcut(x, x.shape) is x
    projected = shortcut(x, (2, 8, halved, halved))
    assert projected.shape == (2, 8, halved, halved)
    assert torch.equal(projected[:, 4], x[:, 1, :: 2 if size > 1 else 1, :: 2 if size > 1 else 1])


# Errors


def test_a_network_that_is_no_chain_of_cells_is_refused():
    model = FairDARTS().mutate_model(HubDarts(width=2, num_cells=3, dataset="cifar"))
    with pytest.raises(
        ValueError, match="^w_abl: the ablation loss needs a chain of searched cells, as in DDartsSpace"
    ):
        CellChain(model)


def test_an_evaluator_that_runs_the_network_twice_is_refused():
    supernet = Supernet(own_cells())
    supernet.architecture.plan = sigmoid(supernet.alphas)

    def twice():
        return supernet.loss() + supernet.loss()

    with pytest.raises(ValueError, match="runs the network once"):
        Ablation(0.5)(ArchitectureBatch(twice, twice, supernet.architecture, supernet.model))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: zero_one(-1.0), "w_01: -1.0 should be at least 0"),
        (lambda: Ablation(-1.0), "w_abl: -1.0 should be at least 0"),
        (lambda: Ablation(0.5, "zero"), "ablation_mode: 'zero' should be one of random, skip"),
    ],
)
def test_settings_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        make()
