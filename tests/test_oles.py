"""The strategy OLES, compared with its released code."""

import re

import pytest
import torch
from pytorch_lightning import Callback
from released_steps import Filled, small_space, wave
from torch.utils.data import TensorDataset

from strategies.oles import OLES
from strategies.operation_stopping import STOPPED

# Of their commit d90455c: m.avg / 3 of every sep_conv_3x3 after three calls of check_grads_cosine, layer by layer.
ACCUMULATED = [
    *(0.259287172637, 0.221634152487, 0.198906596626, 0.209413778043, 0.05041111292),
    *(-0.020866787378, 0.186998082362, 0.006124022173, 0.118850173935, 0.141963334437),
    *(0.06289993795, 0.187035699256, 0.193913102873, 0.084650664364, 0.199839398789),
]
# With the gradients set to zero between the two steps, as in the paper.
VALIDATION_ALONE = [
    *(0.065815475797, 0.039636503143, 0.076338301469, 0.066189731137, -0.10955667576),
    *(-0.235512313319, 0.038756087463, -0.203781521885, -0.025948608459, -0.018681173145),
    *(-0.089160188925, -0.037166187024, 0.028287010641, -0.070129108349, -0.106807531543),
]


@pytest.fixture
def images():
    """Four batches of four images of three classes."""
    labels = torch.tensor([0, 1, 2, 1])
    pixels = torch.cat([wave(torch.Size((4, 3, 8, 8)), 2.0 * index) for index in range(4)])
    return TensorDataset(pixels, torch.cat([labels.roll(index) for index in range(4)]))


@pytest.mark.parametrize(("accumulated", "expected"), [(True, ACCUMULATED), (False, VALIDATION_ALONE)])
def test_similarities_are_those_of_the_released_code(run_search, accumulated, expected):
    strategy = OLES(accumulated=accumulated, none=False)
    run_search(small_space(), strategy, batch_size=4, precision="64-true", callbacks=[Filled()])
    sums = strategy.early_stopping.similarities
    assert [sums[index].item() / 3 for index in range(15)] == pytest.approx(expected, abs=1e-10)


class Weights(Callback):
    """Keep the weights of all watched operations, and which of them are frozen, after each epoch."""

    def __init__(self, strategy):
        self.strategy, self.weights, self.stopped = strategy, [], []

    def on_train_epoch_end(self, trainer, searching):
        operations = self.strategy.early_stopping.operations
        self.weights.append([torch.cat([w.detach().flatten() for w in op.parameters()]) for op in operations])
        self.stopped.append(list(searching.memory[STOPPED]))


def test_operations_below_the_threshold_are_frozen(run_search):
    strategy = OLES(threshold=0.1, window=3, none=False)
    weights = Weights(strategy)
    run_search(small_space(), strategy, batch_size=4, precision="64-true", epochs=2, callbacks=[Filled(), weights])
    first = weights.stopped[0]
    assert first == [index for index, similarity in enumerate(ACCUMULATED) if similarity < 0.1]
    for index, (before, after) in enumerate(zip(weights.weights[0], weights.weights[1], strict=True)):
        assert torch.equal(before, after) == (index in first)
    assert weights.stopped[1][: len(first)] == first


def test_frozen_operations_do_not_decay(run_search):
    strategy = OLES(threshold=1.0, window=1, none=False)
    weights = Weights(strategy)
    run_search(
        small_space(), strategy, batch_size=4, precision="64-true", epochs=2, weight_decay=0.1, callbacks=[weights]
    )
    assert sorted(weights.stopped[0]) == list(range(15))
    assert all(torch.equal(*both) for both in zip(*weights.weights, strict=True))


def test_operations_frozen_before_a_resume_are_frozen_after_it():
    strategy = OLES()
    strategy.mutate_model(small_space())

    class Epoch:
        memory = {STOPPED: [2]}

    strategy.composition.pruning(Epoch())
    frozen = [not next(operation.parameters()).requires_grad for operation in strategy.early_stopping.operations]
    assert frozen == [index == 2 for index in range(15)]


def test_it_has_the_settings_of_the_released_code():
    strategy = OLES()
    optimizer = strategy.composition.optimizer([torch.zeros(1, requires_grad=True)])
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": 3e-4,
        "betas": (0.5, 0.999),
        "weight_decay": 1e-3,
    }
    assert (strategy.early_stopping.threshold, strategy.early_stopping.window) == (0.4, 20)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.5}, "threshold: 1.5 should be from -1 to 1"),
        ({"window": 0}, "window: 0 should be at least 1"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        OLES(**settings)
