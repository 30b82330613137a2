"""The ranking of likely architectures at the end of a search."""

import json
import math
from itertools import pairwise, product

import nni.nas.nn.pytorch as nas
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from nas_plugins import DARTS, DDARTS, EDAS, DartsSpace, FairDARTS, Genotype
from nas_plugins.errors import InputError
from nas_plugins.report import write_report
from nas_plugins.training.derive import derive
from nas_plugins.training.search import resume, search
from search_spaces.complexity import count_multiply_adds
from strategies.cost import Cost
from strategies.finish import Finish, Finishing, exchanges
from strategies.memory_format import ChannelsLast
from strategies.relaxation import UnfitSettingError
from tests.small_searches import FEW
from tests.test_cost_runs import SETTINGS


class Blind(nn.Module):
    """Shows the head nothing of the images."""

    def forward(self, x):
        return torch.zeros_like(x)


class Diverging(nn.Module):
    """Gives numbers that are none, but only in validation."""

    def forward(self, x):
        return x if self.training else x * math.nan


class SeeingOrBlind(nas.ModelSpace):
    """Its first choice is the blind one, which is derived where all α are equal."""

    def __init__(self, first=Blind):
        super().__init__()
        self.view = nas.LayerChoice({"blind": first(), "seeing": nn.Identity()}, label="view")
        self.head = nn.Linear(3 * 8 * 8, 10)

    def forward(self, x):
        return self.head(self.view(x).flatten(1))


class Weights(Callback):
    """Keeps the weights and the metrics at the end of a search."""

    def on_train_end(self, trainer, module):
        self.values = {name: value.clone() for name, value in module.model.state_dict().items()}
        self.module, self.metrics = module, dict(trainer.callback_metrics)


def test_the_best_of_the_likely_architectures_is_derived(run_search):
    equal = {"learning_rate": 0.0, "alpha_scale": 0.0}
    for finish, chosen in ((None, "blind"), (Finish(2), "seeing")):
        experiment = run_search(SeeingOrBlind(), DARTS(**equal, finish=finish), epochs=3)
        assert experiment.export_top_models(formatter="dict") == [{"view": chosen}]


@pytest.mark.parametrize("make_strategy", [DARTS, EDAS, FairDARTS, DDARTS], ids=lambda strategy: strategy.__name__)
def test_the_chosen_architecture_has_the_best_metric_and_the_weights_stay(run_search, make_strategy):
    ends = []
    for finish in (None, {"architectures": 3, "steps": 2, "metric": "val_loss"}):
        torch.manual_seed(0)
        end = Weights()
        space = DartsSpace(channels=4, layers=3, nodes=2, operations=FEW)
        run_search(space, make_strategy(finish=finish), callbacks=[end])
        ends.append(end)
    ranking = ends[1].module.finished()["ranking"]
    losses = [row["metrics"]["val_loss"] for row in ranking]
    assert len(set(losses)) == 3
    assert [row["chosen"] for row in ranking] == [loss == min(losses) for loss in losses]
    assert ranking[0]["operations"] == {}
    assert all(torch.equal(ends[0].values[name], value) for name, value in ends[1].values.items())


def test_steps_train_an_architecture_before_it_is_validated(run_search):
    losses = []
    for steps in (0, 2):
        torch.manual_seed(0)
        end = Weights()
        finish = Finish(2, steps=steps, metric="val_loss")
        run_search(SeeingOrBlind(), DARTS(finish=finish), callbacks=[end])
        losses.append({str(row["operations"]): row["metrics"]["val_loss"] for row in end.module.finished()["ranking"]})
    assert all(losses[1][name] < losses[0][name] for name in losses[0])  # the same images train and validate


