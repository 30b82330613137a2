"""The report: cells, plots, tables and the page, from run directories at every stage."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import yaml

from nas_plugins.cell_drawings import cell_titles, draw_cells
from nas_plugins.errors import InputError
from nas_plugins.pictures import (
    architecture_weights,
    plot_alphas,
    plot_comparison,
    plot_heatmap,
    plot_progress,
)
from nas_plugins.report import summary, summary_text, write_report
from search_spaces.genotype import Genotype

OPERATIONS = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")
EDGES = ("0->2", "1->2", "0->3")
CELL = (("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2), ("max_pool_3x3", 2, 3))
GENOTYPE = Genotype(cells=(CELL, CELL[:2]), layout=(0, 1, 1, 0), reductions=(1, 2), concat=(2, 3))


def table_of_metrics(epochs: int, derived: bool = True) -> pd.DataFrame:
    t = np.arange(epochs)
    return pd.DataFrame(
        {
            "epoch": t,
            "train_loss": 2 / (t + 1),
            "train_acc": 0.5 + 0.01 * t,
            "val_loss": 2.1 / (t + 1),
            "val_acc": 0.4 + 0.01 * t,
            "derived_val_acc": 0.3 + 0.01 * t if derived else np.nan,
            "seconds": 10.0,
            "peak_memory_mb": 100.0 + t,
        }
    )


def table_of_alphas(epochs: int = 3, cells: tuple[str, ...] = ("normal", "reduce")) -> pd.DataFrame:
    numbers = np.random.default_rng(0)
    rows = [
        [epoch, cell, edge, *numbers.normal(size=len(OPERATIONS))]
        for epoch in range(epochs)
        for cell in cells
        for edge in EDGES
    ]
    return pd.DataFrame(rows, columns=["epoch", "cell", "edge", *OPERATIONS])


def make_search(path: Path, epochs: int = 3, strategy: str = "DARTS", genotype: bool = True) -> Path:
    path.mkdir(parents=True)
    config = {
        "seed": 7,
        "space": {"name": "DartsSpace"},
        "strategy": {"name": strategy},
        "data": {"dataset": "cifar10"},
        "training": {"epochs": 3},
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    table_of_metrics(epochs).to_csv(path / "metrics.csv", index=False)
    if genotype:
        table_of_alphas(epochs).to_csv(path / "alphas.csv", index=False)
        GENOTYPE.save(path / "genotype.json")
    return path


def make_retrain(path: Path, tested: bool = True) -> Path:
    path.mkdir(parents=True)
    config = {"seed": 1, "genotype": "g.json", "network": {"channels": 36}, "data": {"dataset": "cifar10"}}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    table_of_metrics(5, derived=False).to_csv(path / "metrics.csv", index=False)
    GENOTYPE.save(path / "genotype.json")
    (path / "network.json").write_text(json.dumps({"parameters": 349_000, "multiply_adds": 12_300_000}))
    if tested:
        (path / "test.json").write_text(json.dumps({"test_acc": 0.9731, "test_loss": 0.1, "images": 10}))
    return path


def size_of(png: Path) -> tuple[int, int]:
    height, width = matplotlib.image.imread(png).shape[:2]
    return width, height


# Cells


def test_cells_name_every_operation(tmp_path):
    svg, png = draw_cells(GENOTYPE, tmp_path / "cells")
    text = svg.read_text(encoding="utf-8")
    assert text.count(">sep_conv_3x3<") == 2 and text.count(">max_pool_3x3<") == 1
    assert "input k−2" in text and "input k−1" in text and text.count(">output<") == 2
    width, height = size_of(png)
    assert 500 < width < 4000 and 200 < height < 4000


def test_cells_leave_out_nodes_that_do_not_exist(tmp_path):
    cell = (*CELL[:2], ("skip_connect", 3, 4))
    lost = Genotype(cells=(cell,), layout=(0,), reductions=(), concat=(2, 3, 4))
    text = draw_cells(lost, tmp_path / "cells")[0].read_text(encoding="utf-8")
    assert ">2<" in text and ">3<" not in text and ">4<" not in text


def test_cells_show_both_of_two_operations_on_an_edge(tmp_path):
    twice = Genotype(cells=((("sep_conv_3x3", 0, 2), ("skip_connect", 0, 2)),), layout=(0,), reductions=())
    text = draw_cells(twice, tmp_path / "cells")[0].read_text(encoding="utf-8")
    assert ">sep_conv_3x3<" in text and ">skip_connect<" in text and "input k−1" in text


def test_twenty_cells_make_a_grid(tmp_path):
    many = Genotype(cells=(CELL,) * 20, layout=tuple(range(20)), reductions=(6, 13), concat=(2, 3))
    svg, png = draw_cells(many, tmp_path / "cells")
    text = svg.read_text(encoding="utf-8")
    assert all(f">cell {i}: layer {i}" in text for i in range(20))
    width, height = size_of(png)
    assert 0.4 < width / height < 2.5


def test_titles_of_cells():
    assert cell_titles(GENOTYPE) == ["normal cell: layers 0, 3", "reduction cell: layers 1, 2"]
    single = Genotype(cells=(CELL,) * 3, layout=(0, 1, 2, 2, 2), reductions=(1,), concat=(2, 3))
    assert cell_titles(single) == ["cell 0: layer 0", "cell 1: layer 1 (reduction)", "cell 2: layers 2–4"]


def test_drawing_says_nothing_on_stderr(tmp_path):
    code = (
        "import sys\n"
        "from nas_plugins.cell_drawings import draw_cells\n"
        "from search_spaces.genotype import Genotype\n"
        "print('drawing', file=sys.stderr)\n"
        f"draw_cells(Genotype.from_json({GENOTYPE.to_json()!r}), sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cells")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.endswith("drawing\n")


# Plots


def test_softmax_weights_of_an_edge_sum_to_one_without_the_empty():
    alphas = table_of_alphas(1)
    alphas.loc[0, "max_pool_3x3"] = np.nan
    weights = architecture_weights(alphas, "softmax")[list(OPERATIONS)]
    assert np.allclose(weights.sum(axis=1), 1) and np.isnan(weights.loc[0, "max_pool_3x3"])


def test_sigmoid_weights_stand_alone():
    alphas = table_of_alphas(1)
    weights = architecture_weights(alphas, "sigmoid")
    assert np.allclose(weights["none"], 1 / (1 + np.exp(-alphas["none"])))


@pytest.mark.parametrize("plot", [plot_alphas, plot_heatmap])
@pytest.mark.parametrize("weights", ["softmax", "sigmoid"])
def test_alphas_are_drawn(tmp_path, plot, weights):
    alphas = table_of_alphas(2)
    alphas.loc[0, "none"] = np.nan
    width, height = size_of(plot(alphas, weights, tmp_path / "a.png"))
    assert 500 < width < 2500 and 200 < height < 2500


def test_alphas_of_many_cells_stay_one_picture(tmp_path):
    alphas = table_of_alphas(2, cells=tuple(map(str, range(14))))
    width, height = size_of(plot_alphas(alphas, "sigmoid", tmp_path / "a.png"))
    assert width < 2500 and height < 6000


@pytest.mark.parametrize("epochs", [1, 4])
def test_progress_is_drawn(tmp_path, epochs):
    width, height = size_of(plot_progress(table_of_metrics(epochs), tmp_path / "p.png"))
    assert 1000 < width < 2500 and 300 < height < 1500


def test_names_of_runs_are_no_markup_for_matplotlib(tmp_path, recwarn):
    runs = {name: table_of_metrics(n) for name, n in (("$x", 2), ("_hidden", 3), ("名", 30))}
    plot_comparison(runs, ["$x"], tmp_path / "c.png")
    assert not list(recwarn)


# Tables


def test_summary_has_a_row_a_run(tmp_path):
    table = summary([make_search(tmp_path / "s"), make_retrain(tmp_path / "r")])
    search, retrain = table.to_dict("records")
    assert (search["run"], search["kind"], search["method"], search["seed"]) == ("s", "search", "DARTS", 7)
    assert search["val_acc"] == pytest.approx(0.42) and search["derived_val_acc"] == pytest.approx(0.32)
    assert (search["seconds"], search["seconds_per_epoch"], search["peak_memory_mb"]) == (30, 10, 102)
    assert pd.isna(search["parameters"]) and pd.isna(search["test_acc"])
    assert (retrain["method"], retrain["parameters"], retrain["test_acc"]) == ("retrain", 349_000, 0.9731)


def test_summary_as_text(tmp_path):
    table = summary([make_search(tmp_path / "s"), make_retrain(tmp_path / ("long" * 30))])
    text = summary_text(table)
    for value in ("42.00%", "97.31%", "0.35 M", "12.3 M", "102 MB"):
        assert value in text
    assert "–" in text and "…" in text and max(map(len, text.splitlines())) <= 120


def test_summary_as_text_drops_empty_columns(tmp_path):
    assert "params" not in summary_text(summary([make_search(tmp_path / "s")]))


# The page


def test_report_of_one_run_goes_into_the_run(tmp_path):
    run = make_search(tmp_path / "run")
    assert write_report([run]) == run / "report.html"
    for name in ("cells.svg", "cells.png", "alphas.png", "alphas_heatmap.png", "progress.png"):
        assert (run / name).stat().st_size > 1000, name


def test_page_needs_no_other_file(tmp_path):
    page = write_report([make_search(tmp_path / "run")], tmp_path / "out").read_text(encoding="utf-8")
    assert "<svg" in page and page.count("data:image/png;base64,") == 3
    for link in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert link.startswith(("data:", "#")), link
    assert "<link" not in page and "<script" not in page and "@import" not in page


def test_files_of_runs_with_one_name_do_not_clash(tmp_path):
    runs = [make_search(tmp_path / parent / "run") for parent in "ab"] + [make_retrain(tmp_path / "c")]
    page = write_report(runs, tmp_path / "out").read_text(encoding="utf-8")
    assert len(list((tmp_path / "out").glob("*cells.svg"))) == 3
    assert str(runs[0]) in page and str(runs[1]) in page
    assert (tmp_path / "out" / "comparison.png").exists()


def test_what_stands_in_files_is_escaped(tmp_path):
    run = make_search(tmp_path / "<img src=x>", strategy="<script>alert(1)</script>")
    page = write_report([run], tmp_path / "out").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page and "<img src=x>" not in page


def test_report_of_a_run_that_is_still_going(tmp_path):
    run = make_search(tmp_path / "run", epochs=1, genotype=False)
    page = write_report([run]).read_text(encoding="utf-8")
    assert "no genotype yet" in page and "1 of 3 epochs" in page
    assert (run / "progress.png").exists() and not (run / "cells.svg").exists()


def test_report_before_the_first_epoch(tmp_path):
    run = make_search(tmp_path / "run", epochs=0, genotype=False)
    table_of_alphas(0).to_csv(run / "alphas.csv", index=False)
    assert "No epoch has ended yet" in write_report([run]).read_text(encoding="utf-8")
    (run / "metrics.csv").unlink()
    assert "No epoch has ended yet" in write_report([run]).read_text(encoding="utf-8")


def test_report_of_a_retraining_that_is_not_evaluated(tmp_path):
    page = write_report([make_retrain(tmp_path / "run", tested=False)]).read_text(encoding="utf-8")
    assert "0.35 M" in page and "<th>test</th>" not in page


METRICS = table_of_metrics(2).to_csv(index=False)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("metrics.csv", "a,b\n1,2\n", "no column 'epoch'"),
        ("metrics.csv", "", "no CSV table"),
        ("metrics.csv", b"\xff\xfe\x00\x01", "no text file"),
        ("metrics.csv", METRICS.replace("10.0", "ten"), "seconds of line 2 is 'ten'"),
        ("alphas.csv", "epoch,cell,edge\n0,normal,0->2\n", "no column of an operation"),
        ("alphas.csv", "epoch,cell,edge,skip_connect\n0,,0->2,1\n", "cell of line 2 is empty"),
        ("alphas.csv", "epoch,cell,edge,skip_connect\n0,a,0->2,1,5,6\n", "has more fields than columns"),
        ("genotype.json", "{}", '"format" should be'),
        ("network.json", "[]", "should be a JSON object"),
        ("network.json", '{"parameters": "many"}', "parameters is 'many'"),
        ("test.json", "{", "no JSON"),
        ("config.yaml", "a: [", "no YAML"),
        ("config.yaml", "just text", "neither 'space'"),
    ],
)
def test_a_foreign_file_is_named_before_anything_is_written(tmp_path, name, content, complaint):
    good, bad = make_search(tmp_path / "good"), make_search(tmp_path / "bad")
    (bad / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        write_report([good, bad], tmp_path / "out")
    message = str(caught.value)
    assert complaint in message and str(bad / name) in message and "\n" not in message
    assert not (tmp_path / "out").exists()


def test_what_is_no_run(tmp_path):
    (tmp_path / "file").write_text("x")
    for path, complaint in (("missing", "does not exist"), ("file", "no directory"), (".", "no config.yaml")):
        with pytest.raises(InputError, match=complaint):
            summary([tmp_path / path])


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        write_report([make_search(tmp_path / "run")], tmp_path / "file")
