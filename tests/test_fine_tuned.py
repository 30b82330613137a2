"""Tests of Fine-Tuning DARTS: fixed operations in spaces, searches and derived networks, and the extended α."""

import copy
import re

import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.space import model_context
from nni.nas.strategy import DARTS as NniDarts
from nni.nas.strategy import GumbelDARTS, Proxyless, RandomOneShot
from numpy.random import RandomState
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.nn import functional
from torchvision.ops import SqueezeExcitation

from nas_plugins import DARTS, EDAS, DartsSpace, DDartsSpace, FineTunedDartsSpace, Genotype, extended_alpha
from nas_plugins.commands.describe import describe
from nas_plugins.config.reader import read_search
from nas_plugins.errors import InputError
from nas_plugins.report.cells import draw_cells
from nas_plugins.runs.reader import read_run
from nas_plugins.training.search import search
from search_spaces.cell import NodeByNodeCell
from search_spaces.complexity import count_parameters
from search_spaces.fine_tuned import ATTENTION
from search_spaces.fixed import parse_fixed
from search_spaces.network import Network
from search_spaces.operations import DARTS_OPERATIONS, FIXED_OPERATIONS
from search_spaces.stems import IMAGE_STEMS, STEMS
from strategies.relaxation import softmax

EVERYWHERE = ("squeeze_excitation", "sep_conv_3x3 normal/0->3", "squeeze_excitation reduce/0->2")
"""Fixed operations behind the cells, on an edge, and on an edge of stride 2."""

FEW = ("skip_connect", "sep_conv_3x3")
"""The fewest candidates of a space, for a fast search."""

NNI = [NniDarts, GumbelDARTS, RandomOneShot]
STRATEGIES = {"DARTS": lambda: DARTS("second"), "EDAS": EDAS, **{f"NNI's {kind.__name__}": kind for kind in NNI}}


def small_space(**arguments) -> FineTunedDartsSpace:
    return FineTunedDartsSpace(**{"channels": 2, "layers": 3, "operations": FEW, **arguments})


def sample_of(space: DartsSpace) -> dict:
    """Draw a random sample as NNI's strategies do."""
    sample: dict = {}
    for mutable in space.simplify().values():
        mutable.random(sample, RandomState(len(sample)))
    return sample


def attentions(model: nn.Module) -> list[SqueezeExcitation]:
    return [part for part in model.modules() if isinstance(part, SqueezeExcitation)]


def fixed_operations(model: nn.Module) -> list[nn.Module]:
    """Return every fixed operation with weights, wherever a strategy may have moved it."""
    on_edges = [operation for part in model.modules() if isinstance(part, NodeByNodeCell) for operation in part.fixed]
    return [operation for operation in {*on_edges, *attentions(model)} if count_parameters(operation)]


def weights_of(operations: list[nn.Module]) -> list[nn.Parameter]:
    return [weight for operation in operations for weight in operation.parameters()]


def learned(operation: nn.Module, before: nn.Module) -> bool:
    """Return whether any weight changed; the one hidden unit of a small attention may be inactive for all images."""
    pairs = zip(operation.parameters(), before.parameters(), strict=True)
    return any(not torch.equal(weight, start) for weight, start in pairs)


# The attention module


@pytest.mark.parametrize(("channels", "hidden"), [(64, 4), (144, 9), (40, 2), (16, 1), (8, 1), (1, 1)])
def test_attention_is_that_of_figure_3(channels, hidden):
    """Figure 3 has pooling, FC, ReLU, FC, sigmoid and scaling, with r = 16; below 16 channels one hidden unit stays."""
    attention = FIXED_OPERATIONS["squeeze_excitation"](channels, 1, True)
    assert attention.fc1.out_channels == hidden
    x = torch.randn(2, channels, 5, 7)
    first, second = attention.fc1.weight.flatten(1), attention.fc2.weight.flatten(1)
    excited = functional.relu(functional.linear(x.mean(dim=(2, 3)), first, attention.fc1.bias))
    scale = functional.linear(excited, second, attention.fc2.bias).sigmoid()
    assert torch.allclose(attention(x), x * scale[:, :, None, None], atol=1e-6)


@pytest.mark.parametrize("size", [8, 7])
def test_with_a_stride_attention_follows_the_strided_skip_connection(size):
    out = FIXED_OPERATIONS["squeeze_excitation"](16, 2, True)(torch.randn(2, 16, size, size))
    assert out.shape == (2, 16, 4, 4)


# The space


