"""Candidates that are computed in groups, against the same ones computed one by one."""

import copy

import pytest
import torch
from nni.nas.hub.pytorch import DARTS as HubDarts
from torch import nn
from torch.nn import functional

from benchmarks.dispatches import Launches
from nas_plugins import DARTS, DOTS, EDAS, GDAS, PCDARTS, DartsSpace, FairDARTS
from search_spaces.depthwise import DepthwiseConv2d
from strategies.bn_statistics import batch_stats_only, by_batch_statistics, norms_with_stats
from strategies.relaxation import Step
from strategies.supernet.cell import MixedCell

IMAGES = torch.rand(4, 3, 8, 8, dtype=torch.float64)


def supernet(strategy, space=None):
    """Return a small supernet in double precision, and its architecture with random α."""
    model = strategy.mutate_model(space or DartsSpace(channels=4, layers=3, nodes=3)).double()
    architecture = strategy.architecture.double()
    for alpha in architecture.alphas.values():
        alpha.data.normal_()
    return model, architecture


def both(strategy, model, images=IMAGES):
    """Return the output, all gradients and all statistics of an architecture step, one by one and in groups."""
    found, start, architecture = [], copy.deepcopy(model.state_dict()), strategy.architecture
    for architecture.grouped in (False, True):
        model.load_state_dict(start)
        parameters = [*model.parameters(), *architecture.parameters()]
        for parameter in parameters:
            parameter.grad = None
        relaxation = strategy.composition.relaxation
        architecture.follow(relaxation.architecture(architecture.living_alphas(), Step(epochs=2)))
        output = model(images)
        functional.cross_entropy(output, torch.arange(len(images))).backward()
        gradients = [parameter.grad for parameter in parameters]
        found.append([output.detach(), *gradients, *(buffer.clone() for buffer in model.buffers())])
    return found


def assert_same(alone, together):
    for a, b in zip(alone, together, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [DARTS, FairDARTS, EDAS, GDAS, PCDARTS, DOTS], ids=lambda kind: kind.__name__)
def test_groups_give_the_outputs_gradients_and_statistics_of_their_candidates(kind):
    strategy = kind()
    model, _ = supernet(strategy)
    assert_same(*both(strategy, model))


def test_so_do_those_of_nnis_hub():
    strategy = DARTS()
    space = HubDarts(width=4, num_cells=3, dataset="cifar")
    model, _ = supernet(strategy, space)
    assert_same(*both(strategy, model))


def test_so_they_do_in_evaluation_mode():
    strategy = DARTS()
    model, _ = supernet(strategy)
    for norm in norms_with_stats(model):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    assert_same(*both(strategy, model.eval()))


def test_so_they_do_by_the_statistics_of_the_batch_alone():
    strategy = DARTS()
    model, _ = supernet(strategy)
    with batch_stats_only(norms_with_stats(model)):
        assert_same(*both(strategy, model))


def test_so_they_do_without_running_statistics():
    strategy = DARTS()
    model, architecture = supernet(strategy)
    outputs = []
    for architecture.grouped in (False, True):
        architecture.follow(strategy.composition.relaxation.evaluation(architecture.living_alphas()))
        with by_batch_statistics(model):
            outputs.append(model(IMAGES))
    assert torch.allclose(*outputs)


@pytest.mark.parametrize("kind", [DepthwiseConv2d, nn.Sequential])
def test_a_candidate_with_a_hook_is_computed_alone(kind):
    strategy = DARTS()
    model, _ = supernet(strategy)
    calls = []
    cell = next(module for module in model.modules() if isinstance(module, MixedCell))
    hooked = next(module for module in cell.operations.modules() if isinstance(module, kind))
    hooked.register_forward_hook(lambda *_: calls.append(1))
    both(strategy, model)
    assert len(calls) == 2


def test_a_copy_of_a_grouped_supernet_has_weights_of_its_own():
    strategy = DARTS()
    model, architecture = supernet(strategy)
    architecture.grouped = True
    architecture.follow(strategy.composition.relaxation.evaluation(architecture.living_alphas()))
    before = model(IMAGES)
    copied = copy.deepcopy(model, {id(architecture): architecture})
    for parameter in copied.parameters():
        parameter.data.zero_()
    assert torch.equal(model(IMAGES), before)


def test_groups_call_half_of_the_operators():
    strategy = DARTS()
    model, architecture = supernet(strategy, DartsSpace(channels=4, layers=3, nodes=4))
    model.requires_grad_(False)  # as in an architecture step
    counts = []
    for architecture.grouped in (False, True):
        architecture.follow(strategy.composition.relaxation.architecture(architecture.living_alphas(), Step(epochs=2)))
        launches = Launches()
        with launches.counting():
            model(IMAGES).sum().backward()
        counts.append(launches.operators)
    assert counts[1] < 2 / 3 * counts[0]
