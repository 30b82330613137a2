"""The strategy P-DARTS and the space of growing depth, compared with the released code."""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback
from torch import nn
from torch.utils.data import TensorDataset

from nas_plugins import DARTS, DartsSpace, Genotype
from search_spaces.genotype import Edge
from search_spaces.operations import DARTS_OPERATIONS
from search_spaces.progressive import ProgressiveSpace
from strategies.p_darts import PDARTS
from strategies.relaxation import Step
from strategies.supernet.cell import MixedCell

ALL = ("none", *DARTS_OPERATIONS)  # in the order of the released code
FEW = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")
EDGES = [(source, target) for target in range(2, 6) for source in range(target)]


@pytest.fixture
def images():
    """Four images by a formula, of four classes."""
    pixels = (torch.arange(4 * 3 * 8 * 8, dtype=torch.float64) * 0.37).sin()
    return TensorDataset(pixels.reshape(4, 3, 8, 8), torch.arange(4))


class Formulas(Callback):
    """Fill weights and α by formulas, as the released code was filled for the numbers below."""

    def on_train_start(self, trainer, searching):
        self.model = searching.model
        with torch.no_grad():
            for i, weight in enumerate(searching.model.parameters()):
                values = (torch.arange(weight.numel(), dtype=torch.float64) * 0.9 + i).sin()
                weight.copy_(values.reshape(weight.shape))
            for c, cell in enumerate(("normal", "reduce")):
                alphas = (torch.arange(20, dtype=torch.float64) * 0.7 + c).sin().reshape(5, 4).tolist()
                for (source, target), row in zip(EDGES, alphas, strict=False):
                    searching.architecture.start({f"{cell}/{source}->{target}": dict(zip(FEW, row, strict=True))})


# Of their commit b880e87: Network(4, 10, 3, criterion, steps=2, multiplier=2) after train() with grad_clip 0.05
GRADIENTS = {
    "normal": [
        [-0.004297425905, -0.005335165610, 0.021253555808, -0.011620964293],
        [-0.000668665687, -0.001095160493, 0.005290519777, -0.003526693597],
        [0.003453275337, 0.001428078804, -0.017606868254, 0.012725514114],
        [0.005564401340, 0.003472688888, -0.009893223042, 0.000856132815],
        [-0.000104792741, -0.009195486094, -0.015095340766, 0.024395619601],
    ],
    "reduce": [
        [-0.000204428923, 0.003515654428, 0.003043426988, -0.006354652494],
        [-0.004216562685, 0.001668122882, -0.004619649997, 0.007168089800],
        [0.001111465681, 0.004096557133, -0.001628421495, -0.003579601320],
        [-0.002943966540, 0.003552636175, 0.001081383153, -0.001690052788],
        [-0.001907694975, 0.003417074893, -0.006164458853, 0.004655078935],
    ],
}
FIRST_EDGE_AFTER = [5.999986038186e-04, 6.448176859586e-01, 9.848497302583e-01, 8.638093660911e-01]
WEIGHTS_AFTER = 4.906033907079237


def test_one_iteration_is_that_of_the_released_code(run_search):
    space = DartsSpace(channels=4, layers=3, nodes=2, operations=FEW[1:])
    strategy = PDARTS(keep=[], dropout=[0.0], warmup=0.0, gradient_clip_val=0.05)
    formulas = Formulas()
    run_search(space, strategy, batch_size=4, precision="64-true", callbacks=[formulas])
    architecture = strategy.architecture
    for cell, rows in GRADIENTS.items():
        for row, (source, target) in zip(rows, EDGES, strict=False):
            edge = f"{cell}/{source}->{target}"
            gradient = dict(zip(architecture.candidates[edge], architecture.alphas[edge].grad.tolist(), strict=True))
            assert [gradient[name] for name in FEW] == pytest.approx(row, abs=1e-11), edge
    after = architecture.table()["normal/0->2"]
    assert [after[name] for name in FEW] == pytest.approx(FIRST_EDGE_AFTER, abs=1e-9)
    weights = torch.cat([weight.detach().flatten() for weight in formulas.model.parameters()])
    positions = torch.arange(len(weights), dtype=torch.float64)
    assert (weights * (positions * 0.01).cos()).sum().item() == pytest.approx(WEIGHTS_AFTER, abs=1e-9)


