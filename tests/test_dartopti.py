"""DARTOpti: handcrafted networks as genotypes and as α, a search that starts from one, and how far it moves."""

import re
from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nni.nas.strategy import DARTS as NniDarts
from torch import nn

from nas_plugins import DDARTS, EDAS, DartOptiSpace, Genotype
from nas_plugins.report.page import write_report
from nas_plugins.training.search import resume, search
from search_spaces.baselines import BASELINES, distinct_cells, find_baseline
from search_spaces.complexity import count_parameters
from search_spaces.dartopti import alphas_of
from search_spaces.genotype import Edge, Fixed, GenotypeError
from search_spaces.network import Network
from search_spaces.operations import OPERATIONS
from strategies.derivation import derive, edge
from strategies.relaxation import sigmoid

SMALL = Genotype(
    cells=((Edge("simple_conv_3x3", 0, 2), Edge("skip_connect", 0, 3), Edge("simple_conv_3x3", 2, 3)),),
    layout=(0, 0, 0),
    reductions=(1, 2),
    concat=(2, 3),
    operations="dartopti",
)
FEW = ("skip_connect", "simple_conv_3x3", "max_pool_3x3")


@pytest.fixture
def small(tmp_path):
    """A small baseline as a genotype file."""
    SMALL.save(tmp_path / "baseline.json")
    return str(tmp_path / "baseline.json")


# The baselines


def test_resnet_18_has_two_residual_blocks_in_each_of_four_layers():
    resnet = BASELINES["resnet18"]
    assert Counter(edge.operation for edge in resnet.cells[0]) == {"simple_conv_3x3": 4, "skip_connect": 2}
    assert (resnet.layout, resnet.reductions) == ((0, 0, 0, 0), (1, 2, 3))


def test_resnet_50_has_3_4_6_and_3_bottlenecks_each_with_a_skip_beside_it():
    resnet = BASELINES["resnet50"]
    for layer, blocks in enumerate((3, 4, 6, 3)):
        cell = resnet.cells[resnet.layout[layer]]
        bottlenecks = {(e.source, e.target) for e in cell if e.operation == "bottleneck_1x3x1"}
        assert len(bottlenecks) == blocks
        assert bottlenecks == {(e.source, e.target) for e in cell if e.operation == "skip_connect"}


def test_xception_has_13_layers_of_three_different_cells():
    xception = BASELINES["xception"]
    assert xception.layout == (0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 2)
    assert xception.reductions == (1, 2, 11, 12)
    kinds = [Counter(edge.operation for edge in cell) for cell in xception.cells]
    assert kinds == [
        {"sep_conv_3x3": 2, "max_pool_3x3": 1, "simple_conv_1x1": 1},
        {"sep_conv_3x3": 3, "skip_connect": 1},
        {"sep_conv_3x3": 2},
    ]


