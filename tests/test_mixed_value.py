"""Value choices and repetitions in a supernet."""

import nni
import nni.nas.nn.pytorch as nas
import pytest
import torch
from nni.mutable import Numerical
from torch import nn
from torch.nn import functional

from nas_plugins import DARTS, EDAS
from strategies.relaxation import argmax, softmax


def supernet(space):
    """Return a small supernet in double precision, and its architecture with random α."""
    strategy = DARTS()
    model = strategy.mutate_model(space).double()
    architecture = strategy.architecture.double()
    for alpha in architecture.alphas.values():
        alpha.data.normal_()
    return model, architecture


class Scale(nn.Module):
    """Multiplies by a number."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return self.by * x


class Deep(nas.ModelSpace):
    """Zero to three blocks, each with its own factor."""

    def __init__(self):
        super().__init__()
        self.blocks = nas.Repeat(lambda i: Scale([2.0, 3.0, 5.0][i]), (0, 3), label="depth")

    def forward(self, x):
        return self.blocks(x)


def test_a_relaxed_depth_is_the_sum_of_what_each_depth_gives():
    model, architecture = supernet(Deep())
    architecture.plan = softmax(architecture.alphas)
    w = torch.softmax(architecture.alphas["depth"], 0)
    assert torch.allclose(model(torch.ones(2).double()), w[0] * 1 + w[1] * 2 + w[2] * 6 + w[3] * 30)


@pytest.mark.parametrize(("index", "product"), [(0, 1), (1, 2), (2, 6), (3, 30)])
def test_a_depth_that_is_not_relaxed_runs_its_blocks_alone(index, product):
    model, architecture = supernet(Deep())
    ran = []
    for block in model.blocks.blocks:
        block.register_forward_hook(lambda module, *_: ran.append(module.by))
    architecture.plan = {"depth": (index,)}
    assert model(torch.ones(2).double()).tolist() == [product] * 2
    assert ran == [2.0, 3.0, 5.0][:index]


class Wide(nas.ModelSpace):
    """A convolution whose width is a product of two choices, one of which the next convolution shares."""

    def __init__(self):
        super().__init__()
        self.width = nni.choice("width", [2, 4]) * nni.choice("ratio", [1, 2])
        self.first = nas.MutableConv2d(3, self.width, 1, bias=False)
        self.norm = nas.MutableBatchNorm2d(self.width)
        self.second = nas.MutableConv2d(self.width, 5, 1)

    def forward(self, x):
        return self.second(self.norm(self.first(x)).relu()).mean((2, 3))


class Kernels(nas.ModelSpace):
    """A convolution with a kernel of 3 × 3 or 5 × 5."""

    def __init__(self):
        super().__init__()
        kernel = nni.choice("kernel", [3, 5])
        self.conv = nas.MutableConv2d(2, nni.choice("width", [2, 4]), kernel, padding=kernel // 2)

    def forward(self, x):
        return self.conv(x)


def test_a_relaxed_value_mixes_the_slices_of_the_largest_weight():
    model, architecture = supernet(Kernels())
    architecture.plan = {**argmax(architecture.alphas), **softmax({"kernel": architecture.alphas["kernel"]})}
    width = architecture.candidates["width"][architecture.plan["width"][0]]
    w = architecture.plan["kernel"]
    weight = model.conv.weight[:width]
    mixed = w[0] * functional.pad(weight[..., 1:4, 1:4], (1, 1, 1, 1)) + w[1] * weight
    x = torch.randn(2, 2, 8, 8).double()
    assert torch.allclose(model(x), functional.conv2d(x, mixed, model.conv.bias[:width], padding=2))


def test_a_path_computes_what_the_frozen_layer_computes():
    model, architecture = supernet(Kernels())
    x = torch.randn(2, 2, 8, 8).double()
    for sample in ({"kernel": 3, "width": 4}, {"kernel": 5, "width": 2}):
        architecture.plan = architecture.path(sample)
        assert torch.allclose(model(x), model.conv.freeze(sample).double()(x))


def test_the_weight_of_a_product_is_the_product_of_the_weights():
    model, architecture = supernet(Wide())
    architecture.plan = softmax(architecture.alphas)
    width, ratio = architecture.plan["width"], architecture.plan["ratio"]
    found = model.first.forward_argument("out_channels")
    assert set(found) == {2, 4, 8}
    assert torch.allclose(found[2], width[0] * ratio[0])
    assert torch.allclose(found[4], width[0] * ratio[1] + width[1] * ratio[0])
    assert torch.allclose(found[8], width[1] * ratio[1])


def test_the_gradient_of_a_value_choice_agrees_with_finite_differences():
    model, architecture = supernet(Kernels())
    x = torch.randn(2, 2, 6, 6).double()
    alphas = architecture.alphas

    def loss():
        architecture.plan = softmax(alphas)
        return model(x).square().mean()

    loss().backward()
    for alpha in alphas.values():
        for index in range(len(alpha)):
            with torch.no_grad():
                alpha[index] += 1e-6
                above = loss()
                alpha[index] -= 2e-6
                below = loss()
                alpha[index] += 1e-6
            assert alpha.grad[index] == pytest.approx(float(above - below) / 2e-6, rel=1e-5, abs=1e-9)


def test_all_values_of_a_width_run_relaxed_and_by_themselves():
    model, architecture = supernet(Wide())
    x = torch.randn(2, 3, 6, 6).double()
    for plan in (softmax(architecture.alphas), argmax(architecture.alphas)):
        architecture.plan = plan
        assert model(x).shape == (2, 5)


def test_a_repeat_with_a_way_of_its_own_is_refused():
    class Backwards(nas.Repeat):
        def forward(self, x):
            return super().forward(-x)

    class Space(nas.ModelSpace):
        def __init__(self):
            super().__init__()
            self.blocks = Backwards(Scale(2.0), (1, 2), label="depth")

    with pytest.raises(TypeError, match="blocks .*'depth'"):
        supernet(Space())


def test_the_derived_values_are_those_of_the_highest_alpha():
    model, architecture = supernet(Kernels())
    architecture.alphas["kernel"].data = torch.tensor([0.0, 1.0]).double()
    architecture.alphas["width"].data = torch.tensor([1.0, 0.0]).double()
    assert model.conv.export({}) == {"kernel": 5, "width": 2}
    assert model.conv.export({"kernel": 5}) == {"width": 2}
    assert set(model.conv.export_probs({})["kernel"]) == {3, 5}


def test_a_repeat_is_one_edge():
    model, architecture = supernet(Deep())
    assert set(architecture.candidates) == {"depth"}
    assert model.blocks.export_probs({})["depth"] == architecture.probabilities(["depth"])["depth"]


def test_a_choice_without_a_list_of_values_is_refused_by_its_label():
    class Continuous(nas.ModelSpace):
        def __init__(self):
            super().__init__()
            self.norm = nas.MutableBatchNorm2d(3, momentum=Numerical(0.1, 0.9, label="momentum"))

    with pytest.raises(TypeError, match="'momentum'"):
        supernet(Continuous())


class Own(nas.ParametrizedModule):
    """A third-party module that takes a value choice."""

    def __init__(self, by):
        super().__init__()
        self.by = by


def test_a_choice_in_a_place_that_cannot_be_searched_is_refused_by_place_and_label():
    class Space(nas.ModelSpace):
        def __init__(self):
            super().__init__()
            self.own = Own(nni.choice("factor", [1, 2]))

    with pytest.raises(TypeError, match=r"own \(Own\) has the choice 'factor'.*MutableConv2d"):
        EDAS().mutate_model(Space())
