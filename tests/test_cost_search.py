"""Searches that keep costs low, and penalties of NNI."""

import re
from functools import partial

import nni.nas.nn.pytorch as nas
import pytest
import torch
from nni.mutable import Categorical, MutableExpression, label_scope
from nni.nas.profiler import ExpressionProfiler
from nni.nas.profiler.pytorch.flops import FlopsProfiler, NumParamsProfiler
from pytorch_lightning.callbacks import Callback
from torch import nn

import nas_plugins
from benchmarks.methods import METHODS, make
from nas_plugins import DARTS, EDAS, DartsSpace, FairDARTS
from search_spaces.complexity import count_multiply_adds, count_parameters
from strategies.base import DifferentiableStrategy
from strategies.composition import adam
from strategies.cost import Cost, CostTable
from strategies.cost.targets import DAMPING, GROWTH, SearchCosts
from strategies.relaxation import EveryEdge, Step, UnfitSettingError, softmax
from tests.small_searches import FEW
from tests.test_cost_tables import EveryChoice, deriver, randomize, supernet_of, tables


class TwoKernels(nas.ModelSpace):
    """A convolution of 7×7 or of 3×3, which costs about a fifth: 27,648 of 150,528 multiply-adds on 8×8 pixels."""

    def __init__(self):
        super().__init__()
        kernels = {"7x7": nn.Conv2d(3, 16, 7, padding=3), "3x3": nn.Conv2d(3, 16, 3, padding=1)}
        self.conv = nas.LayerChoice(kernels, label="conv")
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


TINY = partial(DartsSpace, channels=4, layers=3, nodes=2, operations=FEW)
LEAST = float(tables(TINY(), size=8)["multiply_adds"].fixed)
OURS = {name: partial(getattr(nas_plugins, name)) for name in ("DARTS", "EDAS", "FairDARTS")}
OURS |= {name: partial(make, name, 2 if name == "PDARTS" else 1) for name in METHODS}


# DARTSPT and DOTS choose operations by more than α, and IDARTS takes as DARTS does.
@pytest.mark.parametrize("name", [name for name in OURS if name not in ("DARTSPT", "DOTS", "IDARTS")])
def test_every_strategy_derives_within_a_target(run_search, name):
    target, epochs = 1.15 * LEAST, 2 if name == "PDARTS" else 1  # P-DARTS prunes after an epoch
    strategy = OURS[name]()
    strategy.cost = (Cost("multiply_adds", target),)
    (sample,) = run_search(TINY(), strategy, epochs=epochs, batch_size=32).export_top_models(formatter="dict")
    assert LEAST <= count_multiply_adds(TINY().freeze(sample), 3, 8) <= target


@pytest.mark.parametrize("cost", ["flops", {"metric": "multiply_adds", "target": 3e4}, [30_000]])
def test_what_is_no_cost_is_refused_at_once(cost):
    with pytest.raises(ValueError, match="cost: .* should be a Cost, or several of them"):
        DARTS(cost=cost)


@pytest.mark.parametrize("make_strategy", [DARTS, EDAS], ids=["DARTS", "EDAS"])
def test_several_costs_are_met_at_once(run_search, make_strategy):
    counted = tables(TINY(), size=8)
    targets = {metric: 1.2 * float(counted[metric].fixed) for metric in ("parameters", "multiply_adds")}
    strategy = make_strategy(cost=[Cost(metric, target) for metric, target in targets.items()])
    (sample,) = run_search(TINY(), strategy, epochs=2).export_top_models(formatter="dict")
    network = TINY().freeze(sample)
    assert count_parameters(network) <= targets["parameters"]
    assert count_multiply_adds(network, 3, 8) <= targets["multiply_adds"]


def test_a_space_of_value_choices_meets_a_target(run_search):
    target = 30_000
    strategy = DARTS(cost=Cost("multiply_adds", target))
    (sample,) = run_search(EveryChoice(), strategy, epochs=2).export_top_models(formatter="dict")
    assert count_multiply_adds(EveryChoice().freeze(sample), 3, 8) <= target


def test_a_target_that_no_network_meets_ends_the_search_at_its_start(run_search):
    with pytest.raises(UnfitSettingError, match=re.escape("cost.target: 1,000 multiply_adds is below every network")):
        run_search(TwoKernels(), DARTS(cost=Cost("multiply_adds", 1000)))