def test_the_space_of_the_paper_has_attention_behind_each_cell():
    """Figure 2."""
    space = FineTunedDartsSpace()
    assert [part.fc1.in_channels for part in attentions(space)] == [64] * 2 + [128] * 3 + [256] * 3


def test_it_is_the_space_of_darts_but_for_that():
    space, plain = small_space(), DartsSpace(channels=2, layers=3, operations=FEW)
    added = sum(count_parameters(part) for part in attentions(space))
    assert count_parameters(space) == count_parameters(plain) + added
    assert list(space.simplify()) == list(plain.simplify())
    assert str(small_space(fixed=())) == str(plain).replace("DartsSpace", "FineTunedDartsSpace")
    attentive = DartsSpace(channels=2, layers=3, operations=FEW, fixed=ATTENTION)
    assert str(space) == str(attentive).replace("DartsSpace", "FineTunedDartsSpace")


@pytest.mark.parametrize("arguments", [{}, {"fixed": EVERYWHERE}, {"fixed": ()}, {"stem": "dual_cifar"}], ids=str)
def test_every_way_of_freezing_makes_the_same_network(arguments):
    space = small_space(**arguments)
    sample = sample_of(space)
    with model_context(sample):
        within = small_space(**arguments)
    mutated = NniDarts().mutate_model(small_space(**arguments))
    built = Network.from_genotype(space.genotype(sample), channels=2, stem=arguments.get("stem", "cifar"))
    assert str(within) == str(space.freeze(sample)) == str(mutated.freeze(sample)) == str(built)
    assert built(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_positional_arguments_are_kept_in_freezing():
    space = FineTunedDartsSpace(7, 2, 5, 1)
    frozen = space.freeze(sample_of(space))
    assert frozen(torch.randn(2, 1, 8, 8)).shape == (2, 7)
    assert len(attentions(frozen)) == len(frozen.cells) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "fixed: '' should be OPERATION, which follows every cell, or OPERATION CELL/FROM->TO"),
        ("skip_connect 0->2", "fixed: 'skip_connect 0->2' should be OPERATION"),
        ("skip_connect cell_1/0->2", "should name one of the cells normal, reduce"),
        (3, "fixed: 3 should be OPERATION"),
        ("attention", "fixed: unknown operation 'attention'; known are max_pool_3x3"),
        ("none", "fixed: unknown operation 'none'"),
        ("skip_connect normal/2->2", "should lead from a lower node to one of 2 to 5"),
        ("skip_connect normal/0->1", "should lead from a lower node to one of 2 to 5"),
        ("skip_connect reduce/3->6", "should lead from a lower node to one of 2 to 5"),
    ],
)
def test_a_fixed_operation_without_a_place_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        small_space(fixed=(text,))
    with model_context(sample_of(small_space())), pytest.raises(ValueError, match=re.escape(message)):
        small_space(fixed=(text,))


def test_one_text_in_place_of_a_list_is_refused():
    with pytest.raises(ValueError, match="fixed: 'squeeze_excitation' should be a list of fixed operations"):
        small_space(fixed="squeeze_excitation")


# In a supernet


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("fixed", [ATTENTION, EVERYWHERE], ids=["behind", "everywhere"])
def test_every_strategy_searches_and_trains_what_is_fixed(run_search, strategy, fixed):
    space = small_space(fixed=fixed, nodes=2)
    operations = fixed_operations(space)
    before = copy.deepcopy(operations)
    (sample,) = run_search(space, STRATEGIES[strategy](), batch_size=16).export_top_models(formatter="dict")
    # The supernet holds the same modules as the space did, and each has learned.
    assert set(fixed_operations(space)) == set(operations)
    assert all(map(learned, operations, before))
    genotype = small_space(fixed=fixed, nodes=2).genotype(sample)
    assert genotype.fixed == parse_fixed(fixed, nodes=2)
    network = Network.from_genotype(genotype, channels=2)
    assert len(attentions(network)) == len(attentions(space))
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def searched(space: DartsSpace, strategy, sample: dict) -> DartsSpace:
    """Return the supernet with the same α on every edge or, without α, with the sample."""
    strategy.mutate_model(space)
    architecture = getattr(strategy, "architecture", None)
    alphas = nnis_alphas(space) if architecture is None else architecture.alphas.values()
    for alpha in alphas:
        alpha.data.copy_(torch.linspace(0, 1, len(alpha)))
    if architecture is not None:
        architecture.plan = softmax(architecture.alphas)
    for part in space.modules():
        if isinstance(part, BaseSuperNetModule):
            part.resample(sample)
    return space.eval()


