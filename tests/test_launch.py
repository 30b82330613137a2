"""Searches and retrainings as trials of NNI experiments, by ``nas-plugins launch`` and by ``nnictl``."""

import csv
import getpass
import json
import os
import runpy
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import nni
import pandas as pd
import psutil
import pytest
import yaml
from forked import Command
from hypothesis import given, settings
from hypothesis import strategies as st
from nni.tools.nnictl.config_utils import Experiments

from nas_plugins.cli import main
from nas_plugins.config.reader import read_search
from nas_plugins.errors import InputError
from nas_plugins.report.page import write_report
from nas_plugins.sweep.config import read_experiment
from nas_plugins.sweep.launch import _signals, launch
from nas_plugins.sweep.records import read_trials, save_genotypes
from nas_plugins.sweep.trial import merged
from nas_plugins.tuner import GridSearch
from search_spaces.genotype import Genotype

EXAMPLES = Path(__file__).parent.parent / "examples"
DIGITS = EXAMPLES / "edas" / "digits.yaml"
BIN = Path(sys.executable).parent
SMALL = "--data.train_images 64 --space.channels 4 --space.layers 3 --space.nodes 2"
CELL = tuple(("skip_connect", source, node) for node in (2, 3) for source in (0, 1))
GENOTYPE = Genotype(cells=(CELL, CELL), layout=(0, 1, 1), reductions=(1, 2), concat=(2, 3))


class TestATrialMergesItsParameters:
    def test_what_the_tuner_chose_wins_over_the_command_line_and_that_over_the_file(self):
        *_, overrides = merged(DIGITS, ["--seed", "3", "--training.epochs", "2"], None, {"seed": 7})
        config = read_search(DIGITS, overrides)
        assert (config.seed, config.training.epochs, config.values["data"]["batch_size"]) == (7, 2, 32)

    @settings(max_examples=15, deadline=None)
    @given(st.floats(1e-12, 1e6), st.integers(0, 2**31))
    def test_a_number_arrives_as_it_was_chosen(self, rate, seed):
        *_, overrides = merged(DIGITS, [], None, {"training.learning_rate": rate, "seed": seed})
        config = read_search(DIGITS, overrides)
        assert (config.training.learning_rate, config.seed) == (rate, seed)

    def test_a_nested_choice_stands_for_a_whole_section(self):
        *_, overrides = merged(DIGITS, [], None, {"strategy": {"_name": "DARTS", "order": "second"}})
        strategy = read_search(DIGITS, overrides).values["strategy"]
        assert (strategy["name"], strategy["order"], strategy["warmup_epochs"]) == ("DARTS", "second", 0)

    def test_a_key_that_is_none_is_named(self):
        with pytest.raises(InputError, match="unknown key strategy.sign_flip"):
            merged(DIGITS, [], None, {"strategy.sign_flip": 3})

    def test_a_retraining_takes_its_genotype_from_the_tuner_too(self, tmp_path):
        GENOTYPE.save(tmp_path / "1.json")
        config = EXAMPLES / "edas" / "digits_retrain.yaml"
        chosen = {"genotype": str(tmp_path / "1.json"), "network.channels": 8}
        genotype, _, overrides = merged(config, [], "other.json", chosen)
        assert genotype == chosen["genotype"] and overrides[0] == "--network.channels"
        with pytest.raises(InputError, match="needs --genotype FILE, or a key genotype"):
            merged(config, [], None, {})

    def test_a_search_has_no_genotype_to_choose(self):
        with pytest.raises(InputError, match="unknown key genotype"):
            merged(DIGITS, [], None, {"genotype": "1.json"})


@pytest.mark.parametrize(
    "file",
    [f for f in sorted(EXAMPLES.glob("*/nni*.yaml")) if f.stem != "nni_retrain"],
    ids=lambda f: f"{f.parent.name}/{f.stem}",
)
def test_an_example_has_as_many_trials_as_its_grid_and_only_settings_that_exist(file):
    experiment = read_experiment(file)
    grid = GridSearch()
    grid.update_search_space(experiment.search_space)
    for number in range(experiment.max_trial_number):
        grid.generate_parameters(number)
    with pytest.raises(nni.NoMoreTrialError):
        grid.generate_parameters(experiment.max_trial_number)