def test_steps_take_the_rate_that_a_schedule_warms_up_to(run_search):
    class WarmUp(Weights):
        def on_train_start(self, trainer, module):
            def warmed_up():
                optimizer = torch.optim.SGD(module.training_module.parameters(), lr=0.05)
                return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, float)}

            module.training_module.configure_optimizers = warmed_up

    losses = []
    for steps in (0, 2):
        torch.manual_seed(0)
        end = WarmUp()
        run_search(SeeingOrBlind(), DARTS(finish=Finish(2, steps=steps, metric="val_loss")), callbacks=[end])
        losses.append([row["metrics"]["val_loss"] for row in end.module.finished()["ranking"]])
    assert all(after < before for before, after in zip(*losses, strict=True))


def test_strided_convolutions_of_other_spaces_are_guarded_in_a_ranking_too(run_search):
    """docs/cpu_kernels.md: their gradient may write beyond its buffer."""
    guarded = []

    class Watching(nn.Identity):
        def forward(self, x):
            if self.training and torch.is_grad_enabled():
                guarded.append(any(isinstance(mode, ChannelsLast) for mode in _get_current_function_mode_stack()))
            return x

    counts = []
    for steps in (0, 3):
        guarded.clear()
        run_search(SeeingOrBlind(Watching), DARTS(finish=Finish(2, steps=steps)))
        counts.append(len(guarded))
        assert all(guarded)
    assert counts[1] == counts[0] + 3


def test_only_architectures_within_a_target_are_ranked(run_search):
    def space():
        return DartsSpace(channels=4, layers=3, nodes=2, operations=FEW)

    target = 52_000
    strategy = DARTS(cost=Cost("multiply_adds", target), finish=Finish(6))
    (sample,) = run_search(space(), strategy).export_top_models(formatter="dict")
    costs = strategy.oneshot_module.costs
    assert len(strategy.oneshot_module.ranking) > 1
    assert count_multiply_adds(space().freeze(sample), 3, 8) <= target
    assert all(costs.met(plan) for plan, _ in strategy.oneshot_module._likely(Finish(6)))


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=4), max_size=3))
def test_exchanges_give_every_combination_once_and_the_likeliest_first(alphas):
    rows = {str(index): row for index, row in enumerate(alphas)}
    found = list(exchanges(rows))
    assert len(found) == len(list(product(*alphas)))

    def distance(exchange):
        return sum(max(addend) for addend in exchange.values())

    assert found[0] == {}
    assert all(distance(one) <= distance(other) + 1e-8 for one, other in pairwise(found))
    for exchange in found:
        for edge, addend in exchange.items():
            exchanged = [a + b for a, b in zip(rows[edge], addend, strict=True)]
            assert sorted(exchanged) == pytest.approx(sorted(rows[edge]), abs=1e-8)


@pytest.mark.parametrize("metric", ["val_loss", "val_acc"])
def test_a_network_that_diverged_is_never_the_best(metric):
    finish = Finish(metric=metric)
    assert all(finish.score({metric: math.nan}) < finish.score({metric: value}) for value in (-1e9, 0, 1e9))


def test_a_search_with_a_network_that_diverged_ends_with_another_one(run_search):
    end = Weights()
    finish = Finish(2, metric="val_loss")
    strategy = DARTS(learning_rate=0.0, alpha_scale=0.0, finish=finish)
    experiment = run_search(SeeingOrBlind(Diverging), strategy, callbacks=[end])
    assert experiment.export_top_models(formatter="dict") == [{"view": "seeing"}]
    diverged, chosen = json.loads(json.dumps(end.module.finished(), allow_nan=False))["ranking"]
    assert diverged["metrics"]["val_loss"] is None and chosen["chosen"]


def test_a_search_that_ends_early_says_that_nothing_was_ranked(run_search):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = True

    with pytest.warns(UserWarning, match="finish: nothing was ranked"):
        run_search(SeeingOrBlind(), DARTS(finish=Finish(2)), callbacks=[Stop()], epochs=3)


