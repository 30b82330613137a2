"""Runs that are killed, told to end, or met by a second process: each ends as if nothing had been."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from threading import Barrier

import pandas as pd
import pytest
import torch
import yaml
from forked import Command, nas_plugins

from nas_plugins.config.reader import read_search
from nas_plugins.errors import InputError
from nas_plugins.runs import directory as runs
from nas_plugins.training.checkpoints import load_tensors
from search_spaces.genotype import Genotype

KILLS = {"EDAS": 16, "DDARTS": 8, "retraining": 12}
BASE = {
    "seed": 3,
    "data": {"dataset": "digits", "train_images": 120, "test_images": 40, "batch_size": 32},
    "compute": {"accelerator": "cpu", "threads": 1},
}
SPACE = {"channels": 2, "layers": 3, "nodes": 1, "operations": ["skip_connect", "sep_conv_3x3"]}
CONFIGS = {
    "EDAS": {
        **BASE,
        "space": {"name": "DartsSpace", **SPACE},
        "strategy": {"name": "EDAS", "sign_flip_epochs": 2},
    },
    "DDARTS": {
        **BASE,
        "space": {"name": "DDartsSpace", **SPACE},
        "strategy": {"name": "DDARTS"},
    },
    "retraining": {
        **BASE,
        "data": {**BASE["data"], "cutout": 3, "crop_padding": 1, "flip": True},
        "network": {"channels": 4, "drop_path": 0.4},
    },
}
for kind, config in CONFIGS.items():
    config["training"] = {"epochs": KILLS[kind] + 2}  # a killed process gets one done at most, and some are left
FILES = {"EDAS": 4, "DDARTS": 5, "retraining": 2}
"""Those of a process and its first epoch, the checkpoint last: each is made, and moved to its place."""
LAST_FILE = {"EDAS": "genotype.json", "DDARTS": "genotype.json", "retraining": "weights.pt"}
CELL = (("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2))
GENOTYPE = Genotype(cells=(CELL, CELL), layout=(0, 1, 1), reductions=(1, 2), concat=(2,))


def command(kind: str, run: Path) -> list[object]:
    """What begins such a run."""
    config, genotype = run.parent / f"{kind}.yaml", run.parent / "g.json"
    config.write_text(yaml.safe_dump(CONFIGS[kind]))
    if kind != "retraining":
        return ["search", "--config", config, "--output", run]
    GENOTYPE.save(genotype)
    return ["retrain", "--config", config, "--genotype", genotype, "--output", run]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Gives a run of each kind that nothing disturbed, and the seconds of its first epoch, what is before included."""
    found: dict[str, tuple[Path, float]] = {}

    def make(kind: str) -> tuple[Path, float]:
        if kind not in found:
            run = tmp_path_factory.mktemp("whole") / kind
            process = Command(command(kind, run), run.parent)
            process.wait((run / "checkpoints/last.ckpt").exists)
            first = process.seconds
            assert process.end().status == 0
            found[kind] = run, first
        return found[kind]

    return make


def files_of(run: Path) -> set[str]:
    return {str(file.relative_to(run)) for file in run.rglob("*") if "nni" not in file.relative_to(run).parts}


def table(file: Path) -> pd.DataFrame:
    """A table as it is written, but for what no run repeats."""
    never_the_same = ["seconds", "peak_memory_mb", "seconds_per_iteration"]
    return pd.read_csv(file, dtype=str).drop(columns=never_the_same, errors="ignore")


