"""Tests of derived networks: size, stems, resolutions, cells, auxiliary head, drop-path and classifier."""

import copy
import re
from collections import Counter
from functools import partial
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_genotype import DARTS_V2_TEXT, valid_genotypes
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import SqueezeExcitation

from search_spaces.cell import CellShape, DiscreteCell
from search_spaces.complexity import count_multiply_adds, count_parameters
from search_spaces.genotype import Genotype
from search_spaces.network import Network
from search_spaces.stems import IMAGE_STEMS, STEMS, AuxiliaryHead, CifarStem, ImageNetStem, Stem, global_average

DARTS_V2 = Genotype.parse(DARTS_V2_TEXT)


def genotype(*edges, layers=1, reductions=(), concat=(2,)) -> Genotype:
    """Return a genotype with the same cell in every layer."""
    return Genotype((edges,), (0,) * layers, reductions, concat, "dartopti")


def fixed_cell(*edges, concat=(2,), channels=4, reduction=False, after_reduction=False) -> DiscreteCell:
    described = genotype(*edges, concat=concat)
    shape = CellShape(channels, channels, channels, reduction, after_reduction)
    return DiscreteCell(shape, described.cells[0], described.output_nodes(described.cells[0])).eval()


def output_shapes(network: Network, image: torch.Tensor) -> list[tuple[int, ...]]:
    """Return (channels, height, width) of the output of every cell."""
    shapes = []
    for cell in network.cells:
        cell.register_forward_hook(lambda _cell, _inputs, out: shapes.append(tuple(out.shape[1:])))
    network(image)
    return shapes


# Size


def test_darts_v2_on_cifar_has_its_published_number_of_parameters():
    network = Network.from_genotype(DARTS_V2.deepen(20), num_classes=10, channels=36)
    assert count_parameters(network) == 3_349_342


def test_darts_v2_on_imagenet_has_its_published_number_of_parameters():
    network = Network.from_genotype(DARTS_V2.deepen(14), num_classes=1000, channels=48, stem="imagenet")
    assert count_parameters(network) == 4_718_752


def test_the_multiply_adds_of_darts_v2_are_those_of_its_convolutions_and_classifier():
    network = Network.from_genotype(DARTS_V2.deepen(14), num_classes=1000, channels=48, stem="imagenet").eval()
    counts = [48 * 16 * 1000]

    def count(convolution: nn.Conv2d, _inputs, out: torch.Tensor) -> None:
        counts.append(out.numel() * convolution.weight[0].numel())

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    network(torch.randn(1, 3, 64, 64))
    expected = sum(counts)
    assert count_multiply_adds(network, 3, 64) == expected


def test_the_parameters_of_a_small_network_counted_by_hand():
    network = Network.from_genotype(genotype(("simple_conv_3x3", 0, 2)), num_classes=10, channels=4)
    stem = 3 * 12 * 9 + 2 * 12
    alignment = 2 * (12 * 4 + 2 * 4)
    convolution = 4 * 4 * 9 + 2 * 4
    classifier = 4 * 10 + 10
    assert count_parameters(network) == stem + alignment + convolution + classifier


def test_frozen_parameters_are_not_counted():
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad = False
    assert count_parameters(layer) == 6


def test_the_multiply_adds_of_a_small_network_counted_by_hand():
    network = Network.from_genotype(genotype(("simple_conv_3x3", 0, 2)), num_classes=10, channels=4)
    stem = 64 * 3 * 12 * 9
    alignment = 2 * 64 * 12 * 4
    convolution = 64 * 4 * 4 * 9
    classifier = 4 * 10
    assert count_multiply_adds(network, 3, 8) == stem + alignment + convolution + classifier