def test_neighbors_differ_in_one_edge_also_where_none_is_relaxed(run_search):
    space = DartsSpace(channels=4, layers=3, nodes=2, operations=FEW)
    strategy = DARTS(alpha_scale=1.0, finish=Finish(2, exchanges=1))
    run_search(space, strategy)
    module = strategy.oneshot_module
    (first, _), *others = module._likely(Finish(40, exchanges=1))
    assert len(others) > 10
    assert all(len(module._changed(plan, first)) == 1 for plan, _ in others)


def test_with_one_exchange_the_architectures_are_the_neighbors_of_the_most_likely_one():
    found = list(exchanges({"a": [2.0, 1.0, 0.0], "b": [0.0, 5.0], "c": [1.0]}, most=1))
    assert [sorted(exchange) for exchange in found] == [[], ["a"], ["a"], ["b"]]


def test_the_best_of_a_rung_are_ranked_anew_after_more_steps(run_search):
    end = Weights()
    space = DartsSpace(channels=4, layers=3, nodes=2, operations=FEW)
    finish = Finish(5, steps=1, rungs=[(2, 4), (1, 16)], metric="val_loss")
    run_search(space, EDAS(finish=finish), callbacks=[end])
    ranking = end.module.finished()["ranking"]
    assert sorted(row["steps"] for row in ranking) == [1, 1, 1, 4, 16]
    assert [row["chosen"] for row in ranking] == [row["steps"] == 16 for row in ranking]


