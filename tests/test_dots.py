"""The strategy DOTS: its steps and derivations are those of the released code (guyuchao/DOTS, 27e5004)."""

import re

import pytest
import torch
from nni.nas.hub.pytorch import DARTS as HubDarts
from pytorch_lightning.callbacks import Callback
from torch.utils.data import TensorDataset

from search_spaces.darts import DartsSpace
from strategies.decoupling import by_stage
from strategies.dots import DOTS
from strategies.groups import groups
from strategies.relaxation import Step

FREE = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect")
WITH_WEIGHTS = ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
EDGES = ("0->2", "1->2", "0->3", "1->3", "2->3")
KEPT = {
    "normal": ["none sep_conv_3x3", "skip_connect dil_conv_5x5", "max_pool_3x3 sep_conv_3x3", "none dil_conv_5x5",
               "avg_pool_3x3 sep_conv_3x3"],
    "reduce": ["skip_connect dil_conv_5x5", "avg_pool_3x3 sep_conv_3x3", "none dil_conv_5x5",
               "skip_connect sep_conv_5x5", "none dil_conv_5x5"],
}  # fmt: skip
"""Cell -> the operations that the released code keeps of each of EDGES, by the α of `operation_alphas`."""


def filled(index, *shape, scale=1.0):
    """Return numbers that another implementation can have, too."""
    numbers = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return scale * torch.sin(numbers * 0.7 + 1.3 * index).view(shape)


def space():
    return DartsSpace(channels=2, layers=3, nodes=2)


@pytest.fixture
def images():
    return TensorDataset(filled(0.3, 4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))


def operation_alphas():
    """Return edge -> candidate -> α of the first stage."""
    found = {}
    for place, cell in enumerate(("normal", "reduce")):
        free, others = (filled(2 * place + part, 5, 4, scale=0.8).tolist() for part in (1, 2))
        for row, edge in enumerate(EDGES):
            found[f"{cell}/{edge}"] = dict(zip(FREE + WITH_WEIGHTS, free[row] + others[row], strict=True))
    return found


def topology_alphas():
    """Return edge -> candidate -> α of the second stage."""
    found = {}
    for place, (cell, kept) in enumerate(KEPT.items()):
        operations, pairs = filled(5 + place, 5, 2, scale=2e-3).tolist(), filled(7 + place, 20, scale=0.8).tolist()
        for edge, names, row in zip(EDGES, kept, operations, strict=True):
            found[f"{cell}/{edge}"] = dict(zip(names.split(), row, strict=True))
        found[f"{cell}/node_2"] = {"0+1": pairs[0]}
        found[f"{cell}/node_3"] = dict(zip(("0+1", "0+2", "1+2"), pairs[1:4], strict=True))
    return found


class Filled(Callback):
    """Starts the search with the α of the first stage, and its first step with the α of a stage and filled weights."""

    def __init__(self, strategy, alphas):
        self.strategy, self.alphas = strategy, alphas

    def on_train_start(self, trainer, pl_module):
        self.strategy.architecture.start(operation_alphas())

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.strategy.architecture.start(self.alphas)
        self.weights = list(pl_module.model.parameters())
        with torch.no_grad():
            for index, weight in enumerate(self.weights):
                weight.copy_(filled(index, *weight.shape, scale=0.5))

    def checksum(self):
        return sum(float((weight.detach() * filled(3.1, *weight.shape)).sum()) for weight in self.weights)


def after_one_step(run_search, stages, alphas, **settings):
    """Return a strategy after a step, its checksum of the weights, and the sample of the search."""
    strategy = DOTS(stages=stages, **settings)
    start = Filled(strategy, alphas)
    experiment = run_search(space(), strategy, batch_size=4, precision="64-true", callbacks=[start])
    return strategy.alphas(), start.checksum(), experiment.export_top_models(formatter="dict")[0]


def rows(table, edge, names):
    return [table[edge][name] for name in names]


def test_a_step_of_the_first_stage_is_that_of_the_released_code(run_search):
    alphas, checksum, _ = after_one_step(run_search, (0, 1, 1), operation_alphas())
    expected = {
        "normal/0->2": [0.771146548331, 0.727137941479, 0.341603904191, -0.204732881592],
        "normal/2->3": [-0.053357517854, 0.473358811777, 0.777906001103, 0.716132937693],
        "reduce/1->2": [0.324179936482, 0.718666476658, 0.775611848692, 0.468233754302],
    }
    for edge, values in expected.items():
        assert rows(alphas, edge, FREE) == pytest.approx(values, abs=1e-9)
    assert rows(alphas, "reduce/0->3", WITH_WEIGHTS) == pytest.approx(
        [-0.784448984095, -0.700061739778, -0.286883425752, 0.26167955134], abs=1e-9
    )
    assert checksum == pytest.approx(-119.71257621066395, abs=1e-8)


