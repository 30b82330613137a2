"""Derivations: from α to discrete operations."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.decoupling import by_stage
from strategies.derivation import ByCell, by_method, darts, derive, derive_cell, few_skips
from strategies.pc_darts import normalized_edges

OPERATIONS = ("max_pool_3x3", "skip_connect", "sep_conv_3x3", "none")


def cell(**edges):
    return {(int(key[1]), int(key[2])): dict(zip(OPERATIONS, alpha, strict=True)) for key, alpha in edges.items()}


def test_darts_keeps_two_edges_a_node_each_with_its_best_operation():
    alphas = cell(_02=(1, 0, 0, 0), _12=(0, 2, 0, 0), _03=(0, 0, 0, 0), _13=(0, 0, 3, 0), _23=(0, 0, 1, 0))
    assert [chosen[:3] for chosen in derive(alphas)] == [
        ("skip_connect", 1, 2),
        ("max_pool_3x3", 0, 2),
        ("sep_conv_3x3", 1, 3),
        ("sep_conv_3x3", 2, 3),
    ]


def test_darts_never_derives_none_but_an_edge_that_prefers_none_is_weak():
    # By raw α edge 0->3 would win with 4; after the softmax, none has nearly all of its weight.
    alphas = cell(_02=(0, 0, 0, 0), _12=(0, 0, 0, 0), _03=(4, 0, 0, 9), _13=(1, 0, 0, 0), _23=(1, 0, 0, 0))
    kept = derive(alphas)
    assert all(chosen.operation != "none" for chosen in kept)
    assert {chosen.source for chosen in kept if chosen.target == 3} == {1, 2}


def test_of_equal_edges_and_operations_the_first_is_taken():
    alphas = cell(_02=(0, 0, 0, 0), _12=(0, 0, 0, 0), _03=(0, 0, 0, 0), _13=(0, 0, 0, 0), _23=(0, 0, 0, 0))
    assert [chosen[:3] for chosen in derive(alphas) if chosen.target == 3] == [
        ("max_pool_3x3", 0, 3),
        ("max_pool_3x3", 1, 3),
    ]


def test_sparse_keeps_of_the_two_strongest_edges_those_that_reach_the_threshold():
    alphas = cell(_02=(3, 0, 0, 9), _12=(0, 1, 0, 0), _03=(2, 0, 0, 0), _13=(0, 0, 4, 5), _23=(0, 2.5, 0, 0))
    assert [chosen[:3] for chosen in derive(alphas, "sparse", 0.85)] == [
        ("max_pool_3x3", 0, 2),
        ("sep_conv_3x3", 1, 3),
        ("skip_connect", 2, 3),
    ]


def test_edge_keeps_on_every_edge_the_two_best_operations_that_reach_the_threshold():
    alphas = cell(_02=(3, 2, 4, 0), _12=(0, 1, 0, 0), _03=(2, 0, 0, 0), _13=(9, 9, 9, 9), _23=(0, 0, 0, 0))
    kept = [chosen[:3] for chosen in derive(alphas, "edge", 0.85)]
    assert kept == [
        ("sep_conv_3x3", 0, 2),
        ("max_pool_3x3", 0, 2),
        ("max_pool_3x3", 0, 3),
        ("max_pool_3x3", 1, 3),
        ("skip_connect", 1, 3),
    ]


EDGES = [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
DISTINCT = st.permutations([step**2 / 80 for step in range(len(EDGES) * len(OPERATIONS))])
"""A different α for every candidate, so that no choice depends on rounding."""


def of(values, shifts=(0, 0, 0, 0, 0)):
    rows = zip(*[iter(values)] * len(OPERATIONS), strict=True)
    return {
        edge: {name: alpha + shift for name, alpha in zip(OPERATIONS, row, strict=True)}
        for edge, row, shift in zip(EDGES, rows, shifts, strict=True)
    }


@given(DISTINCT, st.lists(st.integers(-20, 20), min_size=5, max_size=5))
def test_a_constant_added_to_all_alphas_of_an_edge_changes_nothing_under_the_softmax(values, shifts):
    assert [chosen[:3] for chosen in derive(of(values, shifts))] == [chosen[:3] for chosen in derive(of(values))]


@given(DISTINCT, st.sampled_from(["darts", "sparse", "edge"]), st.randoms())
def test_the_order_of_edges_and_candidates_changes_nothing(values, method, random):
    cell = of(values)
    shuffled = {edge: dict(random.sample(list(cell[edge].items()), 4)) for edge in random.sample(EDGES, 5)}
    assert {chosen[:3] for chosen in derive(shuffled, method, 0.6)} == {
        chosen[:3] for chosen in derive(cell, method, 0.6)
    }


@given(DISTINCT, st.sampled_from(["sparse", "edge"]), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_keeps_no_operation_that_a_lower_one_drops(values, method, a, b):
    low, high = ({chosen[:3] for chosen in derive(of(values), method, threshold)} for threshold in sorted((a, b)))
    assert high <= low


@given(st.lists(st.floats(-1e4, 1e4), min_size=20, max_size=20))
def test_darts_gives_two_distinct_sources_a_node_for_any_alpha(values):
    numbers = iter(values)
    alphas = {key: {name: next(numbers) for name in OPERATIONS} for key in ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3))}
    kept = derive(alphas)
    for node in (2, 3):
        sources = [chosen.source for chosen in kept if chosen.target == node]
        assert len(sources) == len(set(sources)) == 2
    assert all(0 <= chosen.weight <= 1 and math.isfinite(chosen.weight) for chosen in kept)


@pytest.mark.parametrize(("method", "threshold"), [("best", 0.5), ("sparse", 1.5), ("edge", -0.1)])
def test_an_unknown_method_or_threshold_is_named(method, threshold):
    with pytest.raises(ValueError, match=r"^(method|threshold): "):
        derive(cell(_02=(0, 0, 0, 0)), method, threshold)


# A limit of skip connections

COLLAPSED = cell(_02=(0, 3, 2, 0), _12=(0, 2, 1, 0), _03=(1, 4, 0, 0), _13=(0, 1, 0, 0), _23=(0, 0, 2, 0))
"""α with three skip connections among the four operations that darts keeps."""


def kept(derivation, alphas=COLLAPSED, nodes=None):
    return [chosen[:3] for chosen in derive_cell(derivation, "normal", alphas, nodes)]


@pytest.mark.parametrize(
    ("limit", "operations"),
    [
        (None, ["skip_connect", "skip_connect", "skip_connect", "sep_conv_3x3"]),
        (3, ["skip_connect", "skip_connect", "skip_connect", "sep_conv_3x3"]),
        (2, ["skip_connect", "sep_conv_3x3", "skip_connect", "sep_conv_3x3"]),
        (1, ["sep_conv_3x3", "sep_conv_3x3", "skip_connect", "sep_conv_3x3"]),
        (0, ["sep_conv_3x3", "sep_conv_3x3", "sep_conv_3x3", "max_pool_3x3"]),
    ],
)
def test_the_strongest_skips_stay_and_the_other_edges_take_their_next_best_operation(limit, operations):
    assert sorted(name for name, _, _ in kept(few_skips(darts, limit))) == sorted(operations)


def test_an_edge_that_lost_its_skip_competes_with_the_weight_of_its_next_best():
    alphas = {**COLLAPSED, (1, 3): {"max_pool_3x3": 2.0, "skip_connect": 1.9, "sep_conv_3x3": 0.0, "none": 0.0}}
    assert ("skip_connect", 0, 3) in kept(darts, alphas)
    assert [source for _, source, target in kept(few_skips(darts, 0), alphas) if target == 3] == [2, 1]


def test_sparse_drops_an_edge_whose_next_best_operation_misses_the_threshold():
    assert ("skip_connect", 1, 2) in kept(by_method("sparse", 0.85))
    assert kept(few_skips(by_method("sparse", 0.85), 1)) == [
        ("sep_conv_3x3", 0, 2),
        ("skip_connect", 0, 3),
        ("sep_conv_3x3", 2, 3),
    ]


def test_edge_keeps_the_next_two_operations_of_an_edge():
    alphas = cell(_02=(4, 5, 3, 9), _12=(0, 0, 0, 0))
    assert kept(by_method("edge", 0.85), alphas) == [("skip_connect", 0, 2), ("max_pool_3x3", 0, 2)]
    assert kept(few_skips(by_method("edge", 0.85), 0), alphas) == [("max_pool_3x3", 0, 2), ("sep_conv_3x3", 0, 2)]


def test_searches_with_a_topology_keep_the_inputs_that_it_chose():
    betas = {2: {"0": 0.0, "1": 0.0}, 3: {"0": 0.0, "1": 3.0, "2": 3.0}}
    assert kept(few_skips(normalized_edges, 0), nodes=betas)[2:] == [("sep_conv_3x3", 2, 3), ("max_pool_3x3", 1, 3)]
    second_stage = {edge: {"skip_connect": 1.0, "sep_conv_3x3": 0.0} for edge in COLLAPSED}
    pairs = {2: {"0+1": 0.0}, 3: {"0+1": 0.0, "0+2": 1.0, "1+2": 0.0}}
    assert {
        (name, source) for name, source, target in kept(few_skips(by_stage, 0), second_stage, pairs) if target == 3
    } == {
        ("sep_conv_3x3", 0),
        ("sep_conv_3x3", 2),
    }


def test_each_cell_keeps_its_own_derivation():
    limited = few_skips(ByCell({"normal": by_method("edge", 0.85)}, darts), 1)
    assert kept(limited) == kept(few_skips(by_method("edge", 0.85), 1))
    assert kept(limited.of("reduce")) == kept(few_skips(darts, 1))


def test_a_node_without_any_other_operation_keeps_its_skip():
    alone = {(0, 2): {"skip_connect": 1.0}, (1, 2): {"skip_connect": 2.0, "none": 3.0}}
    assert kept(few_skips(darts, 0), alone) == [("skip_connect", 0, 2), ("skip_connect", 1, 2)]