def test_a_grid_search_that_is_resumed_repeats_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("NNI_CHECKPOINT_DIRECTORY", str(tmp_path))
    space = {"seed": {"_type": "choice", "_value": [0, 1, 2]}}
    before, after = GridSearch(), GridSearch()
    before.update_search_space(space)
    given_out = [before.generate_parameters(number) for number in range(2)]
    after.load_checkpoint()
    after.update_search_space(space)
    given_out.append(after.generate_parameters(2))
    assert given_out == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
    with pytest.raises(nni.NoMoreTrialError):
        after.generate_parameters(3)


def experiment_file(folder, space=None, command=f"nas-plugins trial --config digits.yaml {SMALL}", **settings):
    """An experiment beside copies of the configs of the digits, one trial for each seed if not told otherwise."""
    folder.mkdir(exist_ok=True)
    for name in ("digits.yaml", "digits_retrain.yaml"):
        shutil.copy(DIGITS.with_name(name), folder)
    experiment = yaml.safe_load((EXAMPLES / "edas" / "nni.yaml").read_text())
    space = space or {"seed": {"_type": "choice", "_value": [0, 1]}}
    trials = max(len(spec["_value"]) if isinstance(spec, dict) else 1 for spec in space.values())
    experiment |= {"searchSpace": space, "trialCommand": command, "maxTrialNumber": trials, **settings}
    (folder / "nni.yaml").write_text(yaml.safe_dump(experiment))
    return folder / "nni.yaml"


def nested(**settings):
    """The search space of a strategy with settings of its own."""
    return {"strategy": {"_type": "choice", "_value": [{"_name": "EDAS", **settings}, {"_name": "DARTS"}]}}


@pytest.mark.parametrize(
    "space",
    [
        {"training.learning_rate": {"_type": "lognormal", "_value": [-3, 1]}},
        {"training.learning_rate": {"_type": "qlognormal", "_value": [-3, 1, 0.01]}},
        {"training.learning_rate": {"_type": "normal", "_value": [0.1, 0.01]}},
        {"training.learning_rate": {"_type": "loguniform", "_value": [0.001, 0.1]}},
        {"training.epochs": {"_type": "quniform", "_value": [2, 10, 2]}},
        {"training.epochs": {"_type": "quniform", "_value": [0.5, 10.5, 1]}},
        {"training.epochs": {"_type": "randint", "_value": [1, 4]}},
        nested(sign_flip_epochs={"_type": "randint", "_value": [0, 3]}),
    ],
    ids=str,
)
def test_a_search_space_may_have_any_type_of_nnis(tmp_path, space):
    assert read_experiment(experiment_file(tmp_path / "code", space)).search_space == space


