"""The doctor: what it measures of a search, and each of its findings on a table that shows it and one that does not."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from test_report import make_retrain, make_search, write_metric

from nas_plugins import DARTS
from nas_plugins.cli import main
from nas_plugins.doctor import diagnose, measures
from nas_plugins.doctor.measures import entropy, rank_correlation
from nas_plugins.doctor.words import lines
from nas_plugins.report.page import write_report
from nas_plugins.runs.reader import read_run
from nas_plugins.training.search import search

OPERATIONS = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")
EDGES = [f"{source}->{target}" for target in range(2, 6) for source in range(target)]
KEPT = [edge for edge in EDGES if edge[0] in "01"]
"""The two edges of each node that are strong in the tables below."""


def one_hot(epoch: int, cell: str, names: Sequence[str], strength: float) -> list[list[object]]:
    """Return the rows of a cell whose kept edges prefer an operation each; α of ``none`` moves a little on all."""
    best = dict(zip(KEPT, names, strict=True))
    rows = [[strength * (best.get(edge) == name) for name in OPERATIONS[1:]] for edge in EDGES]
    return [[epoch, cell, edge, 0.01 * epoch, *values] for edge, values in zip(EDGES, rows, strict=True)]


def mostly(count: int, name: str, rest: str = "sep_conv_3x3") -> list[str]:
    return [name] * count + [rest] * (8 - count)


def table(
    normal: Sequence[Sequence[str]], reduce: Sequence[str] = mostly(0, ""), strength: float = 3.0
) -> pd.DataFrame:
    """Return a table of α with these operations on the kept edges, epoch by epoch."""
    rows = []
    for epoch, names in enumerate(normal):
        rows += one_hot(epoch, "normal", names, strength) + one_hot(epoch, "reduce", reduce, strength)
    return pd.DataFrame(rows, columns=["epoch", "cell", "edge", *OPERATIONS])


def searched(path: Path, alphas: pd.DataFrame, finished: bool = True, classes: int = 10, **settings: object) -> Path:
    """Make a search with a table of α, whose accuracies are healthy."""
    epochs = alphas["epoch"].nunique()
    run = make_search(path, epochs, training={"epochs": max(epochs, 3)}, **settings)
    alphas.to_csv(run / "alphas.csv", index=False)
    (run / "search.json").write_text(json.dumps({"cells": ["normal", "reduce"], "classes": classes}))
    for column in ("val_acc", "derived_val_acc"):
        write_metric(run, column, 0.9)
    if not finished:
        (run / "genotype.json").unlink()
    return run


def found(run: Path) -> dict[str, str]:
    """Return rule -> text of the findings about a run."""
    return {finding.rule: finding.text for finding in diagnose(read_run(run))}


HEALTHY = [mostly(2, "skip_connect")] * 4


def test_a_healthy_search_has_no_findings(tmp_path):
    assert found(searched(tmp_path / "run", table(HEALTHY))) == {}


def test_nothing_is_said_about_the_accuracy_of_a_search_for_another_task(tmp_path):
    assert found(searched(tmp_path / "run", table(HEALTHY), task="regression")) == {}


# Measures


def test_shares_and_changes_are_those_of_the_derived_cells(tmp_path):
    history = [mostly(2, "skip_connect"), mostly(4, "skip_connect", "max_pool_3x3"), mostly(4, "skip_connect")]
    epochs = measures(read_run(searched(tmp_path / "run", table(history))))
    assert list(epochs["skip_share"]) == [2 / 16, 4 / 16, 4 / 16]
    assert list(epochs["free_share"]) == [2 / 16, 8 / 16, 4 / 16]
    assert list(epochs["operations"]) == [16] * 3
    assert list(epochs["changed"][1:]) == [6, 4] and math.isnan(epochs["changed"][0])


def test_the_entropy_is_one_for_equal_weights_and_zero_for_a_single_candidate():
    weights = pd.DataFrame([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, np.nan, np.nan], [1.0] + [np.nan] * 3])
    assert list(entropy(weights, "softmax")) == pytest.approx([1, 0, 1, 0])


def test_the_entropy_of_sigmoids_is_the_mean_of_all_candidates():
    weights = pd.DataFrame([[0.5, 0.5], [1.0, 0.0], [0.5, 1.0], [0.5, np.nan]])
    assert list(entropy(weights, "sigmoid")) == pytest.approx([1, 0, 0.5, 1])


def test_ranks_are_compared_on_the_candidates_of_both_epochs():
    before = pd.DataFrame([[1.0, 2, 3], [1, 2, 3], [1, 2, np.nan], [0, 0, 0]])
    assert rank_correlation(before.iloc[:1], before.iloc[:1] * 10) == pytest.approx(1)
    assert rank_correlation(before.iloc[:1], -before.iloc[:1]) == pytest.approx(-1)
    now = pd.DataFrame([[1.0, 2, 3], [3, 2, 1], [5, 9, 0], [1, 2, 3]])
    assert rank_correlation(before, now) == pytest.approx((1 - 1 + 1) / 3)  # the last edge had no ranking


def test_choices_without_cells_count_where_they_may_skip(tmp_path):
    columns = ["epoch", "cell", "edge", "skip_connect", "conv", "3", "5"]
    rows = [[epoch, "cell", f"{i}", 1 + epoch, i, None, None] for epoch in range(2) for i in range(4)]
    rows += [[epoch, "-", "width", None, None, 1 - epoch, epoch] for epoch in range(2)]
    run = searched(
        tmp_path / "run", pd.DataFrame(rows, columns=columns), space={"name": "nni.nas.hub.pytorch.NasBench201"}
    )
    epochs = measures(read_run(run))
    assert list(epochs["skip_share"]) == [2 / 4, 3 / 4]
    assert list(epochs["operations"]) == [5, 5] and epochs["changed"][1] == 2


def test_the_last_epoch_of_a_search_with_costs_is_within_its_targets(tmp_path):
    run = searched(tmp_path / "run", table([mostly(0, "skip_connect")] * 3))
    shift = {f"normal/{edge}": {"skip_connect": 9.0} for edge in KEPT}
    cost = {"metric": "parameters", "target": 1, "derived": 1, "missed_by": 0}
    (run / "cost.json").write_text(json.dumps({"costs": [cost], "shift": shift}))
    assert list(measures(read_run(run))["skip_share"]) == [0, 0, 8 / 16]
    assert "8 of 8 operations of normal since epoch 2" in found(run)["skip-connections"]


# Findings


def test_skip_connections(tmp_path):
    history = [mostly(count, "skip_connect") for count in (6, 1, 5, 6)]
    text = found(searched(tmp_path / "run", table(history)))["skip-connections"]
    assert text == "Collapses to skip connections: 6 of 8 operations of normal since epoch 2"
    many = table([mostly(1, "skip_connect")] * 3, reduce=mostly(8, "skip_connect"))
    assert "skip-connections" not in found(searched(tmp_path / "reduce", many))


@pytest.mark.parametrize(("extra", "least"), [(0, 5), (4, 3)])
def test_the_fewer_candidates_there_are_the_more_skips_are_by_chance(tmp_path, extra, least):
    """Of the seven candidates of DARTS, three skips are more than P-DARTS allows; of three candidates, five are."""
    for skips in (least - 1, least):
        alphas = table([mostly(skips, "skip_connect")] * 3).assign(**{f"conv_{n}": -9.0 for n in range(extra)})
        collapsed = "skip-connections" in found(searched(tmp_path / f"{skips}", alphas))
        assert collapsed == (skips == least)


def test_without_weights(tmp_path):
    history = [mostly(count, "max_pool_3x3") for count in (7, 8, 8)]
    text = found(searched(tmp_path / "run", table(history)))["without-weights"]
    assert text == "Skip connections and pooling take over: 8 of 8 operations of normal since epoch 1"
    assert "without-weights" not in found(searched(tmp_path / "seven", table([mostly(7, "max_pool_3x3")] * 3)))


@pytest.mark.parametrize(
    ("strength", "finished", "undecided"), [(0.1, True, True), (0.1, False, False), (3.0, True, False)]
)
def test_undecided(tmp_path, strength, finished, undecided):
    assert ("undecided" in found(searched(tmp_path / "run", table(HEALTHY, strength=strength), finished))) == undecided


def test_still_changing(tmp_path):
    last = [*HEALTHY, mostly(1, "skip_connect")]
    text = found(searched(tmp_path / "run", table(last)))["still-changing"]
    assert re.fullmatch(r"The genotype still changed in the last epoch: 1 of 16 operations \(rank .* 0\.9\d\)", text)
    assert "still-changing" not in found(searched(tmp_path / "going", table(last), finished=False))
    assert "still-changing" not in found(searched(tmp_path / "before", table([*last, mostly(1, "skip_connect")])))


def test_below_threshold(tmp_path):
    fair = {"method": "FairDARTS"}
    text = found(searched(tmp_path / "run", table(HEALTHY, strength=1), **fair))["below-threshold"]
    assert text == "No operation reaches the threshold of the derivation in normal, reduce: derived as darts"
    assert "below-threshold" not in found(searched(tmp_path / "strong", table(HEALTHY), **fair))


def test_never_moved(tmp_path):
    still = pd.concat([table(HEALTHY[:1]).assign(epoch=epoch) for epoch in range(3)])
    assert found(searched(tmp_path / "all", still))["never-moved"].startswith("α never moved: the result is that of")
    still.loc[(still["edge"] != "0->2") & (still["epoch"] == 2), "none"] += 0.1
    text = found(searched(tmp_path / "some", still))["never-moved"]
    assert text == "α never moved on 2 of 28 edges, whose operations are chosen by chance"


def test_epochs_that_train_weights_alone_do_not_count_as_still(tmp_path):
    still = pd.concat([table(HEALTHY[:1]).assign(epoch=epoch) for epoch in range(3)])
    run = searched(tmp_path / "run", still, finished=False, strategy={"name": "DARTSPlus", "warmup_epochs": 2})
    assert "never-moved" not in found(run)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_finite(tmp_path, value):
    alphas = table(HEALTHY)
    alphas.loc[(alphas["epoch"] >= 2) & (alphas["edge"] == "0->2"), list(OPERATIONS)] = value
    texts = found(searched(tmp_path / "run", alphas))
    assert texts == {"not-finite": "α is infinite or NaN since epoch 2, on 2 of 28 edges"}


def test_a_missing_candidate_is_a_fault_unless_the_strategy_prunes(tmp_path):
    alphas = table(HEALTHY)
    alphas.loc[alphas["epoch"] >= 2, "max_pool_3x3"] = math.nan
    assert "not-finite" in found(searched(tmp_path / "run", alphas))
    assert "not-finite" not in found(searched(tmp_path / "pruned", alphas, method="PDARTS"))


@pytest.mark.parametrize(
    ("supernet", "derived", "classes", "rule"),
    [
        (0.9, 0.12, 10, "at chance on the weights of the supernet: accuracy 12.00%, the supernet 90.00%"),
        (0.9, 0.4, 10, "far behind on the weights of the supernet: accuracy 40.00%, the supernet 90.00%"),
        (0.9, 0.6, 10, None),
        (0.9, 0.55, 2, "far behind"),
        (0.9, 0.52, 2, "at chance"),
        (0.11, 0.1, 10, "accuracy 11.00% on the validation images, where naming one of 10 classes gives 10.00%"),
        (0.11, 0.1, None, None),
    ],
)
def test_supernet_at_chance_and_derived_gap(tmp_path, supernet, derived, classes, rule):
    run = searched(tmp_path / "run", table(HEALTHY), classes=classes)
    write_metric(run, "val_acc", supernet)
    write_metric(run, "derived_val_acc", derived)
    texts = list(found(run).values())
    assert len(texts) == (rule is not None) and (rule or "") in "".join(texts)


@pytest.mark.parametrize(
    ("task", "key", "bad", "good", "text"),
    [
        ("segmentation", "miou", 0.11, 0.4, "mean IoU 11.00% on the validation images, where naming one of 10 classes"),
        ("multilabel", "f1", 0.03, 0.4, "F1 3.00% on the validation images, where naming no label gives 0.00%"),
        ("regression", "r2", -0.2, 0.4, "R² -0.2 on the validation images, where the mean of each value gives 0"),
    ],
)
def test_other_tasks_have_bases_of_their_own(tmp_path, task, key, bad, good, text):
    for value in (bad, good):
        run = searched(tmp_path / f"{value}", table(HEALTHY), task=task)
        write_metric(run, f"val_{key}", value)
        write_metric(run, f"derived_val_{key}", value)
        assert [text in each for each in found(run).values()] == ([True] if value == bad else [])


def test_one_epoch_is_not_judged(tmp_path):
    run = searched(tmp_path / "run", table([["skip_connect"] * 8]), finished=False)
    write_metric(run, "val_acc", 0.1)
    assert found(run) == {}
    assert "only one epoch has ended, which is too early to judge; 50% skip connections" in lines(read_run(run))[0]


def test_curvature(tmp_path):
    run = searched(tmp_path / "run", table(HEALTHY * 5))
    values = np.where(np.arange(20) % 2, np.nan, 0.2)
    write_metric(run, "dominant_eigenvalue", list(values))
    assert found(run) == {}
    write_metric(run, "dominant_eigenvalue", list(values * 1.06 ** np.arange(20)))
    text = "The curvature of the validation loss grew by a factor of 1.59 up to epoch 16"
    assert found(run) == {"curvature": text}


# Runs


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A search of three epochs that measures the curvature after every second one."""
    return small(tmp_path_factory.mktemp("doctor"), log_eigenvalue_every_n_epoch=2)