@pytest.mark.parametrize("name", BASELINES)
def test_of_a_baseline_as_released_every_second_layer_leads_nowhere_and_none_where_it_is_chained(name):
    network = Network.from_genotype(BASELINES[name], channels=4)
    loss = nn.functional.cross_entropy(network(torch.randn(2, 3, 32, 32)), torch.tensor([1, 2]))
    loss.backward()
    used = [
        cell for cell in network.cells if all(p.grad is not None and p.grad.any() for p in cell.operations.parameters())
    ]
    layers = len(BASELINES[name].layout)
    assert len(used) == (layers if name.endswith("_chained") else (layers + 1) // 2)


@pytest.mark.parametrize(("name", "classes", "millions"), [("resnet18", 100, 14.17), ("resnet50", 10, 24.36)])
def test_a_baseline_has_the_published_number_of_parameters(name, classes, millions):
    network = Network.from_genotype(BASELINES[name], classes, channels=64)  # Table 3
    assert count_parameters(network) / 1e6 == pytest.approx(millions, abs=0.005)


def test_identical_cells_are_one_cell_whatever_the_order_of_their_operations():
    one, other = SMALL.cells[0], (Edge("skip_connect", 1, 2),)
    genotype = replace(
        SMALL,
        cells=(one, other, one[::-1], one),
        layout=(3, 1, 0, 2),
        fixed=(Fixed("squeeze_excitation"), Fixed("skip_connect", 1, 0, 2)),
    )
    distinct = distinct_cells(genotype)
    assert distinct.cells == (one, other)
    assert distinct.layout == (0, 1, 0, 0)
    assert distinct.fixed == genotype.fixed


def test_cells_with_other_fixed_operations_are_not_identical():
    genotype = replace(SMALL, cells=SMALL.cells * 3, layout=(0, 1, 2), fixed=(Fixed("skip_connect", 1, 0, 2),))
    assert distinct_cells(genotype).layout == (0, 1, 0)


# α of a genotype


def edges(nodes: int):
    places = [(source, target) for target in range(2, 2 + nodes) for source in range(target)]
    place = st.sampled_from(places)
    return st.tuples(st.sampled_from(list(OPERATIONS)), place).map(lambda found: Edge(found[0], *found[1]))


@given(st.integers(1, 4).flatmap(lambda nodes: st.tuples(st.just(nodes), st.sets(edges(nodes), max_size=12))))
def test_any_cell_becomes_alphas_and_comes_back(given):
    nodes, cell = given
    kept = edge(alphas_of(tuple(cell), nodes), threshold=0.85, operations=len(OPERATIONS))
    assert Counter(Edge(*chosen[:3]) for chosen in kept) == Counter(cell)


@pytest.mark.parametrize("name", BASELINES)
def test_the_sample_of_a_baseline_freezes_its_space_to_it_and_its_search_begins_at_it(name):
    space = DartOptiSpace(name, channels=2)
    sample = space.sample(space.baseline)
    assert space.contains(sample)
    assert space.genotype(sample).distance(space.baseline) == 0

    strategy = DDARTS(derivation="edge")
    supernet = strategy.mutate_model(space)
    table = strategy.alphas()
    assert table == space.initial_alphas
    cells = {label: {} for label in sorted({key.partition("/")[0] for key in table})}
    for key, values in table.items():
        label, _, ends = key.partition("/")
        cells[label][tuple(map(int, ends.split("->")))] = values
    derived = [tuple(Edge(*chosen[:3]) for chosen in derive(cell, "edge")) for cell in cells.values()]
    assert replace(space.baseline, cells=tuple(derived)).distance(space.baseline) == 0
    assert len(strategy.composition.grouping(strategy.architecture.alphas)) == len(space.baseline.cells)
    assert supernet is space


def test_a_genotype_of_another_layout_has_no_sample_in_the_space():
    with pytest.raises(GenotypeError, match=r"no point of the space, which has the layout \[0, 0, 0, 0\]"):
        DartOptiSpace("resnet18", channels=2).sample(BASELINES["xception"])


def test_a_sample_of_shared_cells_alone_does_not_tell_the_layers():
    space = DartOptiSpace("resnet18", channels=2)
    for layers in (None, 4):
        with pytest.raises(GenotypeError, match="it has 1 cells, not one a layer"):
            Genotype.from_sample(space.sample(space.baseline), layers)


def test_operations_of_the_baseline_start_at_10_and_all_others_at_0():
    alphas = alphas_of(SMALL.cells[0], nodes=2)
    assert alphas[0, 2]["simple_conv_3x3"] == 10
    values = Counter(value for candidates in alphas.values() for value in candidates.values())
    assert values == {10.0: 3, 0.0: 5 * 12 - 3}


def test_with_other_alphas_far_below_the_supernet_computes_what_the_baselines_cells_compute(small):
    torch.manual_seed(0)
    space = DartOptiSpace(small, channels=4, operations=FEW, alpha=30.0, other_alpha=-30.0)
    strategy = DDARTS()
    strategy.mutate_model(space)
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    space.double()
    alphas = {key: alpha.double() for key, alpha in strategy.architecture.alphas.items()}
    with torch.no_grad():
        strategy.architecture.plan = sigmoid(alphas)
        relaxed = space(images)
        chosen = {key: tuple(i for i, value in enumerate(row) if value > 0) for key, row in alphas.items()}
        strategy.architecture.plan = chosen
        baseline = space(images)
    torch.testing.assert_close(relaxed, baseline, rtol=1e-9, atol=1e-9)
    assert sum(map(len, chosen.values())) == 3


def test_layers_with_the_same_cell_share_their_alphas(small):
    strategy = DDARTS()
    strategy.mutate_model(DartOptiSpace(small, channels=2, operations=FEW))
    assert set(strategy.alphas()) == {"cell_0/0->2", "cell_0/1->2", "cell_0/0->3", "cell_0/1->3", "cell_0/2->3"}


@pytest.mark.parametrize("strategy", [NniDarts, EDAS], ids=["NNI's DARTS", "EDAS"])
def test_other_strategies_search_the_space_too(small, strategy, run_search):
    def space():
        return DartOptiSpace(small, channels=2, operations=FEW)

    (sample,) = run_search(space(), strategy(), batch_size=16).export_top_models(formatter="dict")
    assert space().contains(sample)
    assert space().freeze(sample)(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_fixed_operations_stand_beside_those_of_the_baseline(tmp_path):
    replace(SMALL, fixed=(Fixed("skip_connect", 0, 1, 3),)).save(tmp_path / "baseline.json")
    space = DartOptiSpace(str(tmp_path / "baseline.json"), operations=FEW, fixed=("squeeze_excitation",))
    assert space.cells.fixed_operations == (Fixed("skip_connect", 0, 1, 3), Fixed("squeeze_excitation"))


@pytest.mark.parametrize("alphas", [{"alpha": -1.0}, {"alpha": float("nan")}, {"other_alpha": float("-inf")}])
def test_alphas_of_the_baseline_are_above_the_others(alphas):
    with pytest.raises(ValueError, match=r"^alpha: .* should be a number above other_alpha, which is"):
        DartOptiSpace(**alphas)


def test_a_sample_has_the_layout_of_the_baseline():
    space = DartOptiSpace(channels=2)
    sample: dict = {}
    for mutable in space.simplify().values():
        mutable.random(sample)
    genotype = space.genotype(sample)
    assert (genotype.layout, genotype.reductions) == ((0, 0, 0, 0), (1, 2, 3))
    assert space.freeze(sample)(torch.randn(2, 3, 16, 16)).shape == (2, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"concat": (3,)}, "baseline: its cells concatenate [3]; a space does so with all nodes"),
        ({"cells": ((*SMALL.cells[0], Edge("skip_connect", 2, 4)),)}, "skip_connect from node 2 to node 4: a cell"),
        ({"cells": ((*SMALL.cells[0], SMALL.cells[0][0]),)}, "simple_conv_3x3 from node 0 to node 2 is there twice"),
    ],
)
def test_a_baseline_that_alphas_cannot_say_is_refused(tmp_path, change, message):
    replace(SMALL, **change).save(tmp_path / "baseline.json")
    with pytest.raises(ValueError, match=re.escape(message)):
        DartOptiSpace(str(tmp_path / "baseline.json"))


