"""Tests of the drawing and the comparison of genotypes and samples in files."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import pytest

from nas_plugins.cli import main
from nas_plugins.commands.compare import compare
from nas_plugins.errors import InputError
from nas_plugins.report.architecture import draw
from search_spaces.genotype import Genotype, GenotypeError

A = Genotype(
    cells=(
        (("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2), ("sep_conv_3x3", 2, 3)),
        (("max_pool_3x3", 0, 2), ("max_pool_3x3", 1, 2), ("skip_connect", 2, 3)),
    ),
    layout=(0, 0, 1, 0, 0, 1, 0, 0),
    reductions=(2, 5),
    concat=(2, 3),
)
B = Genotype(
    cells=((("sep_conv_3x3", 0, 2), ("dil_conv_3x3", 1, 2), ("sep_conv_3x3", 2, 3)), A.cells[1]),
    layout=A.layout,
    reductions=A.reductions,
    concat=A.concat,
)
SAMPLE = {"stem": "conv_3x3", "skip": [0, 2], "width": 0.5, "<b>": None}


@pytest.fixture
def files(tmp_path) -> Path:
    """Folder with the genotypes a.json and b.json, a sample of cells, and one of a space without cells."""
    A.save(tmp_path / "a.json")
    B.save(tmp_path / "b.json")
    edges = {f"{kind}/{key}": value for kind in ("normal", "reduce") for key, value in EDGES.items()}
    (tmp_path / "cells.json").write_text(json.dumps(edges))
    (tmp_path / "sample.json").write_text(json.dumps([SAMPLE]))
    return tmp_path


EDGES = {"op_2_0": "sep_conv_3x3", "input_2_0": [0], "op_2_1": "skip_connect", "input_2_1": [1]}
"""The parts of a sample for a node."""


def rows(text: str) -> list[list[str]]:
    """Return the words of each line of the tables."""
    return [line.split() for line in text.splitlines()]


class TestDraw:
    @pytest.mark.parametrize(("name", "cells"), [("a.json", 2), ("cells.json", 2)])
    def test_cells_of_a_genotype_and_of_a_sample(self, files, name, cells, capsys):
        picture = files / "picture.svg"
        assert main(["genotype", "draw", str(files / name), "--output", str(picture)]) == 0
        assert capsys.readouterr().out == f"{picture}: {cells} different cells\n"
        text = picture.read_text(encoding="utf-8")
        assert text.count(">output<") == cells and ">sep_conv_3x3<" in text

    @pytest.mark.parametrize("name", ["a.json", "sample.json"])
    def test_png(self, files, name):
        draw(files / name, files / "new" / "picture.PNG")
        height, width = matplotlib.image.imread(files / "new" / "picture.PNG", "png").shape[:2]
        assert 100 < height < 2000 and 100 < width < 3000

    def test_a_sample_without_cells_is_a_table_of_its_choices(self, files):
        assert draw(files / "sample.json", files / "s.svg") == "a table of 4 choices; the sample has no cells"
        text = (files / "s.svg").read_text(encoding="utf-8")
        for part in ("stem", "conv_3x3", "[0, 2]", "0.5", "&lt;b&gt;", "null"):
            assert f">{part}<" in text

    @pytest.mark.parametrize("output", ["picture", "picture.jpg", "svg"])
    def test_other_pictures_are_refused(self, files, output):
        with pytest.raises(InputError, match=f"--output: .*{output} should end in .svg or .png"):
            draw(files / "a.json", files / output)

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            ("Genotype(normal=[", "is no JSON: .*; nas-plugins genotype import reads code and logs"),
            ("[]", '"format" should be'),
            ("{}", '"format" should be'),
            ('{"a": {"b": 1}}', '"format" should be'),
            ('{"format": "nas-plugins/genotype", "version": 1}', "'operations'|'cells'"),
            ('{"normal/op_2_0": "sep_conv_3x3"}', "normal/input_2_0"),
        ],
    )
    def test_other_files_are_refused(self, files, content, complaint):
        (files / "bad.json").write_text(content)
        with pytest.raises((InputError, GenotypeError), match=f"bad.json: .*({complaint})"):
            draw(files / "bad.json", files / "picture.svg")
        assert not (files / "picture.svg").exists()


class TestCompare:
    def test_edges_of_each_cell(self, files):
        text = compare(files / "a.json", files / "b.json")
        assert "operations in both: 5; only A: 1; only B: 1" in text
        table = rows(text)
        assert ["normal", "0", "→", "2", "sep_conv_3x3"] in table
        assert ["normal", "1", "→", "2", "skip_connect", "dil_conv_3x3"] in table
        assert ["reduction", "2", "→", "3", "skip_connect"] in table

    def test_counts_and_size(self, files, capsys):
        size = ["--channels", "4", "--classes", "10", "--layers", "5"]
        assert main(["genotype", "compare", str(files / "a.json"), str(files / "b.json"), *size]) == 0
        table = rows(capsys.readouterr().out)
        assert ["layers", "5", "5"] in table and ["skip_connect", "5", "2"] in table
        assert ["dil_conv_3x3", "0", "3"] in table
        facts = []
        for name in ("a.json", "b.json"):
            main(["genotype", "info", str(files / name), *size, "--json"])
            facts.append(json.loads(capsys.readouterr().out))
        for key in ("parameters", "multiply_adds"):
            assert [key.replace("_", "-"), *(f"{fact[key]:,}" for fact in facts)] in table
        assert facts[0]["parameters"] != facts[1]["parameters"]

    def test_a_genotype_and_itself(self, files):
        text = compare(files / "a.json", files / "a.json")
        assert "operations in both: 6; only A: 0; only B: 0" in text and "parameters" not in text

    def test_cells_of_single_layers_go_by_number(self, files):
        cells = tuple((("sep_conv_3x3" if index == 10 else "skip_connect", 0, 2),) for index in range(11))
        Genotype(cells, tuple(range(11)), (3, 7), (2,)).save(files / "c.json")
        table = rows(compare(files / "c.json", files / "b.json"))
        assert [row[0] for row in table if row[1:4] == ["0", "→", "2"]] == [str(index) for index in range(11)]
        assert ["10", "0", "→", "2", "sep_conv_3x3"] in table

    def test_fixed_operations_after_each_cell(self, files):
        Genotype(A.cells, A.layout, A.reductions, A.concat, fixed=(("squeeze_excitation",),)).save(files / "c.json")
        text = compare(files / "a.json", files / "c.json")
        assert ["each", "after", "it", "squeeze_excitation"] in rows(text) and "only B: 1" in text

    def test_samples_without_cells(self, files):
        (files / "other.json").write_text(json.dumps({**SAMPLE, "stem": "conv_5x5"}))
        text = compare(files / "sample.json", files / "other.json")
        assert "choices in both: 3; only A: 1; only B: 1" in text
        assert ["stem", "conv_3x3", "conv_5x5"] in rows(text)

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            (["a.json", "b.json", "--channels", "4"], "--classes: is missing"),
            (["a.json", "b.json", "--stem", "cifar"], "--channels: is missing"),
            (["a.json", "b.json", "--channels", "0", "--classes", "10"], "channels: 0 should be at least 1"),
            (["a.json", "b.json", "--layers", "2"], "layers: 2 should be at least 3"),
            (["a.json", "sample.json"], "sample.json: is a sample without cells, and the other file is a genotype"),
            (["sample.json", "sample.json", "--layers", "5"], "is a sample without cells; the size of its network"),
            (["a.json", "no.json"], "no.json: cannot be read"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_refused(self, files, monkeypatch, capsys, arguments, line):
        monkeypatch.chdir(files)
        assert main(["genotype", "compare", *arguments]) == 2
        err = capsys.readouterr().err
        assert line in err and err.count("\n") == 1