class TestBadInputIsSaidBeforeAnythingIsStarted:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"space": {"sead": {"_type": "choice", "_value": [0]}}}, "searchSpace: .*unknown key sead; did you mean"),
            ({"space": {"training.epochs": {"_type": "choice", "_value": [-2, -1]}}}, "training.epochs.*-"),
            ({"space": {"training.epochs": {"_type": "uniform", "_value": [1, 3]}}}, r"training.epochs.*2\.2"),
            ({"command": "nas-plugins trial --config 'digits.yaml"}, "trialCommand.*: No closing quotation"),
            ({"command": "nas-plugins trial --config missing.yaml"}, "missing.yaml: .*No such file"),
            ({"command": "nas-plugins trial"}, "trialCommand.*: nas-plugins trial needs --config FILE"),
            ({"command": "nas-plugins trial --config digits.yaml --sead 1"}, "trialCommand.*: .*unknown key sead"),
            ({"command": "nas-plugins trial --config digits.yaml --output"}, "trialCommand.*: argument --output"),
            ({"command": "nas-plugins trial --config digits.yaml --seed"}, "trialCommand.*: .*--seed"),
            ({"command": "nas-plugins trial --config digits.yaml --genotype 1.json"}, "is the config of a search"),
            ({"trialCodeDirectory": "missing"}, "missing. is not a directory"),
            ({"trialConcurrency": 0}, "nni.yaml: assert self.trial_concurrency > 0"),
            ({"tuner": {"className": "nas_plugins.tuner.GridSearch"}}, "assert self.code_directory is not None"),
            ({"typo": 1}, "does not have field.* typo"),
        ],
    )  # fmt: skip
    def test_of_the_config(self, tmp_path, changes, message):
        with pytest.raises(InputError, match=message):
            read_experiment(experiment_file(tmp_path / "code", **changes))

    @pytest.mark.parametrize("content", [b"\x80\xff", b'{"seed": ', None], ids=str)
    def test_of_a_file_of_the_search_space(self, tmp_path, content):
        if content is not None:
            (tmp_path / "bin").write_bytes(content)
        with pytest.raises(InputError, match="nni.yaml: .*Failed to load search space file .*bin") as refused:
            read_experiment(experiment_file(tmp_path, searchSpace=None, searchSpaceFile="bin"))
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize(
        "changes",
        [
            {"command": "# the training\n(python3 train.py)"},
            {"command": "python3 train.py", "tuner": {"name": "Random"}, "searchSpace": {}},
        ],
        ids=["shell", "one setting"],
    )
    def test_but_not_what_nni_takes(self, tmp_path, changes):
        read_experiment(experiment_file(tmp_path / "code", **changes))

    def test_a_config_that_is_refused_leaves_the_next_one_readable(self, tmp_path):
        (tmp_path / "bad.yaml").write_text("[1, 2")
        with pytest.raises(InputError, match="bad.yaml: while parsing"):
            read_experiment(tmp_path / "bad.yaml")
        assert read_experiment(experiment_file(tmp_path / "code")).max_trial_number == 2

    def test_but_not_a_batch(self, tmp_path):
        space = {"combine_params": {"_type": "choice", "_value": [{"seed": 0}, {"seed": 1, "training.epochs": 2}]}}
        file = experiment_file(tmp_path / "code", space, tuner={"name": "BatchTuner"})
        assert read_experiment(file).search_space == space

    @pytest.mark.parametrize("command", ["--config digits.yaml > out.txt 2>&1", "--config $HOME/digits.yaml"])
    def test_but_not_what_the_shell_makes_of_a_command(self, tmp_path, command):
        file = experiment_file(tmp_path / "code", command=f"nas-plugins trial {command}")
        assert command in read_experiment(file).trial_command

    def test_genotypes_that_are_not_made_yet(self, tmp_path):
        (tmp_path / "code").mkdir()
        space = {"genotype": {"_type": "choice", "_value": ["genotypes/1.json"]}}
        file = experiment_file(tmp_path / "code", space, "nas-plugins trial --config digits_retrain.yaml")
        with pytest.raises(InputError, match=r"searchSpace: .*No such file or directory: 'genotypes/1.json'"):
            read_experiment(file)

    def test_a_missing_config(self, tmp_path, capsys):
        file = tmp_path / "nni.yaml"
        assert main(["launch", "--config", str(file)]) == 2
        assert capsys.readouterr().err.startswith(f"nas-plugins: {file}: [Errno 2] No such file or directory")

    @pytest.mark.parametrize("port", [0, 65536])
    def test_a_port_that_is_none(self, tmp_path, port):
        with pytest.raises(InputError, match=f"--port: {port} should be from 1 to 65535"):
            launch(experiment_file(tmp_path / "code"), port)

    def test_a_port_in_use(self, tmp_path):
        with closing(socket.create_server(("127.0.0.1", 0))) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(InputError, match=f"Port {port} is not idle"):
                launch(experiment_file(tmp_path / "code"), port)

    def test_a_trial_that_nni_did_not_start(self, capsys):
        assert main(["trial", "--config", str(DIGITS)]) == 2
        assert "is started by NNI" in capsys.readouterr().err

    def test_an_experiment_that_is_none(self, tmp_path, capsys):
        assert main(["trials", str(tmp_path)]) == 2
        assert "no experiment of nnictl experiment list --all" in capsys.readouterr().err


