"""Runs whose config has costs."""

import json
import re

import pandas as pd
import pytest
import yaml

from nas_plugins import Genotype
from nas_plugins.errors import InputError
from nas_plugins.training.costs import latency_table
from nas_plugins.training.derive import derive
from nas_plugins.training.search import resume, search
from search_spaces.complexity import count_multiply_adds
from search_spaces.network import Network

SETTINGS = {
    "space": {"channels": 4, "layers": 3, "nodes": 2, "operations": ["skip_connect", "sep_conv_3x3", "max_pool_3x3"]},
    "strategy": {"name": "DARTS", "learning_rate": 0.01},
    "data": {"dataset": "digits", "batch_size": 64, "train_images": 256, "test_images": 40},
    "training": {"epochs": 2},
    "compute": {"accelerator": "cpu", "threads": 1},
}


def config_in(folder, **sections):
    file = folder / "search.yaml"
    file.write_text(yaml.safe_dump({**SETTINGS, **sections}))
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A search with a target and a fixed weight."""
    folder = tmp_path_factory.mktemp("costs")
    costs = [{"metric": "flops", "target": "32k"}, {"metric": "params", "target": "2k", "weight": 0.1}]
    return search(config_in(folder, cost=costs), folder / "run")


def test_a_run_meets_its_target_and_writes_what_its_network_costs(run):
    genotype = Genotype.load(run / "genotype.json")
    network = Network.from_genotype(genotype, num_classes=10, channels=4, image_channels=1)
    adds, parameters = json.loads((run / "cost.json").read_text())["costs"]
    assert adds["derived"] == count_multiply_adds(network, 1, 8) <= adds["target"] == 32_000
    assert adds["missed_by"] == 0
    assert parameters["missed_by"] == max(0, parameters["derived"] / 2000 - 1)


def test_metrics_have_the_costs_of_every_epoch(run):
    metrics = pd.read_csv(run / "metrics.csv")
    assert (metrics["derived_multiply_adds"] <= 32_000).all()
    assert metrics["expected_multiply_adds"].notna().all()
    assert "multiplier_parameters" not in metrics  # its weight is fixed


def test_derive_gives_the_genotype_of_the_search(run, tmp_path):
    assert derive(run, tmp_path / "genotype.json") == Genotype.load(run / "genotype.json")


def test_derive_takes_off_skips_after_what_the_costs_take_from_alpha(run, tmp_path):
    found = Genotype.load(run / "genotype.json")
    skips = [sum(edge.operation == "skip_connect" for edge in cell) for cell in found.cells]
    assert derive(run, tmp_path / "same.json", max_skips=max(skips)) == found
    fewer = derive(run, tmp_path / "fewer.json", max_skips=max(skips) - 1)
    assert max(sum(edge.operation == "skip_connect" for edge in cell) for cell in fewer.cells) == max(skips) - 1


def test_a_run_that_was_killed_before_its_result_resumes_to_it(run):
    before = Genotype.load(run / "genotype.json")
    (run / "genotype.json").unlink()
    (run / "cost.json").unlink()
    resume(run)
    assert Genotype.load(run / "genotype.json") == before
    assert (run / "cost.json").exists()


def test_a_target_of_latency_is_measured_on_this_machine_or_read_from_a_table(tmp_path):
    table = tmp_path / "latency.json"
    latency_table(config_in(tmp_path), table)
    cost = {"metric": "latency", "target": 100, "table": str(table)}
    found = search(config_in(tmp_path, cost=cost, training={"epochs": 1}), tmp_path / "run")
    assert json.loads((found / "latency.json").read_text()) == json.loads(table.read_text())
    assert json.loads((found / "cost.json").read_text())["costs"][0]["metric"] == "latency"
    with pytest.raises(InputError, match="was measured with space."):
        search(config_in(tmp_path, cost=cost, space={"layers": 3, "nodes": 3}), tmp_path / "refused")
    written = json.loads(table.read_text())
    table.write_text(json.dumps({key: written[key] for key in written if key not in ("space", "data")}))
    deeper = {**SETTINGS["space"], "nodes": 3}
    with pytest.raises(InputError, match="is of another space: its choices are not those"):
        search(config_in(tmp_path, cost=cost, space=deeper), tmp_path / "refused")
    elsewhere = {**written, "device": "Pi"}
    table.write_text(json.dumps(elsewhere))
    with pytest.raises(InputError, match=re.escape("is of 'Pi', not of")):
        search(config_in(tmp_path, cost=cost), tmp_path / "refused")
    search(config_in(tmp_path, cost={**cost, "device": "Pi"}, training={"epochs": 1}), tmp_path / "named")


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ("30M", "cost: '30M' should be a section, such as {metric: multiply_adds, target: 30M}"),
        ({"metric": "flops"}, "cost.target: is missing"),
        ({"metric": "flops", "target": "30 megas"}, "cost.target: '30 megas' should be a number, such as 30M or 30e6"),
        ({"metric": "joules", "target": 1}, "cost.metric"),
        ({"metric": "latency", "target": 1, "device": "Pi"}, "cost.device: 'Pi' is the device of cost.table"),
        ({"metric": ["flops"], "target": 1}, "cost.metric"),
        ({"metric": "flops", "target": float("inf")}, "cost.target: inf should be a number"),
        ({"metric": "flops", "target": -1}, "cost.target"),
        ({"metric": "flops", "target": 1, "wieght": 2}, "unknown key cost.wieght; known are metric, target, weight"),
        ({"metric": "flops", "target": "1k"}, "cost.target: 1,000 multiply_adds is below every network of the space"),
        ({"metric": "flops", "target": 1, "table": "t.json"}, "cost.table: is for latency; multiply_adds are counted"),
        ({"metric": "latency", "target": 1, "table": "gone.json"}, "gone.json"),
        ([{"metric": "flops", "target": 1}] * 2, "cost: multiply_adds is there 2 times"),
    ],
)
def test_a_cost_that_cannot_be_used_is_refused_in_one_line(tmp_path, cost, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        search(config_in(tmp_path, cost=cost), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_strategies_of_nni_have_no_costs(tmp_path):
    cost = {"metric": "flops", "target": "30k"}
    with pytest.raises(InputError, match="cost: nni.nas.strategy.DARTS has none"):
        search(config_in(tmp_path, cost=cost, strategy={"name": "nni.nas.strategy.DARTS"}), tmp_path / "run")