def test_the_multiply_adds_of_a_reduction_counted_by_hand():
    network = Network.from_genotype(
        genotype(("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2), reductions=(0,)),
        num_classes=10,
        channels=4,
        image_channels=1,
    )
    stem = 64 * 1 * 12 * 9
    alignment = 2 * 64 * 12 * 8
    separable = 2 * (16 * 8 * 9 + 16 * 8 * 8)  # depthwise, then pointwise, twice, at 4×4
    skip = 16 * 8 * 8  # two convolutions from 8 to 4 channels
    classifier = 8 * 10
    assert count_multiply_adds(network, 1, 8) == stem + alignment + separable + skip + classifier


def test_multiply_adds_are_those_of_evaluation():
    plain = Network.from_genotype(DARTS_V2, channels=4)
    auxiliary = Network.from_genotype(DARTS_V2, channels=4, auxiliary=True).train()
    assert count_multiply_adds(auxiliary, 3, 32) == count_multiply_adds(plain, 3, 32)


def test_counting_does_not_change_the_network():
    network = Network.from_genotype(DARTS_V2, channels=4).train()
    before = copy.deepcopy(network.state_dict())
    count_multiply_adds(network, 3, 32)
    assert network.training
    after = network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


# Any genotype


@given(
    valid_genotypes(max_layers=4),
    st.integers(2, 5),
    st.integers(1, 3),
    st.integers(1, 33),
    st.integers(1, 33),
)
@settings(max_examples=60, deadline=None)
def test_any_genotype_runs_forwards_and_backwards_on_images_of_any_size(described, classes, channels, height, width):
    network = Network.from_genotype(described, classes, channels)
    images = torch.randn(3, 3, height, width)
    logits = network(images)
    assert logits.shape == (3, classes) and logits.isfinite().all()
    logits.square().sum().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    assert network.eval()(images).isfinite().all()


@given(valid_genotypes(max_layers=3), st.integers(2, 5), st.integers(16, 24))
@settings(max_examples=25, deadline=None)
def test_any_genotype_makes_a_network_with_the_stem_of_imagenet(described, channels, size):
    network = Network.from_genotype(described, 7, channels, stem="imagenet").eval()
    assert network(torch.randn(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("image_channels", [1, 3, 5])
def test_images_may_have_any_number_of_channels(image_channels):
    network = Network.from_genotype(DARTS_V2, 10, 4, image_channels=image_channels)
    assert network(torch.randn(2, image_channels, 16, 16)).shape == (2, 10)


# Resolutions and channels


def test_a_reduction_halves_the_resolution_and_doubles_the_channels():
    network = Network.from_genotype(DARTS_V2, channels=4)
    normal, once, twice = (16, 16, 16), (32, 8, 8), (64, 4, 4)
    assert output_shapes(network, torch.randn(2, 3, 16, 16)) == [normal] * 2 + [once] * 3 + [twice] * 3


def test_odd_resolutions_are_rounded_up():
    network = Network.from_genotype(DARTS_V2, channels=4)
    assert [shape[1:] for shape in output_shapes(network, torch.randn(2, 3, 15, 9))] == (
        [(15, 9)] * 2 + [(8, 5)] * 3 + [(4, 3)] * 3
    )


def test_reductions_may_follow_each_other():
    described = genotype(("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2), layers=4, reductions=(0, 1, 2))
    shapes = output_shapes(Network.from_genotype(described, channels=2), torch.randn(2, 3, 16, 16))
    assert shapes == [(4, 8, 8), (8, 4, 4), (16, 2, 2), (16, 2, 2)]


def test_the_depth_of_the_network_is_that_of_the_layout():
    assert len(Network.from_genotype(DARTS_V2.deepen(11), channels=2).cells) == 11


@pytest.mark.parametrize(("height", "width"), [(32, 32), (7, 9)])
def test_the_stem_of_cifar_keeps_the_resolution(height, width):
    before, previous = CifarStem(3, 4)(torch.randn(2, 3, height, width))
    assert before.shape == previous.shape == (2, 12, height, width)


@pytest.mark.parametrize(("size", "quarter", "eighth"), [(224, 56, 28), (33, 9, 5), (8, 2, 1)])
def test_the_stem_of_imagenet_gives_a_quarter_and_an_eighth(size, quarter, eighth):
    before, previous = ImageNetStem(3, 4)(torch.randn(2, 3, size, size))
    assert before.shape == (2, 4, quarter, quarter)
    assert previous.shape == (2, 4, eighth, eighth)


# Stems

DUAL = [name for name in STEMS if name.startswith("dual_")]


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 1, 1), (2, 3, 6)])
@pytest.mark.parametrize("last", [False, True])
def test_the_global_average_is_the_mean_and_its_gradient_has_the_memory_format_of_the_features(shape, last):
    last = last and len(shape) == 4
    features = torch.randn(shape, dtype=torch.float64)
    features = features.contiguous(memory_format=torch.channels_last) if last else features
    features.requires_grad_()
    mean = global_average(features)
    torch.testing.assert_close(mean, features.flatten(2).mean(2))
    (gradient,) = torch.autograd.grad(mean.sum(), features)
    torch.testing.assert_close(gradient, torch.full_like(features, 1 / features[0, 0].numel()))
    assert not last or gradient.is_contiguous(memory_format=torch.channels_last)


def test_every_name_of_a_stem_has_one():
    assert get_args(Stem) == tuple(STEMS)


def test_every_stem_of_images_comes_single_and_dual():
    assert sorted(DUAL) == sorted(f"dual_{name}" for name in IMAGE_STEMS if name not in DUAL)


@pytest.mark.parametrize("name", IMAGE_STEMS)
@pytest.mark.parametrize("odd", [0, 1, 5])
def test_a_stem_halves_the_resolution_as_often_as_it_says(name, odd):
    kind = STEMS[name]
    stem = kind.make(3, 4)
    side = kind.image_size + odd
    sides = [-(-side // 2**times) for times in (kind.halvings - kind.after_reduction, kind.halvings)]
    for out, expected in zip(stem(torch.randn(2, 3, side, side)), sides, strict=True):
        assert out.shape == (2, stem.out_channels, expected, expected)


@pytest.mark.parametrize("name", DUAL)
def test_a_dual_stem_gives_two_inputs_of_one_resolution_from_weights_of_their_own(name):
    """Figure 4 has two different transformations of the image in place of one."""
    kind, single = STEMS[name], STEMS[name.removeprefix("dual_")]
    stem = kind.make(3, 4)
    before, previous = stem(torch.randn(2, 3, 32, 32))
    assert before.shape == previous.shape and not torch.equal(before, previous)
    assert count_parameters(stem) == 2 * count_parameters(single.make(3, 4))
    before.sum().backward()
    assert all(p.grad is None for p in stem.second.parameters())


@pytest.mark.parametrize("name", IMAGE_STEMS)
def test_the_images_of_a_stem_fit_the_auxiliary_head(name):
    """Behind two reductions, the pooling leaves 2×2 pixels of the features."""
    network = Network.from_genotype(DARTS_V2, 10, 2, stem=name, auxiliary=True).train()
    pooled = []
    network.auxiliary.features[1].register_forward_hook(lambda _pool, _inputs, out: pooled.append(out.shape[2:]))
    side = STEMS[name].image_size
    assert network(torch.randn(2, 3, side, side))[1].shape == (2, 10)
    assert pooled == [(2, 2)]


@pytest.mark.parametrize("name", IMAGE_STEMS)
@pytest.mark.parametrize("size", [32, 37])
def test_the_classifier_of_the_course_project_fits_behind_any_stem(name, size):
    network = Network.from_genotype(DARTS_V2, channels=2, stem=name, mlp_width=8, image_size=size)
    assert network(torch.randn(2, 3, size, size)).shape == (2, 10)


@pytest.mark.parametrize("name", IMAGE_STEMS)
def test_a_stem_says_the_least_number_of_channels_that_it_can_be_made_with(name):
    least = STEMS[name].least_channels
    assert Network.from_genotype(DARTS_V2, channels=least, stem=name)(torch.randn(2, 3, 16, 16)).isfinite().all()
    with pytest.raises(ValueError, match=f"channels: {least - 1} should be at least {least}"):
        Network.from_genotype(DARTS_V2, channels=least - 1, stem=name)


# Cells


def test_a_node_is_the_sum_of_what_arrives():
    cell = fixed_cell(("skip_connect", 0, 2), ("skip_connect", 1, 2), ("skip_connect", 0, 2))
    before, previous = torch.randn(2, 2, 4, 5, 5)
    first, second = cell.align([before, previous])
    assert torch.allclose(cell(before, previous), first + second + first)


def test_a_fixed_operation_on_an_edge_is_an_addend_of_its_target():
    """This holds with and without a searched operation on that edge."""
    searched = (("skip_connect", 0, 2), ("skip_connect", 1, 3))
    described = Genotype((searched,), (0,), (), (2, 3), fixed=(("skip_connect", 0, 0, 2), ("skip_connect", 0, 2, 3)))
    cell = DiscreteCell(CellShape(4, 4, 4, False, False), described.edges_with_fixed(0), (2, 3)).eval()
    before, previous = torch.randn(2, 2, 4, 5, 5)
    first, second = cell.align([before, previous])
    assert torch.allclose(cell(before, previous), torch.cat([2 * first, 2 * first + second], dim=1))


def test_the_operations_behind_a_cell_run_in_their_order():
    fixed = (("squeeze_excitation",), ("max_pool_3x3",))
    described = Genotype(((("skip_connect", 0, 2),),), (0, 0), (1,), (2,), fixed=fixed)
    network = Network.from_genotype(described, channels=4)
    assert [[type(part) for part in cell.after] for cell in network.cells] == [[SqueezeExcitation, nn.MaxPool2d]] * 2
    plain = DiscreteCell(CellShape(12, 12, 4, False, False), described.cells[0], (2,))
    plain.load_state_dict(network.cells[0].state_dict(), strict=False)
    inputs = torch.randn(2, 2, 12, 5, 5)
    assert torch.equal(network.cells[0](*inputs), network.cells[0].after(plain(*inputs)))


def test_a_node_reads_the_nodes_before_it():
    cell = fixed_cell(("skip_connect", 0, 2), ("skip_connect", 1, 3), ("skip_connect", 2, 3), concat=(3,))
    before, previous = torch.randn(2, 2, 4, 5, 5)
    assert torch.allclose(cell(before, previous), sum(cell.align([before, previous])))


def test_the_output_concatenates_the_existing_nodes_of_concat():
    # Node 3 does not exist, nor does node 4, which reads only node 3.
    cell = fixed_cell(("skip_connect", 0, 2), ("skip_connect", 3, 4), ("skip_connect", 1, 5), concat=(2, 3, 4, 5))
    before, previous = torch.randn(2, 2, 4, 5, 5)
    assert torch.allclose(cell(before, previous), torch.cat(cell.align([before, previous]), dim=1))


def test_what_leaves_a_missing_node_has_no_parameters():
    whole = genotype(("skip_connect", 0, 2), ("sep_conv_3x3", 3, 4), concat=(2, 3, 4))
    bare = genotype(("skip_connect", 0, 2))
    sizes = [count_parameters(Network.from_genotype(described, channels=4)) for described in (whole, bare)]
    assert sizes[0] == sizes[1]


def test_in_a_reduction_cell_the_operations_on_the_inputs_alone_have_stride_2():
    cell = fixed_cell(
        ("max_pool_3x3", 0, 2), ("avg_pool_3x3", 1, 2), ("max_pool_3x3", 2, 3), concat=(2, 3), reduction=True
    )
    assert [beginning.module.stride for beginning in cell.beginnings] == [2, 2, 1]


def test_after_a_reduction_the_older_input_is_halved():
    cell = fixed_cell(("skip_connect", 0, 2), ("skip_connect", 1, 2), after_reduction=True)
    assert cell(torch.randn(2, 4, 9, 9), torch.randn(2, 4, 5, 5)).shape == (2, 4, 5, 5)


def test_a_derived_network_learns_its_normalizations():
    network = Network.from_genotype(DARTS_V2, channels=4)
    assert all(part.affine for part in network.modules() if isinstance(part, nn.BatchNorm2d))


# What operations share


def plain_output(cell: DiscreteCell, before: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
    """Return the output of a cell by its definition: every operation has its own ReLU and its own pooling."""
    nodes = dict(enumerate(cell.align([before, previous])))
    for edge, operation, beginning in zip(cell.edges, cell.operations, cell.beginnings, strict=True):
        out = operation(nodes[edge.source] if beginning is None else beginning(nodes[edge.source]))
        nodes[edge.target] = nodes[edge.target] + out if edge.target in nodes else out
    return cell.after(torch.cat([nodes[node] for node in cell.outputs], dim=1))


@pytest.mark.parametrize("reduction", [False, True])
def test_shared_relus_and_poolings_change_no_output_and_no_gradient(reduction):
    edges = [
        *[("max_pool_3x3", 0, 2), ("sep_conv_3x3", 0, 2), ("max_pool_3x3", 0, 3), ("dil_conv_5x5", 0, 3)],
        *[("skip_connect", 1, 3), ("skip_connect", 1, 4), ("avg_pool_3x3", 2, 4), ("simple_conv_1x1", 2, 4)],
    ]
    cell = fixed_cell(*edges, concat=(2, 3, 4), reduction=reduction).double().train()
    inputs = [torch.randn(3, 4, 8, 8, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    outputs = [output(*inputs) for output in (cell, partial(plain_output, cell))]
    assert torch.allclose(*outputs, rtol=0, atol=1e-12)
    weights = [*inputs, *cell.parameters()]
    gradients = [torch.autograd.grad(output.pow(3).sum(), weights) for output in outputs]
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_a_cell_has_one_relu_for_all_operations_on_a_node():
    cell = fixed_cell(("sep_conv_3x3", 0, 2), ("dil_conv_3x3", 0, 2), ("simple_conv_1x1", 0, 2))
    calls = Calls()
    with calls:
        cell(*torch.randn(2, 1, 4, 8, 8))
    assert calls.counts["relu"] == 2 + 1 + 1  # of the inputs, of node 0, inside the separable convolution


class Calls(TorchDispatchMode):
    """Counts the calls of operators by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


# Auxiliary head


def test_the_auxiliary_head_answers_in_training_alone():
    network = Network.from_genotype(DARTS_V2, 10, 4, auxiliary=True)
    images = torch.randn(2, 3, 32, 32)
    logits, auxiliary = network.train()(images)
    assert logits.shape == auxiliary.shape == (2, 10)
    assert network.eval()(images).shape == (2, 10)


def test_without_an_auxiliary_head_training_gives_the_logits_alone():
    assert Network.from_genotype(DARTS_V2, 10, 4).train()(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_the_auxiliary_head_trains_the_layers_up_to_two_thirds_of_the_depth():
    network = Network.from_genotype(DARTS_V2, 10, 4, auxiliary=True)
    network(torch.randn(2, 3, 32, 32))[1].sum().backward()
    trained = [any(p.grad is not None for p in cell.parameters()) for cell in network.cells]
    assert trained == [True] * 6 + [False] * 2


def test_the_parameters_of_the_auxiliary_head_counted_by_hand():
    # Two convolutions, each with a normalization, and a linear layer.
    expected = (20 * 128 + 2 * 128) + (128 * 768 * 2 * 2 + 2 * 768) + (768 * 7 + 7)
    assert count_parameters(AuxiliaryHead(20, 7, stride=3)) == expected


@pytest.mark.parametrize(("stem", "size"), [("cifar", 28), ("imagenet", 192)])
def test_images_too_small_for_the_auxiliary_head_get_a_clear_error(stem, size):
    network = Network.from_genotype(DARTS_V2, 10, 4, stem=stem, auxiliary=True)
    with pytest.raises(ValueError, match="auxiliary head needs features of .* larger images"):
        network(torch.randn(2, 3, size, size))


@pytest.mark.parametrize(("stem", "size"), [("cifar", 29), ("imagenet", 193)])
def test_the_smallest_images_that_the_auxiliary_head_can_read(stem, size):
    network = Network.from_genotype(DARTS_V2, 10, 4, stem=stem, auxiliary=True)
    assert network(torch.randn(2, 3, size, size))[1].shape == (2, 10)


def test_images_too_small_for_the_auxiliary_head_can_be_evaluated():
    network = Network.from_genotype(DARTS_V2, 10, 4, auxiliary=True).eval()
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 10)


# Drop-path


def dropping(cell: DiscreteCell, probability: float) -> DiscreteCell:
    cell.drop_path = probability
    return cell.train()


def positive_images(count: int = 400) -> list[torch.Tensor]:
    return [1 + torch.rand(count, 4, 3, 3) for _ in range(2)]


def test_drop_path_drops_an_operation_for_whole_images():
    torch.manual_seed(0)
    out = dropping(fixed_cell(("avg_pool_3x3", 0, 2)), 0.25)(*positive_images())
    dropped = (out == 0).flatten(1).all(dim=1)
    kept = (out != 0).flatten(1).any(dim=1)
    assert torch.equal(dropped, ~kept)
    assert 0.15 < dropped.float().mean() < 0.35


def test_drop_path_leaves_the_mean_as_it_is():
    torch.manual_seed(0)
    cell = fixed_cell(("avg_pool_3x3", 0, 2))
    images = positive_images(4000)
    cell.align.eval()
    plain = cell(*images).mean().item()
    cell.drop_path, cell.training = 0.25, True
    assert cell(*images).mean().item() == pytest.approx(plain, rel=0.1)


def test_drop_path_drops_each_operation_by_itself():
    torch.manual_seed(0)
    cell = fixed_cell(("avg_pool_3x3", 0, 2), ("avg_pool_3x3", 0, 3), concat=(2, 3))
    first, second = dropping(cell, 0.5)(*positive_images()).abs().sum(dim=(2, 3)).split(4, dim=1)
    dropped = torch.stack([first.sum(dim=1) == 0, second.sum(dim=1) == 0])
    assert {tuple(pair) for pair in dropped.T.tolist()} == {
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    }


def test_drop_path_never_drops_an_identity():
    cell = fixed_cell(("skip_connect", 0, 2))
    images = positive_images()
    assert torch.equal(dropping(cell, 0.9)(*images), dropping(cell, 0.0)(*images))


def test_drop_path_drops_the_skip_connection_of_stride_2():
    torch.manual_seed(0)
    out = dropping(fixed_cell(("skip_connect", 0, 2), reduction=True), 0.5)(*positive_images())
    assert (out == 0).flatten(1).all(dim=1).any()


def test_drop_path_drops_nothing_in_evaluation():
    cell = fixed_cell(("sep_conv_3x3", 0, 2), ("max_pool_3x3", 1, 2))
    images = positive_images()
    plain = cell(*images)
    cell.drop_path = 0.9
    assert torch.equal(cell(*images), plain)


def test_drop_path_is_set_in_every_cell():
    network = Network.from_genotype(DARTS_V2, channels=4)
    network.set_drop_path(0.3)
    assert [cell.drop_path for cell in network.cells] == [0.3] * 8


def test_drop_path_is_off_at_first():
    assert [cell.drop_path for cell in Network.from_genotype(DARTS_V2, channels=4).cells] == [0] * 8


@pytest.mark.parametrize("probability", [-0.1, 1.0, 1.5, float("nan")])
def test_a_drop_path_that_is_no_probability_below_1_is_refused(probability):
    with pytest.raises(ValueError, match="drop"):
        Network.from_genotype(DARTS_V2, channels=4).set_drop_path(probability)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes: 0 should be at least 1"),
        ({"channels": 0}, "channels: 0 should be at least 1"),
        ({"channels": -4}, "channels: -4 should be at least 1"),
        ({"channels": 1, "stem": "imagenet"}, "channels: 1 should be at least 2"),
        ({"image_channels": 0}, "image_channels: 0 should be at least 1"),
        ({"stem": "mnist"}, "stem: 'mnist' should be one of cifar, imagenet"),
    ],
)
def test_an_argument_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Network.from_genotype(DARTS_V2, **arguments)


def cells_of_an_identity(layer: int, shape: CellShape) -> tuple[nn.Module, int]:
    described = genotype(("skip_connect", 0, 2))
    return DiscreteCell(shape, described.cells[0], (2,)), shape.channels


@pytest.mark.parametrize(
    ("layers", "reductions", "message"),
    [(0, (), "layers: 0"), (3, (3,), "reductions"), (3, (-1,), "reductions")],
)
def test_layers_out_of_range_are_refused(layers, reductions, message):
    with pytest.raises(ValueError, match=message):
        Network(cells_of_an_identity, layers, reductions, num_classes=10, channels=4)


@pytest.mark.parametrize(
    "arguments", [{"channels": 1}, {"num_classes": 2}, {"channels": 3, "stem": "imagenet"}], ids=str
)
def test_the_smallest_arguments_make_a_network(arguments):
    network = Network.from_genotype(DARTS_V2, **{"channels": 2, "num_classes": 10, **arguments})
    assert network(torch.randn(2, 3, 16, 16)).isfinite().all()


# As a module


def test_weights_can_be_saved_and_loaded(tmp_path):
    network = Network.from_genotype(DARTS_V2, channels=4).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    other = Network.from_genotype(DARTS_V2, channels=4).eval()
    other.load_state_dict(torch.load(tmp_path / "weights.pt"))
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(other(images), network(images))


def test_a_network_can_be_copied():
    network = Network.from_genotype(DARTS_V2, channels=4).eval()
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(copy.deepcopy(network)(images), network(images))


# The classifier of the course project


def test_the_classifier_of_the_course_project_has_the_layers_of_its_table_4():
    network = Network.from_genotype(DARTS_V2.deepen(8), channels=2, mlp_width=2048, image_size=32)
    linear = [layer for layer in network.classifier if isinstance(layer, nn.Linear)]
    # The last of 8 cells: 4 nodes of 8 channels, 8×8 pixels.
    assert [layer.in_features for layer in linear] == [32 * 8 * 8, 2048, 1024, 256]
    assert linear[-1].out_features == 10
    assert [type(layer) for layer in network.classifier[1:]] == [nn.Linear, nn.ReLU] * 3 + [nn.Linear]


@pytest.mark.parametrize(("stem", "size"), [("cifar", 8), ("cifar", 9), ("cifar", 32), ("imagenet", 64)])
def test_the_classifier_of_the_course_project_fits_images_of_its_size(stem, size):
    network = Network.from_genotype(DARTS_V2, channels=2, stem=stem, mlp_width=8, image_size=size)
    assert network(torch.randn(2, 3, size, size)).shape == (2, 10)


def test_the_networks_of_the_course_project_are_8_and_14_layers_with_two_reductions():
    """Figures 4 and 9: N N R N N R N N, and four normal cells around each reduction."""
    layout = {depth: DARTS_V2.deepen(depth).layout for depth in (8, 14)}
    assert layout[8] == (0, 0, 1, 0, 0, 1, 0, 0)
    assert layout[14] == (0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0)
