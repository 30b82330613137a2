"""The examples of the papers: their configs are settings that exist, and their scripts run."""

import runpy
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from nas_plugins.config import read_retrain, read_search
from nas_plugins.results import results

EXAMPLES = Path(__file__).parent.parent / "examples"
CONFIGS = sorted(EXAMPLES.glob("*/*.yaml"))
PROJECT = EXAMPLES / "darts_course_project"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_config_has_only_settings_that_exist(config):
    retrain = "network" in yaml.safe_load(config.read_text(encoding="utf-8"))
    (read_retrain if retrain else read_search)(config)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """What the toy problem writes."""
    folder = tmp_path_factory.mktemp("toy")
    subprocess.run([sys.executable, PROJECT / "toy_problem.py", folder], check=True, capture_output=True)
    return folder


class TestTheToyProblemOfTheCourseProject:
    def test_it_needs_the_iterations_of_table_1(self, output):
        table = pd.read_csv(output / "table.csv")
        assert dict(zip(table["xi"], table["iterations"], strict=True)) == {0.0: 659, 0.3: 411, 0.5: 296, 0.7: 335}

    def test_every_xi_ends_in_the_feasible_set_and_one_half_at_the_optimum(self, output):
        table = pd.read_csv(output / "table.csv").set_index("xi")
        assert ((table["w"] - table["alpha"]).abs() < 0.01).all()
        assert table.loc[0.5, ["alpha", "w"]].tolist() == pytest.approx([1, 1], abs=0.01)
        distance = (table["alpha"] - 1).abs()
        assert distance.idxmin() == 0.5

    def test_its_trajectories_begin_at_the_start_and_are_drawn(self, output):
        first = pd.read_csv(output / "trajectories.csv").groupby("xi").first()
        assert (first["alpha"] == 2).all() and (first["w"] == -2).all()
        assert (output / "trajectories.png").stat().st_size > 10_000

    def test_the_first_steps_are_those_by_hand(self):
        solve = runpy.run_path(str(PROJECT / "toy_problem.py"))["solve"]
        # α − η (w − 2) = 2 + 0.04, then w − η (2w − 2α) with the new α = −2 + 0.0808
        assert solve(0.0).iloc[1].tolist() == pytest.approx([1, 2.04, -1.9192])
        # ∇_α at w' = w − ξ (2w − 2α) = 2: w' − 2 − ξ · (−2) · α = 0 + 2, at ξ = 0.5
        assert solve(0.5).iloc[1].tolist() == pytest.approx([1, 1.98, -1.9204])


@pytest.mark.slow
def test_the_study_of_the_course_project_ends_in_a_table(tmp_path):
    """At its real size it takes minutes: here with the configs cut down, and one seed."""
    for name in ("digits", "digits_retrain"):
        config = yaml.safe_load((PROJECT / f"{name}.yaml").read_text(encoding="utf-8"))
        config["training"]["epochs"] = 1
        config["data"]["train_images"] = 64
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "study.py").write_text((PROJECT / "study.py").read_text(encoding="utf-8"))
    call = [sys.executable, tmp_path / "study.py", tmp_path / "runs", "--seeds", "0", "--jobs", "2"]
    for _ in range(2):  # the second time nothing is left to do
        text = subprocess.run(call, check=True, capture_output=True, text=True).stdout
        assert text.rstrip().endswith(f"report: {tmp_path / 'runs' / 'report' / 'report.html'}")
    table = results(path for path in (tmp_path / "runs").iterdir() if path.name != "report")
    assert set(table["method"]) == {f"DARTS (order: {order})" for order in ("one-level", "first", "second")}
    assert (table["test_acc_n"] == 1).all()
