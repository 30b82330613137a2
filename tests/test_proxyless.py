"""The strategy Proxyless, compared with the released code."""

import re
from collections import Counter
from itertools import pairwise, permutations

import pytest
import torch
from nni.nas.nn.pytorch import InputChoice, ModelSpace
from pytorch_lightning import Callback
from sampled_steps import SMALL, four_images, iterate

from nas_plugins import DDartsSpace
from strategies.gumbel import BinaryGates
from strategies.proxyless import Proxyless
from strategies.relaxation import Step


@pytest.fixture
def images():
    return four_images()


# Of proxylessnas bf58b5c: a MixedEdge on each edge of a network of cells, after a step of the mode "two" and a weight
# step. Edges in the order of ours.
GRADIENTS = [
    [0.001484057157, 0.000000000000, 0.000000000000, -0.001484057157],
    [-0.029476500227, 0.029476500227, 0.000000000000, 0.000000000000],
    [0.000000000000, 0.000000000000, 0.021177851166, -0.021177851166],
    [-0.315991388055, 0.000000000000, 0.000000000000, 0.315991388055],
    [-0.784836058602, 0.784836058602, 0.000000000000, 0.000000000000],
    [0.000000000000, 0.000000000000, -0.107907194817, 0.107907194817],
    [0.033037541200, -0.033037541200, 0.000000000000, 0.000000000000],
    [0.000000000000, 0.183784313879, -0.183784313879, 0.000000000000],
    [0.000000000000, 0.000000000000, 0.030884819023, -0.030884819023],
    [-0.024128621912, 0.024128621912, 0.000000000000, 0.000000000000],
    [0.000000000000, -0.068075663420, 0.068075663420, 0.000000000000],
    [-0.314280157594, 0.000000000000, 0.000000000000, 0.314280157594],
    [-0.263117781018, 0.263117781018, 0.000000000000, 0.000000000000],
    [0.000000000000, 0.000000000000, 0.221240324219, -0.221240324219],
    [0.169308468280, 0.000000000000, 0.000000000000, -0.169308468280],
]
FIRST_EDGES_AFTER = [
    [0.420114648105, 0.454648713413, 0.070560004030, -0.377022105430],
    [-0.478294361907, -0.140539972996, 0.328493299359, 0.494679123312],
]
WEIGHTS_AFTER = 5.45847473588786


def test_one_iteration_is_that_of_the_released_code(run_search, monkeypatch):
    after = iterate(run_search, monkeypatch, DDartsSpace, Proxyless(weight_steps=1, warmup_epochs=0))
    for gradient, row in zip(after.gradients, GRADIENTS, strict=True):
        assert gradient == pytest.approx(row, abs=1e-10)
    for alpha, row in zip(after.alphas, FIRST_EDGES_AFTER, strict=False):
        assert alpha == pytest.approx(row, abs=1e-10)
    assert after.weights == pytest.approx(WEIGHTS_AFTER, abs=1e-10)


def test_pairs_are_sampled_without_replacement_and_one_of_them_runs():
    relaxation, alphas = BinaryGates(seed=3), {"edge": torch.tensor([1.0, 0.0, -1.0])}
    plans = [relaxation.architecture(alphas, Step(iteration, 0, 1))["edge"] for iteration in range(1000)]
    assert all(plan.weights.tolist() == [1.0, 0.0] for plan in plans)
    counts = Counter(plan.indices for plan in plans)
    p = torch.softmax(alphas["edge"], 0).tolist()
    for first, second in permutations(range(3), 2):
        drawn = p[first] * p[second] / (1 - p[first]) + p[second] * p[first] / (1 - p[second])
        active = drawn * p[first] / (p[first] + p[second])
        assert counts[first, second] / 1000 == pytest.approx(active, abs=0.05)


def test_an_edge_of_one_candidate_runs_it():
    plan = BinaryGates(seed=0).architecture({"edge": torch.zeros(1)}, Step())["edge"]
    assert (plan.indices, plan.weights.tolist()) == ((0,), [1.0])


def test_candidates_that_were_not_sampled_keep_their_probabilities_whatever_the_momentum():
    alpha = torch.nn.Parameter(torch.tensor([0.5, -0.2, 0.1, 0.9]))
    optimizer = Proxyless(betas=(0.9, 0.999), weight_decay=0.1).composition.optimizer([alpha])
    for gradient in ([1.0, -1.0, 0.0, 0.0], [0.0, 2.0, -2.0, 0.0]):
        alpha.grad, before = torch.tensor(gradient), torch.softmax(alpha.detach(), 0)
        optimizer.step()
        others = alpha.grad == 0
        after = torch.softmax(alpha.detach(), 0)
        assert torch.allclose(after[others], before[others])
        assert not torch.allclose(after[~others], before[~others])


def test_alpha_is_stepped_in_every_fifth_iteration(run_search):
    steps = []

    class Counting(Callback):
        def on_train_batch_end(self, trainer, searching, *_):
            steps.append([alpha.tolist() for alpha in searching.architecture.alphas.values()])

    space, strategy, counting = DDartsSpace(**SMALL), Proxyless(warmup_epochs=0), Counting()
    run_search(space, strategy, batch_size=1, epochs=2, precision="64-true", callbacks=[counting])
    assert [later != sooner for sooner, later in pairwise(steps)] == [False, False, False, True, False, False, False]


def test_it_has_the_settings_of_the_released_code():
    composition = Proxyless().composition
    optimizer = composition.optimizer([torch.zeros(1, requires_grad=True)])
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": 1e-3,
        "betas": (0.0, 0.999),
        "weight_decay": 0.0,
    }
    assert (composition.weight_steps, composition.warmup_epochs, composition.gradient_clip_val) == (5, 40, None)


def test_an_input_choice_of_two_inputs_is_refused():
    class TwoInputs(ModelSpace):
        def __init__(self):
            super().__init__()
            self.choice = InputChoice(3, n_chosen=2, label="inputs")

    with pytest.raises(TypeError, match=re.escape("the input choice 'inputs' takes more than one input")):
        Proxyless().mutate_model(TwoInputs())
