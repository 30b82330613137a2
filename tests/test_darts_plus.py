"""The strategy DARTS+, and the stop rules it is made of."""

import re
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback

from nas_plugins import DartsSpace
from strategies.darts_plus import DARTSPlus
from strategies.stop_rules import either, skip_count, small_change, stable_ranks


def after(history=(), sample=None):
    return SimpleNamespace(history=list(history), sample=sample or {})


def derived(*operations, cell="normal"):
    return {f"{cell}/op_{2 + slot // 2}_{slot % 2}": operation for slot, operation in enumerate(operations)}


def test_it_has_the_settings_of_the_paper():
    strategy = DARTSPlus()
    optimizer = strategy.composition.optimizer([torch.zeros(1, requires_grad=True)])
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": 3e-4,
        "betas": (0.5, 0.999),
        "weight_decay": 1e-3,
    }
    two = derived("skip_connect", "sep_conv_3x3", "skip_connect", "max_pool_3x3")
    same = [{"normal/0->2": {"sep_conv_3x3": 0.2, "sep_conv_5x5": 0.1}}] * 10
    stop = strategy.composition.stop
    assert stop(after(sample=two))
    assert stop(after(same))
    assert not stop(after(same[1:], derived("skip_connect", "sep_conv_3x3")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"skip_limit": 0}, "skip_limit: 0 should be at least 1, or null for no such rule"),
        ({"stable_epochs": 1}, "stable_epochs: 1 should be at least 2, or null for no such rule"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DARTSPlus(**settings)


def test_without_criteria_it_is_a_search_of_all_epochs():
    assert DARTSPlus(skip_limit=None, stable_epochs=None).composition.stop is None


def test_skip_connections_are_counted_in_each_cell_but_reductions():
    rule = skip_count(2)
    assert rule(after(sample=derived("skip_connect", "skip_connect")))
    assert not rule(after(sample=derived("skip_connect", "none", "avg_pool_3x3")))
    assert not rule(after(sample=derived("skip_connect", "skip_connect", cell="reduce")))
    one_each = derived("skip_connect", cell="cell_0") | derived("skip_connect", cell="cell_1")
    assert not rule(after(sample=one_each | {"normal/input_2_0": [0]}))


def ranked(*operations, edge="normal/0->2"):
    return {edge: {operation: -float(rank) for rank, operation in enumerate(operations)}}


def test_ranks_are_those_of_learnable_operations_on_edges_of_normal_cells():
    first = ranked("skip_connect", "sep_conv_3x3", "sep_conv_5x5") | ranked("sep_conv_3x3", edge="reduce/0->2")
    second = ranked("sep_conv_3x3", "none", "sep_conv_5x5", "skip_connect")
    other = ranked("sep_conv_5x5", "sep_conv_3x3")
    rule = stable_ranks(3)
    assert rule(after([other, first, second, first]))
    assert not rule(after([first, other, first]))
    assert not rule(after([first, second]))
    assert not stable_ranks(3, start=1)(after([first, first, first]))
    assert not rule(after([ranked("sep_conv_3x3", "skip_connect")] * 3))  # a single operation has no rank


def test_a_small_change_is_the_mean_change_of_the_sigmoids():
    before = {"a": {"x": 0.1, "y": 0.2}, "b": {"z": -0.1}}
    now = {"a": {"x": 0.3, "y": 0.6}, "b": {"z": -0.3}}
    epoch = SimpleNamespace(before=before, architecture=SimpleNamespace(table=lambda: now))
    sigmoids = [torch.tensor([table["a"]["x"], table["a"]["y"], table["b"]["z"]]).sigmoid() for table in (before, now)]
    change = float((sigmoids[1] - sigmoids[0]).abs().mean())
    assert small_change(change + 1e-6)(epoch)
    assert not small_change(change - 1e-6)(epoch)
    with pytest.raises(ValueError, match="min_alpha_change: 0 should be above 0"):
        small_change(0)


def test_either_rule_ends_a_search_and_all_see_every_epoch():
    seen = []
    rule = either(None, lambda epoch: seen.append(1) or True, lambda epoch: seen.append(2) or False)
    assert rule(after()) and seen == [1, 2]
    assert either(None) is None


class Skipping(Callback):
    """Start with one skip connection in the derived normal cell, and count the epochs."""

    epochs = 0

    def on_train_start(self, trainer, searching):
        searching.architecture.start({"normal/0->2": {"skip_connect": 2.0}, "normal/1->2": {"sep_conv_3x3": 2.0}})
        searching.architecture.start({f"normal/{source}->3": {"sep_conv_3x3": 2.0} for source in range(3)})

    def on_train_epoch_end(self, trainer, searching):
        self.epochs += 1


@pytest.mark.parametrize(("limit", "epochs"), [(1, 1), (2, 2)])
def test_a_search_ends_after_the_epoch(run_search, limit, epochs):
    skipping = Skipping()
    space = DartsSpace(channels=2, layers=3, nodes=2, operations=("skip_connect", "sep_conv_3x3"))
    run_search(space, DARTSPlus(skip_limit=limit), epochs=2, batch_size=32, callbacks=[skipping])
    assert skipping.epochs == epochs