def nnis_alphas(space: DartsSpace) -> list[nn.Parameter]:
    """Return the α of NNI's strategies, which are among the parameters of the space."""
    return [alpha for part in space.modules() for alpha in getattr(part, "_arch_alpha", {}).values()]


@pytest.mark.parametrize("strategy", [DARTS, NniDarts, RandomOneShot], ids=["ours", "NNI's DARTS", "RandomOneShot"])
def test_a_fixed_operation_on_an_edge_is_an_addend_of_its_target(strategy):
    space = small_space(fixed=("skip_connect normal/1->3", "skip_connect normal/3->5"))
    cell = searched(space, strategy(), sample_of(small_space())).network.cells[0]
    assert isinstance(cell, NodeByNodeCell)
    seen = []
    for node in cell.nodes:
        node.register_forward_hook(lambda _node, inputs, out: seen.append((list(inputs[0]), out)))
    out = cell(*torch.randn(2, 2, 6, 5, 5)).chunk(4, dim=1)
    (first, _), (_, third), (states, _), (_, fifth) = seen
    assert torch.equal(out[1], third + first[1])
    assert torch.equal(out[3], fifth + out[1])
    assert torch.equal(states[3], out[1])  # what later nodes read


@pytest.mark.parametrize("strategy", [DARTS, NniDarts, RandomOneShot], ids=["ours", "NNI's DARTS", "RandomOneShot"])
def test_with_a_fixed_operation_that_computes_nothing_a_cell_is_nnis_own(strategy):
    """One NNI cell per node has the α and the candidates of one cell of all nodes."""
    sample, x = sample_of(small_space()), torch.randn(2, 3, 8, 8)
    plain, fixed = (
        searched(DartsSpace(channels=2, layers=3, operations=FEW, fixed=texts), strategy(), sample)
        for texts in ((), ("simple_conv_1x1 normal/0->2", "simple_conv_1x1 reduce/1->4"))
    )
    silent = weights_of(fixed_operations(fixed))
    for weight in silent:
        nn.init.zeros_(weight)
    theirs, ours = (
        [weight for weight in space.parameters() if not any(weight is other for other in others)]
        for space, others in ((plain, nnis_alphas(plain)), (fixed, [*nnis_alphas(fixed), *silent]))
    )
    with torch.no_grad():
        for mine, their in zip(ours, theirs, strict=True):
            mine.copy_(their)
    assert torch.allclose(fixed(x), plain(x), atol=1e-5)


def test_nnis_proxyless_is_refused_before_the_search(run_search):
    """Proxyless fails on every reduction cell, whose nodes have inputs of different sizes."""
    with pytest.raises(ValueError, match="NNI's Proxyless cannot search reduction cells"):
        run_search(small_space(), Proxyless())


# The extended α


class Alphas(Callback):
    """Callback that records α at the start and at the end of training."""

    def __init__(self, strategy):
        self.strategy, self.noted = strategy, []

    def note(self, trainer, module):
        self.noted.append(self.strategy.alphas())

    on_train_start = on_train_end = note


@pytest.mark.parametrize("strategy", [DARTS("second"), EDAS()], ids=["DARTS", "EDAS"])
def test_a_search_moves_alpha_and_leaves_alpha_f_at_1_bit_for_bit(run_search, strategy):
    """By Eq. 5, a node is its searched part + 1·op(x), and the output of a cell is attention(its nodes)."""
    space = small_space(fixed=("squeeze_excitation", "sep_conv_3x3 normal/0->3"))
    alphas = Alphas(strategy)
    run_search(space, strategy, callbacks=[alphas])
    before, after = alphas.noted
    assert before.keys() == after.keys() == ALPHAS[True].keys()
    assert before != after
    strategy.architecture.plan = softmax(strategy.architecture.alphas)
    cell = space.eval().network.cells[0]
    seen = []
    for node in cell.nodes:
        node.register_forward_hook(lambda _node, inputs, out: seen.append((list(inputs[0]), out)))
    alpha_f = space.extended_alpha(strategy.alphas()).loc["fixed"]
    (operation,), (attention,) = cell.fixed, attentions(cell)
    with torch.no_grad():
        out = cell(*torch.randn(2, 2, 6, 5, 5))
        ((first, *_), second), (_, third), (_, fourth), (_, fifth) = seen
        third = third + alpha_f.loc["0->3", "sep_conv_3x3"] * operation(first)
        assert torch.equal(out, attention(torch.cat([second, third, fourth, fifth], dim=1)))


def alphas_of_darts(none: bool = True) -> dict[str, dict[str, float]]:
    strategy = DARTS(none=none)
    strategy.mutate_model(small_space(operations=DARTS_OPERATIONS))
    return strategy.alphas()


