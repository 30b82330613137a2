"""Tests of DDartsSpace: one cell per layer, NNI's strategies, and samples of any number of operations."""

import re

import nni
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.space import model_context
from nni.nas.strategy import DARTS as NniDarts
from nni.nas.strategy import Proxyless, RandomOneShot
from numpy.random import RandomState

from nas_plugins import DARTS, EDAS, DDartsSpace, FairDARTS, Genotype
from search_spaces.genotype import Fixed, GenotypeError
from search_spaces.network import Network
from search_spaces.operations import DARTS_OPERATIONS


def space(**arguments) -> DDartsSpace:
    return DDartsSpace(**{"channels": 2, "layers": 4, "nodes": 2, **arguments})


def sample_of(model_space: ModelSpace, seed: int = 0) -> dict:
    sample: dict = {}
    randomness = RandomState(seed)
    for mutable in model_space.simplify().values():
        mutable.random(sample, randomness)
    return sample


def genotypes(layers: int = 4, nodes: int = 2):
    """Return a strategy of genotypes whose nodes have any number of operations, and node 2 at least one."""
    places = [(source, target) for target in range(2, 2 + nodes) for source in range(target)]
    edge = st.tuples(st.sampled_from(DARTS_OPERATIONS), st.sampled_from(places)).map(lambda e: (e[0], *e[1]))
    first = st.sampled_from(DARTS_OPERATIONS).map(lambda operation: (operation, 0, 2))
    cell = st.tuples(first, st.lists(edge, max_size=5)).map(lambda c: tuple(sorted((c[0], *c[1]), key=lambda e: e[2])))
    return st.lists(cell, min_size=layers, max_size=layers).map(
        lambda cells: Genotype(tuple(cells), tuple(range(layers)), (1, 2), tuple(range(2, 2 + nodes)))
    )


def test_every_layer_has_labels_of_its_own():
    labels = set(space().simplify())
    assert labels == {
        f"cell_{layer}/{what}_{node}_{slot}"
        for layer in range(4)
        for what in ("op", "input")
        for node in (2, 3)
        for slot in (0, 1)
    }


def test_reductions_are_where_those_of_darts_are():
    genotype = space(layers=8).genotype(sample_of(space(layers=8)))
    assert genotype.layout == tuple(range(8))
    assert genotype.reductions == (2, 5)


def test_it_answers_before_it_is_searched():
    assert space()(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("seed", range(3))
def test_a_random_sample_is_a_point_of_it_gives_itself_back_and_freezes_it(seed):
    sample = sample_of(space(), seed)
    assert space().contains(sample)
    genotype = space().genotype(sample)
    assert genotype.to_sample() == sample
    assert str(space().freeze(sample)) == str(Network.from_genotype(genotype, channels=2))
    assert space().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@given(genotypes())
def test_a_genotype_with_any_number_of_operations_a_node_gives_itself_back(genotype):
    assert Genotype.from_sample(genotype.to_sample()) == genotype


@settings(max_examples=5, deadline=None)
@given(genotypes())
def test_it_freezes_to_such_a_genotype(genotype):
    sample = genotype.to_sample()
    assert space().contains(sample)
    assert space().sample(genotype) == sample
    assert str(space().freeze(sample)) == str(Network.from_genotype(genotype, channels=2))


def test_every_way_of_freezing_makes_the_same_network():
    sample = {**sample_of(space()), "cell_1/op_2_1": "none", "cell_3/op_3_2": "skip_connect", "cell_3/input_3_2": [1]}
    with model_context(sample):
        within = space()
    mutated = NniDarts().mutate_model(space())
    ours = FairDARTS().mutate_model(space())
    assert isinstance(within, Network)
    assert str(within) == str(space().freeze(sample)) == str(mutated.freeze(sample)) == str(ours.freeze(sample))
    assert mutated.contains(sample) and ours.contains(sample)


def test_nni_can_write_and_read_it():
    read = nni.load(nni.dump(space(num_classes=7)))
    assert read.freeze(sample_of(read))(torch.randn(2, 3, 8, 8)).shape == (2, 7)


@pytest.mark.parametrize("strategy", [NniDarts, RandomOneShot])
def test_nnis_strategies_derive_points_of_it(strategy):
    sample: dict = {}
    for module in strategy().mutate_model(space()).modules():
        if isinstance(module, BaseSuperNetModule):
            sample |= module.resample(sample) if strategy is RandomOneShot else module.export(sample)
    assert space().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    "strategy", [NniDarts, RandomOneShot, DARTS, EDAS], ids=["NNI DARTS", "random", "DARTS", "EDAS"]
)
def test_it_is_searched_through_nnis_experiment(run_search, strategy):
    (sample,) = run_search(space(layers=3), strategy()).export_top_models(formatter="dict")
    assert space(layers=3).freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_nnis_proxyless_is_refused():
    with pytest.raises(ValueError, match="Proxyless"):
        Proxyless().mutate_model(space())


