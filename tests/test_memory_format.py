"""Third-party spaces in channels_last: outputs and gradients are those of PyTorch, in the fast memory format."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.depthwise import DepthwiseConv2d
from strategies.memory_format import ChannelsLast


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


@given(
    kernel=st.sampled_from([1, 3, 4, 5, (3, 5)]),
    stride=st.sampled_from([1, 2, 3, (2, 1)]),
    dilation=st.integers(1, 3),
    padding=st.sampled_from([0, 1, 2, 4, "valid"]),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.double, torch.complex128]),
    memory_format=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_depthwise_convolutions_of_other_spaces_compute_the_same(
    kernel, stride, dilation, padding, bias, dtype, memory_format
):
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 3, kernel, stride, padding, dilation, groups=3, bias=bias).to(dtype)
    image = torch.randn(2, 3, 13, 14, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_()
    theirs = convolution(image)
    inputs, towards = (image, *convolution.parameters()), torch.randn_like(theirs)
    with ChannelsLast():
        ours = convolution(image)
        gradients = torch.autograd.grad(ours, inputs, towards)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients, torch.autograd.grad(theirs, inputs, towards))


def test_a_dilated_depthwise_convolution_of_another_space_trains_as_ours():
    convolution = torch.nn.Conv2d(3, 3, 5, padding=4, dilation=2, groups=3, bias=False)
    image = torch.randn(2, 3, 8, 8)
    with ChannelsLast():
        output = convolution(image)
    assert type(output.grad_fn) is type(DepthwiseConv2d(3, 5, dilation=2)(image).grad_fn)


@given(
    shape=st.lists(st.integers(1, 4), min_size=4, max_size=4),
    count=st.integers(1, 3),
    memory_format=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_the_sum_of_a_stack_stays_in_channels_last_and_so_does_its_gradient(shape, count, memory_format):
    """As NNI's cell of NAS-Bench-201 adds its edges."""
    torch.manual_seed(0)
    images = [torch.randn(shape).contiguous(memory_format=memory_format).requires_grad_() for _ in range(count)]
    theirs = torch.sum(torch.stack(images), 0)
    with ChannelsLast(sums=True):
        ours = torch.sum(torch.stack(images), 0)
    assert torch.equal(ours, theirs)
    towards = torch.randn(shape).contiguous(memory_format=memory_format)
    gradients = torch.autograd.grad(ours, images, towards)
    assert all(torch.equal(gradient, towards) for gradient in gradients)
    assert all(one.is_contiguous(memory_format=memory_format) for one in (ours, *gradients))


def test_a_space_that_depends_on_the_order_of_dimensions_gets_pytorchs_sums():
    tokens = torch.randn(2, 4, 4, 3).permute(0, 3, 1, 2)
    with ChannelsLast():
        assert torch.sum(torch.stack([tokens, tokens]), 0).is_contiguous()


def test_other_stacks_and_sums_are_pytorchs():
    images = [torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last) for _ in range(2)]

    def run():
        stack = torch.stack(images)
        return [
            torch.stack(images, 1), torch.stack(images, dim=4), torch.stack([images[0], images[1].contiguous()]), stack,
            torch.sum(stack, 1), torch.sum(stack, 0, keepdim=True), torch.sum(stack), torch.sum(images[0], 0),
            torch.sum(stack[:0], 0), torch.vmap(lambda *both: torch.sum(torch.stack(both), 0))(stack, stack),
        ]  # fmt: skip

    expected = run()
    with ChannelsLast(sums=True):
        found = run()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