def assert_same(run: Path, other: Path) -> None:
    """Both have the same files, and in them the same to every bit."""
    assert files_of(run) == files_of(other)
    for name in files_of(run):
        if name.endswith(".csv"):
            pd.testing.assert_frame_equal(table(run / name), table(other / name))
        if name.endswith(".json"):
            assert (run / name).read_bytes() == (other / name).read_bytes()
        if name.endswith((".pt", ".ckpt")):
            tensors, others = (load_tensors(each / name) for each in (run, other))
            tensors, others = (found.get("state_dict", found) for found in (tensors, others))
            assert list(tensors) == list(others)
            assert all(torch.equal(tensors[key], others[key]) for key in tensors), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_run_that_is_killed_again_and_again_ends_as_one_never_killed(whole, tmp_path, kind):
    """Half of the kills come when a file is about to be made or moved to its place, in the first epoch or in the
    second one, by turns, and each time for another file until all have had theirs; half at any moment before the end
    of the second epoch."""
    undisturbed, first_epoch = whole(kind)
    run, chance = tmp_path / "run", random.Random(kind)

    def next_command() -> list[object]:
        if (run / "config.yaml").exists():
            return ["resume", run]
        shutil.rmtree(run, ignore_errors=True)  # killed before it was a run
        return command(kind, run)

    first, last = 2 * FILES[kind], 4 * FILES[kind] - 2  # the last places of the first epoch and of the second one
    places = [
        cycle(chance.sample(range(*epoch), len(range(*epoch)))) for epoch in ((1, first + 1), (first + 1, last + 1))
    ]
    epochs = []
    for number in range(KILLS[kind]):
        at_a_file = number % 2 == 1
        process = Command(next_command(), tmp_path, die_at=next(places[number // 2 % 2]) if at_a_file else last)
        if not at_a_file:
            process.kill_after(chance.uniform(0, 1.5 * first_epoch))
        assert process.end().status == -signal.SIGKILL
        epochs.append(load_tensors(run / runs.CHECKPOINT)["epoch"] if (run / runs.CHECKPOINT).exists() else -1)
    assert epochs == sorted(epochs) and epochs[-1] > 0, "no epoch is lost, and some came between the kills"
    assert Command(["resume", run], tmp_path, die_at=LAST_FILE[kind]).end().status == -signal.SIGKILL
    assert nas_plugins(["resume", run], tmp_path).status == 0
    assert_same(run, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "number", "status", "word"),
    [("EDAS", signal.SIGTERM, 143, "terminated"), ("retraining", signal.SIGINT, 130, "interrupted")],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_run_that_is_told_to_end_says_how_it_goes_on_and_does(whole, tmp_path, kind, number, status, word):
    run = tmp_path / "run"
    process = Command(command(kind, run), tmp_path)
    process.wait((run / "checkpoints/last.ckpt").exists)
    process.send(number)
    ended = process.end()
    assert ended.status == status
    assert ended.err == f"nas-plugins: {word}; nas-plugins resume goes on from the last complete epoch\n"
    assert nas_plugins(["resume", run], tmp_path).status == 0
    assert_same(run, whole(kind)[0])


@pytest.mark.slow
def test_others_may_look_at_a_run_at_work_but_not_work_on_it(whole, tmp_path):
    run = tmp_path / "run"
    process = Command(command("EDAS", run), tmp_path)
    process.wait((run / "checkpoints/last.ckpt").exists)
    second = nas_plugins(["resume", run], tmp_path)
    assert second.status == 2
    assert second.err == f"nas-plugins: {run}: another process is at work on this run; wait for its end, or stop it\n"
    assert nas_plugins(["report", run, "--output", tmp_path / "report"], tmp_path).status == 0
    again = nas_plugins(command("EDAS", run), tmp_path)
    assert again.status == 2 and "already exists" in again.err
    assert process.end().status == 0
    assert_same(run, whole("EDAS")[0])


def test_of_two_processes_with_one_output_one_makes_the_run(tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIGS["EDAS"]))
    config, both = read_search(tmp_path / "c.yaml"), Barrier(2)

    def make(run: Path) -> bool:
        both.wait()
        try:
            runs.create(run, config)
        except InputError as error:
            assert str(error).startswith(f"--output: {run} ")
            return False
        return True

    with ThreadPoolExecutor(2) as two:
        for number in range(20):
            run = tmp_path / str(number)
            assert sorted(two.map(make, [run, run])) == [False, True]
            assert read_search(run / "config.yaml").values == config.values


@pytest.mark.slow
def test_a_lock_of_nni_that_a_kill_left_to_a_process_of_the_same_number_stops_nothing(tmp_path):
    """As in a container that starts again: there a process has the number that the killed one had."""
    process = Command(command("EDAS", tmp_path / "run"), tmp_path)
    lock = Path.home().joinpath("nni-experiments", f".experiment.lock.{process.process.pid}")
    lock.parent.mkdir(exist_ok=True)
    lock.touch()
    process.process.join(120)
    process.send(signal.SIGKILL)
    assert process.end().status == 0


def test_a_forked_process_such_as_one_that_loads_images_keeps_no_run_locked(tmp_path):
    """Of a run that is killed it lives on for seconds."""
    (tmp_path / "config.yaml").write_text("seed: 0")
    here, there = os.pipe()
    with runs.at_work(tmp_path):
        child = os.fork()
        if not child:
            os.write(there, b"begun")
            time.sleep(60)
            os._exit(0)
        os.read(here, 5)
    try:
        with runs.at_work(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