class TestTheSweepsOfDDarts:
    @pytest.fixture
    def run(self, tmp_path):
        """Make a run of two edges with two operations each; σ(3) is above 0.9, σ(-3) below 0.1."""

        def make(w_abl, w_01, alphas, losses):
            run = tmp_path / f"{w_abl}-{w_01}"
            run.mkdir()
            config = {"seed": 0, "space": {"name": "DDartsSpace"}}
            config["strategy"] = {"name": "DDARTS", "w_abl": w_abl, "w_01": w_01}
            (run / "config.yaml").write_text(yaml.safe_dump(config))
            epochs = range(len(losses))
            metrics = pd.DataFrame({"epoch": epochs, "val_loss": losses})
            columns = ("train_loss", "train_acc", "val_acc", "derived_val_acc", "seconds", "peak_memory_mb")
            metrics.assign(**dict.fromkeys(columns, 0.5)).to_csv(run / "metrics.csv", index=False)
            rows = [(e, "cell_0", f"{s}->2", *alphas[s]) for e in epochs for s in (0, 1)]
            table = pd.DataFrame(rows, columns=["epoch", "cell", "edge", "skip_connect", "max_pool_3x3"])
            table.to_csv(run / "alphas.csv", index=False)
            return str(run)

        return make

    @pytest.fixture
    def sweeps(self):
        return runpy.run_path(str(EXAMPLES / "d_darts" / "sweeps.py"))["main"]

    def test_dominant_operations_are_those_above_nine_tenths(self, run, sweeps, tmp_path):
        runs = [run(0.5, 0, [(1, 1), (0, 3)], [2.0]), run(0.5, 7, [(3, -3), (3, 3)], [2.0])]
        table = sweeps(runs, tmp_path / "figures")
        assert table["w_01"].tolist() == [0, 7]
        assert table["dominant"].tolist() == [0.25, 0.75] and table["absent"].tolist() == [0, 0.25]
        assert (tmp_path / "figures" / "w_01.png").stat().st_size > 10_000

    def test_the_global_loss_is_the_least_of_all_epochs(self, run, sweeps, tmp_path):
        runs = [run(w_abl, 0, [(1, 1), (1, 1)], [3 - w_abl, 2 + w_abl, 9]) for w_abl in (1, 0)]
        table = sweeps(runs, tmp_path / "figures")
        assert table["w_abl"].tolist() == [0, 1] and table["least_loss"].tolist() == [2, 2]
        assert (tmp_path / "figures" / "w_abl.png").exists()

    def test_runs_that_differ_in_both_are_no_sweep(self, run, sweeps, tmp_path):
        runs = [run(0, 0, [(1, 1), (1, 1)], [2.0]), run(1, 1, [(1, 1), (1, 1)], [2.0])]
        with pytest.raises(InputError, match="w_abl and w_01 varies"):
            sweeps(runs, tmp_path / "figures")