def test_those_with_the_best_metric_are_ranked_anew_and_of_equal_ones_the_most_likely_is_derived(
    run_search, monkeypatch
):
    accuracies = iter([0.1, 0.2, 0.3, 0.0, 0.5, 0.5])  # four architectures, then the third and the second
    monkeypatch.setattr(Finishing, "_metrics_of", lambda *_: {"val_acc": next(accuracies)})
    end = Weights()
    space = DartsSpace(channels=4, layers=3, nodes=2, operations=FEW)
    run_search(space, DARTS(finish=Finish(4, steps=1, rungs=[(2, 2)])), callbacks=[end])
    assert [row["steps"] for row in end.module.ranking] == [1, 2, 2, 1]
    assert [row["chosen"] for row in end.module.ranking] == [False, True, False, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exchanges": 0}, "finish.exchanges: 0 should be at least 1"),
        ({"rungs": [[4]]}, r"finish.rungs: \[\[4\]\] should be pairs \[architectures, steps\]"),
        ({"rungs": [[8, 4]]}, r"finish.rungs: \[\[8, 4\]\] should be fewer architectures and more steps"),
        ({"rungs": [(4, 9), (2, 9)]}, "finish.rungs: .* should be fewer architectures and more steps"),
        ({"architectures": 1}, "finish.architectures: 1 should be at least 2"),
        ({"steps": -1}, "finish.steps: -1 should be at least 0"),
        ({"space": {"layers": 8}}, "finish.steps: 0 should be at least 1 with a space"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DARTS(finish=settings)


@pytest.mark.parametrize("metric", ["val_f1", "derived_val_acc"])
def test_a_metric_that_the_evaluator_does_not_log_ends_the_search_after_its_first_epoch(run_search, metric):
    with pytest.raises(UnfitSettingError, match=f"finish.metric: '{metric}' should be one of val_loss, val_acc$"):
        run_search(SeeingOrBlind(), DARTS(finish=Finish(metric=metric)), epochs=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory of a search with a finish."""
    folder = tmp_path_factory.mktemp("finish")
    strategy = {"name": "DARTS", "finish": {"architectures": 4, "steps": 2, "metric": "val_loss"}}
    (folder / "search.yaml").write_text(yaml.safe_dump({**SETTINGS, "strategy": strategy}))
    return search(folder / "search.yaml", folder / "run", ["--data.train_images", "256"])


def test_finish_json_has_the_ranking(run):
    ranking = json.loads((run / "finish.json").read_text())["ranking"]
    assert len(ranking) == 4
    assert sum(row["chosen"] for row in ranking) == 1


def test_derive_gives_the_genotype_of_the_search(run, tmp_path):
    _, *others = json.loads((run / "finish.json").read_text())["ranking"]
    assert any(row["chosen"] for row in others)  # α alone would give another one
    assert derive(run, tmp_path / "genotype.json") == Genotype.load(run / "genotype.json")


def test_the_last_epoch_validates_the_chosen_architecture(run_search):
    end = Weights()
    space = DartsSpace(channels=4, layers=3, nodes=2, operations=FEW)
    run_search(space, DARTS(finish=Finish(4, metric="val_loss")), callbacks=[end])
    losses = {row["chosen"]: row["metrics"]["val_loss"] for row in end.module.ranking}
    assert losses[True] == pytest.approx(float(end.metrics["derived_val_loss"]), rel=1e-6) != losses[False]


def test_the_report_shows_the_ranking(run, tmp_path):
    page = write_report([run], tmp_path).read_text()
    assert "Ranking at the end of the search" in page
    assert "most likely" in page


def test_a_run_that_was_killed_before_its_result_resumes_to_it(run):
    before = {name: (run / name).read_text() for name in ("genotype.json", "finish.json")}
    for name in before:
        (run / name).unlink()
    resume(run)
    assert {name: (run / name).read_text() for name in before} == before


def test_architectures_are_trained_alone_in_networks_of_another_space(run_search):
    made = []

    def deeper():
        made.append(DartsSpace(channels=4, layers=5, nodes=2, operations=FEW))
        return made[-1]

    end = Weights()
    space = DartsSpace(channels=4, layers=3, nodes=2, operations=FEW)
    finish = Finish(3, steps=2, metric="val_loss", space=deeper)
    run_search(space, EDAS(finish=finish), callbacks=[end])
    losses = [row["metrics"]["val_loss"] for row in end.module.finished()["ranking"]]
    assert len(made) == len(set(losses)) == 3
    assert end.module.model is not made[-1]


@pytest.mark.parametrize("metric", ["acc", "derived_val_acc"])
def test_a_config_with_a_metric_that_validation_does_not_log_is_refused(tmp_path, metric):
    strategy = {"name": "EDAS", "finish": {"metric": metric}}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump({**SETTINGS, "strategy": strategy}))
    with pytest.raises(InputError, match=f"^strategy.finish.metric: '{metric}' should be one of val_loss, val_acc"):
        search(tmp_path / "search.yaml", tmp_path / "run")


def test_a_config_names_what_differs_in_the_space_of_the_networks(tmp_path):
    def config(**space):
        finish = {"architectures": 2, "steps": 2, "space": space}
        file = tmp_path / "search.yaml"
        file.write_text(yaml.safe_dump({**SETTINGS, "strategy": {"name": "EDAS", "finish": finish}}))
        return file

    with pytest.raises(InputError, match="strategy.finish.space: depth: no argument of the searched space"):
        search(config(depth=5), tmp_path / "run")
    with pytest.raises(InputError, match="strategy.finish.space: does not take what the search finds: .* nodes"):
        search(config(nodes=1), tmp_path / "run")
    with pytest.raises(InputError, match="strategy.finish.space: .*'str' and 'int'"):
        search(config(layers="many"), tmp_path / "run")
    short = ["--data.train_images", "256", "--training.epochs", "1", "--strategy.sign_flip_epochs", "0"]
    run = search(config(layers=5), tmp_path / "run", short)
    assert len(json.loads((run / "finish.json").read_text())["ranking"]) == 2
    assert len(Genotype.load(run / "genotype.json").layout) == 3


class Interrupt(Callback):
    """Ends a search after an epoch, before its checkpoint."""

    def on_train_epoch_end(self, trainer, module):
        raise SystemExit


def test_a_search_killed_before_its_ranking_resumes_to_the_same_choice(run, tmp_path):
    with pytest.raises(SystemExit):
        search(run / "config.yaml", tmp_path / "run", callbacks=[Interrupt()])
    resume(tmp_path / "run")
    for name in ("finish.json", "genotype.json", "alphas.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()
