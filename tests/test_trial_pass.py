"""Candidates that do not fit together, found before the first step of any search."""

import pytest
import torch
from nni.nas.evaluator.pytorch import Classification, ClassificationModule, DataLoader, Lightning, Trainer
from nni.nas.experiment import NasExperiment
from nni.nas.hub.pytorch.nasbench201 import Zero
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, MutableConv1d
from torch import nn

from nas_plugins import DARTS, EDAS, DartsSpace
from strategies.supernet.trial_pass import UnfitCandidatesError, first_samples, input_of


class Space(ModelSpace):
    """Two layer choices; what the second one chooses from is given."""

    def __init__(self, *second):
        super().__init__()
        self.first = LayerChoice([nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 5, padding=2)], label="first")
        self.second = LayerChoice(list(second), label="second")
        self.head = nn.LazyLinear(10)

    def forward(self, x):
        return self.head(self.second(self.first(x)).mean((2, 3)))


class Backward(torch.autograd.Function):
    """An identity without a gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("no gradient here")


class NoGradient(nn.Module):
    def forward(self, x):
        return Backward.apply(x)


class Asserts(nn.Module):
    def forward(self, x):
        raise AssertionError("8 channels, not this")


UNFIT = {
    "channels": ((nn.Identity(), nn.Conv2d(8, 16, 3, padding=1)), "The size of tensor a"),
    "input": ((nn.Identity(), nn.Conv2d(4, 8, 1)), "expected input"),
    "backward": ((nn.Identity(), NoGradient()), "no gradient here"),
    "dimensions": ((nn.Identity(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())), "The size of tensor a"),
    "a check of its own": ((nn.Identity(), Asserts()), "8 channels, not this"),
}


@pytest.mark.parametrize("strategy", [EDAS, DARTS])
@pytest.mark.parametrize(("second", "reason"), UNFIT.values(), ids=UNFIT)
def test_the_choice_is_named_before_the_first_step_also_where_it_would_be_sampled_late(
    run_search, strategy, second, reason
):
    space = Space(*second)
    space.head = nn.Linear(8, 10)
    before = [parameter.clone() for parameter in space.first.parameters()]
    with pytest.raises(UnfitCandidatesError, match="the candidates of 'second' do not fit together: .*") as error:
        run_search(space, strategy(), checked=False)
    assert reason in str(error.value)
    assert str(error.value).count("second") == 1
    assert all(torch.equal(a, b) for a, b in zip(before, space.first.parameters(), strict=True))


@pytest.mark.parametrize("strategy", [EDAS, DARTS])
def test_a_zero_has_to_fit_although_it_adds_nothing_to_others(run_search, strategy):
    class WithZero(Space):
        def __init__(self):
            super().__init__(nn.Identity(), nn.Identity())
            candidates = {"a": nn.Identity(), "none": Zero(8, 16, 1), "b": nn.Identity()}
            self.second = LayerChoice(candidates, label="with zero")
            self.head = nn.Linear(8, 10)

    with pytest.raises(UnfitCandidatesError, match="the candidates of 'with zero' do not fit together: .*"):
        run_search(WithZero(), strategy(), checked=False)


def test_lightnings_sanity_check_finds_it_too(images):
    loader = DataLoader(images, batch_size=8)
    evaluator = Classification(
        num_classes=10,
        train_dataloaders=loader,
        val_dataloaders=loader,
        num_sanity_val_steps=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
    )
    space = Space(*UNFIT["channels"][0])
    space.head = nn.Linear(8, 10)
    with pytest.raises(UnfitCandidatesError, match="'second'"):
        NasExperiment(space, evaluator, EDAS()).run()


def test_an_error_of_the_whole_model_stays_what_it_is(run_search):
    space = Space(nn.Identity(), nn.Identity())
    space.head = nn.Linear(5, 10)
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        run_search(space, EDAS(), checked=False)


class FixedBatch(Space):
    """Works on whole batches alone, keeps an average in a parameter, and counts its passes."""

    def __init__(self):
        super().__init__(nn.Identity(), nn.ReLU(inplace=True))
        self.head = nn.Linear(8, 10)
        self.average = nn.Parameter(torch.zeros(8), requires_grad=False)
        self.steps = nn.Parameter(torch.arange(4), requires_grad=False)
        self.register_buffer("counted", torch.zeros(()))
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        self.counted = self.counted + 1
        features = self.second(self.first(x).sigmoid()).mean((2, 3)).view(-1, 4, 8)
        self.average.mul_(0.9).add_(0.1 * features.detach().mean((0, 1)))
        return self.head(features.flatten(0, 1))


def test_a_model_that_works_is_not_refused_and_not_changed(run_search):
    counts = []
    for checked in (False, True):
        torch.manual_seed(0)
        space, strategy = FixedBatch(), DARTS()
        run_search(space, strategy, batch_size=8, checked=checked)
        counts.append((space.passes, float(space.counted), space.average.tolist()))
    assert counts[0] == counts[1]


class Features(ClassificationModule):
    """Calls a method of the model, not the model."""

    def forward(self, x):
        return self.model.forward(x)


def test_a_step_that_does_not_call_the_model_itself_is_not_tried(images):
    loader = DataLoader(images, batch_size=8)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    evaluator = Lightning(Features(num_classes=10), trainer, train_dataloaders=loader, val_dataloaders=loader)
    space = Space(nn.Identity(), nn.Identity())
    space.head = nn.Linear(8, 10)
    NasExperiment(space, evaluator, DARTS()).run()


def test_the_passes_leave_no_trace(run_search):
    found = []
    for checked in (False, True):
        torch.manual_seed(3)
        space, strategy = DartsSpace(channels=2, layers=3, nodes=2), EDAS(seed=1)
        run_search(space, strategy, batch_size=8, checked=checked)
        found.append([*strategy.architecture.alphas.values(), *space.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_first_samples_are_those_of_all_tensors_of_a_batch():
    x, y = torch.randn(5, 3), torch.randn(5)
    (one, rest), named = first_samples(((x, ["text", 3]), {"y": y, "scalar": torch.tensor(1.0)}))
    assert torch.equal(one, x[:2])
    assert rest == ["text", 3]
    assert torch.equal(named["y"], y[:2])
    assert torch.equal(first_samples((x, torch.randn(4)))[0], x)


def test_the_input_of_a_model_is_seen_without_running_it():
    model = nn.Sequential()
    assert input_of(model, lambda: model(3)) == ((3,), {})
    assert input_of(model, lambda: None) is None


def test_a_label_stands_once_in_the_message_of_what_cannot_be_searched():
    import nni

    class Conv(ModelSpace):
        def __init__(self):
            super().__init__()
            width = nni.choice("width", [2, 4])
            self.conv = MutableConv1d(width, width, 3)

        def forward(self, x):
            return self.conv(x)

    with pytest.raises(TypeError) as error:
        DARTS().mutate_model(Conv())
    assert str(error.value).count("'width'") == 1