def test_without_influence_on_the_derived_network_a_cost_changes_no_step(run_search):
    """A target above every network leaves the multiplier at 0, and the gradient as it is."""
    strategies = [DARTS(), DARTS(cost=Cost("parameters", 1e9))]
    alphas = []
    for strategy in strategies:
        torch.manual_seed(1)
        run_search(TwoKernels(), strategy)
        alphas.append(strategy.alphas())
    assert alphas[0] == alphas[1]


def test_expected_and_derived_costs_are_logged(run_search):
    seen = {}

    class Watch(Callback):
        def on_validation_end(self, trainer, pl_module):
            seen.update({key: float(value) for key, value in trainer.callback_metrics.items()})

    run_search(TwoKernels(), DARTS(cost=Cost("multiply_adds", 50_000)), callbacks=[Watch()])
    assert seen["derived_multiply_adds"] == 27_648 + 160
    assert 27_648 < seen["expected_multiply_adds"] < 150_528 + 160
    assert seen["multiplier_multiply_adds"] >= 0


def test_multipliers_are_adapted_also_where_steps_of_alpha_are_rare(run_search):
    """With three weight steps for a step of α, its iterations are 2 and 5 of 8."""
    strategy = DifferentiableStrategy(
        relaxation=EveryEdge(softmax), optimizer=adam(0.01, 0.0, (0.5, 0.9)), weight_steps=3,
        cost=Cost("multiply_adds", 28_000),
    )  # fmt: skip
    run_search(TwoKernels(), strategy, batch_size=4)
    assert strategy.oneshot_module.costs.state["steps"] == 2
    assert strategy.oneshot_module.costs.state["violations"] != [0.0]


# The steps, against their equations


@pytest.fixture
def one_edge():
    """Two candidates that cost 10 and 30, of equal α, with a target of 15."""
    alpha = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    table = CostTable({"edge": ("a", "b")}, {("edge",): torch.tensor([10.0, 30.0], dtype=torch.float64)})
    costs = SearchCosts([Cost("parameters", 15.0)], lambda: {"edge": alpha.softmax(0)}, {"edge": alpha})
    costs.tables = [table]
    return costs, alpha


def test_the_multiplier_is_that_of_a_damped_dual_ascent(one_edge):
    costs, _ = one_edge
    costs.update({"edge": (1,)})  # 30 is twice the target, a violation of 1
    assert costs.multipliers == [GROWTH + DAMPING]
    costs.update({"edge": (0,)})  # 10 is a third below
    assert costs.multipliers == [0.0]
    assert costs.state["multipliers"] == [pytest.approx(GROWTH - GROWTH / 3)]


def test_a_multiplier_of_one_gives_the_cost_as_much_influence_as_the_loss(one_edge):
    costs, alpha = one_edge
    costs.state |= {"multipliers": [1.0], "violations": [0.0]}
    gradient = torch.tensor([0.3, -0.1], dtype=torch.float64)
    (total,) = costs.add_to([gradient], {"edge": alpha}, Step())
    # The expected cost is 10 p + 30 (1 − p) with p = 1/2, whose gradient for α is ∓5.
    size = gradient.square().mean().sqrt()
    torch.testing.assert_close(total, gradient + size * torch.tensor([-1.0, 1.0], dtype=torch.float64))


def test_a_fixed_weight_adds_the_gradient_of_a_hinge_that_ramps_up(one_edge):
    costs, alpha = one_edge
    costs.costs = [Cost("parameters", 15.0, weight=2.0)]
    zero = torch.zeros(2, dtype=torch.float64)
    (total,) = costs.add_to([zero], {"edge": alpha}, Step(epoch=3, epochs=12))
    torch.testing.assert_close(total, 2.0 * 3 / 12 * torch.tensor([-5.0, 5.0], dtype=torch.float64) / 15)
    costs.costs = [Cost("parameters", 25.0, weight=2.0)]  # the expected 20 are below
    costs.update({"edge": (0,)})
    assert costs.add_to([zero], {"edge": alpha}, Step(epoch=3, epochs=12))[0].eq(0).all()


def test_an_edge_that_a_step_leaves_alone_gets_no_gradient_of_the_cost(one_edge):
    costs, alpha = one_edge
    costs.state["multipliers"] = [1.0]
    assert costs.add_to([None], {"edge": alpha}, Step()) == [None]


