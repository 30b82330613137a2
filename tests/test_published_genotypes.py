"""Tests of published genotypes: the forms that are read, whole files, refusals, and sizes that papers print."""

import dataclasses
import json
import re
import time

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_genotype import DARTS_V2_TEXT, one_line, valid_genotypes

from nas_plugins.cli import main
from search_spaces.complexity import count_parameters
from search_spaces.genotype import Genotype, GenotypeError
from search_spaces.network import Network
from search_spaces.published import find_published

FLAT = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_5x5', 2), ('max_pool_3x3', 0)], "
    "normal_concat=range(2, 4), reduce=[('avg_pool_3x3', 1), ('skip_connect', 0), ('sep_conv_5x5', 0), "
    "('dil_conv_3x3', 2)], reduce_concat=range(2, 4))"
)
"""A genotype with two nodes a cell, in the form of DARTS."""

EXPECTED = Genotype(
    cells=(
        (("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2), ("dil_conv_5x5", 2, 3), ("max_pool_3x3", 0, 3)),
        (("avg_pool_3x3", 1, 2), ("skip_connect", 0, 2), ("sep_conv_5x5", 0, 3), ("dil_conv_3x3", 2, 3)),
    ),
    layout=(0, 0, 1, 0, 0, 1, 0, 0),
    reductions=(2, 5),
    concat=(2, 3),
)

NORMAL, REDUCE = (EXPECTED.cells[index] for index in (0, 1))


def darts(items, normal="normal", reduce="reduce", concat="[2, 3]", more="") -> str:
    """Return a statement in the form of DARTS with the items of both cells."""
    cells = f"{normal}={items(NORMAL)}, {normal}_concat={concat}, {reduce}={items(REDUCE)}, {reduce}_concat={concat}"
    return f"Genotype({cells}{more})"


def nested(kind):
    """Return a function that prints a cell as one list or tuple a node."""
    return lambda cell: [kind((op, source) for op, source, target in cell if target == node) for node in (2, 3)]


FORMS = {
    "DARTS": FLAT,
    "lists for tuples": darts(lambda cell: [[op, source] for op, source, _ in cell]),
    "a list a node (pt.darts)": darts(nested(list)),
    "a tuple a node (AutoDL-Projects)": darts(nested(tuple), more=", connectN=None, connects=None"),
    "the operation, to, from (FairDARTS)": darts(lambda cell: [(op, target, source) for op, source, target in cell]),
    "the operation, from, to (aw_nas)": "CNN" + darts(lambda cell: [*map(tuple, cell)], "normal_0", "reduce_1"),
    "the operation, from, α (FairDARTS)": darts(lambda cell: [(op, source, 0.25) for op, source, _ in cell]),
    "a negative α": darts(lambda cell: [(op, source, -1.5) for op, source, _ in cell]),
    "by position": re.sub(r"\w+=", "", FLAT),
    "a further keyword (sharpDARTS)": darts(nested(list), more=", layout='cell', steps=STEPS"),
    "a concat that is a tuple": darts(nested(list), concat="(2, 3)"),
    "a concat that is a range made a list": darts(nested(list), concat="list(range(2, 4))"),
    "integers and texts of NumPy": FLAT.replace("'sep_conv_3x3', 0", "np.str_('sep_conv_3x3'), np.int64(0)"),
    "an integer of PyTorch": FLAT.replace("('sep_conv_3x3', 0)", "('sep_conv_3x3', 0, tensor(0.31))"),
    "of a module": "genotypes." + FLAT,
    "a name": "BEST = " + FLAT,
    "a line of a log": "2019-07-16 21:35:03,411 genotype = " + FLAT + "\n",
    "a line that begins with a bracket": "[07/16 21:35] genotype = " + FLAT,
    "a line that a terminal has broken": FLAT.replace("dil_conv_5x5", "dil_c\nonv_5x5"),
    "a comment": "# genotype = " + FLAT,
    "an option of a script": f'python train.py --arch "{FLAT}" --layers 20',
    "a text in code": f'ARCHITECTURES = {{\n    "best": "{FLAT}",\n}}',
    "YAML": "- seed: 0\n  genotype: " + FLAT.replace("normal_concat", "\n    normal_concat"),
    "Markdown": f"| method | 1 | {FLAT} |",
    "code over several lines": FLAT.replace("), (", "),  # don't\n  # (\n        ("),
    "a cell by name": f"cell = {[edge[:2] for edge in NORMAL]}\nBEST = " + re.sub(r"\[[^]]*\]", "cell", FLAT, count=1),
    "the sample of NNI": json.dumps(EXPECTED.to_sample()),
    "the sample of NNI as Python prints it": str(EXPECTED.to_sample()),
    "a genotype file": EXPECTED.to_json(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_published_form_is_read(form):
    assert Genotype.parse(FORMS[form]) == EXPECTED


def test_a_genotype_of_darts_gets_eight_layers():
    genotype = Genotype.parse(DARTS_V2_TEXT)
    assert genotype.layout == (0, 0, 1, 0, 0, 1, 0, 0) and genotype.reductions == (2, 5)


def test_genotype_nested_gives_each_layer_its_cell():
    genotype = Genotype.parse(
        "DD = Genotype_nested(genes=[[('sep_conv_3x3', 2, 0), ('skip_connect', 3, 2)],"
        " [('dil_conv_5x5', 2, 1)]], concat=range(2, 4), reductions=[1])"
    )
    assert genotype.cells == (
        (("sep_conv_3x3", 0, 2), ("skip_connect", 2, 3)),
        (("dil_conv_5x5", 1, 2),),
    )
    assert (genotype.layout, genotype.reductions, genotype.concat) == ((0, 1), (1,), (2, 3))


def test_genotype_opt_reads_ranges_list_arithmetic_and_cells_by_name():
    genotype = Genotype.parse(
        "layer = [('sep_conv_3x3', 2, 0)]\n"
        "Xception = Genotype_opt([layer, layer + [('skip_connect', 2, 0)], [('simple_conv_1x1', 2, 1)]], "
        "seq=[0]*3+[1]*8+[0, 2], concat=range(2, 6), reductions=[1, 2, 11, 12])"
    )
    assert genotype.cells[:2] == ((("sep_conv_3x3", 0, 2),), (("sep_conv_3x3", 0, 2), ("skip_connect", 0, 2)))
    assert genotype.layout == (0,) * 3 + (1,) * 8 + (0, 2)
    assert genotype.concat == (2, 3, 4, 5)
    assert genotype.operations == "dartopti"


@given(valid_genotypes(with_fixed=False))
def test_a_genotype_printed_as_genotype_opt_is_read_back(genotype):
    genes = [[(operation, target, source) for operation, source, target in cell] for cell in genotype.cells]
    read = Genotype.parse(
        f"Genotype_opt(genes={genes}, seq={list(genotype.layout)}, concat={genotype.concat}, "
        f"reductions={list(genotype.reductions)})"
    )
    assert dataclasses.replace(read, operations=genotype.operations) == genotype


def test_none_is_no_operation():
    read = Genotype.parse(FLAT.replace("max_pool_3x3", "none"))
    assert read.cells == (NORMAL[:3], REDUCE)


# Cells that concatenate different nodes


DIFFERENT = FLAT.replace("normal_concat=range(2, 4)", "normal_concat=[3]")


def test_cells_that_concatenate_different_nodes_are_renumbered():
    genotype = Genotype.parse(DIFFERENT)
    assert genotype.concat == (3, 5)
    assert genotype.cells == (
        (("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2), ("dil_conv_5x5", 2, 5), ("max_pool_3x3", 0, 5)),
        (("avg_pool_3x3", 1, 3), ("skip_connect", 0, 3), ("sep_conv_5x5", 0, 5), ("dil_conv_3x3", 3, 5)),
    )


def test_the_network_of_such_cells_concatenates_what_each_of_them_does():
    network = Network.from_genotype(Genotype.parse(DIFFERENT), num_classes=10, channels=4)
    assert [len(cell.outputs) for cell in network.cells] == [1, 1, 2, 1, 1, 2, 1, 1]
    network(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.cells.parameters())


def test_such_cells_are_trained_and_counted_by_the_command_line(tmp_path, capsys):
    (tmp_path / "genotypes.py").write_text(f"OTHER = {FLAT}\nMINE = {DIFFERENT}\n")
    (tmp_path / "retrain.yaml").write_text(
        "data: {dataset: digits, train_images: 64, batch_size: 32, val_fraction: 0}\n"
        "network: {channels: 2, layers: 3}\ntraining: {epochs: 1}\ncompute: {accelerator: cpu, threads: 1}\n"
    )
    file, config, run = (str(tmp_path / name) for name in ("g.json", "retrain.yaml", "run"))
    assert main(["genotype", "import", str(tmp_path / "genotypes.py"), "--name", "MINE", "--output", file]) == 0
    assert main(["genotype", "info", file, "--channels", "2", "--layers", "3", "--classes", "10"]) == 0
    assert "parameters" in capsys.readouterr().out
    assert main(["retrain", "--genotype", file, "--config", config, "--output", run]) == 0
    assert main(["report", run]) == 0
    assert Genotype.load(tmp_path / "run" / "genotype.json") == Genotype.parse(DIFFERENT).deepen(3)


# Whole files


SECOND = FLAT.replace("dil_conv_5x5", "max_pool_3x3")
FILE = f"""from collections import namedtuple

Genotype = namedtuple('Genotype', 'normal normal_concat reduce reduce_concat')

FIRST = {FLAT}
# SECOND = {FLAT}
SECOND = {SECOND}
LATEST = SECOND  # the best one


def genotype(self):
    return Genotype(normal=gene_normal, normal_concat=concat, reduce=gene_reduce, reduce_concat=concat)


print({FLAT})
"""


def test_the_genotypes_of_a_file_are_found_by_name():
    assert list(find_published(FILE)) == ["FIRST", "SECOND", "line 15", "LATEST"]


def test_the_last_statement_of_a_name_counts_and_comments_do_not():
    assert Genotype.parse(FILE, "SECOND") == Genotype.parse(FILE, "LATEST") == Genotype.parse(SECOND) != EXPECTED
    assert Genotype.parse(f"genotype = {FLAT}\ngenotype = {SECOND}\n") == Genotype.parse(SECOND)


def test_a_file_of_several_genotypes_needs_a_name():
    assert "choose one of the genotypes: FIRST, SECOND, line 15, LATEST" in one_line(Genotype.parse, FILE)
    assert "'THIRD' is not among the genotypes: FIRST" in one_line(Genotype.parse, FILE, "THIRD")


def test_the_command_line_lists_the_genotypes_of_a_file(tmp_path, capsys):
    (tmp_path / "genotypes.py").write_text(FILE + "RNN = Genotype(recurrent=[('tanh', 0)], concat=range(1, 9))\n")
    assert main(["genotype", "import", str(tmp_path / "genotypes.py"), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "FIRST: 8 layers, 2 different cells" and len(lines) == 5
    assert lines[3] == "RNN: a recurrent cell; a genotype here is a convolutional network"


def test_the_command_line_imports_the_sample_of_nni(tmp_path):
    (tmp_path / "exported.json").write_text(json.dumps([EXPECTED.to_sample()]))
    assert main(["genotype", "import", str(tmp_path / "exported.json"), "--output", str(tmp_path / "g.json")]) == 0
    assert Genotype.load(tmp_path / "g.json") == EXPECTED


# Refusals


def without(field: str) -> str:
    return re.sub(rf",? ?\b{field}=(\[[^]]*\]|range\(2, 4\))", "", FLAT)


REFUSED = {
    "a recurrent cell": ("Genotype(recurrent=[('tanh', 0), ('relu', 1)], concat=range(1, 9))", "a recurrent cell"),
    "noise (RobustDARTS)": (FLAT.replace("max_pool_3x3", "noise"), "unknown operation 'noise'; known are max_pool_3x3"),
    "a circle convolution": (FLAT.replace("dil_conv_5x5", "dil_circle_conv_5x5"), "'dil_circle_conv_5x5'; known are"),
    "a graph network": (
        "Genotype(normal=[('edge_conv', 0), ('gat', 1)], normal_concat=range(2, 4))",
        "'edge_conv', 'gat'",
    ),
    "an operation with a dictionary": (FLAT.replace("'skip_connect', 1", "'conv', {'k': 3}, 1"), "'conv'"),
    "no reduction cell": (without("reduce"), "reduce: is missing"),
    "None for the reduction cell": (re.sub(r"reduce=\[[^]]*\]", "reduce=None", FLAT), "reduce: is missing"),
    "no concat": (without("normal_concat"), "normal_concat: is missing"),
    "a third cell": (FLAT[:-1] + ", upsample=[('skip_connect', 0)])", "unknown field 'upsample'"),
    "three operations for a node": (
        FLAT.replace("('skip_connect', 1)", "('skip_connect', 1), ('skip_connect', 0)"),
        "two",
    ),
    "more nodes than are concatenated": (FLAT.replace("range(2, 4)", "range(2, 3)"), "two operations for each node"),
    "an input that is concatenated": (darts(nested(list), concat="[1, 2]"), "concat: (1, 2) should be"),
    "a source that comes later": (FLAT.replace("'max_pool_3x3', 0", "'max_pool_3x3', 4"), "cycle"),
    "α in place of operations": (
        "Genotype(normal=[[0.1, 0.9]], normal_concat=['a'], reduce=[], reduce_concat=[])",
        "normal",
    ),
    "a variable": (FLAT.replace("range(2, 4)", "concat", 1), "cannot read 'concat'"),
    "no cell": ("Genotype_nested(genes=[], concat=[2], reductions=[], names=['a'])", "unknown field 'names'"),
    "genes that are no cells": ("Genotype_nested(genes=[('skip_connect', 2, 0)], concat=[2], reductions=[])", "genes"),
    "genes without a target": ("Genotype_nested(genes=[[('skip_connect', 0)]], concat=[2], reductions=[])", "genes"),
    "no reductions": ("Genotype_nested(genes=[[('skip_connect', 2, 0)]], concat=[2])", "reductions: is missing"),
    "a layer of a cell that is missing": (
        "Genotype_opt(genes=[[('skip_connect', 2, 0)]], seq=[1], concat=[2], reductions=[])",
        "layer 0 uses cell 1",
    ),
    "a statement that is cut off": (FLAT[:-3], "none, such as Genotype("),
    "another JSON": ("{'format': 'nni'}", '"nas-plugins/genotype"'),
    "nothing": ("", "none, such as Genotype("),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_network_of_known_operations_is_refused_by_name(case):
    text, part = REFUSED[case]
    assert part in one_line(Genotype.parse, text)


def with_genes(expression: str) -> str:
    return f"Genotype_nested(genes=[[('skip_connect', 2, 0)], {expression}], concat=[2], reductions=[])"


HOSTILE = {
    "a call": "__import__('os').system('touch {marker}')",
    "a call as an argument": with_genes("open('{marker}', 'w')"),
    "a call within a list": with_genes("[(open('{marker}', 'w'), 2, 0)]"),
    "a call as the function": "open('{marker}', 'w').Genotype(genes=[['a']], concat=[2], reductions=[])",
    "a call as a bound of range": with_genes("range(open('{marker}', 'w').fileno())"),
    "a call as a factor": with_genes("[0] * open('{marker}', 'w').fileno()"),
    "a call around a value": with_genes("os.list(open('{marker}', 'w'))"),
    "a statement before": "open('{marker}', 'w'); x = " + with_genes("[]"),
    "a walrus": with_genes("(x := open('{marker}', 'w'))"),
    "a comprehension": with_genes("[open('{marker}', 'w') for _ in range(2)]"),
    "a formatted string": with_genes("[f\"{open('{marker}', 'w')}\"]"),
    "starred arguments": "Genotype_nested(*[[['a']], [2], open('{marker}', 'w')])",
    "a conditional": with_genes("[] if open('{marker}', 'w') else []"),
    "a power": with_genes("[0] * 9 ** 9 ** 9"),
    "a huge range": with_genes("range(10000000000)"),
    "a huge multiplication": with_genes("[0] * 10000000000"),
    "many multiplications": with_genes("[0]" + " * 1000" * 50),
    "nested multiplications": with_genes("[" * 9 + "0" + "] * 9999" * 9),
    "a name of itself": "a = [a, a]\n" + with_genes("a"),
    "a number too long to be read": with_genes("9" * 5000),
    "a huge node": with_genes(f"[('skip_connect', 0x{'f' * 5000}, 0)]"),
    "deep brackets": with_genes("[" * 40_000 + "]" * 40_000),
    "deep sums": with_genes("[]" + " + []" * 15_000),
    "a long name": "x" * 1_000_000,
    "a null": with_genes("'\0'"),
    "half a character": with_genes("'\ud800'"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_a_hostile_text_runs_nothing_ends_fast_and_is_refused(case, tmp_path):
    marker = tmp_path / "marker"
    start = time.monotonic()
    one_line(Genotype.parse, HOSTILE[case].replace("{marker}", str(marker)))
    assert time.monotonic() - start < 5
    assert not marker.exists()


@given(st.text())
@example("Genotype_nested(genes=['']*99999999999999999999, concat=[2], reductions=[])")
def test_arbitrary_text_is_refused_by_no_other_error(text):
    one_line(Genotype.parse, text)


FRAGMENTS = """Genotype( Genotype_nested( Genotype_opt( genes= concat= reductions= seq= normal= [ ] ( ) ,
* + ** . range( 0 2 -1 1.5 'skip_connect' '' X= lambda: { } :
None True f'{0}' := 999999999999999999999999999999"""
fragments = st.sampled_from(["\n", *FRAGMENTS.split()])


@given(st.lists(fragments, max_size=30).map("".join))
@settings(max_examples=300)
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_text_that_looks_like_a_genotype_is_one_or_refused(text):
    try:
        Genotype.parse(text)
    except GenotypeError as error:
        assert str(error).isprintable()


literals = st.recursive(
    st.integers(-2, 7) | st.sampled_from(["skip_connect", "sep_conv_3x3", "none", "two\nlines"]),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner, inner),
    max_leaves=10,
)


@given(genes=literals, concat=literals, reductions=literals, seq=literals)
def test_any_lists_in_the_fields_are_a_genotype_or_refused(genes, concat, reductions, seq):
    for text in (
        f"Genotype_opt({genes!r}, {seq!r}, {concat!r}, {reductions!r})",
        f"Genotype({genes!r}, {concat!r}, {seq!r}, {reductions!r})",
    ):
        try:
            Genotype.parse(text)
        except GenotypeError as error:
            assert str(error).isprintable()


# Sizes that are published


AUXILIARY_HEAD = 476_426
"""Parameters of the auxiliary head for 10 classes, which some authors count."""

SNAS = """CNNGenotype(normal_0=[('dil_conv_5x5', 0, 2), ('sep_conv_5x5', 1, 2), ('dil_conv_5x5', 2, 3), ('sep_conv_5x5',
  0, 3), ('sep_conv_5x5', 1, 4), ('max_pool_3x3', 0, 4), ('max_pool_3x3', 0, 5), ('skip_connect', 2, 5)],
  reduce_1=[('avg_pool_3x3', 1, 2), ('dil_conv_5x5', 0, 2), ('max_pool_3x3', 0, 3), ('sep_conv_3x3', 2, 3),
  ('dil_conv_3x3', 2, 4), ('max_pool_3x3', 0, 4), ('max_pool_3x3', 0, 5), ('sep_conv_5x5', 4, 5)],
  normal_0_concat=[2, 3, 4, 5], reduce_1_concat=[2, 3, 4, 5])"""

FAIR_DARTS_E = """Genotype(normal=[('sep_conv_3x3', 2, 0), ('sep_conv_3x3', 2, 1), ('dil_conv_3x3', 4, 1),
  ('dil_conv_3x3', 4, 2), ('dil_conv_3x3', 5, 0), ('dil_conv_5x5', 5, 1)], normal_concat=range(2, 6),
  reduce=[('max_pool_3x3', 2, 1), ('max_pool_3x3', 2, 0), ('max_pool_3x3', 3, 1), ('max_pool_3x3', 3, 0),
  ('sep_conv_5x5', 4, 1), ('max_pool_3x3', 4, 0), ('avg_pool_3x3', 5, 0), ('dil_conv_5x5', 5, 1)],
  reduce_concat=range(2, 6))"""


@pytest.mark.parametrize(
    ("text", "published", "more"),
    [
        (DARTS_V2_TEXT, 3.36, 0),  # FairDARTS prints 3.36 million, DARTS 3.3
        (SNAS, 3.18, 0),
        (FAIR_DARTS_E, 3.12, AUXILIARY_HEAD),
    ],
    ids=["DARTS", "SNAS of aw_nas", "FairDARTS, with missing nodes"],
)
def test_the_parameters_are_those_that_the_authors_print(text, published, more):
    network = Network.from_genotype(Genotype.parse(text).deepen(20), num_classes=10, channels=36)
    assert (count_parameters(network) + more) / 1e6 == pytest.approx(published, abs=0.012)
