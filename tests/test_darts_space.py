"""Tests of DartsSpace: agreement with the space of NNI's hub, samples, genotypes and freezing."""

import copy
import re
from functools import cache

import nni
import pytest
import torch
from nni.nas.hub.pytorch import DARTS as HubDarts
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.space import model_context
from nni.nas.strategy import DARTS as NniDarts
from nni.nas.strategy import RandomOneShot
from numpy.random import RandomState
from test_genotype import DARTS_V2_TEXT
from torch import nn

from search_spaces.complexity import count_parameters
from search_spaces.darts import DartsSpace
from search_spaces.genotype import Genotype
from search_spaces.network import Network
from strategies.edas import EDAS
from strategies.relaxation import argmax


def space(**arguments) -> DartsSpace:
    return DartsSpace(**{"channels": 4, "layers": 3, **arguments})


def hub(width: int = 4, num_cells: int = 3, **arguments) -> HubDarts:
    return HubDarts(width=width, num_cells=num_cells, **arguments)


def sample_of(model_space: ModelSpace, seed: int) -> dict:
    """Draw a random sample as NNI's strategies do."""
    sample: dict = {}
    randomness = RandomState(seed)
    for mutable in model_space.simplify().values():
        mutable.random(sample, randomness)
    return sample


@cache
def random_sample() -> dict:
    """Return a random sample of the space with its usual arguments, to be read only."""
    return sample_of(space(), 0)


def searched_sample(model_space: ModelSpace) -> dict:
    """Return the sample that NNI's DARTS derives from a supernet with random architecture weights."""
    sample: dict = {}
    for module in NniDarts().mutate_model(model_space).modules():
        if isinstance(module, BaseSuperNetModule):
            sample.update(module.export(sample))
    return sample


def images(size: int = 16) -> torch.Tensor:
    return torch.randn(2, 3, size, size)


# The same space as NNI's hub's


def test_it_has_the_labels_and_candidates_of_nnis_hub():
    ours, theirs = space().simplify(), hub().simplify()
    assert list(ours) == list(theirs)
    assert all(ours[label].equals(theirs[label]) for label in theirs)


def test_it_has_32_labels():
    # Two cells, four nodes, two slots, and an operation and an input each.
    assert len(space().simplify()) == 2 * 4 * 2 * 2


def test_none_is_no_candidate():
    assert all("none" not in choice.values for choice in space().simplify().values())


@pytest.mark.parametrize(("seed", "layers"), [(0, 3), (1, 8)])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_a_sample_of_the_hub_freezes_it_to_the_same_function(seed, layers, stem):
    theirs_space = hub(num_cells=layers, dataset=stem)
    sample = sample_of(theirs_space, seed)
    theirs = theirs_space.freeze(sample).eval()
    ours = space(layers=layers, stem=stem, num_classes=theirs.num_labels).freeze(sample).eval()
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = images(16 if stem == "cifar" else 64)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


@pytest.mark.parametrize("seed", range(2))
def test_a_sample_of_it_freezes_the_hub_to_as_many_parameters(seed):
    sample = sample_of(space(layers=8), seed)
    assert count_parameters(hub(num_cells=8).freeze(sample)) == count_parameters(space(layers=8).freeze(sample))


@pytest.mark.parametrize("layers", [4, 11])
def test_at_any_depth_it_has_as_many_parameters_as_the_hub(layers):
    sample = random_sample()
    with model_context(sample):
        sizes = [count_parameters(model) for model in (hub(2, layers), DartsSpace(10, 2, layers))]
    assert sizes[0] == sizes[1]


def test_darts_v2_is_the_network_of_that_name_in_nnis_hub():
    sample = Genotype.parse(DARTS_V2_TEXT).to_sample()
    theirs = HubDarts.load_searched_model("darts-v2")
    ours = DartsSpace(channels=36, layers=20).freeze(sample)
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]


# Samples and genotypes


@pytest.mark.parametrize(("seed", "nodes"), [(0, 1), (1, 3), (2, 4), (3, 4)])
def test_a_random_sample_gives_itself_back(seed, nodes):
    sample = sample_of(space(nodes=nodes), seed)
    assert space(nodes=nodes).genotype(sample).to_sample() == sample


def test_a_genotype_has_the_layout_of_its_space():
    searched = space(layers=8)
    genotype = searched.genotype(sample_of(searched, 0))
    assert genotype.layout == (0, 0, 1, 0, 0, 1, 0, 0) and genotype.reductions == (2, 5)


def test_a_genotype_makes_the_network_that_freezing_makes():
    searched = space()
    sample = sample_of(searched, 0)
    built = Network.from_genotype(searched.genotype(sample), channels=4)
    assert str(built) == str(searched.freeze(sample))


# Freezing


def test_freezing_gives_a_network_that_answers():
    frozen = space().freeze(random_sample())
    assert isinstance(frozen, Network) and frozen(images()).shape == (2, 10)


def test_freezing_leaves_the_space_as_it_was():
    searched = space()
    searched.freeze(sample_of(searched, 0))
    assert len(searched.simplify()) == 32


def test_a_frozen_network_has_weights_of_its_own():
    searched, sample = space(), random_sample()
    first, second = searched.freeze(sample), searched.freeze(sample)
    assert not torch.equal(first.classifier.weight, second.classifier.weight)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": 7, "channels": 6, "layers": 3},
        {"image_channels": 1, "stem": "imagenet", "nodes": 3},
        {"operations": ("skip_connect", "simple_conv_3x3")},
    ],
    ids=str,
)
def test_every_way_of_freezing_makes_the_same_network(arguments):
    searched = space(**arguments)
    sample = sample_of(searched, 1)
    with model_context(sample):
        within = space(**arguments)
    mutated = NniDarts().mutate_model(space(**arguments))
    assert isinstance(within, Network)
    assert str(within) == str(searched.freeze(sample)) == str(mutated.freeze(sample))


