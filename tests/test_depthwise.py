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


KINDS = [(3, 1, 1), (3, 1, 2), (5, 1, 1), (5, 1, 2), (5, 2, 1), (5, 2, 2), (7, 1, 1)]


@pytest.mark.parametrize(("kernel", "stride", "dilation"), KINDS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(16, 16), (9, 4)])
def test_in_single_precision_gradients_are_those_of_double_precision_in_the_memory_format_of_what_they_are_for(
    kernel, stride, dilation, memory_format, size
):
    """oneDNN computes in single precision only."""
    convolution = DepthwiseConv2d(8, kernel, stride, dilation).to(memory_format=memory_format)
    x = torch.randn(4, 8, *size).contiguous(memory_format=memory_format).requires_grad_()
    weight, settings = convolution.weight, (stride, convolution.padding, dilation, 8)
    found = torch.autograd.grad(convolution(x).square().sum(), [x, weight])
    exact = functional.conv2d(x.double(), weight.double(), None, *settings).square().sum()
    for gradient, expected, of in zip(found, torch.autograd.grad(exact, [x, weight]), (x, weight), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)
        assert gradient.stride() == of.stride()


@pytest.mark.parametrize(("kernel", "stride", "dilation"), KINDS)
def test_several_gradients_can_be_computed_at_once(kernel, stride, dilation):
    convolution = DepthwiseConv2d(2, kernel, stride, dilation)
    output = convolution(torch.randn(1, 2, 6, 6))
    towards = torch.randn(3, *output.shape)
    together = torch.autograd.grad(output, convolution.weight, towards, is_grads_batched=True, retain_graph=True)[0]
    alone = [torch.autograd.grad(output, convolution.weight, one, retain_graph=True)[0] for one in towards]
    torch.testing.assert_close(together, torch.stack(alone))


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
