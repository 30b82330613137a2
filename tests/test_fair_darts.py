"""The strategy FairDARTS, through NNI's experiment; test_matrix.py searches every space with it."""

import re
import warnings
from functools import partial

import pytest
import small_searches
import torch
from nni.nas.hub.pytorch import DARTS as HubDarts
from torch.nn.functional import cross_entropy

from nas_plugins import DDARTS, DartsSpace, FairDARTS, Genotype
from search_spaces.edges import existing_edges
from search_spaces.genotype import Edge
from strategies.base import DifferentiableStrategy
from strategies.derivation import by_method
from strategies.derivation import derive as derive_cell
from strategies.objective import evaluator_loss, total, zero_one
from strategies.relaxation import EveryEdge, sigmoid
from strategies.supernet.cell import MixedCell


def small_space():
    return DartsSpace(channels=2, layers=3)


def tiny_space():
    return DartsSpace(channels=2, layers=3, nodes=2, operations=small_searches.FEW)  # FEW here is a cell


def test_it_has_the_settings_of_the_released_code():
    strategy = FairDARTS()
    optimizer = strategy.composition.optimizer([torch.zeros(1, requires_grad=True)])
    assert isinstance(optimizer, torch.optim.Adam)
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": 3e-3,
        "betas": (0.9, 0.999),
        "weight_decay": 1e-3,
    }
    strategy.mutate_model(small_space())
    assert all((alpha == 0).all() for alpha in strategy.architecture.alphas.values())
    assert all(len(names) == 7 for names in strategy.architecture.candidates.values())  # without none


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"w_01": -1.0}, "w_01: -1.0 should be at least 0"),
        ({"derivation": "best"}, "method: 'best' should be darts, sparse or edge"),
        ({"derivation": "edge", "threshold": 1.5}, "threshold: 1.5 should be from 0 to 1"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        FairDARTS(**settings)


def test_one_step_is_the_loss_of_equation_4_by_hand(run_search, images):
    def descent(w_01):
        return DifferentiableStrategy(
            relaxation=EveryEdge(sigmoid),
            optimizer=partial(torch.optim.SGD, lr=1.0),
            objective=total(evaluator_loss, zero_one(w_01)),
            none=False,
            alpha_scale=1.0,
        )

    twin = descent(0.0)
    torch.manual_seed(7)
    model, architecture = twin.mutate_model(tiny_space()).double(), twin.architecture.double()
    alphas = architecture.alphas
    architecture.plan = sigmoid(alphas)
    loss = cross_entropy(model(images[:][0].double()), images[:][1])
    loss = loss - 5.0 * ((torch.sigmoid(torch.cat(list(alphas.values()))) - 0.5) ** 2).mean()
    gradients = torch.autograd.grad(loss, list(alphas.values()))

    strategy = descent(5.0)
    torch.manual_seed(7)
    run_search(tiny_space(), strategy, batch_size=32, precision="64-true")
    for (edge, alpha), gradient in zip(alphas.items(), gradients, strict=True):
        assert torch.allclose(strategy.architecture.alphas[edge], alpha - gradient, atol=1e-12), edge


# Derivations


def supernet_with(alphas, method, space=small_space):
    """Return the sample of a supernet with the given α, by cell, edge and operation; all other α are −5."""
    strategy = FairDARTS(derivation=method)
    model = strategy.mutate_model(space())
    for edge, alpha in strategy.architecture.alphas.items():
        alpha.data.fill_(-5.0)
        for operation, value in alphas.get(edge, {}).items():
            alpha.data[strategy.architecture.candidates[edge].index(operation)] = value
    sample = {}
    for module in model.modules():
        if isinstance(module, MixedCell):
            sample |= module.export(sample)
    return model, sample


FEW = {
    "normal/0->2": {"sep_conv_3x3": 5.0, "skip_connect": 4.0, "max_pool_3x3": 3.0},
    "normal/2->5": {"skip_connect": 2.0},
    "reduce/1->3": {"max_pool_3x3": 5.0},
}
SPARSE = ((Edge("sep_conv_3x3", 0, 2), Edge("skip_connect", 2, 5)), (Edge("max_pool_3x3", 1, 3),))
BOTH = ((SPARSE[0][0], Edge("skip_connect", 0, 2), SPARSE[0][1]), SPARSE[1])


@pytest.mark.parametrize(("method", "cells"), [("sparse", SPARSE), ("edge", BOTH)])
def test_sparse_and_edge_give_nodes_none_one_or_several_operations(method, cells):
    model, sample = supernet_with(FEW, method)
    assert model.contains(sample)
    genotype = Genotype.from_sample(sample, 3)
    assert genotype.cells == cells
    assert genotype.concat == (2, 3, 4, 5)
    network = small_space().freeze(sample)
    assert [tuple(cell.edges) for cell in network.cells] == [cells[i] for i in genotype.layout]
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_an_edge_may_have_more_operations_than_nnis_cell_has_slots():
    alphas = {f"normal/{source}->5": {"skip_connect": 5.0, "sep_conv_3x3": 4.0} for source in range(5)}
    alphas |= {f"normal/0->{node}": {"skip_connect": 5.0} for node in (2, 3, 4)}
    alphas["reduce/0->2"] = {"skip_connect": 5.0}
    _, sample = supernet_with(alphas, "edge")
    normal, _ = Genotype.from_sample(sample, 3).cells
    assert len([edge for edge in normal if edge.target == 5]) == 10
    assert small_space().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_the_plan_of_the_derived_architecture_runs_its_operations_alone():
    model, sample = supernet_with(FEW, "edge")
    plans = {}
    for module in model.modules():
        if isinstance(module, MixedCell):
            plans |= module.derived_plan(sample)
    names = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3")
    running = {edge: [names[i] for i in choice] for edge, choice in plans.items() if choice}
    assert running == {
        "normal/0->2": ["sep_conv_3x3", "skip_connect"],
        "normal/2->5": ["skip_connect"],
        "reduce/1->3": ["max_pool_3x3"],
    }


def test_a_cell_that_would_be_empty_is_derived_as_darts_and_says_so():
    with pytest.warns(UserWarning, match="^reduce: the derivation keeps no operation; it is derived as 'darts'$"):
        _, sample = supernet_with({"normal/0->2": {"skip_connect": 5.0}}, "sparse")
    normal, reduce = Genotype.from_sample(sample, 3).cells
    assert normal == (Edge("skip_connect", 0, 2),)
    assert len(reduce) == 8


def test_a_cell_of_which_nothing_is_connected_to_its_inputs_is_empty():
    with pytest.warns(UserWarning, match="^normal: "):
        supernet_with({"normal/2->3": {"skip_connect": 5.0}, "reduce/0->2": {"skip_connect": 5.0}}, "sparse")


@pytest.mark.parametrize("strategy", [FairDARTS, DDARTS])
def test_with_no_argument_it_is_derived_as_in_the_papers(strategy):
    cell = {(0, 2): {"a": 5.0, "b": 4.0}, (1, 2): {"a": 1.7, "b": 0.0}, (0, 3): {"a": 5.0, "b": 5.0}}
    assert strategy().composition.derivation(cell) == derive_cell(cell, "sparse", 0.85)


def test_cells_of_nni_which_have_two_operations_a_node_are_derived_as_darts():
    def space():
        return HubDarts(width=2, num_cells=3, dataset="cifar")

    with pytest.warns(UserWarning, match="^DARTS: it is derived as 'darts', which alone fits its cells$"):
        _, sample = supernet_with(FEW, "edge", space)
    assert space().contains(sample)
    assert len([key for key in sample if key.startswith("normal/op_")]) == 8


def test_early_in_a_search_empty_cells_are_validated_without_a_warning(run_search):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        experiment = run_search(tiny_space(), FairDARTS(derivation="sparse"), batch_size=32)
    with pytest.warns(UserWarning, match="derived as 'darts'"):
        (sample,) = experiment.export_top_models(formatter="dict")
    assert tiny_space().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("method", ["sparse", "edge"])
def test_with_operations_on_fixed_edges_the_whole_cell_is_derived(method):
    def space():
        return DartsSpace(channels=2, layers=3, fixed=["skip_connect normal/0->3"])

    _, sample = supernet_with(FEW, method, space)
    cells = Genotype.from_sample(sample, 3).cells
    assert cells == {"sparse": SPARSE, "edge": BOTH}[method]
    assert space().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_by_method_is_the_derivation_of_that_name():
    cell = {(0, 2): {"a": 5.0, "b": 3.0}, (1, 2): {"a": -1.0, "b": 0.0}}
    for method in ("darts", "sparse", "edge"):
        assert by_method(method, 0.9)(cell) == derive_cell(cell, method, 0.9)


def test_connected_operations_are_those_that_receive_something():
    cell = {(0, 2): {"a": -9.0}, (1, 2): {"a": -9.0}, (2, 3): {"a": 9.0}, (1, 4): {"a": 9.0}, (4, 5): {"a": 9.0}}
    chosen = derive_cell(cell, "sparse")
    assert [(edge.source, edge.target) for edge in existing_edges(chosen)] == [(1, 4), (4, 5)]
