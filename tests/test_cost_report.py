"""Tests of costs in reports and in what commands print: targets, accuracy against cost, the Pareto front."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_report import make_retrain, make_search, write_metric, write_test_accuracy

from nas_plugins.cli import main
from nas_plugins.errors import InputError
from nas_plugins.report.curves import plot_costs
from nas_plugins.report.front import fronts
from nas_plugins.report.page import write_report
from nas_plugins.report.summary import results, summary, summary_text
from nas_plugins.runs.costs import CostResult, amount
from nas_plugins.runs.reader import read_run, read_runs
from search_spaces.genotype import Genotype


def make_cost_search(
    path: Path, target: float, accuracy: float = 0.8, derived: float | None = None, **settings: object
) -> Path:
    """Make a finished search with a target, by default met within 2%."""
    derived, metric = 0.98 * target if derived is None else derived, "multiply_adds"
    run = make_search(path, cost=[{"metric": metric, "target": target}], **settings)
    for kind, values in (("expected", [1.5 * target, 1.2 * target, target]), ("derived", derived), ("multiplier", 0.5)):
        write_metric(run, f"{kind}_{metric}", values)
    write_metric(run, "derived_val_acc", accuracy)
    cost = {"metric": metric, "target": target, "derived": derived, "missed_by": max(0.0, derived / target - 1)}
    (run / "cost.json").write_text(json.dumps({"costs": [cost], "shift": {}}))
    return run


def network_of(number: int) -> Genotype:
    """Return a genotype that no other number has."""
    return Genotype((((("skip_connect", "sep_conv_3x3")[number % 2], number // 2, 2),),), (0,), ())


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Three targets, two seeds each; the middle target is the worst."""
    folder = tmp_path_factory.mktemp("sweep")
    accuracies = {100e3: (0.80, 0.84), 200e3: (0.70, 0.74), 400e3: (0.90, 0.92)}
    return [
        make_cost_search(folder / f"{target / 1e3:g}k-{seed}", target, accuracy, seed=seed)
        for target, pair in accuracies.items()
        for seed, accuracy in enumerate(pair)
    ]


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("multiply_adds", 58_208, "58.2k"),
        ("multiply_adds", 60_000.0, "60k"),
        ("parameters", 999_900, "1M"),
        ("activations", 512, "512"),
        ("multiply_adds", 2.5e9, "2.5G"),
        ("latency", 1.2345, "1.23 ms"),
        ("latency", 1234.5, "1230 ms"),
    ],
)
def test_amounts_have_three_digits_and_a_unit(metric, value, text):
    assert amount(metric, value) == text


def test_a_cost_in_words_says_whether_it_is_met():
    assert str(CostResult("multiply_adds", 60e3, 58_208, 0.0)) == "multiply-adds 58.2k of at most 60k: met"
    assert str(CostResult("latency", 2.5, 2.58, 0.032)) == "latency 2.58 ms of at most 2.5 ms: missed by 3.2%"


def test_the_summary_has_cost_and_target(tmp_path):
    run = make_cost_search(tmp_path / "s", 60e3, derived=61_920)
    (row,) = summary([run]).to_dict("records")
    assert (row["multiply_adds"], row["target"]) == (61_920, "≤ 60k") and row["missed_by"] == pytest.approx(0.032)
    assert "61.9 k" in summary_text(summary([run])) and "3.20%" in summary_text(summary([run]))


def test_a_search_that_is_still_going_has_the_cost_of_its_last_epoch(tmp_path):
    run = make_cost_search(tmp_path / "s", 60e3)
    (run / "cost.json").unlink()
    write_metric(run, "derived_multiply_adds", [90e3, 80e3, 70e3])
    (row,) = summary([run]).to_dict("records")
    assert row["multiply_adds"] == 70e3 and pd.isna(row["missed_by"])


def test_methods_name_their_target_in_the_results_but_not_where_it_is_a_column(sweep):
    assert list(results(sweep)["method"]) == [f"DARTS (cost.multiply_adds: {size}k)" for size in (100, 200, 400)]
    assert set(summary(sweep)["method"]) == {"DARTS"}


def test_the_page_of_a_search_has_its_costs(tmp_path):
    run = make_cost_search(tmp_path / "s", 60e3)
    page = write_report([run]).read_text(encoding="utf-8")
    assert "Costs of the derived network: multiply-adds 58.8k of at most 60k: met." in page
    assert "At a multiplier of 1" in page and (run / "costs.png").stat().st_size > 1000
    assert "Accuracy against cost" not in page


def test_a_page_without_costs_has_none(tmp_path):
    assert "<h3>Costs</h3>" not in write_report([make_search(tmp_path / "s")]).read_text(encoding="utf-8")


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_costs_are_drawn_with_multipliers_or_without(tmp_path, count, epochs):
    targets = dict(list({"multiply_adds": 6e4, "latency": 2.5, "parameters": 1e6, "activations": 100}.items())[:count])
    columns = {f"{kind}_{metric}": target for metric, target in targets.items() for kind in ("expected", "derived")}
    multipliers = {f"multiplier_{metric}": np.nan if count == 1 else 0.0 for metric in targets}
    table = pd.DataFrame({"epoch": range(epochs), **columns, **multipliers})
    assert plot_costs(table, targets, tmp_path / "c.png").stat().st_size > 1000


