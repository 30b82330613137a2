"""Tests of the examples: their configs have valid settings, and their scripts run."""

import json
import re
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from forked import nas_plugins

from nas_plugins import parallel_runs
from nas_plugins.config.reader import read_retrain, read_search
from nas_plugins.errors import InputError
from nas_plugins.report.summary import results
from search_spaces.baselines import BASELINES
from search_spaces.genotype import Genotype
from search_spaces.network import Network
from search_spaces.operations import DARTS_OPERATIONS

EXAMPLES = Path(__file__).parent.parent / "examples"
DETECTION_CONFIGS = ("coco", "cityscapes")
"""Configs of examples/d_darts/detection.py, which test_backbone.py tests."""
CONFIGS = [
    path
    for path in sorted(EXAMPLES.glob("*/*.yaml"))
    if path.stem not in DETECTION_CONFIGS and not path.stem.startswith("nni")  # tests/test_launch.py tests those of NNI
]
PROJECT = EXAMPLES / "darts_course_project"
FINE_TUNED = EXAMPLES / "fine_tuning_darts"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_config_has_only_settings_that_exist(config, monkeypatch):
    monkeypatch.syspath_prepend(config.parent)  # for the classes of examples/series
    retrain = "network" in yaml.safe_load(config.read_text(encoding="utf-8"))
    (read_retrain if retrain else read_search)(config)


FEW = ["skip_connect", "sep_conv_3x3"]
"""Candidates of a space in which a search takes little time."""
CELL = tuple(
    (operation, source, node) for node in (2, 3, 4, 5) for source, operation in enumerate(DARTS_OPERATIONS[2:4])
)
GENOTYPE = Genotype(cells=(CELL, CELL), layout=(0, 1, 1), reductions=(1, 2))