@pytest.fixture(scope="module")
def deeper():
    """A strategy, what derives the plan of its supernet, and the table of the multiply-adds."""
    make_space, strategy = partial(DartsSpace, channels=4, layers=5, nodes=3), DARTS()
    derive = deriver(strategy, supernet_of(make_space(), strategy))
    return strategy, lambda: derive()[1], tables(make_space(), size=8)["multiply_adds"]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_derivation_is_within_a_target_and_close_to_it(deeper, share, seed):
    strategy, plan, table = deeper
    torch.manual_seed(seed)
    randomize(strategy)
    full = table.of_plan(plan())
    target = float(table.fixed) + share * (full - float(table.fixed))

    def derive(shift):
        with strategy.architecture.shifted(shift):
            return plan()

    def expected():
        return {edge: alpha.softmax(0) for edge, alpha in strategy.architecture.alphas.items()}

    costs = SearchCosts([Cost("multiply_adds", target)], expected, strategy.architecture.alphas)
    costs.tables = [table]
    assert 0.95 * target <= table.of_plan(derive(costs.shift(derive))) <= target


# Penalties of NNI


def penalty_of(profiler, cheapest, scale, **options):
    return {"profiler": profiler, "baseline": float(profiler.profile(cheapest)), "scale": scale, **options}


@pytest.mark.parametrize("aggregate", ["add", "mul"])
@pytest.mark.parametrize("strategy", [DARTS, EDAS, FairDARTS])
def test_a_penalty_of_nni_decides_between_convolutions(run_search, strategy, aggregate):
    """Between those of NNI's fault in docs/coming_from_nni.md; with a negative scale the expensive one is better."""
    profiler = FlopsProfiler(TwoKernels(), torch.randn(1, 3, 8, 8))
    for scale, better in ((10.0, "3x3"), (-10.0, "7x7")):
        torch.manual_seed(0)
        penalty = penalty_of(profiler, {"conv": "3x3"}, scale, aggregate=aggregate)
        searching = strategy(learning_rate=0.01, penalty=penalty)
        run_search(TwoKernels(), searching, epochs=3)
        alphas = searching.alphas()["conv"]
        assert max(alphas, key=alphas.get) == better


@pytest.mark.parametrize("label", ["width", "kernel", "depth", "layer"])
def test_a_penalty_of_nni_reaches_every_kind_of_choice(run_search, label):
    class Plain(EveryChoice):  # NNI's profilers do not profile its cells
        def __init__(self):
            super().__init__()
            self.cell = nn.Conv2d(4, 8, 1)

        def forward(self, x):
            x = self.layer(self.mix(self.blocks(self.norm(self.stem(x)))))
            return self.head(self.cell(x).mean((2, 3)))

    profiler = NumParamsProfiler(Plain(), torch.randn(1, 3, 8, 8))
    cheapest = {"width": 2, "kernel": 1, "depth": 1, "layer": "skip"}
    torch.manual_seed(0)
    strategy = DARTS(learning_rate=0.01, alpha_scale=0.0, penalty=penalty_of(profiler, cheapest, 100.0))
    run_search(Plain(), strategy, epochs=2)
    alphas = strategy.alphas()[label]
    assert max(alphas, key=alphas.get) == cheapest[label]


def test_a_penalty_of_nni_reaches_the_operations_of_a_cell(run_search):
    class CountedConvolutions(ExpressionProfiler):
        def __init__(self):
            costs = {"conv": 9.0, "skip": 0.0}
            with label_scope("cell"):
                labels = [f"op_{node}_{slot}" for node in (2, 3) for slot in range(2)]
                choices = [Categorical(["conv", "skip"], label=label) for label in labels]
            self.expression = sum((MutableExpression.switch_case(c, costs) for c in choices), 0.0)

    torch.manual_seed(0)
    profiler = CountedConvolutions()
    strategy = DARTS(learning_rate=0.01, penalty={"profiler": profiler, "baseline": 9.0, "scale": 100.0})
    run_search(EveryChoice(), strategy, epochs=2)
    for edge, alphas in strategy.alphas().items():
        if edge.startswith("cell/"):
            assert alphas["skip"] > alphas["conv"]


def test_what_is_no_penalty_is_refused():
    with pytest.raises(TypeError, match="penalty: str should be an ExpectationProfilerPenalty or a dictionary"):
        DARTS(penalty="flops")