def test_in_the_paper_it_is_17_by_11():
    """Section III.C has 14 edges and 8 operations, and 3 connections and 3 operations of the attention module."""
    alphas = alphas_of_darts()
    table = extended_alpha(alphas, ATTENTION)
    assert table.shape == (17, 11)
    assert list(table.columns) == [
        *DARTS_OPERATIONS, "none", "global_average_pooling", "excitation", "channel_scaling"
    ]  # fmt: skip
    own, fixed = table.loc["searched"], table.loc["fixed"]
    assert list(own.index) == [f"{source}->{target}" for target in range(2, 6) for source in range(target)]
    assert list(fixed.index) == ["cell->F1", "F1->F2", "F2->output"]
    assert (own.iloc[:, 8:] == 0).all().all() and (fixed.iloc[:, :8] == 0).all().all()
    assert own.loc["1->4", "dil_conv_3x3"] == alphas["normal/1->4"]["dil_conv_3x3"]
    assert (fixed.iloc[:, 8:].to_numpy() == torch.eye(3).numpy()).all()


def test_it_takes_the_alpha_of_one_cell_too():
    alphas = alphas_of_darts()
    cell = {
        tuple(int(node) for node in edge.removeprefix("reduce/").split("->")): row
        for edge, row in alphas.items()
        if edge.startswith("reduce/")
    }
    assert extended_alpha(cell, ATTENTION, "reduce").equals(extended_alpha(alphas, ATTENTION, "reduce"))


ALPHAS = {none: alphas_of_darts(none) for none in (True, False)}
places = st.one_of(
    st.just(""),
    st.sampled_from([f" {kind}/{s}->{t}" for kind in ("normal", "reduce") for s, t in ((0, 2), (1, 5), (3, 4))]),
)


@given(st.booleans(), st.lists(st.tuples(st.sampled_from(list(FIXED_OPERATIONS)), places), max_size=5))
@settings(deadline=None)
def test_it_has_a_column_for_each_operation_that_is_no_candidate(none, fixed):
    """By Eq. 4, N' = N + |O(α_F) − O(α)|, and M' = M + the number of fixed connections."""
    table = extended_alpha(ALPHAS[none], [name + place for name, place in fixed])
    here = [name for name, place in fixed if "reduce" not in place]
    parts = [part for name in here for part in ("g", "e", "s") if name == "squeeze_excitation" or part == "g"]
    new = {name for name in here if name not in DARTS_OPERATIONS and name != "squeeze_excitation"}
    columns = 7 + none + len(new) + 3 * ("squeeze_excitation" in here)
    assert table.shape == (14 + len(parts), columns)
    if here:
        assert (table.loc["fixed"].sum(axis=1) == 1).all() and table.loc["fixed"].isin([0, 1]).all().all()
    assert table.loc["searched"].notna().all().all()


@pytest.mark.parametrize(
    ("alphas", "cell", "known"),
    [
        (ALPHAS[True], "cell_0", "normal, reduce"),
        ({}, "normal", "normal, reduce"),
        ({"conv/0->2": {}}, "normal", "conv"),
    ],
)
def test_without_the_alpha_of_that_cell_it_says_so(alphas, cell, known):
    with pytest.raises(ValueError, match=f"cell: '{cell}' should be one of {known}"):
        extended_alpha(alphas, ATTENTION, cell)


def fixed_rows(space: DartsSpace | DDartsSpace, alphas: dict, cell: str) -> list[str]:
    """Return the connections of α_F in the table of a space."""
    return [connection for part, connection in space.extended_alpha(alphas, cell).index if part == "fixed"]


def test_a_space_gives_the_table_of_its_own_fixed_operations():
    space = DartsSpace(channels=2, layers=3, fixed=["skip_connect normal/0->2"])
    assert fixed_rows(space, ALPHAS[True], "normal") == ["0->2"]
    assert fixed_rows(space, ALPHAS[True], "reduce") == []
    assert fixed_rows(DartsSpace(channels=2, layers=3), ALPHAS[True], "normal") == []
    assert small_space().extended_alpha(ALPHAS[True]).equals(extended_alpha(ALPHAS[True], ATTENTION))


def test_it_goes_by_the_labels_of_cells_and_leaves_an_alpha_as_it_is():
    """A space may have its second cell in its first layer, and an α that is NaN stays NaN."""
    alphas = {edge: ALPHAS[True][edge] for edge in reversed(ALPHAS[True])}
    alphas["normal/0->2"] = {**alphas["normal/0->2"], "skip_connect": float("nan")}
    table = extended_alpha(alphas, ["skip_connect normal/0->2"])
    assert list(table.loc["fixed"].index) == ["0->2"]
    assert pd.isna(table.loc[("searched", "0->2"), "skip_connect"])
    assert table.isna().sum().sum() == 1


