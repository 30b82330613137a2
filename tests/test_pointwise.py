"""What 1×1 convolutions promise: PyTorch's outputs and gradients, whatever the stride, the size and the layout."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from search_spaces.pointwise import PointwiseConv2d


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


def test_the_gradient_of_an_expanded_image_is_that_of_pytorch():
    image = torch.randn(1, 2, 1, 1, dtype=torch.double).expand(1, 2, 4, 4).requires_grad_()
    convolution = PointwiseConv2d(2, 2, 2).double()
    ours, theirs = convolution(image), functional.conv2d(image, convolution.weight, stride=2)
    gradients = [torch.autograd.grad(out.square().sum(), image)[0] for out in (ours, theirs)]
    torch.testing.assert_close(*gradients)


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
