"""Tests of the report: cells, plots, tables and the HTML page, for run directories at every stage."""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import yaml

from nas_plugins.cli import main
from nas_plugins.data.conventions import DATASETS
from nas_plugins.errors import InputError
from nas_plugins.report.alphas import plot_alphas, plot_heatmap
from nas_plugins.report.cells import cell_titles, draw_cells
from nas_plugins.report.curves import plot_comparison, plot_progress
from nas_plugins.report.page import write_report
from nas_plugins.report.published import read_published
from nas_plugins.report.summary import results, results_text, summary, summary_text
from nas_plugins.runs.alphas import architecture_weights
from search_spaces.genotype import Genotype, GenotypeError

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
            "seconds_per_iteration": 0.5 + 0.1 * t,
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


def make_search(path: Path, epochs: int = 3, method: str = "DARTS", genotype: bool = True, **settings: object) -> Path:
    path.mkdir(parents=True)
    config = {
        "seed": 7,
        "space": {"name": "DartsSpace"},
        "strategy": {"name": method},
        "data": {"dataset": "cifar10"},
        "training": {"epochs": 3},
    }
    (path / "config.yaml").write_text(yaml.safe_dump(changed(config, settings)))
    table_of_metrics(epochs).to_csv(path / "metrics.csv", index=False)
    if genotype:
        table_of_alphas(epochs).to_csv(path / "alphas.csv", index=False)
        GENOTYPE.save(path / "genotype.json")
    return path


def make_retrain(path: Path, tested: bool = True, genotype: Genotype = GENOTYPE, **settings: object) -> Path:
    path.mkdir(parents=True)
    config = {"seed": 1, "genotype": "g.json", "network": {"channels": 36}, "data": {"dataset": "cifar10"}}
    (path / "config.yaml").write_text(yaml.safe_dump(changed(config, settings)))
    table_of_metrics(5, derived=False).to_csv(path / "metrics.csv", index=False)
    genotype.save(path / "genotype.json")
    (path / "network.json").write_text(json.dumps({"parameters": 349_000, "multiply_adds": 12_300_000}))
    if tested:
        write_test_accuracy(path, 0.9731)
    return path


def changed(config: dict, settings: dict) -> dict:
    """Return a config with other values: a section is updated, anything else is replaced."""
    for key, value in settings.items():
        config[key] = config.get(key, {}) | value if isinstance(value, dict) else value
    return config


def write_test_accuracy(run: Path, accuracy: float) -> None:
    (run / "test.json").write_text(json.dumps({"test_acc": accuracy, "test_loss": 0.1, "images": 10}))


def write_metric(run: Path, column: str, value: float | list[float]) -> None:
    table = pd.read_csv(run / "metrics.csv")
    table[column] = value
    table.to_csv(run / "metrics.csv", index=False)


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
    runs = {name: table_of_metrics(n) for name, n in (("$x", 2), ("_hidden", 3), ("x^2", 30))}
    plot_comparison(runs, ["$x"], tmp_path / "c.png")
    assert not list(recwarn)


# Tables


def test_summary_has_a_row_a_run(tmp_path):
    table = summary([make_search(tmp_path / "s"), make_retrain(tmp_path / "r")])
    search, retrain = table.to_dict("records")
    assert (search["run"], search["kind"], search["method"], search["seed"]) == ("s", "search", "DARTS", 7)
    assert search["val_acc"] == pytest.approx(0.42) and search["derived_val_acc"] == pytest.approx(0.32)
    assert (search["seconds"], search["peak_memory_mb"]) == (30, 102)
    assert pd.isna(search["parameters"]) and pd.isna(search["test_acc"])
    assert (retrain["method"], retrain["parameters"], retrain["test_acc"]) == ("retrain", 349_000, 0.9731)


def test_summary_as_text(tmp_path):
    table = summary([make_search(tmp_path / "s"), make_retrain(tmp_path / ("long" * 30))])
    text = summary_text(table)
    for value in ("42.00%", "97.31%", "0.35 M", "12.3 M", "102 MB"):
        assert value in text
    assert "–" in text and max(map(len, text.splitlines())) <= 120


def test_summary_as_text_drops_empty_columns(tmp_path):
    assert "params" not in summary_text(summary([make_search(tmp_path / "s")]))


def test_summary_has_the_training_accuracy_of_the_last_epoch(tmp_path):
    table = summary([make_search(tmp_path / "s")])
    assert table["train_acc"].item() == pytest.approx(0.52)
    headings = summary_text(table).splitlines()[0].split()
    assert headings.index("train") == headings.index("val") - 1