def test_it_has_the_settings_of_the_paper():
    composition = PDARTS().composition
    optimizer = composition.optimizer([torch.zeros(1, requires_grad=True)])
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": 6e-4,
        "betas": (0.5, 0.999),
        "weight_decay": 1e-3,
    }
    trained = [epoch for epoch in range(75) if composition.trains_alphas(Step(0, epoch, 75))]
    assert trained == [*range(10, 25), *range(35, 50), *range(60, 75)]


# Stages


# The rate in the first and the last epochs without and with α, by main() for --dropout_rate 0.0, 0.4 and 0.7
RATES = {25: 0.384, 34: 0.24, 35: 0.4, 36: 0.327492301, 49: 0.024324025, 50: 0.672, 59: 0.42, 60: 0.7, 74: 0.042567044}


def test_dropout_follows_identities_and_decays_as_in_the_released_code():
    strategy = PDARTS()
    model = strategy.mutate_model(DartsSpace(channels=2, layers=3))
    skips = {
        key: operations[DARTS_OPERATIONS.index("skip_connect")]
        for key, operations in model.network.cells[1].operations.items()  # a reduction cell
    }
    assert [isinstance(skip, nn.Sequential) for skip in skips.values()] == [source >= 2 for source, _ in EDGES]
    ones = torch.ones(1, 1, 100, 1000)
    for epoch, rate in {0: 0.0, 24: 0.0, **RATES}.items():
        strategy.architecture.step = Step(0, epoch, 75)
        out = skips["2->3"](ones)
        assert (out == 0).double().mean().item() == pytest.approx(rate, abs=0.01)
        kept = out[out > 0]
        assert kept.mean().item() == pytest.approx(1 / (1 - rate), abs=1e-5 / (1 - rate))
    assert (skips["2->3"].eval()(ones) == 1).all()


# What lives in the second and the third stage, of main() with α by the formula: two digits for each edge, a bit for
# each candidate.
LIVING = [
    {"normal": "e6dc3bce9d3bce9d73ce9d73ceb9", "reduce": "3be69d3bce9d73ce9d73ceb973ce"},
    {"normal": "628c19468c19468c31468c314698", "reduce": "19628c19468c31468c3146983146"},
]
# The cell of normal by the maximum number of skip connections, and the other cell
NORMAL = {
    None: "sep_conv_5x5 0, avg_pool_3x3 1, skip_connect 0, max_pool_3x3 1, "
    "skip_connect 0, sep_conv_3x3 3, sep_conv_3x3 2, skip_connect 4",
    2: "sep_conv_5x5 0, avg_pool_3x3 1, skip_connect 0, max_pool_3x3 1, "
    "max_pool_3x3 1, sep_conv_3x3 3, sep_conv_3x3 2, skip_connect 4",
    1: "sep_conv_5x5 0, avg_pool_3x3 1, skip_connect 0, max_pool_3x3 1, "
    "max_pool_3x3 1, sep_conv_3x3 3, max_pool_3x3 0, sep_conv_3x3 2",
    0: "sep_conv_5x5 0, avg_pool_3x3 1, max_pool_3x3 1, avg_pool_3x3 2, "
    "max_pool_3x3 1, sep_conv_3x3 3, max_pool_3x3 0, sep_conv_3x3 2",
}
REDUCE = (
    "skip_connect 0, sep_conv_5x5 1, skip_connect 1, max_pool_3x3 2, "
    "sep_conv_3x3 1, max_pool_3x3 2, sep_conv_3x3 0, skip_connect 2"
)


def set_alphas(architecture, stage):
    for c, cell in enumerate(("normal", "reduce")):
        for edge, (source, target) in enumerate(EDGES):
            alphas = {name: 2 * math.sin(1.3 * (8 * edge + j) + 0.7 * stage + 2 * c) for j, name in enumerate(ALL)}
            alphas["skip_connect"] += 1.2
            architecture.start({f"{cell}/{source}->{target}": alphas})