@pytest.mark.parametrize(
    "config",
    [*sorted(FINE_TUNED.glob("*_retrain.yaml")), *sorted(EXAMPLES.glob("*/imagenet_retrain.yaml"))],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_a_network_fits_the_images_that_it_is_trained_on(config):
    check_logits(config, GENOTYPE)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("name", ["dartopti_retrain", "dartopti_imagenet_retrain"])
def test_what_dartopti_starts_from_fits_the_images_that_it_is_trained_on(name, baseline):
    check_logits(EXAMPLES / "d_darts" / f"{name}.yaml", BASELINES[baseline])


def test_on_imagenet_dartopti_is_trained_as_d_darts_with_64_channels_and_its_own_layers():
    own, other = (
        yaml.safe_load((EXAMPLES / "d_darts" / f"{name}.yaml").read_text(encoding="utf-8"))
        for name in ("dartopti_imagenet_retrain", "imagenet_retrain")
    )
    other["network"].pop("layers")
    assert own == {**other, "network": {**other["network"], "channels": 64}}


def check_logits(config: Path, genotype: Genotype) -> None:
    """Check that the network of a retraining accepts images of the size of its data set."""
    settings = read_retrain(config)
    derived, data = settings.derived, settings.values["data"]
    size = data["image_size"] or {"digits": 8, "fashion_mnist": 28}.get(data["dataset"], 32)
    with torch.device("meta"):
        network = Network.from_genotype(
            genotype if derived.layers is None else genotype.deepen(derived.layers),
            channels=derived.channels,
            stem=derived.stem,
            auxiliary=derived.auxiliary_weight > 0,
            mlp_width=derived.mlp_width,
            image_size=size,
        )
        logits = network.train()(torch.empty(2, 3, size, size))
    heads = logits if derived.auxiliary_weight else (logits,)
    assert [head.shape for head in heads] == [(2, 10)] * len(heads)


SECTION_IV = {  # Fine-Tuning DARTS: layers, channels, batch size, validation fraction, epochs, learning rate
    "cifar10": (8, 16, 32, 0.5, 50, 0.025),
    "fashion_mnist": (8, 16, 32, 0.4, 50, 0.025),
    "compcars_web": (6, 16, 32, 0.4, 80, 0.1),
    "compcars_surveillance": (6, 16, 32, 0.4, 50, 0.1),
    "miotcd": (6, 16, 32, 0.35, 50, 0.025),
    "cifar10_retrain": (20, 36, 56, 0.0, 600, 0.025),
    "cifar100_retrain": (20, 36, 56, 0.0, 600, 0.025),
    "fashion_mnist_retrain": (20, 36, 72, 0.15, 600, 0.025),
    "compcars_web_retrain": (16, 48, 72, 0.3, 250, 0.1),
    "compcars_surveillance_retrain": (16, 48, 72, 0.2, 250, 0.1),
    "miotcd_retrain": (14, 36, 72, 0.2, 250, 0.025),
}


@pytest.mark.parametrize("name", SECTION_IV)
def test_the_configs_of_fine_tuned_darts_have_the_numbers_of_section_iv(name):
    config = yaml.safe_load((FINE_TUNED / f"{name}.yaml").read_text(encoding="utf-8"))
    network, data, training = config.get("network") or config["space"], config["data"], config["training"]
    numbers = (network["layers"], network["channels"], data["batch_size"], data["val_fraction"])
    assert (*numbers, training["epochs"], training["learning_rate"]) == SECTION_IV[name]
    assert (training["momentum"], training["weight_decay"]) == (0.9, 3e-4)
    if "strategy" in config:
        adam = {"learning_rate": 3e-4, "betas": [0.5, 0.999], "weight_decay": 1e-3}
        assert config["strategy"] == {"name": "DARTS", "order": "second", **adam}


PER_DATA_SET = {  # stem, auxiliary weight, drop-path, cutout, random erasing probability, last learning rate
    "cifar10": ("cifar", 0, 0, 0, 0, 0.001),
    "fashion_mnist": ("cifar", 0, 0, 0, 0, 0.001),
    "compcars_web": ("dual_imagenet", 0, 0, 0, 0, 0.001),
    "compcars_surveillance": ("dual_imagenet", 0, 0, 0, 0, 0.001),
    "miotcd": ("dual_tiny_imagenet", 0, 0, 0, 0, 0.001),
    "cifar10_retrain": ("cifar", 0.4, 0.2, 16, 0, 0),
    "cifar100_retrain": ("cifar", 0.4, 0.2, 16, 0, 0),
    "fashion_mnist_retrain": ("cifar", 0, 0.2, 16, 0.5, 0),
    "compcars_web_retrain": ("dual_imagenet", 0, 0, 0, 0, 0),
    "compcars_surveillance_retrain": ("dual_imagenet", 0, 0, 0, 0, 0),
    "miotcd_retrain": ("dual_tiny_imagenet", 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize("name", PER_DATA_SET)
def test_each_data_set_of_fine_tuned_darts_has_its_stem_and_its_regularization(name):
    config = yaml.safe_load((FINE_TUNED / f"{name}.yaml").read_text(encoding="utf-8"))
    network, data = config.get("network") or config["space"], config["data"]
    found = [network.get(key, 0) for key in ("auxiliary_weight", "drop_path")]
    found += [data.get(key, 0) for key in ("cutout", "random_erasing")]
    assert (network.get("stem", "cifar"), *found, config["training"]["min_learning_rate"]) == PER_DATA_SET[name]


SCRIPTS = [
    path
    for folder in ("examples", "benchmarks")
    for path in sorted((EXAMPLES.parent / folder).rglob("*.py"))
    if "ArgumentParser(" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_script_says_what_it_takes(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.syspath_prepend(script.parent)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code in (0, None)
    assert capsys.readouterr().out.startswith("usage:")


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Folder with the files that the toy problem writes."""
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["toy_problem.py", str(folder)])
        runpy.run_path(str(PROJECT / "toy_problem.py"), run_name="__main__")
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
def test_the_study_of_the_course_project_ends_in_a_table(tmp_path, monkeypatch, capsys):
    """Runs one seed with reduced configs, since the full study takes minutes."""
    for name, small in (
        ("digits", {"space": {"channels": 2, "layers": 3, "nodes": 2, "operations": FEW}}),
        ("digits_retrain", {"network": {"channels": 2, "layers": 5}}),
    ):
        config = yaml.safe_load((PROJECT / f"{name}.yaml").read_text(encoding="utf-8"))
        for section, values in {**small, "training": {"epochs": 1}, "data": {"train_images": 64}}.items():
            config[section] |= values
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "study.py").write_text((PROJECT / "study.py").read_text(encoding="utf-8"))
    monkeypatch.setattr(sys, "argv", ["study.py", str(tmp_path / "runs"), "--seeds", "0"])
    commands = []

    def command(*arguments):  # forked, which is faster; test_parallel_runs.py tests the real one
        (tmp_path / str(len(commands))).mkdir()
        assert nas_plugins(arguments, tmp_path / str(len(commands))).status == 0
        commands.append(arguments[0])

    monkeypatch.setattr(parallel_runs, "command", command)
    for _ in range(2):  # the second time, everything is finished
        runpy.run_path(str(tmp_path / "study.py"), run_name="__main__")
        text = capsys.readouterr().out
        assert text.rstrip().endswith(f"report: {tmp_path / 'runs' / 'report' / 'report.html'}")
    assert commands == ["search", "retrain", "evaluate"] * 3
    table = results(path for path in (tmp_path / "runs").iterdir() if path.name != "report")
    assert set(table["method"]) == {f"DARTS (order: {order})" for order in ("one-level", "first", "second")}
    assert (table["test_acc_n"] == 1).all()


@pytest.mark.slow
def test_an_experiment_of_fine_tuned_darts_goes_on_where_it_stopped(tmp_path, capsys):
    run = runpy.run_path(str(FINE_TUNED / "run.py"))["main"]
    small = ["--training.epochs", "1", "--data.train_images", "64", "--space.channels", "3", "--network.layers=4"]
    small += ["--space.layers", "3", "--space.nodes", "2", "--space.operations", str(FEW)]
    lines, written = [], []
    for _ in range(2):  # the second time, everything is finished
        run("digits", tmp_path, small)
        lines.append(capsys.readouterr().out.splitlines())
        written.append((tmp_path / "digits-retrained" / "weights.pt").stat().st_mtime_ns)
    assert written[0] == written[1]
    assert [line.rpartition(": ")[2] for line in lines[1][:2]] == ["finished", "finished"]
    assert lines[0][-1] == lines[1][-1] == f"report: {tmp_path / 'digits-report' / 'report.html'}"
    assert json.loads((tmp_path / "digits-retrained" / "test.json").read_text())["images"] == 359


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--space.chanels", "8"], "unknown key space.chanels of FineTunedDartsSpace; did you mean space.channels?"),
        (["--network.channels=wide"], '"network.channels": Not of type PositiveInt: '),
        (["--training.epochs", "5", "--data.held"], "command line: '--data.held' should be --KEY VALUE"),
    ],
)
def test_a_wrong_key_of_an_experiment_of_fine_tuned_darts_is_named_before_anything_begins(tmp_path, overrides, message):
    run = runpy.run_path(str(FINE_TUNED / "run.py"))["main"]
    with pytest.raises(InputError, match=re.escape(message)):
        run("digits", tmp_path / "runs", overrides)
    assert not (tmp_path / "runs").exists()


def test_the_keys_of_an_experiment_of_fine_tuned_darts_go_where_they_belong():
    part = runpy.run_path(str(FINE_TUNED / "run.py"))["part"]
    of_search = ["--space.channels", "8", "--strategy", "{name: EDAS}"]
    of_retraining = ["--network.channels=9", "--network.layers", "5"]
    of_both = ["--seed", "-1", "--data.root=a=b"]
    assert part([*of_search, *of_retraining, *of_both]) == ([*of_search, *of_both], [*of_retraining, *of_both])


def test_an_experiment_that_has_no_config_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "mnist", "runs"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(FINE_TUNED / "run.py"), run_name="__main__")
    assert end.value.code == 2 and "cifar100" in capsys.readouterr().err
