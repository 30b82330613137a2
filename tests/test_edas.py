"""The strategy EDAS, through NNI's experiment."""

import copy

import nni.nas.nn.pytorch as nas
import pytest
import torch
from pytorch_lightning.callbacks import Callback
from small_searches import FEW
from torch import nn

from nas_plugins import EDAS, DartsSpace
from strategies.relaxation import argmax, softmax
from strategies.supernet.cell import MixedCell


def small_space():
    return DartsSpace(channels=2, layers=3, nodes=2, operations=FEW)


# test_matrix.py runs it with default settings on the other spaces, including NNI's.
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sign_flip_epochs": 0, "recompute": True},
        {"alpha_max": True},
        {"sampling": "entropy", "relaxed_edges": 3},
        {"order": "one-level"},
        {"order": "second"},
        {"flip": "both"},
        {"path": "sampled", "order": "one-level"},
    ],
    ids=str,
)
def test_it_searches_and_its_sample_freezes_the_space(run_search, settings):
    (sample,) = run_search(small_space(), EDAS(**settings)).export_top_models(formatter="dict")
    assert small_space().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("settings", "decay"), [({}, 1e-3), ({"sign_flip_epochs": 0}, 0.0), ({"weight_decay": 0.2}, 0.2)]
)
def test_it_has_the_settings_of_section_4_1(settings, decay):
    optimizer = EDAS(**settings).composition.optimizer([torch.zeros(1, requires_grad=True)])
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.defaults["lr"] == 0.025
    assert optimizer.defaults["betas"] == (0.5, 0.999)
    assert optimizer.defaults["weight_decay"] == decay
    assert EDAS().composition.relaxation.sign_flip_epochs == 10


def test_weight_steps_alone_see_the_other_sign_but_where_they_share_a_pass():
    flips = {order: EDAS(order=order).composition.relaxation.flip for order in ("first", "second", "one-level")}
    assert flips == {"first": "weights", "second": "weights", "one-level": "both"}
    assert EDAS(flip="both").composition.relaxation.flip == "both"
    with pytest.raises(ValueError, match="flip: 'weights' should be 'both'"):
        EDAS(order="one-level", flip="weights")
    with pytest.raises(ValueError, match="flip: 'Both' should be one of weights, both"):
        EDAS(flip="Both")


class Branches(nas.ModelSpace):
    """Two branches of which an input choice takes one, so the relaxed edge may be on the unused branch."""

    def __init__(self):
        super().__init__()
        self.a = nas.LayerChoice([nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)], label="a")
        self.b = nas.LayerChoice([nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)], label="b")
        self.take = nas.InputChoice(2, n_chosen=1, label="take")
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        return self.head(self.take([self.a(x), self.b(x)]).mean(dim=(2, 3)))


def test_it_searches_layer_and_input_choices(run_search):
    (sample,) = run_search(Branches(), EDAS(), epochs=4).export_top_models(formatter="dict")
    assert Branches().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_an_input_choice_of_several_inputs_is_refused_since_a_path_has_one():
    class Two(nas.ModelSpace):
        def __init__(self):
            super().__init__()
            self.take = nas.InputChoice(3, n_chosen=2, label="take")

    with pytest.raises(TypeError, match="'take'.*n_chosen should be 1"):
        EDAS().mutate_model(Two())


class Inner(nas.ModelSpace):
    """A cell with a choice inside one of its candidates."""

    def __init__(self):
        super().__init__()
        inner = {
            "conv": lambda *_: nas.LayerChoice([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding=1)], label="inner"),
            "pool": lambda *_: nn.AvgPool2d(3, 1, 1),
        }
        self.cell = nas.Cell(inner, num_nodes=2, num_ops_per_node=1, num_predecessors=1, label="cell")
        self.head = nn.Linear(6, 10)

    def forward(self, x):
        return self.head(self.cell([x]).mean((2, 3)))


def test_a_choice_inside_a_candidate_of_a_cell_is_searched_and_its_sample_freezes_the_space(run_search):
    (sample,) = run_search(Inner(), EDAS(none=False)).export_top_models(formatter="dict")
    assert "cell/inner" in sample
    assert Inner().contains(sample)
    assert Inner().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("label", ["type", "training", "keys", "a.b", "%"])
def test_any_label_will_do(label):
    class Space(nas.ModelSpace):
        def __init__(self):
            super().__init__()
            self.choice = nas.LayerChoice([nn.Identity(), nn.ReLU()], label=label)

    strategy = EDAS()
    strategy.mutate_model(Space())
    assert list(strategy.architecture.alphas) == [label]


def test_candidates_may_give_several_tensors():
    class Pairs(nas.ModelSpace):
        def __init__(self):
            super().__init__()
            self.choice = nas.LayerChoice([nn.LSTM(3, 4), nn.LSTM(3, 4)], label="lstm")

        def forward(self, x):
            out, (hidden, _) = self.choice(x)
            return out.mean(0) + hidden[0]

    strategy = EDAS()
    model = strategy.mutate_model(Pairs())
    strategy.architecture.plan = softmax(strategy.architecture.alphas)
    model(torch.randn(5, 2, 3)).sum().backward()
    assert strategy.architecture.alphas["lstm"].grad is not None


