"""Tests of the candidate operations: shapes, parameters and receptive fields."""

import pytest
import torch
from nni.nas.hub.pytorch import DARTS as HubDarts
from torch import Tensor, nn

from search_spaces.complexity import count_parameters
from search_spaces.operations import (
    DARTS_OPERATIONS,
    OPERATION_SETS,
    OPERATIONS,
    FactorizedReduce,
    relu_conv_bn,
    searchable,
)

CONVOLUTIONS = [name for name in OPERATIONS if "conv" in name or "bottleneck" in name]


def normalizations(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]


def seen_from_the_middle(operation: nn.Module, size: int = 17, channels: int = 2) -> set[tuple[int, int]]:
    """Return the (row, column) offsets of the input pixels on which the middle pixel of the output depends."""
    operation.eval()
    for parameter in operation.parameters():
        nn.init.ones_(parameter)  # positive weights on a positive image: nothing cancels, no ReLU closes
    image = torch.ones(1, channels, size, size, requires_grad=True)
    middle = size // 2
    operation(image)[0, :, middle, middle].sum().backward()
    assert image.grad is not None
    rows, columns = image.grad[0].sum(dim=0).nonzero(as_tuple=True)
    return {(int(row) - middle, int(column) - middle) for row, column in zip(rows, columns, strict=True)}


def square(*offsets: int) -> set[tuple[int, int]]:
    return {(row, column) for row in offsets for column in offsets}


