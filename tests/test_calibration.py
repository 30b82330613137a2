"""Batch statistics of one path through a supernet."""

import torch
from torch import nn

from strategies.bn_statistics import measure_bn_stats, use_bn_stats


def network():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4, affine=False))
    for _ in range(3):
        model(torch.randn(8, 3, 6, 6))
    return model.eval()


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_measured_statistics_are_those_of_the_batches():
    model, images = network(), torch.randn(16, 3, 6, 6) * 5 + 2
    statistics = measure_bn_stats(model, lambda: model(images))
    features = model[0](images)
    mean, variance = statistics[model[1]]
    assert torch.allclose(mean, features.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.allclose(variance, features.var(dim=(0, 2, 3)), rtol=1e-4)


def test_several_batches_count_alike():
    model, batches = network(), [torch.randn(8, 3, 6, 6) + shift for shift in (0, 3)]
    both = measure_bn_stats(model, lambda: [model(batch) for batch in batches])
    each = [measure_bn_stats(model, lambda batch=batch: model(batch)) for batch in batches]
    mean = (each[0][model[1]][0] + each[1][model[1]][0]) / 2
    assert torch.allclose(both[model[1]][0], mean, atol=1e-5)


def test_normalizing_by_the_statistics_of_a_batch_is_training_mode_on_that_batch():
    model, images = network(), torch.randn(64, 3, 6, 6) * 3
    statistics = measure_bn_stats(model, lambda: model(images))
    with use_bn_stats(statistics):
        calibrated = model(images)
    model.train()
    # Training normalizes by the biased variance, n values in place of n − 1.
    assert torch.allclose(calibrated, model(images), rtol=2e-3, atol=1e-3)


def test_measuring_and_using_leave_no_trace():
    model = network()
    before = snapshot(model)
    statistics = measure_bn_stats(model, lambda: model(torch.randn(4, 3, 6, 6) + 9))
    with use_bn_stats(statistics):
        model(torch.randn(4, 3, 6, 6))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert model[1].momentum == 0.1


def test_a_normalization_that_did_not_run_keeps_its_own():
    model = network()
    statistics = measure_bn_stats(model, lambda: model[:2](torch.randn(4, 3, 6, 6)))
    assert set(statistics) == {model[1]}