def test_summary_has_the_median_seconds_of_an_iteration(tmp_path):
    run = make_search(tmp_path / "s")
    write_metric(run, "seconds_per_iteration", [0.3, 0.1, 0.125])
    table = summary([run])
    assert table["seconds_per_iteration"].item() == 0.125
    assert "s/iter" in summary_text(table) and "0.125" in summary_text(table)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.001234, "0.00123"), (0.5, "0.500"), (12.34, "12.3"), (999.9, "1000"), (0, "0.00")]
)
def test_seconds_of_an_iteration_are_never_in_powers_of_ten(tmp_path, seconds, text):
    run = make_search(tmp_path / "s")
    write_metric(run, "seconds_per_iteration", seconds)
    assert f" {text} " in summary_text(summary([run]))


def test_metrics_of_an_earlier_version_have_no_seconds_of_an_iteration(tmp_path):
    run = make_search(tmp_path / "s")
    table_of_metrics(3).drop(columns="seconds_per_iteration").to_csv(run / "metrics.csv", index=False)
    table = summary([run])
    assert table["seconds_per_iteration"].isna().all() and "s/iter" not in summary_text(table)
    assert write_report([run]).exists()


def test_a_run_that_is_named_twice_is_one_row(tmp_path):
    run = make_search(tmp_path / "s")
    assert len(summary([run, tmp_path / "." / "s", run])) == 1


# Settings that distinguish runs of one method


def test_methods_name_the_settings_that_differ(tmp_path):
    first = make_search(tmp_path / "a", strategy={"order": "first", "none": True})
    second = make_search(tmp_path / "b", strategy={"order": "second", "none": True})
    assert list(summary([first, second])["method"]) == ["DARTS (order: first)", "DARTS (order: second)"]


def test_methods_name_settings_outside_the_strategy_in_full(tmp_path):
    runs = [make_search(tmp_path / str(n), space={"layers": n}, strategy={"xi": n / 4 or None}) for n in (8, 0)]
    expected = ["DARTS (xi: 2.0, space.layers: 8)", "DARTS (xi: null, space.layers: 0)"]
    assert list(summary(runs)["method"]) == expected


def test_methods_on_other_spaces_name_the_space_but_not_the_settings_that_it_has_alone(tmp_path):
    first = make_search(tmp_path / "a", space={"name": "DDartsSpace", "channels": 4, "nodes": 3})
    second = make_search(tmp_path / "b", space={"name": "DartOptiSpace", "channels": 8, "baseline": "resnet18"})
    expected = [
        "DARTS (space.name: DDartsSpace, space.channels: 4)",
        "DARTS (space.name: DartOptiSpace, space.channels: 8)",
    ]
    assert list(summary([first, second])["method"]) == expected


def test_methods_do_not_name_what_is_a_column_or_changes_no_result(tmp_path):
    plain = make_search(tmp_path / "a")
    other = make_search(
        tmp_path / "b",
        seed=8,
        strategy={"seed": 4},
        data={"dataset": "cifar100", "root": "elsewhere", "seed": 3, "cache": False},
        training={"epochs": 9},
        compute={"threads": 2},
    )
    assert list(summary([plain, other])["method"]) == ["DARTS", "DARTS"]


def test_a_target_has_a_column_and_no_place_in_the_name(tmp_path):
    free = make_search(tmp_path / "a")
    held = make_search(tmp_path / "b", cost={"metric": "multiply_adds", "target": 60_000})
    assert list(summary([free, held])["method"]) == ["DARTS", "DARTS"]


def test_different_methods_are_not_compared(tmp_path):
    runs = [
        make_search(tmp_path / "a", space={"layers": 5}),
        make_search(tmp_path / "b", method="EDAS", space={"layers": 8}),
        make_retrain(tmp_path / "c", network={"layers": 20}),
    ]
    assert list(summary(runs)["method"]) == ["DARTS", "EDAS", "retrain"]


def test_retrainings_name_the_settings_that_differ(tmp_path):
    runs = [make_retrain(tmp_path / str(layers), network={"layers": layers}) for layers in (8, 20)]
    assert list(summary(runs)["method"]) == ["retrain (network.layers: 8)", "retrain (network.layers: 20)"]