# Invalid samples and arguments


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"cell_1/op_2_0": "conv"}, "conv"),
        ({"cell_1/op_2_0": "bottleneck_1x3x1"}, "bottleneck_1x3x1 is no candidate"),
        ({"cell_1/input_2_0": [2]}, "cycle"),
        ({"cell_1/input_2_0": []}, "cell_1/input_2_0 should be one node"),
        ({f"cell_2/op_{node}_{slot}": "none" for node in (2, 3) for slot in (0, 1)}, "cell 2: no operation reaches"),
        ({"cell_4/op_2_0": "skip_connect", "cell_4/input_2_0": [0]}, "cell_0, cell_1, cell_2, cell_3"),
        ({"cell_2/op_5_0": "skip_connect", "cell_2/input_5_0": [0]}, "cell_2 cell lacks a key"),
    ],
)
def test_a_sample_with_a_fault_is_refused(change, part):
    sample = {**sample_of(space()), **change}
    with pytest.raises(GenotypeError, match=re.escape(part)):
        space().freeze(sample)
    assert not space().contains(sample)


def test_a_sample_that_lacks_a_cell_a_node_or_a_key_is_refused():
    for lost in ("cell_1/", "cell_1/op_2", "cell_1/input_3_1", "cell_3/"):
        cut = {key: value for key, value in sample_of(space()).items() if not key.startswith(lost)}
        with pytest.raises(GenotypeError):
            space().freeze(cut)


def test_a_sample_of_shared_cells_is_refused():
    with pytest.raises(GenotypeError, match="cell_0, cell_1, cell_2, cell_3"):
        space().freeze({f"{kind}/{key.partition('/')[2]}": v for kind in ("normal", "reduce")
                        for key, v in sample_of(space()).items()})  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": 2}, "layers: 2 should be at least 3"),
        ({"nodes": 0}, "nodes: 0 should be at least 1"),
        ({"operations": ("skip_connect",)}, "at least two different operations"),
        ({"operations": ("skip_connect", "none")}, "unknown operation 'none'"),
        ({"stem": "mnist"}, "stem: 'mnist' should be one of"),
        ({"channels": 0}, "channels: 0 should be at least 1"),
    ],
    ids=str,
)
def test_an_argument_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        space(**arguments)


@pytest.mark.parametrize(
    "arguments", [{"num_classes": 7, "channels": 6}, {"image_channels": 1, "stem": "imagenet"}, {"nodes": 1}], ids=str
)
def test_its_arguments_reach_the_derived_network(arguments):
    searched = space(**arguments)
    frozen = searched.freeze(sample_of(searched))
    images = torch.randn(2, arguments.get("image_channels", 3), 16, 16)
    assert frozen(images).shape == searched(images).shape == (2, arguments.get("num_classes", 10))


def test_fixed_operations_stand_behind_every_cell_and_on_an_edge_of_the_cell_they_name():
    fixed = ("squeeze_excitation", "skip_connect cell_1/0->2")
    sample = sample_of(space(fixed=fixed))
    genotype = space(fixed=fixed).genotype(sample)
    assert genotype.fixed == (Fixed("squeeze_excitation"), Fixed("skip_connect", 1, 0, 2))
    plain, fine_tuned = space().freeze(sample), space(fixed=fixed).freeze(sample)
    extra = [len(fine_tuned.cells[i].operations) - len(plain.cells[i].operations) for i in range(4)]
    assert extra == [0, 1, 0, 0]
    with pytest.raises(ValueError, match="cell_4/0->2' should name one of the cells cell_0, cell_1"):
        space(fixed=("skip_connect cell_4/0->2",))
