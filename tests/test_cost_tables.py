"""What architectures cost: tables, expectations, and counts of derived networks."""

import json
from functools import partial
from itertools import product

import nni
import nni.nas.nn.pytorch as nas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nni.mutable import MutableExpression
from torch import nn

from benchmarks.matrix import _space
from nas_plugins import DARTS, EDAS, PCDARTS, DartsSpace
from search_spaces.complexity import count_multiply_adds, count_parameters
from strategies.cost import Cost, CostTable, Latency, ProfileError, measure_latency
from strategies.cost.expectation import Expectation
from strategies.supernet.cell import MixedCell

SPACES = (
    "DartsSpace", "FineTunedDartsSpace", "DDartsSpace", "DartOptiSpace", "hub PNAS", "hub NasBench201",
    "hub ProxylessNAS", "hub MobileNetV3", "hub AutoFormer",
)  # fmt: skip


class EveryChoice(nas.ModelSpace):
    """A small space with a layer choice, two value choices, one depth, and a cell that has a choice inside."""

    def __init__(self):
        super().__init__()
        width, kernel = nni.choice("width", [2, 4, 6]), nni.choice("kernel", [1, 3])
        self.stem = nas.MutableConv2d(3, width, kernel, padding=kernel // 2)
        self.norm = nas.MutableBatchNorm2d(width)
        self.blocks = nas.Repeat(lambda index: nas.MutableConv2d(width, width, 1), (1, 3), label="depth")
        self.mix = nas.MutableConv2d(width, 4, 1)
        self.layer = nas.LayerChoice({"wide": nn.Conv2d(4, 4, 5, padding=2), "skip": nn.Identity()}, label="layer")
        operations = {"conv": lambda node, op, source: nn.Conv2d(4, 4, 3, padding=1), "skip": lambda *_: nn.Identity()}
        self.cell = nas.Cell(operations, num_nodes=2, num_ops_per_node=2, num_predecessors=2, label="cell")
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.layer(self.mix(self.blocks(self.norm(self.stem(x)))))
        return self.head(self.cell([x, x]).mean((2, 3)))


def tables(space, strategy=None, size=16):
    return (strategy or DARTS()).profiler(space)(((torch.randn(1, 3, size, size),), {})).counted()


def supernet_of(space, strategy):
    """A supernet with random α."""
    supernet = strategy.mutate_model(space)
    randomize(strategy)
    return supernet


def randomize(strategy):
    """Draw all α of a strategy."""
    for alpha in strategy.architecture.alphas.values():
        nn.init.normal_(alpha)


def derived(strategy, supernet):
    """The sample of a supernet, and the plan that runs it."""
    return deriver(strategy, supernet)()


def deriver(strategy, supernet):
    """What derives from a supernet again and again: see :func:`derived`."""
    choices = [module for module in supernet.modules() if hasattr(module, "export")]

    def derive():
        sample = {}
        for choice in choices:
            sample |= choice.export(sample)
        plan = strategy.architecture.path(sample)
        for cell in (choice for choice in choices if isinstance(choice, MixedCell)):
            plan |= cell.derived_plan(sample)
        return sample, plan

    return derive


@pytest.mark.parametrize("name", SPACES)
def test_the_counts_of_a_derived_network_are_exact(name):
    space, images = _space(name), (3, 16)
    unsearched, strategy = space(), DARTS()
    counted, supernet = tables(unsearched), supernet_of(space(), strategy)
    for _ in range(2):
        randomize(strategy)
        sample, plan = derived(strategy, supernet)
        network = unsearched.freeze(sample)
        assert counted["parameters"].of_plan(plan) == count_parameters(network)
        assert counted["multiply_adds"].of_plan(plan) == count_multiply_adds(network, *images)


def test_a_candidate_with_partial_channels_costs_what_it_does_in_the_derived_network():
    make = partial(DartsSpace, channels=4, layers=3, nodes=2)
    narrow, full = tables(make(), PCDARTS(partial_channels=2, warmup_epochs=0)), tables(make())
    assert narrow["multiply_adds"].to_json() == full["multiply_adds"].to_json()


class Awkward(nas.ModelSpace):
    """A depth that is a width too, the larger of two widths, and weights that two modules share."""

    def __init__(self):
        super().__init__()
        depth, other = nni.choice("depth", [1, 2, 3]), nni.choice("other", [2, 4])
        width = MutableExpression.max(nni.choice("one", [2, 4]), other)
        self.stem = nas.MutableConv2d(3, depth, 1)
        self.blocks = nas.Repeat(lambda index: nas.MutableConv2d(depth, depth, 3, padding=1), depth)
        self.wide = nas.MutableConv2d(depth, width, 1)
        self.narrow = nas.MutableConv2d(width, 4, 1)
        self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        x = self.narrow(self.wide(self.blocks(self.stem(x))))
        return self.head(self.second(self.first(x)).mean((2, 3)))


def test_counts_are_exact_for_labels_and_weights_that_several_modules_have():
    counted = tables(Awkward())
    values = {"depth": [1, 2, 3], "one": [2, 4], "other": [2, 4]}
    for indices in product(*map(range, map(len, values.values()))):
        plan = {label: (index,) for label, index in zip(values, indices, strict=True)}
        network = Awkward().freeze({label: values[label][plan[label][0]] for label in values})
        assert counted["multiply_adds"].of_plan(plan) == count_multiply_adds(network, 3, 16)
        assert counted["parameters"].of_plan(plan) == count_parameters(network)


def test_a_module_of_two_candidates_is_refused():
    class Shared(nas.ModelSpace):
        def __init__(self):
            super().__init__()
            conv = nn.Conv2d(3, 3, 1)
            self.layer = nas.LayerChoice(
                {"a": conv, "b": nn.Sequential(conv, nn.Conv2d(3, 3, 3, padding=1))}, label="l"
            )

        def forward(self, x):
            return self.layer(x)

    with pytest.raises(ProfileError, match="a Conv2d is a part of several candidates"):
        tables(Shared())


def test_activations_are_the_outputs_of_convolutions_and_linear_layers():
    class Space(nas.ModelSpace):
        def __init__(self):
            super().__init__()
            self.conv = nas.LayerChoice({"conv": nn.Conv2d(3, 8, 3, padding=1), "skip": nn.Conv2d(3, 8, 1)}, label="c")
            self.head = nn.Linear(8, 10)

        def forward(self, x):
            return self.head((torch.tensor(0.5) * torch.relu(self.conv(x))).mean((2, 3)))

    table = tables(Space())["activations"]
    assert table.of_plan({"c": (0,)}) == table.of_plan({"c": (1,)}) == 8 * 16 * 16 + 10


def test_the_expectation_is_the_mean_over_all_architectures():
    """Outside cells, where the choices are independent, each architecture has the product of its probabilities."""
    strategy = DARTS()
    supernet = supernet_of(EveryChoice(), strategy).double()
    table = tables(EveryChoice())["multiply_adds"]
    expectation = Expectation(supernet, strategy.architecture.double(), "softmax")
    probabilities = {edge: p.detach() for edge, p in expectation().items()}
    free = ["width", "kernel", "depth", "layer"]
    cells = {edge: p for edge, p in probabilities.items() if edge not in free}
    mean = 0.0
    for indices in product(*(range(len(probabilities[edge])) for edge in free)):
        weight = torch.stack([probabilities[edge][index] for edge, index in zip(free, indices, strict=True)]).prod()
        chosen = {
            edge: torch.eye(len(probabilities[edge]), dtype=torch.float64)[index]
            for edge, index in zip(free, indices, strict=True)
        }
        mean += float(weight * table.expected({**cells, **chosen}))
    assert float(table.expected(probabilities)) == pytest.approx(mean, rel=1e-12)


def test_the_gradient_of_the_expectation_is_that_of_finite_differences():
    strategy = DARTS()
    supernet = supernet_of(EveryChoice(), strategy).double()
    table, architecture = tables(EveryChoice())["multiply_adds"], strategy.architecture.double()
    expectation = Expectation(supernet, architecture, "softmax")

    def expected():
        return table.expected(expectation()) / 1e4

    alphas = architecture.alphas
    gradients = dict(zip(alphas, torch.autograd.grad(expected(), list(alphas.values())), strict=True))
    for edge, alpha in alphas.items():
        for index in range(len(alpha)):
            with torch.no_grad():
                alpha[index] += 1e-6
                above = expected()
                alpha[index] -= 2e-6
                below = expected()
                alpha[index] += 1e-6
            assert float(gradients[edge][index]) == pytest.approx(float(above - below) / 2e-6, abs=1e-7)


@pytest.mark.parametrize("make", [partial(DartsSpace, channels=2, layers=3, nodes=3), EveryChoice])
def test_the_expectation_of_decided_alphas_is_the_cost_of_the_derived_network(make):
    """One candidate of each edge is certain; on the edges of a cell that are not kept it is none."""
    strategy = DARTS()
    supernet = supernet_of(make(), strategy)
    sample, plan = derived(strategy, supernet)
    architecture = strategy.architecture.double()
    with torch.no_grad():
        for edge, alpha in architecture.alphas.items():
            kept = plan[edge][0] if plan[edge] else len(alpha) - 1
            alpha.fill_(-200.0)[kept] = 200.0
    expected = Expectation(supernet, architecture, "softmax")()
    network = make().freeze(sample)
    counted = tables(make())
    assert float(counted["parameters"].expected(expected).detach()) == pytest.approx(
        count_parameters(network), rel=1e-9
    )
    assert float(counted["multiply_adds"].expected(expected).detach()) == pytest.approx(
        count_multiply_adds(network, 3, 16), rel=1e-9
    )


def test_a_node_is_expected_to_keep_two_operations_as_likely_as_the_derivation_finds_them():
    strategy = DARTS()
    supernet = supernet_of(DartsSpace(channels=2, layers=3, nodes=2), strategy)
    found = Expectation(supernet, strategy.architecture, "softmax")()
    incoming = [found[f"normal/{source}->3"].detach() for source in range(3)]
    assert float(sum(p.sum() for p in incoming)) == pytest.approx(2)
    alphas = [strategy.architecture.alphas[f"normal/{source}->3"].detach() for source in range(3)]
    strengths = [alpha.softmax(0)[:-1].max() for alpha in alphas]
    pairs = {(a, b): float(strengths[a] * strengths[b]) for a, b in ((0, 1), (0, 2), (1, 2))}
    kept = sum(pairs[pair] for pair in pairs if 0 in pair) / sum(pairs.values())
    share = alphas[0][:-1].softmax(0)
    torch.testing.assert_close(incoming[0][:-1], kept * share)


def test_pruned_candidates_are_not_expected():
    strategy = DARTS()
    supernet = supernet_of(DartsSpace(channels=2, layers=3, nodes=2), strategy)
    strategy.architecture.prune("normal/0->2", keep=[1, 2])
    found = Expectation(supernet, strategy.architecture, "softmax")()["normal/0->2"]
    assert float(found[[1, 2]].sum()) == pytest.approx(1)
    assert found[[0, 3, 4]].eq(0).all()
    strategy.architecture.prune("normal/0->3", keep=[])
    after = Expectation(supernet, strategy.architecture, "softmax")()
    assert after["normal/0->3"].eq(0).all()
    assert float(after["normal/1->3"].sum()) == pytest.approx(1)  # of two edges, both are kept


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1e9), min_size=6, max_size=6), st.floats(0, 1), st.floats(0, 1))
def test_a_table_is_multilinear_and_survives_json(costs, p, q):
    terms = {("a", "b"): torch.tensor(costs, dtype=torch.float64).reshape(2, 3), (): torch.tensor(5.0).double()}
    table = CostTable({"a": ("x", "y"), "b": ("1", "2", "3")}, terms)
    a, b = torch.tensor([p, 1 - p]).double(), torch.tensor([q, 0.0, 1 - q]).double()
    mixed = table.expected({"a": a, "b": b})
    corners = sum(a[i] * b[j] * table.of_plan({"a": (i,), "b": (j,)}) for i in range(2) for j in range(3))
    torch.testing.assert_close(mixed, torch.as_tensor(corners).double())
    again = CostTable.from_json(json.loads(json.dumps(table.to_json())))
    assert again.to_json() == table.to_json()


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"candidates": {"a": ["x"]}, "terms": [{"edges": ["a"], "cost": [1, 2]}]}',
        '{"candidates": {"a": ["x"]}, "terms": [{"edges": ["b"], "cost": [1]}]}',
        "[]",
        "3",
    ],
)
def test_what_is_no_table_is_refused(text):
    with pytest.raises(ValueError, match="no table of costs"):
        CostTable.from_json(json.loads(text))


def test_latency_is_measured_for_every_candidate_and_names_its_device():
    profiler = EDAS().profiler(_space("hub NasBench201")())(((torch.randn(1, 3, 16, 16),), {}))
    latency = measure_latency(profiler, torch.device("cpu"))
    edges = list(latency.table.candidates)
    by_candidate = dict(zip(latency.table.candidates[edges[0]], latency.table.terms[edges[0],].tolist(), strict=True))
    assert by_candidate["conv_3x3"] > by_candidate["skip_connect"] >= 0
    assert "thread" in latency.device
    assert Latency.from_json(json.loads(json.dumps(latency.to_json()))).device == latency.device


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("flops", 1.0), "cost.metric: 'flops' should be one of parameters, multiply_adds, activations, latency"),
        (("parameters", 0), "cost.target: 0 should be above 0"),
        (("parameters", 1.0, -1.0), "cost.weight: -1.0 should be above 0"),
    ],
)
def test_a_cost_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Cost(*arguments)