def test_a_step_of_the_second_stage_is_that_of_the_released_code(run_search):
    alphas, checksum, sample = after_one_step(run_search, (0, 0, 0), topology_alphas(), temperatures=(0.5, 0.5))
    assert {edge: set(alphas[edge]) for edge in alphas if "->" in edge} == {
        f"{cell}/{edge}": set(names.split()) for cell in KEPT for edge, names in zip(EDGES, KEPT[cell], strict=True)
    }
    expected = {
        "normal/0->2": [0.000730239976, 0.001287335728],
        "normal/2->3": [-0.001199294929, 0.00076301965],
        "reduce/0->3": [-0.002145550843, -0.0016080385],
        "normal/node_2": [0.254978701631],
        "normal/node_3": [-0.292883303406, -0.704056607966, -0.783642183314],
        "reduce/node_3": [-0.795342070568, -0.555120067809, -0.053357517874],
    }
    for edge, values in expected.items():
        names = KEPT[edge[:6]][EDGES.index(edge[7:])].split() if "->" in edge else alphas[edge]
        assert rows(alphas, edge, names) == pytest.approx(values, abs=1e-9)
    assert checksum == pytest.approx(-119.6063408172216, abs=1e-8)
    normal, reduce = (sorted(cell, key=lambda edge: edge[2:0:-1]) for cell in space().genotype(sample).cells)
    assert normal == [
        ("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2), ("max_pool_3x3", 0, 3), ("dil_conv_5x5", 1, 3),
    ]  # fmt: skip
    assert reduce == [
        ("skip_connect", 0, 2), ("avg_pool_3x3", 1, 2), ("sep_conv_5x5", 1, 3), ("dil_conv_5x5", 2, 3),
    ]  # fmt: skip


def test_the_first_stage_is_derived_as_in_the_released_code():
    kept = {}
    for edge, alphas in operation_alphas().items():
        cell, nodes = edge.split("/")
        kept.setdefault(cell, {})[tuple(map(int, nodes.split("->")))] = alphas
    derived = {cell: [one[:2] for one in by_stage(alphas, {2: {"0+1": 0.0}, 3: {}})] for cell, alphas in kept.items()}
    assert derived == {
        "normal": [("sep_conv_3x3", 0), ("dil_conv_5x5", 1), ("dil_conv_5x5", 1), ("sep_conv_3x3", 0)],
        "reduce": [("dil_conv_5x5", 0), ("sep_conv_3x3", 1), ("dil_conv_5x5", 0), ("skip_connect", 1)],
    }


def test_the_temperature_falls_as_in_the_released_code():
    relaxation = DOTS().composition.relaxation
    found = [relaxation.temperature(Step(epoch=epoch, epochs=70)) for epoch in (50, 51, 60, 69)]
    assert found == pytest.approx([10.0, 7.210227154182104, 0.3797427327594858, 0.02])


def test_it_has_the_settings_of_the_released_code():
    composition = DOTS().composition
    optimizer = composition.optimizer([torch.zeros(1, requires_grad=True)])
    assert isinstance(optimizer, torch.optim.Adam)
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": 3e-4,
        "betas": (0.5, 0.999),
        "weight_decay": 1e-3,
    }
    trained = [epoch for epoch in range(70) if composition.searches(Step(epoch=epoch, epochs=70))]
    assert trained == [*range(15, 30), *range(50, 70)]
    assert [epoch for epoch in range(70) if composition.is_joint(Step(epoch=epoch, epochs=70))] == [*range(30, 70)]


class Recorded(Callback):
    """The α at the start and at the end of each epoch, and whether the weights go on from those of the epoch before."""

    def __init__(self, strategy):
        self.strategy, self.alphas, self.new_weights, self.before = strategy, [], [], None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0 and self.before is not None:
            self.new_weights.append(not torch.equal(self.before, next(pl_module.model.parameters())))

    def on_train_epoch_end(self, trainer, pl_module):
        self.alphas.append(self.strategy.alphas())
        self.before = next(pl_module.model.parameters()).detach().clone()


def test_a_search_goes_through_all_stages(run_search):
    strategy = DOTS(stages=(0.25, 0.5, 0.75))
    recorded = Recorded(strategy)
    run_search(space(), strategy, epochs=4, batch_size=4, precision="64-true", callbacks=[recorded])
    moved = [
        {kind: any(value for edge, row in alphas.items() if ("node" in edge) == kind for value in row.values())}
        for alphas in recorded.alphas
        for kind in (False, True)
    ]
    assert moved == [{False: False}, {True: False}, {False: True}, {True: False}, {False: False}, {True: False},
                     {False: True}, {True: True}]  # fmt: skip
    assert recorded.new_weights == [False, True, False]
    assert {len(row) for edge, row in recorded.alphas[1].items() if "->" in edge} == {8}
    assert {len(row) for edge, row in recorded.alphas[3].items() if "->" in edge} == {2}


def test_the_sample_of_a_search_freezes_the_spaces_of_nnis_hub(run_search):
    def hub():
        return HubDarts(width=2, num_cells=3, dataset="cifar")

    strategy = DOTS(stages=(0, 0, 0))
    experiment = run_search(hub(), strategy, batch_size=4, precision="64-true")
    (sample,) = experiment.export_top_models(formatter="dict")
    assert hub().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    pairs = strategy.alphas()["reduce/node_5"]
    assert sorted(sample[f"reduce/input_5_{slot}"][0] for slot in (0, 1)) == [
        int(one) for one in max(pairs, key=pairs.get).split("+")
    ]


def test_candidates_are_grouped_by_what_their_names_say():
    assert groups((*FREE, *WITH_WEIGHTS)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert groups(("none", "skip_connect", "conv_1x1", "conv_3x3", "avg_pool_3x3")) == [[0, 1, 4], [2, 3]]
    assert groups((16, 24)) == [[0, 1]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": (0.5, 0.2, 1.0)}, "stages: [0.5, 0.2, 1.0] should be three numbers that ascend from 0 to 1"),
        ({"temperatures": (1.0, 0.0)}, "temperatures: [1.0, 0.0] should be two numbers above 0"),
        ({"operation_temperature": 0.0}, "operation_temperature: 0.0 should be above 0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        DOTS(**settings)