class TestTheFront:
    def test_a_point_is_the_mean_of_the_seeds_of_a_target(self, sweep):
        (front,) = fronts(read_runs(sweep))
        assert (front.dataset, front.metric, len(front.runs)) == ("cifar10", "multiply_adds", 6)
        first = front.points.iloc[0]
        assert (first["point"], first["cost"]) == ("≤ 100k", pytest.approx(98e3))
        assert (first["value"], first["value_std"]) == pytest.approx((0.82, 0.02 * 2**0.5))

    def test_it_has_the_points_than_which_none_is_cheaper_and_better(self, sweep):
        (front,) = fronts(read_runs(sweep))
        assert list(front.points["best"]) == [True, False, True]

    def test_of_two_equal_costs_only_the_better_point_is_on_it(self, tmp_path):
        accuracies = {"DARTS": 0.7, "EDAS": 0.8}
        runs = [make_cost_search(tmp_path / n, 1e5, a, derived=9e4, method=n) for n, a in accuracies.items()]
        runs.append(make_cost_search(tmp_path / "other", 2e5, 0.8))
        (front,) = fronts(read_runs(runs))
        assert list(front.points["series"][front.points["best"]]) == ["EDAS"]

    def test_tested_networks_are_not_mixed_with_those_of_searches(self, tmp_path):
        runs = []
        for number, (target, accuracy) in enumerate([(100e3, 0.9), (200e3, 0.95)]):
            search = make_cost_search(tmp_path / f"s{number}", target)
            network_of(number).save(search / "genotype.json")
            retraining = make_retrain(tmp_path / f"r{number}", genotype=network_of(number))
            (retraining / "network.json").write_text(json.dumps({"parameters": 1000, "multiply_adds": 3 * target}))
            write_test_accuracy(retraining, accuracy)
            runs += [search, retraining]
        (front,) = fronts(read_runs(runs))
        assert front.measured == ("test accuracy", "retrained networks")
        assert list(front.points["cost"]) == [300e3, 600e3] and list(front.points["value"]) == [0.9, 0.95]
        assert list(front.points["point"]) == ["≤ 100k", "≤ 200k"]

    def test_retrainings_without_a_search_are_named_after_their_run(self, tmp_path):
        runs = [make_retrain(tmp_path / f"r{number}", genotype=network_of(number)) for number in range(2)]
        (runs[1] / "network.json").write_text(json.dumps({"parameters": 1000, "multiply_adds": 2000}))
        (front,) = fronts(read_runs(runs))
        assert list(front.points["point"]) == ["r1", "r0"]

    def test_data_sets_are_not_mixed(self, sweep, tmp_path):
        others = [make_cost_search(tmp_path / f"{n}", n * 1e5, data={"dataset": "cifar100"}) for n in (1, 2)]
        assert [front.dataset for front in fronts(read_runs([*sweep, *others]))] == ["cifar10", "cifar100"]

    def test_one_cost_alone_is_none(self, sweep, tmp_path):
        assert fronts(read_runs(sweep[:1])) == [] and fronts(read_runs([make_search(tmp_path / "s")])) == []

    def test_page_and_folder_show_it(self, tmp_path):
        runs = [make_cost_search(tmp_path / f"{n}", n * 1e5, genotype=False) for n in (1, 2)]
        page = write_report(runs, tmp_path / "out").read_text(encoding="utf-8")
        assert "<h3>Accuracy against cost</h3>" in page
        assert (tmp_path / "out" / "front.png").stat().st_size > 1000


@pytest.mark.parametrize("content", ["{}", '{"costs": [{"metric": "size"}]}', '{"costs": [1]}', "[]"])
def test_a_damaged_cost_file_is_named(tmp_path, content):
    run = make_cost_search(tmp_path / "s", 60e3)
    (run / "cost.json").write_text(content)
    with pytest.raises(InputError, match=r"cost\.json: should "):
        read_run(run)


def test_resume_prints_the_costs_of_a_finished_search(tmp_path, capsys):
    run = make_cost_search(tmp_path / "s", 60e3)
    assert main(["resume", str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{run}: multiply-adds 58.8k of at most 60k: met"


@pytest.mark.parametrize(("output", "problem"), [(".", "is a folder"), ("file/latency.json", "cannot be written")])
def test_latency_names_an_output_that_cannot_be_written_before_it_measures(tmp_path, capsys, output, problem):
    (tmp_path / "file").touch()
    config = tmp_path / "unread.yaml"
    config.write_text("what is no config is said after this")
    assert main(["latency", "--config", str(config), "--output", str(tmp_path / output)]) == 2
    assert capsys.readouterr().err.startswith(f"nas-plugins: --output: {tmp_path / output} {problem}")


def test_latency_measures_the_candidates_of_a_config(tmp_path, capsys):
    config = Path(__file__).parent.parent / "examples" / "cost" / "digits.yaml"
    small = ["--space.operations", "[skip_connect, sep_conv_3x3]", "--space.nodes", "1", "--space.channels", "2"]
    output = tmp_path / "folder" / "latency.json"
    assert main(["latency", "--config", str(config), "--output", str(output), *small]) == 0
    table = json.loads(output.read_text())
    assert table["unit"] == "ms" and "normal/0->2" in table["candidates"]
    assert capsys.readouterr().out.startswith(f"{output}: latencies on {table['device']}, median spread ")