def test_positional_arguments_are_kept_in_freezing():
    searched = DartsSpace(7, 6, 5, 1)
    frozen = searched.freeze(sample_of(searched, 0))
    assert frozen(torch.randn(2, 1, 8, 8)).shape == (2, 7)
    assert len(frozen.cells) == 5


def test_nnis_random_gives_a_network():
    assert isinstance(space().random(), Network)


@pytest.mark.parametrize("strategy", [NniDarts, RandomOneShot])
def test_a_space_that_a_strategy_has_mutated_can_be_frozen(strategy):
    sample = random_sample()
    frozen = strategy().mutate_model(space()).freeze(sample)
    assert count_parameters(frozen) == count_parameters(space().freeze(sample))


def test_what_nnis_darts_derives_freezes_the_space_that_it_mutated():
    searched = space()
    frozen = searched.freeze(searched_sample(searched))
    assert frozen(images()).shape == (2, 10)


def test_what_nnis_darts_derives_on_the_hub_freezes_it():
    assert space().freeze(searched_sample(hub()))(images()).shape == (2, 10)


def test_a_copy_can_be_frozen():
    sample = random_sample()
    assert str(copy.deepcopy(space()).freeze(sample)) == str(space().freeze(sample))


def test_nni_can_write_and_read_the_space():
    read = nni.load(nni.dump(space(num_classes=7)))
    assert read.freeze(sample_of(read, 0))(images()).shape == (2, 7)


def test_a_sample_without_a_node_is_refused():
    sample = random_sample()
    cut = {label: value for label, value in sample.items() if "_4_" not in label}
    with pytest.raises(ValueError):
        space().freeze(cut)


def test_a_sample_of_a_larger_cell_is_refused():
    with pytest.raises(ValueError):
        space(nodes=3).freeze(sample_of(space(nodes=4), 0))


def test_a_sample_with_an_operation_that_is_no_candidate_is_refused():
    sample = {**random_sample(), "normal/op_2_0": "sep_conv_5x5"}
    with pytest.raises(ValueError, match="sep_conv_5x5"):
        space(operations=("skip_connect", "max_pool_3x3")).freeze(sample)


# As a supernet


def test_an_unfrozen_space_answers():
    assert space()(images()).shape == (2, 10)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (9, 7)])
def test_a_supernet_of_nnis_darts_answers(height, width):
    supernet = NniDarts().mutate_model(space(channels=2, layers=3))
    assert supernet(torch.randn(2, 3, height, width)).shape == (2, 10)


def test_in_the_cells_of_the_space_no_normalization_learns_a_scale():
    cells = space().network.cells
    assert not any(part.affine for part in cells.modules() if isinstance(part, nn.BatchNorm2d))


def test_all_cells_of_a_kind_share_their_choices():
    assert set(space(layers=20).simplify()) == set(space(layers=3).simplify())


def test_a_smaller_cell_has_fewer_labels():
    assert set(space(nodes=2).simplify()) < set(space(nodes=4).simplify())


def test_the_candidates_can_be_chosen():
    names = ("skip_connect", "bottleneck_1x3x1")
    assert tuple(space(operations=names).simplify()["reduce/op_3_1"].values) == names


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": -1}, "num_classes: -1 should be at least 1"),
        ({"channels": 0}, "channels: 0 should be at least 1"),
        ({"channels": 1, "stem": "imagenet"}, "channels: 1 should be at least 2"),
        ({"layers": 2}, "layers: 2 should be at least 3"),
        ({"layers": 0}, "layers: 0 should be at least 3"),
        ({"image_channels": 0}, "image_channels: 0 should be at least 1"),
        ({"stem": "mnist"}, "stem: 'mnist' should be one of cifar, imagenet"),
        ({"nodes": 0}, "nodes: 0 should be at least 1"),
        ({"nodes": -1}, "nodes: -1 should be at least 1"),
        ({"operations": ()}, "at least two different operations"),
        ({"operations": ("skip_connect",)}, "at least two different operations"),
        ({"operations": ("skip_connect", "skip_connect")}, "at least two different operations"),
        ({"operations": ("skip_connect", "none")}, "unknown operation 'none'"),
        ({"operations": ("skip_connect", "conv")}, "unknown operation 'conv'"),
    ],
    ids=str,
)
def test_an_argument_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        space(**arguments)


@pytest.mark.parametrize("arguments", [{"layers": 2}, {"channels": 0}, {"nodes": 0}], ids=str)
def test_an_argument_out_of_range_is_refused_in_freezing_too(arguments):
    with model_context(random_sample()), pytest.raises(ValueError, match=next(iter(arguments))):
        space(**arguments)


@pytest.mark.parametrize("arguments", [{"channels": 1}, {"layers": 3}, {"nodes": 1}, {"num_classes": 2}], ids=str)
def test_the_smallest_arguments_make_a_space(arguments):
    searched = space(**arguments)
    assert searched.freeze(sample_of(searched, 0))(images()).isfinite().all()


@pytest.mark.parametrize("layers", range(3, 15))
def test_with_the_classifier_of_the_course_project_it_runs_before_and_after_it_is_made_a_supernet(layers):
    operations = ("skip_connect", "max_pool_3x3")
    space = DartsSpace(channels=1, layers=layers, nodes=3, operations=operations, mlp_width=4, image_size=8)
    images = torch.randn(2, 3, 8, 8)
    assert space(images).shape == (2, 10)
    strategy = EDAS()
    supernet = strategy.mutate_model(space)
    strategy.architecture.plan = argmax(strategy.architecture.alphas)
    assert supernet(images).shape == (2, 10)