def test_long_methods_keep_all_words_in_120_columns(tmp_path):
    strategy = {"betas": [0.5, 0.999], "epsilon": 0.001, "order": "second"}
    runs = [make_search(tmp_path / "a"), make_search(tmp_path / "b", strategy=strategy), make_retrain(tmp_path / "c")]
    text = summary_text(summary(runs))
    assert max(map(len, text.splitlines())) <= 120
    for word in ("(betas:", "[0.5,", "0.999],", "epsilon:", "0.001,", "order:", "second)"):
        assert word in text


# Results


def test_results_join_by_cells_in_networks_of_any_depth(tmp_path):
    search = make_search(tmp_path / "s")
    deep = make_retrain(tmp_path / "deep", genotype=GENOTYPE.deepen(9))
    foreign = make_retrain(tmp_path / "foreign", genotype=Genotype((CELL[:2],) * 2, (0, 1, 1), (1, 2)))
    (row,) = results([search, deep, foreign]).to_dict("records")
    assert (row["method"], row["searches"], row["retrained_on"], row["retrainings"]) == ("DARTS", 1, "cifar10", 1)


def test_results_are_means_and_sample_deviations_over_the_seeds(tmp_path):
    searches = [make_search(tmp_path / f"s{seed}", seed=seed) for seed in range(3)]
    for search, seconds in zip(searches, (0.1, 0.2, 0.3), strict=True):
        write_metric(search, "seconds_per_iteration", seconds)
    retrainings = [make_retrain(tmp_path / f"r{seed}", seed=seed) for seed in range(2)]
    for retraining, accuracy in zip(retrainings, (0.90, 0.94), strict=True):
        write_test_accuracy(retraining, accuracy)
    table = results([*searches, *retrainings])
    (row,) = table.to_dict("records")
    assert (row["searches"], row["retrainings"], row["test_acc_n"]) == (3, 2, 2)
    assert (row["seconds_per_iteration"], row["seconds_per_iteration_std"]) == pytest.approx((0.2, 0.1))
    assert (row["test_acc"], row["test_acc_std"]) == pytest.approx((0.92, 0.02 * 2**0.5))
    text = results_text(table)
    assert "0.200±0.100" in text and "92.00±2.83%" in text and "44.00±0.00%" in text


def test_results_of_one_run_are_its_plain_values(tmp_path):
    text = results_text(results([make_search(tmp_path / "s"), make_retrain(tmp_path / "r", tested=False)]))
    values = text.splitlines()[-1].split()
    assert values == ["DARTS", "1", "0.600", "32.00%", "cifar10", "1", "0.35", "M", "54.00%", "44.00%", "–"]


def test_results_say_where_fewer_runs_have_a_value(tmp_path):
    retrainings = [make_retrain(tmp_path / f"r{seed}", tested=seed > 0, seed=seed) for seed in range(3)]
    assert "n=2: 97.31±0.00%" in results_text(results([make_search(tmp_path / "s"), *retrainings]))


def test_results_have_a_row_a_method_and_kind_of_retraining(tmp_path):
    searches = [make_search(tmp_path / order, strategy={"order": order}) for order in ("first", "second")]
    retrainings = [
        make_retrain(tmp_path / "a"),
        make_retrain(tmp_path / "b", data={"dataset": "cifar100"}),
        make_retrain(tmp_path / "c", data={"dataset": "cifar100"}, network={"channels": 16}),
    ]
    table = results([*searches, *retrainings])
    kinds = ["cifar10 (network.channels: 36)", "cifar100 (network.channels: 36)", "cifar100 (network.channels: 16)"]
    assert list(table["retrained_on"]) == 2 * kinds  # both found the same cells, so each retraining counts for both
    assert list(table["method"]) == 3 * ["DARTS (order: first)"] + 3 * ["DARTS (order: second)"]
    assert (table["retrainings"] == 1).all() and max(map(len, results_text(table).splitlines())) <= 120


def test_results_tell_searches_of_other_lengths_and_data_apart(tmp_path):
    runs = [
        make_search(tmp_path / "a", training={"epochs": 5}),
        make_search(tmp_path / "b", data={"dataset": "cifar100"}),
        make_retrain(tmp_path / "r"),
    ]
    assert list(results(runs)["method"]) == [
        "DARTS (data.dataset: cifar10, training.epochs: 5)",
        "DARTS (data.dataset: cifar100, training.epochs: 3)",
    ]