def test_the_fixed_operations_must_be_given():
    with pytest.raises(TypeError, match="fixed"):
        extended_alpha(ALPHAS[True])


def test_a_space_with_a_cell_for_every_layer_has_an_extended_alpha_for_each():
    space = DDartsSpace(channels=2, layers=3, nodes=2, fixed=("squeeze_excitation", "skip_connect cell_1/0->2"))
    strategy = EDAS()
    strategy.mutate_model(space)
    behind = ["cell->F1", "F1->F2", "F2->output"]
    found = [fixed_rows(space, strategy.alphas(), f"cell_{layer}") for layer in range(3)]
    assert found == [behind, [*behind, "0->2"], behind]


def test_a_run_directory_has_all_that_the_table_needs(tmp_path):
    """The test follows docs/papers.md."""
    space = {"name": "DartsSpace", "channels": 2, "layers": 3, "nodes": 2, "fixed": ["skip_connect normal/0->2"]}
    data = {"dataset": "digits", "train_images": 40, "test_images": 10, "batch_size": 8}
    config = {"space": space, "data": data, "training": {"epochs": 2}, "compute": {"accelerator": "cpu", "threads": 1}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    run = search(tmp_path / "config.yaml", tmp_path / "run")
    rows = read_run(run).alphas.set_index(["epoch", "cell", "edge"])
    last = rows.loc[rows.index.max()[0]]
    alphas = {f"{cell}/{edge}": row.dropna().to_dict() for (cell, edge), row in last.iterrows()}
    table = read_search(run / "config.yaml").build("space").extended_alpha(alphas)
    assert list(table.loc["searched"].index) == ["0->2", "1->2", "0->3", "1->3", "2->3"]
    assert table.loc[("fixed", "0->2"), "skip_connect"] == 1


# Around it


@pytest.mark.parametrize("stem", ["dual_cifar", "dual_tiny_imagenet", "dual_imagenet"])
def test_it_is_searched_with_two_stems(run_search, stem):
    space = small_space(stem=stem, nodes=2)
    starts = [weight.detach().clone() for weight in space.network.stem.parameters()]
    (sample,) = run_search(space, DARTS(), batch_size=16).export_top_models(formatter="dict")
    assert not any(
        torch.equal(weight, start) for weight, start in zip(space.network.stem.parameters(), starts, strict=True)
    )
    assert small_space(stem=stem, nodes=2).freeze(sample)(torch.randn(2, 3, 16, 16)).shape == (2, 10)


@pytest.fixture
def genotype_file(tmp_path):
    space = small_space(fixed=EVERYWHERE)
    space.genotype(sample_of(space)).save(tmp_path / "genotype.json")
    return tmp_path / "genotype.json"


def test_a_file_makes_the_network_with_its_fixed_operations(genotype_file):
    genotype = Genotype.load(genotype_file)
    assert genotype.fixed == parse_fixed(EVERYWHERE, nodes=4)
    # Behind each of 8 cells, and one in each of 2 reduction cells.
    assert len(attentions(Network.from_genotype(genotype.deepen(8), channels=2))) == 10


@pytest.mark.parametrize("stem", IMAGE_STEMS)
def test_a_description_follows_the_stem_and_counts_what_is_fixed(genotype_file, stem):
    facts = describe(genotype_file, channels=2, layers=8, num_classes=10, stem=stem)
    assert facts["image_size"] == STEMS[stem].image_size
    assert facts["operations"]["squeeze_excitation"] == 10
    assert facts["parameters"] == count_parameters(
        Network.from_genotype(Genotype.load(genotype_file).deepen(8), channels=2, stem=stem)
    )


def test_an_unknown_stem_is_one_line_with_all_that_there_are(genotype_file):
    with pytest.raises(InputError, match="^--stem: 'mnist' should be one of cifar, imagenet, tiny_imagenet, dual_"):
        describe(genotype_file, 2, 8, 10, stem="mnist")


def test_a_drawing_marks_what_is_fixed(genotype_file, tmp_path):
    svg, png = draw_cells(Genotype.load(genotype_file), tmp_path / "cells")
    text = svg.read_text(encoding="utf-8")
    assert text.count("squeeze_excitation (fixed)") == 3  # behind both cells, and on an edge of one
    assert text.count("sep_conv_3x3 (fixed)") == 1
    assert png.stat().st_size > 0