class Watch(Callback):
    """Records for every iteration: the edges whose α or Adam state changed, and the operations that ran."""

    def __init__(self):
        self.changed, self.stepped, self.ran = [], [], []

    def on_train_start(self, trainer, module):
        self.alphas = module.architecture.alphas
        (self.adam,) = [o for o in trainer.optimizers if getattr(o, "is_arch_optimizer", False)]
        self.calls = {}
        for cell in module.modules():
            if isinstance(cell, MixedCell):
                for key, candidates in cell.operations.items():
                    for candidate in candidates:
                        at = (id(cell), f"{cell.label}/{key}")
                        candidate.register_forward_hook(
                            lambda *_, at=at: self.calls.update({at: self.calls.get(at, 0) + 1})
                        )

    def count(self, at):
        self.calls[at] = self.calls.get(at, 0) + 1

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.calls.clear()
        self.before = {edge: alpha.detach().clone() for edge, alpha in self.alphas.items()}
        self.states = {edge: copy.deepcopy(self.adam.state.get(alpha)) for edge, alpha in self.alphas.items()}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.changed.append([e for e, alpha in self.alphas.items() if not torch.equal(alpha, self.before[e])])
        self.stepped.append([e for e, alpha in self.alphas.items() if not self._same(alpha, self.states[e])])
        self.ran.append(dict(self.calls))

    def _same(self, alpha, state):
        now = self.adam.state.get(alpha)
        if not now or not state:
            return bool(now) == bool(state)
        return all(torch.equal(now[key], state[key]) for key in now)


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({"sign_flip_epochs": 2}, 2),  # one in the architecture step, one in the weight step
        ({"sign_flip_epochs": 0, "weight_decay": 0.1}, 2),
        ({"order": "one-level"}, 1),  # both steps share a pass
    ],
    ids=str,
)
def test_only_the_relaxed_edge_changes_and_every_other_edge_runs_one_operation(run_search, settings, passes):
    watch = Watch()
    strategy = EDAS(seed=11, none=False, **settings)
    run_search(small_space(), strategy, epochs=4, batch_size=8, callbacks=[watch])
    assert len(watch.changed) == 16
    for iteration, (changed, stepped, ran) in enumerate(zip(watch.changed, watch.stepped, watch.ran, strict=True)):
        (relaxed,) = strategy.composition.relaxation.edges(strategy.architecture.alphas, iteration)
        assert changed == stepped == [relaxed]
        assert all(calls == (3 * passes if edge == relaxed else passes) for (_, edge), calls in ran.items())
        assert len(ran) == 3 * 5
    assert len({edges[0] for edges in watch.changed}) > 5


def test_alpha_rests_while_the_weights_train_first(run_search):
    watch = Watch()
    run_search(small_space(), EDAS(weights_first_epochs=1, order="one-level"), epochs=2, callbacks=[watch])
    half = len(watch.changed) // 2
    assert not any(watch.changed[:half])
    assert all(watch.changed[half:])
    with pytest.raises(ValueError, match="weights_first_epochs: -1 should be at least 0"):
        EDAS(weights_first_epochs=-1)
    with pytest.raises(ValueError, match="alpha_max: true should be false: weights_first_epochs relaxes every edge"):
        EDAS(weights_first_epochs=1, alpha_max=True)


def test_with_none_an_edge_runs_one_operation_or_nothing(run_search):
    watch = Watch()
    strategy = EDAS(seed=11)
    run_search(small_space(), strategy, epochs=2, callbacks=[watch])
    for iteration, ran in enumerate(watch.ran):
        (relaxed,) = strategy.composition.relaxation.edges(strategy.architecture.alphas, iteration)
        assert all(calls <= 2 for (_, edge), calls in ran.items() if edge != relaxed)


def test_alpha_max_trains_weights_on_the_path_alone(run_search):
    watch = Watch()
    strategy = EDAS(seed=11, alpha_max=True, none=False, sign_flip_epochs=0)
    run_search(small_space(), strategy, epochs=2, callbacks=[watch])
    for iteration, ran in enumerate(watch.ran):
        (relaxed,) = strategy.composition.relaxation.edges(strategy.architecture.alphas, iteration)
        assert all(calls == (3 + 1 if edge == relaxed else 2) for (_, edge), calls in ran.items())


def test_alpha_max_has_no_pass_from_which_one_level_could_learn():
    with pytest.raises(ValueError, match="alpha_max: true should be false: with order 'one-level'"):
        EDAS(alpha_max=True, order="one-level")


@pytest.mark.parametrize("order", ["first", "one-level"])
def test_weights_of_operations_that_did_not_run_are_left_alone(run_search, order):
    """The weight decay of the evaluator's optimizer must not change them either."""

    class Weights(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.before = {name: weight.detach().clone() for name, weight in module.named_parameters()}

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            same = [n for n, w in module.named_parameters() if ".operations." in n and torch.equal(w, self.before[n])]
            self.share = len(same) / len([n for n in self.before if ".operations." in n])

    weights, space = Weights(), DartsSpace(channels=2, layers=3, nodes=2)
    run_search(space, EDAS(seed=1, order=order), epochs=2, callbacks=[weights], weight_decay=0.1)
    assert weights.share > 0.7


def test_the_supernet_is_validated_as_the_path_network(run_search):
    class Plans(Callback):
        def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
            if dataloader_idx == 0:
                self.plan, self.best = module.architecture.plan, argmax(module.architecture.alphas)
            self.metrics = set(trainer.callback_metrics)

    plans = Plans()
    run_search(small_space(), EDAS(), epochs=2, callbacks=[plans])
    assert plans.plan == plans.best
    assert {"val_acc", "derived_val_acc"} <= plans.metrics


def test_the_same_seed_gives_the_same_alpha_bit_for_bit(run_search):
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        strategy = EDAS()
        run_search(small_space(), strategy, epochs=2)
        found.append({edge: alpha.detach().clone() for edge, alpha in strategy.architecture.alphas.items()})
    assert all(torch.equal(found[0][edge], found[1][edge]) for edge in found[0])