# Real experiments


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home of its own: NNI keeps its list of experiments there."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def environment(home):
    return {**os.environ, "HOME": str(home), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def free_port():
    """One whose successor is free too: trials on other machines need both."""
    while True:
        with closing(socket.create_server(("127.0.0.1", 0))) as first:
            port = first.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return port


def processes_of(experiment):
    """What runs of an experiment: its manager, its tuner, its trials."""
    found = []
    for process in psutil.process_iter():
        try:
            texts = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if any(experiment in text for text in texts):
            found.append(process)
    return found


def left_of(experiment, seconds=10):
    """What still runs some seconds after an experiment was stopped."""
    _, alive = psutil.wait_procs(processes_of(experiment), timeout=seconds)
    # A zombie has ended; only the process that inherited it has not asked for its status yet.
    return [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def launching(file):
    return ["launch", "--config", file, "--port", str(free_port())]


def experiment_of(text):
    """The experiment's ID, from the first line that launch says."""
    return text.split()[1].rstrip(":")


@pytest.fixture(scope="module")
def searched(tmp_path_factory, home):
    """A finished experiment of two searches: what launch printed, and its folder."""
    file = experiment_file(tmp_path_factory.mktemp("searched") / "code", command=f"{COMMAND} --training.epochs 2")
    done = Command(launching(file), file.parent.parent, {"HOME": str(home)}).end()
    assert done.status == 0, done.err
    return done.out, home / "nni-experiments" / experiment_of(done.out)


COMMAND = f"nas-plugins trial --config digits.yaml {SMALL}"
ONE = {"seed": {"_type": "choice", "_value": [0]}}
"""A search space with one trial."""


@pytest.mark.slow
class TestAnExperimentOfSearches:
    def test_says_how_far_it_is_which_trial_is_the_best_and_where_its_run_is(self, searched):
        text, folder = searched
        trials = read_trials(folder)
        best = trials.iloc[0]
        assert trials["status"].tolist() == ["SUCCEEDED"] * 2
        assert {row["seed"] for row in trials["parameters"]} == {0, 1}
        assert "2 of 2 trials ended" in text
        line = f"best: trial {best['trial']} (seed {best['parameters']['seed']}), {best['value']:.2%}: {best['run']}"
        assert line in text.splitlines()

    def test_a_trial_is_a_run_like_any_other_named_by_its_id(self, searched, tmp_path):
        trials = read_trials(searched[1])
        for row in trials.itertuples():
            assert Path(row.run).name == row.trial
            metrics = pd.read_csv(Path(row.run, "metrics.csv"))
            assert metrics["derived_val_acc"].iloc[-1] == pytest.approx(row.value, abs=1e-6)
            assert yaml.safe_load(Path(row.run, "config.yaml").read_text())["seed"] == row.parameters["seed"]
        assert write_report(trials["run"], tmp_path / "report").exists()

    def test_leaves_no_process(self, searched):
        assert left_of(searched[1].name) == []

    def test_gives_its_best_genotypes(self, searched, tmp_path, capsys):
        trials = read_trials(searched[1])
        files = save_genotypes(trials, 2, tmp_path)
        found = [Genotype.load(Path(run, "genotype.json")) for run in trials["run"]]
        assert [file.name for file in files] == ["1.json", "2.json"] and [*map(Genotype.load, files)] == found
        with pytest.raises(InputError, match="--best: 3 should be from 1 to 2"):
            save_genotypes(trials, 3, tmp_path)
        assert main(["trials", str(searched[1]), "--best", "1", "--genotypes", str(tmp_path / "best")]) == 0
        assert (tmp_path / "best" / "1.json").read_bytes() == files[0].read_bytes()
        assert capsys.readouterr().out.endswith(f"{tmp_path / 'best' / '1.json'}\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "command", "count"),
    [
        ("SIGINT", f"{COMMAND} --training.epochs 500 --compute.devices 2 --data.batch_size 8 --output runs", 5),
        ("SIGTERM", "sleep 1000", 4),
    ],
    ids=("a search on two devices", "a trial that knows no signal"),
)
def test_launch_stops_with_all_that_it_started(tmp_path, home, name, command, count):
    file = experiment_file(tmp_path / "code", ONE, command)
    process = Command(launching(file), tmp_path, {"HOME": str(home)})
    process.wait(lambda: " 1 running" in process.files[0].read_text())
    if name == "SIGINT":  # both processes are at work
        process.wait(lambda: any(tmp_path.glob("code/runs/*/*/metrics.csv")))
    experiment = experiment_of(process.files[0].read_text())
    assert len(processes_of(experiment)) >= count  # a manager, a tuner, the processes of a trial and its shell
    process.send(getattr(signal, name))
    done = process.end()
    assert done.status == (130 if name == "SIGINT" else 143)
    assert f"nnictl resume {experiment}" in done.err
    assert left_of(experiment) == []


@pytest.mark.slow
def test_launch_says_why_no_trial_succeeded(tmp_path, home):
    file = experiment_file(tmp_path / "code", ONE, "echo digits.yaml is not a folder >&2; exit 2")
    done = Command(launching(file), tmp_path, {"HOME": str(home)}).end()
    assert done.status == 2
    assert "no trial succeeded; trial " in done.err and "digits.yaml is not a folder" in done.err
    with pytest.raises(InputError, match="--best: 1 should be from 1 to 0"):
        save_genotypes(read_trials(experiment_of(done.out)), 1, tmp_path)


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN], ids=["by default", "under nohup"])
def test_launch_stops_when_its_terminal_closes_but_not_under_nohup(before):
    given = signal.signal(signal.SIGHUP, before)
    try:
        with _signals() as received:
            os.kill(os.getpid(), signal.SIGHUP)
        assert received == [signal.SIGHUP] * (before == signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, given)


@pytest.mark.slow
def test_a_manager_that_is_killed_leaves_no_trial_behind(tmp_path, home):
    process = Command(launching(experiment_file(tmp_path / "code", ONE, "sleep 1000")), tmp_path, {"HOME": str(home)})
    process.wait(lambda: " 1 running" in process.files[0].read_text())
    experiment = experiment_of(process.files[0].read_text())
    (manager,) = (one for one in processes_of(experiment) if "main.js" in " ".join(one.cmdline()))
    manager.kill()
    done = process.end()
    assert done.status == 2
    assert done.err.endswith("NNI's manager does not answer; it was stopped by nnictl, or killed\n")
    assert done.err.count("\n") == 1
    assert left_of(experiment) == []