# Shapes


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 7), (6, 9), (1, 1), (2, 3)])
def test_an_operation_keeps_the_channels_and_divides_the_resolution_by_its_stride(name, stride, affine, height, width):
    out = OPERATIONS[name](4, stride, affine)(torch.randn(2, 4, height, width))
    assert out.shape == (2, 4, -(-height // stride), -(-width // stride))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_keeps_an_odd_number_of_channels(name, stride):
    assert OPERATIONS[name](3, stride, True)(torch.randn(2, 3, 8, 8)).shape[1] == 3


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_leaves_its_input_as_it_was(name, stride):
    # Several operations read the same node.
    image = torch.randn(2, 4, 6, 6)
    before = image.clone()
    OPERATIONS[name](4, stride, True)(image)
    assert torch.equal(image, before)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_begins_with_a_relu(name, stride):
    operation = OPERATIONS[name](4, stride, True).eval()
    image = torch.randn(2, 4, 8, 8)
    assert torch.equal(operation(image), operation(image.clamp(min=0)))


# Parameters of convolutions and of normalizations, for 6 channels

C = 6
MADE_OF = {
    ("max_pool_3x3", 1): (0, 0),
    ("max_pool_3x3", 2): (0, 0),
    ("avg_pool_3x3", 1): (0, 0),
    ("avg_pool_3x3", 2): (0, 0),
    ("skip_connect", 1): (0, 0),
    ("skip_connect", 2): (C * C, 2 * C),
    ("sep_conv_3x3", 1): (2 * (C * 9 + C * C), 4 * C),
    ("sep_conv_3x3", 2): (2 * (C * 9 + C * C), 4 * C),
    ("sep_conv_5x5", 1): (2 * (C * 25 + C * C), 4 * C),
    ("dil_conv_3x3", 1): (C * 9 + C * C, 2 * C),
    ("dil_conv_3x3", 2): (C * 9 + C * C, 2 * C),
    ("dil_conv_5x5", 1): (C * 25 + C * C, 2 * C),
    ("conv_3x1_1x3", 1): (2 * 3 * C * C, 2 * C),
    ("conv_7x1_1x7", 1): (2 * 7 * C * C, 2 * C),
    ("conv_7x1_1x7", 2): (2 * 7 * C * C, 2 * C),
    ("simple_conv_1x1", 1): (C * C, 2 * C),
    ("simple_conv_3x3", 1): (9 * C * C, 2 * C),
    ("simple_conv_3x3", 2): (9 * C * C, 2 * C),
    # 1×1 C to C, 3×3 C to C, 1×1 C to 4C, 1×1 4C to C, and a normalization of each
    ("bottleneck_1x3x1", 1): (C * C * (1 + 9 + 4 + 4), 2 * (C + C + 4 * C + C)),
    ("bottleneck_1x3x1", 2): (C * C * (1 + 9 + 4 + 4), 2 * (C + C + 4 * C + C)),
}


@pytest.mark.parametrize(("name", "stride"), MADE_OF)
def test_an_operation_has_the_parameters_of_its_definition(name, stride):
    convolutions, normalized = MADE_OF[name, stride]
    assert count_parameters(OPERATIONS[name](C, stride, True)) == convolutions + normalized


@pytest.mark.parametrize(("name", "stride"), MADE_OF)
def test_without_affine_an_operation_has_the_weights_of_its_convolutions_alone(name, stride):
    assert count_parameters(OPERATIONS[name](C, stride, False)) == MADE_OF[name, stride][0]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_ends_normalized(name, stride):
    torch.manual_seed(0)
    out = OPERATIONS[name](4, stride, True)(torch.randn(8, 4, 8, 8))
    assert torch.allclose(out.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(out.var(dim=(0, 2, 3), correction=0), torch.ones(4), atol=0.05)


def test_skip_connect_is_the_identity_at_stride_1():
    image = torch.randn(2, 4, 5, 5)
    assert torch.equal(OPERATIONS["skip_connect"](4, 1, True)(image), image)


# Receptive fields

RECEPTIVE_FIELDS = {
    "skip_connect": square(0),
    "avg_pool_3x3": square(-1, 0, 1),
    "sep_conv_3x3": square(*range(-2, 3)),
    "sep_conv_5x5": square(*range(-4, 5)),
    "dil_conv_3x3": square(-2, 0, 2),
    "dil_conv_5x5": square(-4, -2, 0, 2, 4),
    "conv_3x1_1x3": square(-1, 0, 1),
    "conv_7x1_1x7": square(*range(-3, 4)),
    "simple_conv_1x1": square(0),
    "simple_conv_3x3": square(-1, 0, 1),
    "bottleneck_1x3x1": square(-1, 0, 1),
}


@pytest.mark.parametrize("name", RECEPTIVE_FIELDS)
def test_an_output_pixel_sees_the_input_pixels_of_its_definition(name):
    assert seen_from_the_middle(OPERATIONS[name](2, 1, True)) == RECEPTIVE_FIELDS[name]


def pooled(name: str, image: Tensor) -> list[list[float]]:
    return OPERATIONS[name](1, 1, True)(image[None, None])[0, 0].tolist()


def test_max_pool_takes_the_largest_of_nine():
    image = torch.tensor([[1.0, 2.0, 3.0], [4.0, -9.0, 6.0], [7.0, 8.0, 0.0]])
    assert pooled("max_pool_3x3", image) == [[4, 6, 6], [8, 8, 8], [8, 8, 8]]


def test_max_pool_of_a_negative_image_does_not_see_the_padding():
    assert pooled("max_pool_3x3", torch.full((2, 2), -3.0)) == [[-3, -3], [-3, -3]]


def test_avg_pool_does_not_count_the_padding():
    assert pooled("avg_pool_3x3", torch.full((3, 3), 5.0)) == [[5.0] * 3] * 3


def test_skip_connect_of_stride_2_sees_every_second_diagonal():
    reduce = FactorizedReduce(2, 2).eval()
    for parameter in reduce.parameters():
        nn.init.ones_(parameter)
    image = torch.ones(1, 2, 6, 6, requires_grad=True)
    reduce(image).sum().backward()
    seen = image.grad[0].sum(dim=0) > 0
    expected = torch.tensor([[row % 2 == column % 2 for column in range(6)] for row in range(6)])
    assert torch.equal(seen, expected)


# The alignment of a cell's inputs


def test_relu_conv_bn_takes_other_numbers_of_channels():
    assert relu_conv_bn(3, 8)(torch.randn(2, 3, 5, 5)).shape == (2, 8, 5, 5)


def test_factorized_reduce_takes_other_numbers_of_channels():
    assert FactorizedReduce(3, 7)(torch.randn(2, 3, 5, 6)).shape == (2, 7, 3, 3)


# Supernet and sets


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_in_a_supernet_no_normalization_learns_a_scale(name, stride):
    assert not any(part.affine for part in normalizations(searchable(name, 4, stride)))


@pytest.mark.parametrize("name", ["max_pool_3x3", "avg_pool_3x3"])
def test_in_a_supernet_a_pooling_is_normalized(name):
    out = searchable(name, 4, 1)(10 + torch.randn(8, 4, 8, 8))
    assert torch.allclose(out.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4)


def test_in_a_supernet_the_identity_stays_the_identity():
    image = torch.randn(2, 4, 5, 5)
    assert torch.equal(searchable("skip_connect", 4, 1)(image), image)


@pytest.mark.parametrize("name", ["max_pool_3x3", "avg_pool_3x3"])
def test_in_a_derived_network_a_pooling_is_not_normalized(name):
    assert normalizations(OPERATIONS[name](4, 2, True)) == []


def test_the_candidates_of_darts_are_those_of_nnis_hub_in_its_order():
    assert list(DARTS_OPERATIONS) == HubDarts.DARTS_OPS


def test_dartopti_has_twelve_operations_and_those_of_darts_among_them():
    assert len(OPERATION_SETS["dartopti"]) == 12
    assert set(OPERATION_SETS["darts"]) < set(OPERATION_SETS["dartopti"])


def test_no_set_holds_the_operation_none():
    assert all("none" not in names for names in OPERATION_SETS.values())
