"""Tests of the depthwise convolution against PyTorch's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from search_spaces.depthwise import DepthwiseConv2d


@settings(max_examples=100, deadline=None)
@given(
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    memory_format=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_its_output_and_gradients_are_those_of_pytorchs_convolution(
    kernel, stride, dilation, height, width, memory_format
):
    convolution = DepthwiseConv2d(3, kernel, stride, dilation).double()
    x = torch.randn(2, 3, height, width, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    weight = convolution.weight
    expected = functional.conv2d(x, weight, None, stride, convolution.padding, dilation, 3)
    found = convolution(x)
    assert torch.allclose(found, expected)
    gradient = torch.randn_like(expected)
    for mine, other in zip(
        torch.autograd.grad(found, [x, weight], gradient),
        torch.autograd.grad(expected, [x, weight], gradient),
        strict=True,
    ):
        assert torch.allclose(mine, other)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(5, 1, 1), (3, 1, 2), (5, 1, 2), (3, 2, 2), (5, 2, 1)])
def test_it_can_be_differentiated_twice(kernel, stride, dilation):
    convolution = DepthwiseConv2d(2, kernel, stride, dilation).double()
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)

    def run(x, weight):
        return torch.func.functional_call(convolution, {"weight": weight}, x)

    assert torch.autograd.gradgradcheck(run, (x, convolution.weight))


def test_a_constant_weight_leaves_the_input_unkept():
    convolution = DepthwiseConv2d(2, 5).requires_grad_(False)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        convolution(torch.randn(1, 2, 6, 6, requires_grad=True))
    assert [tuple(tensor.shape) for tensor in kept] == [(2, 1, 5, 5)]


def test_in_mixed_precision_it_computes_in_the_lower_one():
    with torch.autocast("cpu", torch.bfloat16):
        assert DepthwiseConv2d(2, 5)(torch.randn(1, 2, 6, 6)).dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore")
def test_a_derived_network_in_evaluation_can_be_traced_with_gradients_on():
    convolution = DepthwiseConv2d(2, 5).eval()
    x = torch.randn(1, 2, 6, 6)
    assert torch.equal(torch.jit.trace(convolution, x)(x), convolution(x))


def test_it_can_be_mapped_over_samples():
    convolution = DepthwiseConv2d(2, 5)
    x = torch.randn(3, 1, 2, 6, 6)
    assert torch.allclose(torch.vmap(convolution)(x), torch.stack([convolution(sample) for sample in x]), atol=1e-6)