def with_tuner(folder, body):
    """An experiment whose tuner does this when it is asked for parameters."""
    file = experiment_file(folder, ONE, tuner={"className": "its.Tuner", "codeDirectory": "."})
    lines = [
        "import nni.tuner, pathlib, time",
        "class Tuner(nni.tuner.Tuner):",
        " def update_search_space(self, space): 0",
    ]
    file.with_name("its.py").write_text(
        "\n".join([*lines, f" def generate_parameters(self, number, **of_nni): {body}"])
    )
    return file


@pytest.mark.slow
def test_launch_ends_a_tuner_that_does_not_hear_that_its_manager_ends(tmp_path, home):
    file = with_tuner(tmp_path / "code", f"pathlib.Path('{tmp_path}/asked').touch(); time.sleep(1000)")
    process = Command(launching(file), tmp_path, {"HOME": str(home)})
    process.wait((tmp_path / "asked").exists)
    process.send(signal.SIGTERM)
    done = process.end()
    assert done.status == 143
    assert processes_of(experiment_of(done.out)) == []


@pytest.mark.slow
def test_launch_says_why_its_tuner_died(tmp_path, home):
    file = with_tuner(tmp_path / "code", "raise RuntimeError('no idea')")
    done = Command(launching(file), tmp_path, {"HOME": str(home)}).end()
    assert done.status == 2
    assert done.err.endswith("NNI's manager failed: its tuner has ended; RuntimeError: no idea\n")
    assert done.err.count("\n") == 1


@pytest.mark.slow
def test_launch_says_which_machine_it_cannot_reach(tmp_path, home):
    (tmp_path / "key").touch()
    machine = {"host": "127.0.0.1", "port": 1, "user": "nobody", "sshKeyFile": str(tmp_path / "key")}
    service = {"platform": "remote", "reuseMode": True, "machineList": [machine]}
    file = experiment_file(tmp_path / "code", ONE, trainingService=service, nniManagerIp="127.0.0.1")
    done = Command(launching(file), tmp_path, {"HOME": str(home)}).end()
    assert done.status == 2
    assert done.err.endswith("does not answer; Error: connect ECONNREFUSED 127.0.0.1:1\n")
    assert done.err.count("\n") == 1


@pytest.mark.slow
def test_nnictl_creates_stops_resumes_exports_and_views_it(tmp_path, environment, home, monkeypatch):
    """Stopped in the middle of its only trial, which then goes on in the same run directory."""
    epochs, port = 40, free_port()
    file = experiment_file(tmp_path / "code", ONE, f"{COMMAND} --training.epochs {epochs}")

    def nnictl(*arguments):
        call = [BIN / "nnictl", *map(str, arguments)]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(what):
        return json.load(urlopen(f"http://localhost:{port}/api/v1/nni/{what}", timeout=20))

    nnictl("create", "--config", file, "--port", port)
    experiment = ask("experiment")["id"]
    folder = home / "nni-experiments" / experiment
    try:
        while len(ask("metric-data")) < 2:
            time.sleep(0.2)
        nnictl("stop", experiment)
        assert left_of(experiment) == []
        (run,) = folder.glob("environments/*/trials/*/*/config.yaml")
        monkeypatch.setattr("nas_plugins.sweep.records.Experiments", partial(Experiments, folder.parent))
        assert read_trials(folder)["status"].tolist() == ["WAITING"]  # for the resume
        before = len(pd.read_csv(run.with_name("metrics.csv")))
        assert before < epochs and not run.with_name("genotype.json").exists()
        with closing(sqlite3.connect(folder / "db" / "nni.sqlite")) as records, records:
            records.execute("DELETE FROM MetricData WHERE sequence = 0")  # as if it had come while the manager ended

        nnictl("resume", experiment, "--port", port)
        while ask("check-status")["status"] != "DONE":
            time.sleep(0.5)
        assert [job["status"] for job in ask("trial-jobs")] == ["SUCCEEDED"]
        nnictl(
            "experiment", "export", experiment, "--filename", tmp_path / "trials.csv", "--type", "csv", "--intermediate"
        )
        (row,) = csv.DictReader((tmp_path / "trials.csv").open())
        accuracies = pd.read_csv(run.with_name("metrics.csv"))["derived_val_acc"]
        assert len(accuracies) == epochs
        assert Path(row["run"]) == run.parent and float(row["default"]) == pytest.approx(accuracies.iloc[-1], abs=1e-6)
        assert row["intermediate"].count(",") >= epochs  # one an epoch, and the final result
        nnictl("stop", experiment)

        nnictl("view", experiment, "--port", port)
        assert ask("check-status")["status"] == "VIEWED" and len(ask("trial-jobs")) == 1
        # What the last epoch reported is there once, though the trial ran twice.
        sequences = [metric["sequence"] for metric in ask("metric-data") if metric["type"] == "PERIODICAL"]
        assert set(sequences) == set(range(epochs)) and sequences.count(epochs - 1) == 1
    finally:
        nnictl("stop", experiment)
    assert left_of(experiment) == []