def test_a_baseline_with_an_operation_that_is_no_candidate_is_refused():
    with pytest.raises(ValueError, match=r"simple_conv_3x3 from node 0 to node 2 is no candidate of the space: skip"):
        DartOptiSpace(operations=("skip_connect", "max_pool_3x3"))


def test_a_baseline_that_is_no_name_and_no_file_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"'resnet19' is neither one of resnet18, resnet50, xception, .* nor a genotype"
    ):
        find_baseline("resnet19")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^baseline: .*broken.json: \"format\""):
        find_baseline(tmp_path / "broken.json")


# Distance


def test_the_distance_counts_the_operations_that_one_has_and_the_other_lacks():
    other = replace(SMALL, cells=((Edge("max_pool_3x3", 0, 2), *SMALL.cells[0][1:], Edge("skip_connect", 1, 3)),))
    assert SMALL.distance(SMALL) == 0
    assert SMALL.distance(other) == other.distance(SMALL) == 3


def test_genotypes_of_other_layouts_have_no_distance():
    with pytest.raises(GenotypeError, match=r"layout: \[0, 0\] should be \[0, 0, 0\]"):
        SMALL.distance(replace(SMALL, layout=(0, 0), reductions=(1,)))
    with pytest.raises(GenotypeError, match=r"and 1 cells"):
        SMALL.distance(replace(SMALL, cells=SMALL.cells * 2))