def test_results_leave_out_runs_that_are_still_going(tmp_path):
    going = make_retrain(tmp_path / "going", seed=2)
    (going / "network.json").unlink()
    runs = [make_search(tmp_path / "s"), make_search(tmp_path / "t", genotype=False), make_retrain(tmp_path / "r")]
    (row,) = results([*runs, going]).to_dict("records")
    assert (row["searches"], row["retrainings"]) == (1, 1)


def test_methods_without_a_retraining_stand_in_the_results_too(tmp_path):
    lonely = make_search(tmp_path / "t", method="EDAS")
    Genotype((CELL[:2],), (0,), ()).save(lonely / "genotype.json")
    table = results([make_search(tmp_path / "s"), lonely, make_retrain(tmp_path / "r")])
    assert list(table["method"]) == ["DARTS", "EDAS"] and list(table["retrainings"]) == [1, 0]
    assert results_text(table).splitlines()[-1].split() == ["EDAS", "1", "0.600", "32.00%", "–", "0", *"––––"]


@pytest.mark.parametrize("make", [make_search, make_retrain])
def test_no_results_without_both_search_and_retraining(tmp_path, make, capsys):
    run = make(tmp_path / "run")
    assert results([run]).empty and results_text(results([run])) == ""
    assert main(["report", str(run)]) == 0
    assert "<h3>Results</h3>" not in (run / "report.html").read_text(encoding="utf-8")
    assert "retrained on" not in capsys.readouterr().out


# Published results


def test_published_rows_follow_those_of_the_runs(tmp_path):
    table = summary([make_search(tmp_path / "s"), make_retrain(tmp_path / "r")], compare="cifar10")
    assert list(table["kind"][:3]) == ["search", "retrain", "published"] and len(table) == 2 + 16
    ours = table.set_index("run").loc["Fine-Tuning DARTS + cutout"]
    assert (ours["test_acc"], ours["parameters"], ours["gpu_days"]) == pytest.approx((0.9752, 3.9e6, 1))
    darts = table.set_index("run").loc["DARTS (2nd order) + cutout [4]"]
    assert (darts["test_acc"], darts["test_acc_std"]) == pytest.approx((0.9724, 0.0009))
    assert darts["dataset"] == "cifar10" and darts["method"] == "gradient-based" and pd.isna(darts["seed"])


@pytest.mark.parametrize(
    ("table", "rows", "best", "sums"),
    [  # sums: of accuracies in percent, deviations, parameters in millions and GPU days
        ("cifar10", 16, 0.9787, (1553.54, 0.51, 128.2, 5584.59)),
        ("cifar100", 11, 0.8433, (912.65, 0, 99.0, 5579.67)),
        ("fashion_mnist", 8, 0.9691, (764.36, 0.22, 93.3, 0)),
        ("compcars", 14, 0.992, (1324.10, 0, 0, 0)),
        ("miotcd", 8, 0.9834, (778.05, 0, 0, 0)),
    ],
)
def test_the_five_tables_of_the_paper(table, rows, best, sums):
    published = read_published(table)
    found = published[["test_acc", "test_acc_std", "parameters", "gpu_days"]].sum() * (100, 100, 1e-6, 1)
    assert tuple(found) == pytest.approx(sums)
    assert len(published) == rows and published["test_acc"].max() == pytest.approx(best)
    assert published["test_acc"].between(0.8, 1).all() and published["parameters"].dropna().between(4e5, 4e7).all()
    assert set(published["dataset"]) <= set(DATASETS)


def test_compcars_has_both_natures(tmp_path):
    table = summary([make_retrain(tmp_path / "r")], compare="compcars")
    assert list(table["dataset"][1:].unique()) == ["compcars_web", "compcars_surveillance"]


def test_page_and_command_line_show_published_rows_and_their_source(tmp_path, capsys):
    runs = [make_search(tmp_path / "s"), make_retrain(tmp_path / "r")]
    out = tmp_path / "out"
    assert main(["report", *map(str, runs), "--output", str(out), "--compare", "cifar10"]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count('<tr class="published">') == 16 and page.count('href="#run-') == 2
    assert "97.24 ± 0.09%" in page and "Table I of Tanveer, Khan and Kyung" in page and "GPU days" in page
    text = capsys.readouterr().out
    assert "97.24 ± 0.09%" in text and "published: Table I of Tanveer" in text
    assert max(map(len, text.splitlines()[:-1])) <= 120


def test_without_a_comparison_there_are_no_published_rows(tmp_path):
    page = write_report([make_retrain(tmp_path / "r")]).read_text(encoding="utf-8")
    assert 'class="published"' not in page and "GPU days" not in page and "Grey:" not in page


def test_an_unknown_table_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match=r"--compare: 'imagenet' should be one of cifar10, cifar100, .*miotcd"):
        write_report([make_retrain(tmp_path / "r")], tmp_path / "out", compare="imagenet")
    assert not (tmp_path / "out").exists()


