"""What 1×1 convolutions promise: PyTorch's outputs and gradients, whatever the stride, the size and the layout."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from search_spaces.pointwise import PointwiseConv2d
from strategies.memory_format import ChannelsLast


@given(
    stride=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    memory_format=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    shifted=st.booleans(),
)
def test_outputs_and_gradients_are_those_of_pytorch(stride, height, width, memory_format, shifted):
    torch.manual_seed(0)
    convolution = PointwiseConv2d(3, 2, stride).double()
    image = torch.randn(2, 3, height + shifted, width + shifted, dtype=torch.double)
    image = image.contiguous(memory_format=memory_format)[..., shifted:, shifted:].requires_grad_()
    ours = convolution(image)
    theirs = functional.conv2d(image, convolution.weight, stride=stride)
    torch.testing.assert_close(ours, theirs)
    towards = torch.randn_like(ours)
    inputs = (image, convolution.weight)
    torch.testing.assert_close(torch.autograd.grad(ours, inputs, towards), torch.autograd.grad(theirs, inputs, towards))


def test_gradients_agree_with_finite_differences():
    convolution = PointwiseConv2d(2, 3, 2).double()
    image = torch.randn(1, 2, 5, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(convolution, (image,))
    assert torch.autograd.gradgradcheck(convolution, (image,))


def test_a_batch_of_batches_is_one_of_torch_func():
    convolution = PointwiseConv2d(2, 3, 2)
    images = torch.randn(4, 2, 2, 5, 5, requires_grad=True)
    expected = torch.stack([convolution(one) for one in images])
    torch.testing.assert_close(torch.func.vmap(convolution)(images), expected)


@given(
    stride=st.one_of(st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3))),
    padding=st.one_of(st.integers(0, 2), st.tuples(st.integers(0, 2), st.integers(0, 2)), st.just("valid")),
    kernel=st.sampled_from([1, 3]),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
)
def test_convolutions_of_other_spaces_compute_the_same_without_their_stride(stride, padding, kernel, groups, bias):
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(4, 2, kernel, stride, padding, groups=groups, bias=bias).double()
    image = torch.randn(2, 4, 6, 7, dtype=torch.double, requires_grad=True)
    theirs = convolution(image)
    with ChannelsLast():
        ours = convolution(image)
    torch.testing.assert_close(ours, theirs)
    inputs, towards = (image, *convolution.parameters()), torch.randn_like(ours)
    torch.testing.assert_close(torch.autograd.grad(ours, inputs, towards), torch.autograd.grad(theirs, inputs, towards))