def small(folder: Path, **strategy: object) -> Path:
    config = {
        "space": {"channels": 2, "layers": 3, "nodes": 2, "operations": list(OPERATIONS[1:])},
        "strategy": {"name": "DARTS", **strategy},
        "data": {"dataset": "digits", "batch_size": 32, "train_images": 64},
        "training": {"epochs": 3},
        "compute": {"accelerator": "cpu", "threads": 1},
    }
    (folder / "search.yaml").write_text(yaml.safe_dump(config))
    return search(folder / "search.yaml", folder / "run")


def test_a_search_measures_its_curvature_when_it_is_asked_to(run, tmp_path):
    eigenvalues = pd.read_csv(run / "metrics.csv")["dominant_eigenvalue"]
    assert list(eigenvalues.notna()) == [True, False, True] and (eigenvalues.dropna() != 0).all()
    without = small(tmp_path)
    assert "dominant_eigenvalue" not in pd.read_csv(without / "metrics.csv")
    assert (without / "alphas.csv").read_bytes() == (run / "alphas.csv").read_bytes()


def test_each_run_has_a_line_per_finding_or_one_that_says_that_there_is_none(run, tmp_path, capsys):
    going = shutil.copytree(run, tmp_path / "going")
    (going / "genotype.json").unlink()
    retrained, healthy = make_retrain(tmp_path / "retrained"), searched(tmp_path / "healthy", table(HEALTHY))
    assert main(["doctor", *map(str, (run, going, retrained, healthy))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{run}: undecided: α has not decided") for line in lines)
    assert not any(line.startswith(f"{going}: undecided") for line in lines)
    assert lines[-2:] == [
        f"{retrained}: a retraining: the doctor examines searches",
        f"{healthy}: nothing found; 12% skip connections, entropy of α 0.65, genotype the same in all epochs",
    ]


def test_a_run_without_alphas_or_without_epochs_says_so(run, tmp_path, capsys):
    bare = make_search(tmp_path / "nni", genotype=False, method="nni.nas.strategy.DARTS")
    begun = shutil.copytree(run, tmp_path / "begun")
    for name in ("metrics.csv", "alphas.csv", "genotype.json"):
        (begun / name).unlink()
    assert main(["doctor", str(bare), str(begun)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{bare}: nothing found; without alphas.csv, only the accuracies were examined"
    assert second == f"{begun}: no epoch has ended yet"


def test_what_is_no_run_is_one_line(tmp_path, capsys):
    assert main(["doctor", str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err
        == f"nas-plugins: {tmp_path}: is no run, it has no config.yaml; give what search or retrain made\n"
    )


def test_reports_say_it_in_words_and_draw_it(tmp_path, capsys):
    run = searched(tmp_path / "run", table([mostly(5, "skip_connect")] * 3))
    assert main(["report", str(run)]) == 0
    assert "\nrun: Collapses to skip connections: 5 of 8 operations" in capsys.readouterr().out
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<strong>Collapses to skip connections: 5 of 8 operations of normal in all epochs.</strong>" in page
    assert (run / "health.png").stat().st_size > 1000


def test_reports_of_networks_with_few_skips_say_so(tmp_path):
    run = make_retrain(tmp_path / "run")
    genotype = json.loads((run / "genotype.json").read_text())
    (run / "genotype.json").write_text(json.dumps({**genotype, "max_skips": 1}))
    assert "derived with at most 1 skip connections per cell" in write_report([run]).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"log_eigenvalue_every_n_epoch": 0}, "log_eigenvalue_every_n_epoch: 0 should be at least 1"),
        ({"log_eigenvalue_every_n_epoch": 2, "order": "one-level"}, "log_eigenvalue_every_n_epoch: 2 should be null"),
    ],
)
def test_curvature_that_cannot_be_measured_is_refused(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        DARTS(**settings)