# The page


def test_report_of_one_run_goes_into_the_run_and_needs_no_other_file(tmp_path):
    run = make_search(tmp_path / "run")
    assert write_report([run]) == run / "report.html"
    for name in ("cells.svg", "cells.png", "alphas.png", "alphas_heatmap.png", "progress.png"):
        assert (run / name).stat().st_size > 1000, name
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page and page.count("data:image/png;base64,") == 4
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
    run = make_search(tmp_path / "<img src=x>", method="<script>alert(1)</script>")
    page = write_report([run], tmp_path / "out").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page and "<img src=x>" not in page


def test_several_seeds_are_a_method_where_nothing_was_retrained_too(tmp_path):
    runs = [make_search(tmp_path / f"seed {seed}", seed=seed) for seed in range(2)]
    (row,) = results(runs).to_dict("records")
    assert row["searches"] == 2 and row["derived_val_acc_n"] == 2 and row["retrainings"] == 0
    text = results_text(results(runs))
    assert "derived" in text and "±" in text and "retrained on" not in text


def test_what_a_search_without_cells_has_chosen_is_shown(tmp_path):
    runs = [make_search(tmp_path / f"seed {seed}", genotype=False, seed=seed) for seed in range(2)]
    for run in runs:
        (run / "sample.json").write_text('{"block/a": "conv_3x3", "skip": [0, 2]}')
    page = write_report(runs, tmp_path / "out").read_text(encoding="utf-8")
    assert "block/a" in page and "conv_3x3" in page and "[0, 2]" in page and "no genotype yet" not in page
    assert results(runs)["searches"].tolist() == [2]


def test_page_and_command_line_show_the_results(tmp_path, capsys):
    runs = [make_search(tmp_path / "s"), *(make_retrain(tmp_path / f"r{n}", seed=n) for n in range(2))]
    assert main(["report", *map(str, runs), "--output", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<h3>Results</h3>" in page and "retrained on" in page and "97.31 ± 0.00%" in page
    assert "sample standard deviation" in page
    out = capsys.readouterr().out
    assert out.index("mult-adds") < out.index("97.31±0.00%") < out.index("report: ")


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


def test_report_of_a_retraining_that_an_earlier_version_evaluated(tmp_path):
    page = write_report([make_retrain(tmp_path / "run")]).read_text(encoding="utf-8")
    assert "97.31%" in page and "Confusion matrix" not in page


METRICS = table_of_metrics(2).to_csv(index=False)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("metrics.csv", "a,b\n1,2\n", "no column 'epoch'"),
        ("metrics.csv", "", "its last line may be cut"),
        ("metrics.csv", METRICS[:-3], "its last line may be cut"),
        ("metrics.csv", b"\xff\xfe\x00\x01", "no text file"),
        ("metrics.csv", METRICS.replace("10.0", "ten"), "could not convert string to float: 'ten'"),
        ("alphas.csv", "epoch,cell\n0,normal\n", "no column 'edge'"),
        ("genotype.json", "{}", '"format"'),
        ("network.json", "[]", "should be a JSON object"),
        ("sample.json", "[]", "should be a JSON object"),
        ("test.json", "{", "no JSON"),
        ("confusion.csv", "class,a,b\na,1,0\n", "a row and a column of counts for each class"),
        ("confusion.csv", "class,a,b\na,1,0\nb,,1\n", "a row and a column of counts for each class"),
        ("config.yaml", "a: [", "no YAML"),
        ("config.yaml", "a: 1", "space"),
    ],
)
def test_a_foreign_file_is_named_before_anything_is_written(tmp_path, name, content, complaint):
    good, bad = make_search(tmp_path / "good"), make_search(tmp_path / "bad")
    (bad / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((InputError, GenotypeError)) as caught:
        write_report([good, bad], tmp_path / "out")
    message = str(caught.value)
    assert complaint in message and str(bad / name) in message and "\n" not in message
    assert not (tmp_path / "out").exists()


def test_what_is_no_run(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in ("missing", "file", "."):
        with pytest.raises(InputError, match="is no run, it has no config.yaml"):
            summary([tmp_path / path])