@contextmanager
def ssh_server(folder):
    """An SSH server on loopback, and the section trainingService that reaches it; skips where there can be none."""
    sshd = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    keygen = shutil.which("ssh-keygen")
    if not sshd or not keygen:
        pytest.skip("trials on other machines need sshd and ssh-keygen here: apt-get install openssh-server")
    for name in ("host", "key"):
        subprocess.run(
            [keygen, "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f", folder / name], check=True
        )
    port = free_port()
    lines = [
        f"Port {port}", "ListenAddress 127.0.0.1", "PidFile none", "UsePAM no", "StrictModes no",
        f"HostKey {folder / 'host'}", f"AuthorizedKeysFile {folder / 'key.pub'}", "Subsystem sftp internal-sftp",
        # What NNI's SSH client knows.
        "HostKeyAlgorithms +ssh-rsa", "PubkeyAcceptedAlgorithms +ssh-rsa", "SetEnv OMP_NUM_THREADS=1",
    ]  # fmt: skip
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    separation = Path("/run/sshd")  # Debian's sshd wants it, and makes it when it starts as a service
    made = os.geteuid() == 0 and not separation.exists()
    if made:
        separation.mkdir()
    server = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "sshd_config"], stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            if "listening" in line:
                break
        else:
            pytest.skip(f"sshd does not start here: {line}")
        machine = {"host": "127.0.0.1", "port": port, "user": getpass.getuser()}
        machine |= {"sshKeyFile": str(folder / "key"), "pythonPath": str(BIN)}
        yield {"platform": "remote", "reuseMode": True, "machineList": [machine]}
    finally:
        server.terminate()
        server.communicate()
        if made:
            separation.rmdir()


@pytest.mark.slow
def test_the_best_genotypes_are_retrained_on_other_machines(searched, tmp_path, home):
    """The config of a local experiment with another section trainingService; the machine is this one, over SSH."""
    code = tmp_path / "code"
    code.mkdir()
    save_genotypes(read_trials(searched[1]), 2, code / "genotypes")
    space = {"genotype": {"_type": "choice", "_value": ["genotypes/1.json", "genotypes/2.json"]}}
    command = "nas-plugins trial --config digits_retrain.yaml --training.epochs 1 --data.train_images 64"
    command += " --network.channels 4 --network.layers 3"
    with ssh_server(tmp_path) as service:
        file = experiment_file(code, space, command, trainingService=service, nniManagerIp="127.0.0.1")
        done = Command(launching(file), tmp_path, {"HOME": str(home)}).end()
    assert done.status == 0, done.err
    experiment = experiment_of(done.out)
    try:
        trials = read_trials(home / "nni-experiments" / experiment)
        assert trials["status"].tolist() == ["SUCCEEDED"] * 2, done.out + done.err
        assert {row["genotype"] for row in trials["parameters"]} == set(space["genotype"]["_value"])
        for row in trials.itertuples():
            assert f"/{experiment}/trials/{row.trial}/" in row.run  # on the machine that ran it
            chosen = Genotype.load(code / row.parameters["genotype"])
            assert Genotype.load(Path(row.run, "genotype.json")).cells == chosen.cells
        assert left_of(experiment) == []
    finally:
        shutil.rmtree(Path("/tmp/nni-experiments", experiment), ignore_errors=True)