def living(architecture):
    """Return the candidates that live, in the form above."""
    return {
        cell: "".join(
            f"{sum(1 << ALL.index(name) for name in architecture.living_candidates(f'{cell}/{source}->{target}')):02x}"
            for source, target in EDGES
        )
        for cell in ("normal", "reduce")
    }


@pytest.mark.parametrize("skips", [None, 2, 1, 0])
def test_stages_narrow_and_derive_as_the_released_code(skips):
    strategy, restarts = PDARTS(skip_connections=skips), []
    model = strategy.mutate_model(DartsSpace(channels=2, layers=3))
    architecture = strategy.architecture
    for epoch in range(75):
        step = Step(epoch, epoch, 75)
        begins = SimpleNamespace(
            architecture=architecture, step=step, model=model, restart=lambda epoch=epoch: restarts.append(epoch)
        )
        strategy.composition.pruning(begins)
        set_alphas(architecture, stage=epoch // 25)
        if epoch >= 25:
            assert living(architecture) == LIVING[epoch // 25 - 1]
    assert restarts == [25, 50]
    sample = {}
    for module in model.modules():
        if isinstance(module, MixedCell):
            sample |= module.export(sample)
    for cell, text in zip(Genotype.from_sample(sample, 3).cells, (NORMAL[skips], REDUCE), strict=True):
        expected = [one.split() for one in text.split(", ")]
        edges = [Edge(name, int(source), 2 + i // 2) for i, (name, source) in enumerate(expected)]
        assert sorted(cell) == sorted(edges)


class Watch(Callback):
    """Note the network, the candidates and a weight at the end of each epoch."""

    def __init__(self):
        self.seen = []

    def on_train_epoch_start(self, trainer, searching):
        self.network = (*searching.model.earlier, searching.model.network)[trainer.current_epoch]
        self.before = self.network.classifier.weight.detach().clone()

    def on_train_epoch_end(self, trainer, searching):
        counts = {len(searching.architecture.living_candidates(edge)) for edge in searching.architecture.candidates}
        moved = not torch.equal(self.before, self.network.classifier.weight)
        self.seen.append((len(self.network.cells), counts, moved))


def test_a_search_narrows_in_deeper_and_deeper_networks(run_search):
    def space():
        return ProgressiveSpace(channels=2, layers=(3, 4, 5), nodes=2, operations=FEW[1:])

    watch, strategy = Watch(), PDARTS(keep=(3, 2), warmup=0.0)
    experiment = run_search(space(), strategy, epochs=3, batch_size=4, precision="64-true", callbacks=[watch])
    assert watch.seen == [(3, {4}, True), (4, {3}, True), (5, {2}, True)]
    (sample,) = experiment.export_top_models(formatter="dict")
    network = space().freeze(sample)
    assert len(network.cells) == 5
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": (5, 0)}, "keep: [5, 0] should be numbers of candidates, each at least 1"),
        ({"dropout": (0.0, 0.4)}, "dropout: [0.0, 0.4] should be 3 rates from 0 to below 1, one a stage"),
        ({"warmup": 1.0}, "warmup: 1.0 should be from 0 to below 1"),
        ({"skip_connections": -1}, "skip_connections: -1 should be at least 0, or null for no limit"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        PDARTS(**settings)


# The space


def test_the_networks_share_alpha_and_one_of_them_runs():
    strategy = DARTS()
    model = strategy.mutate_model(ProgressiveSpace(channels=2, layers=(3, 5), nodes=2))
    assert len(strategy.architecture.alphas) == 10
    for stage, network in enumerate((*model.earlier, model.network)):
        strategy.architecture.plan = strategy.composition.relaxation.evaluation(strategy.architecture.alphas)
        model.enter_stage(stage)
        model.zero_grad()
        model(torch.randn(2, 3, 8, 8)).sum().backward()
        ran = {name.partition(".")[0] for name, weight in model.named_parameters() if weight.grad is not None}
        assert ran == ({"network"} if network is model.network else {"earlier"})


def test_layers_of_a_space_should_grow():
    with pytest.raises(ValueError, match=re.escape("layers: [5, 5] should be ascending numbers, one for each stage")):
        ProgressiveSpace(layers=(5, 5))
