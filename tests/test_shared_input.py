"""Candidates that write to their input, as ``nn.ReLU(inplace=True)`` does."""

import nni
import pytest
import torch
from nni.nas.nn.pytorch import Cell, LayerChoice, ModelSpace, Repeat
from torch import nn

from nas_plugins import DARTS, EDAS
from strategies.relaxation import softmax
from strategies.supernet.shared_input import SharedInput


class Writes(nn.Module):
    """Adds one to its input in place, by a call that no attribute tells of."""

    def forward(self, x):
        return x.add_(1)


class Adds(nn.Module):
    def forward(self, x):
        return x + 1


def candidates(first):
    return {
        "write first": nn.Sequential(first(), nn.Conv2d(2, 2, 1)),
        "conv": nn.Conv2d(2, 2, 1),
        "skip": nn.Identity(),
    }


class Layer(ModelSpace):
    def __init__(self, first):
        super().__init__()
        self.choice = LayerChoice(candidates(first), label="choice")

    def forward(self, x):
        return self.choice(x * 1)


class InCell(ModelSpace):
    def __init__(self, first):
        super().__init__()
        self.cell = Cell(candidates(first), 2, 1, 1, label="cell")

    def forward(self, x):
        return self.cell([x * 1])


class Depth(ModelSpace):
    def __init__(self, first):
        super().__init__()
        self.blocks = Repeat(lambda index: nn.Sequential(first(), nn.Conv2d(2, 2, 1)), (1, 3), label="depth")

    def forward(self, x):
        return self.blocks(x * 1)


def passes(make, first, strategy):
    """Outputs and gradients of three passes: the first call of a candidate, later ones, and one in evaluation."""
    torch.manual_seed(0)
    space = strategy.mutate_model(make(first))
    strategy.architecture.plan = softmax(
        {edge: torch.arange(len(a)) / 3 for edge, a in strategy.architecture.alphas.items()}
    )
    x = torch.randn(2, 2, 4, 4, requires_grad=True)
    found = []
    for training in (True, True, False):
        output = space.train(training)(x)
        found += [output, *torch.autograd.grad(output.sum(), [x, *space.parameters()], allow_unused=True)]
    with torch.inference_mode():
        found.append(space(x.detach()))
    return [tensor for tensor in found if tensor is not None]


@pytest.mark.parametrize("make", [Layer, InCell, Depth])
def test_a_supernet_computes_the_same_whether_a_candidate_writes_to_its_input_or_not(make):
    for written, plain in zip(passes(make, Writes, DARTS()), passes(make, Adds, DARTS()), strict=True):
        assert torch.equal(written, plain)


class Nested(ModelSpace):
    """A choice inside a candidate, of which one candidate writes to what the outer candidates share."""

    def __init__(self, first):
        super().__init__()
        inner = LayerChoice([nn.Conv2d(2, 2, 1), first(), nn.Sequential(first(), nn.Conv2d(2, 2, 1))], label="inner")
        self.choice = LayerChoice([inner, nn.Identity(), nn.Conv2d(2, 2, 1)], label="choice")

    def forward(self, x):
        return self.choice(x * 1)


def test_a_choice_inside_a_candidate_may_write_later_than_at_its_first_call():
    found = []
    for first in (Writes, Adds):
        torch.manual_seed(0)
        strategy = EDAS()
        space = strategy.mutate_model(Nested(first))
        for inner in (0, 1, 2, 1):
            strategy.architecture.plan = {"choice": torch.full((3,), 1 / 3), "inner": (inner,)}
            found.append(space(torch.ones(1, 2, 2, 2)))
    assert all(torch.equal(a, b) for a, b in zip(found[:4], found[4:], strict=True))


def test_a_depth_with_gaps_keeps_the_output_of_a_block_that_returns_its_input():
    class Gaps(ModelSpace):
        def __init__(self):
            super().__init__()
            depth = nni.choice("depth", [1, 3])
            self.blocks = Repeat(lambda index: [nn.Identity(), nn.Identity(), Writes()][index], depth)

        def forward(self, x):
            return self.blocks(x)

    strategy = DARTS()
    space = strategy.mutate_model(Gaps())
    strategy.architecture.plan = {"depth": torch.tensor([1.0, 0.0])}
    assert torch.equal(space(torch.zeros(1, 2)), torch.zeros(1, 2))


def test_a_module_that_begins_to_write_is_named_and_given_copies():
    class DropPath(nn.Module):
        p = 0.0

        def forward(self, x):
            return x.mul_(1 - self.p) if self.p else x

    shared, module, x = SharedInput(), DropPath(), torch.ones(2)
    shared(module, x)
    module.p = 0.5
    with pytest.warns(UserWarning, match="DropPath began to write to its input"):
        shared(module, x)
    after = x.clone()
    shared(module, x)
    assert torch.equal(x, after)


def test_a_first_layer_that_writes_leaves_the_batch_as_it_is_for_the_passes_that_follow(run_search, images):
    seen = []

    class First(ModelSpace):
        def __init__(self):
            super().__init__()
            self.conv = LayerChoice([nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1)], label="conv")
            self.head = nn.Linear(8, 10)

        def forward(self, x):
            seen.append(float(x.sum()))
            return self.head(self.conv(x.add_(1)).mean((2, 3)))

    strategy = DARTS("second")
    run_search(First(), strategy, batch_size=32)
    assert len({round(total, 2) for total in seen}) == 1


def test_only_modules_that_write_are_given_copies_after_their_first_call():
    shared, seen, keep = SharedInput(), [], nn.Identity()
    keep.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.ones(2)
    for _ in range(2):
        shared(keep, x)
    assert [given is x for given in seen] == [False, True]
    writes = Writes()
    for _ in range(3):
        assert torch.equal(shared(writes, 2 * x), 3 * x)
    assert torch.equal(x, torch.ones(2))


def test_a_module_that_writes_in_training_alone_is_found_out_in_each_mode():
    shared, dropout = SharedInput(), nn.Dropout(0.5, inplace=True)
    x = torch.ones(100)
    shared(dropout.eval(), x)
    shared(dropout.train(), x)
    shared(dropout, x)
    assert torch.equal(x, torch.ones(100))


@pytest.mark.parametrize("strategy", [EDAS, DARTS])
def test_activations_in_place_are_searched(run_search, strategy):
    class Activations(ModelSpace):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
            self.head = nn.Linear(8, 10)
            self.act = LayerChoice([nn.Identity(), nn.ReLU(inplace=True), nn.Hardswish(inplace=True)], label="act")

        def forward(self, x):
            return self.head(self.act(self.stem(x)).mean((2, 3)))

    (sample,) = run_search(Activations(), strategy(), epochs=2).export_top_models(formatter="dict")
    assert sample["act"] in (0, 1, 2)