def test_the_distance_counts_fixed_operations_on_edges_too():
    assert SMALL.distance(replace(SMALL, fixed=(Fixed("skip_connect", 0, 1, 3),))) == 1


# A search


CONFIG = """
seed: 0
space:
  {{name: DartOptiSpace, baseline: {baseline}, channels: 2, operations: [skip_connect, simple_conv_3x3, max_pool_3x3]}}
strategy: {{name: DDARTS, derivation: edge, warmup_epochs: 1, learning_rate: 0.5}}
data: {{dataset: digits, batch_size: 128, val_fraction: 0.5, train_images: 256}}
training: {{epochs: 4}}
compute: {{accelerator: cpu, threads: 1}}
"""


@pytest.fixture
def config(tmp_path, small):
    (tmp_path / "search.yaml").write_text(CONFIG.format(baseline=small))
    return tmp_path / "search.yaml"


def test_pruned_candidates_do_not_count_in_the_distance_from_the_baseline(small):
    space = DartOptiSpace(small, operations=FEW)
    alphas = {edge: {name: value + 1 for name, value in named.items()} for edge, named in space.initial_alphas.items()}
    sample = space.sample(space.baseline)
    whole = space.search_metrics(alphas, sample)
    edge = next(iter(alphas))
    alphas[edge] = {FEW[0]: space.initial_alphas[edge][FEW[0]]}  # one candidate lives, and has not moved
    assert 0 < space.search_metrics(alphas, sample)["alpha_distance"] < whole["alpha_distance"]


def test_a_search_tells_how_far_it_has_moved_from_the_baseline(tmp_path, config):
    run = search(config, tmp_path / "run")
    metrics = pd.read_csv(run / "metrics.csv")
    alphas = pd.read_csv(run / "alphas.csv")
    start = DartOptiSpace(str(tmp_path / "baseline.json"), operations=FEW).initial_alphas
    for epoch, rows in alphas.groupby("epoch"):
        moves = [
            abs(torch.sigmoid(torch.tensor(row[name])) - torch.sigmoid(torch.tensor(value)))
            for row in rows.to_dict("records")
            for name, value in start[f"{row['cell']}/{row['edge']}"].items()
        ]
        assert metrics["alpha_distance"][epoch] == pytest.approx(float(sum(moves) / len(moves)), abs=1e-6)
    assert metrics["alpha_distance"][0] == 0  # the weights warm up
    assert metrics["alpha_distance"][3] > 0.05
    assert metrics["distance"][0] == 0
    assert metrics["distance"][3] == Genotype.load(run / "genotype.json").distance(SMALL)
    page = write_report([run])
    assert "Distance to the baseline" in page.read_text()
    assert (run / "distance.png").exists()


def test_a_search_ends_when_alpha_stands_still_and_a_resume_does_not_take_it_up_again(tmp_path, config):
    run = search(config, tmp_path / "run", ["--strategy.min_alpha_change", "1"])  # nothing moves further than 1
    assert list(pd.read_csv(run / "metrics.csv")["epoch"]) == [0, 1]  # not in the warm-up
    genotype = (run / "genotype.json").read_text()
    (run / "genotype.json").unlink()  # as if killed before it was written
    resume(run)
    assert list(pd.read_csv(run / "metrics.csv")["epoch"]) == [0, 1]
    assert (run / "genotype.json").read_text() == genotype


def test_a_search_from_a_file_is_resumed_from_any_folder(tmp_path, config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = search(config, "run", ["--space.baseline", "baseline.json", "--training.epochs", "1"])
    (run / "genotype.json").unlink()
    run = run.resolve()
    monkeypatch.chdir("/")
    assert (resume(run) / "genotype.json").exists()


def test_a_threshold_of_stillness_is_above_zero():
    with pytest.raises(ValueError, match=r"min_alpha_change: 0 should be above 0, or null"):
        DDARTS(min_alpha_change=0)
