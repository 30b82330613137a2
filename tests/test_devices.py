"""Several devices: processes with images of their own, and one architecture (microsoft/nni issue 5013)."""

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from threading import Barrier

import pandas as pd
import pytest
import torch
import two_processes
from forked import Command, meeting_place, ranks, together
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from nas_plugins.config.reader import read_retrain
from nas_plugins.config.schema import Compute
from nas_plugins.data.samples import batch_of_a_share
from nas_plugins.errors import InputError
from nas_plugins.training.retrain import Retraining, evaluate, retrain
from nas_plugins.training.search import search
from nas_plugins.training.trainer import check_compute
from search_spaces.genotype import Genotype
from strategies.bilevel import BilevelProblem, first_order, no_reduction, second_order

DIGITS = """
seed: 0
space: {name: DartsSpace, channels: 2, layers: 3, nodes: 2, operations: [skip_connect, sep_conv_3x3]}
strategy: {name: EDAS}
data: {dataset: digits, batch_size: 32, val_fraction: 0.5, train_images: 256}
training: {epochs: 2}
compute: {accelerator: cpu, threads: 1}
"""
SAMPLE = {
    f"{cell}/{what}_{node}_{slot}": value
    for cell in ("normal", "reduce")
    for node in (2, 3)
    for slot in (0, 1)
    for what, value in (("op", "sep_conv_3x3"), ("input", [slot]))
}
RETRAIN = """
seed: 0
network: {channels: 4, layers: 3, drop_path: 0.2}
data: {dataset: digits, batch_size: 32, val_fraction: 0.25, train_images: 260}
training: {epochs: 2}
compute: {accelerator: cpu, threads: 1}
"""


@pytest.mark.slow
def test_two_processes_have_the_same_alpha_and_weights_after_every_step(tmp_path):
    both = together([*two_processes.STRATEGIES], tmp_path, two_processes.search_and_compare)
    assert [done.status for done in both] == [0, 0], both[0].err + both[1].err
    for strategy, found in json.loads(both[0].out.splitlines()[-1]).items():
        assert found["apart"] == 0, strategy
        assert min(found["moved"].values()) > 1e-4, strategy  # so that it is not for want of steps
        assert found["same sample"] and found["same accuracy"], strategy
        assert (found["steps"], found["images"]) == (4, 12), strategy  # 2 epochs of 12 images, 3 a process and step


def problem_of(rows: slice, average=no_reduction) -> BilevelProblem:
    """A small network with α in it, on some of eight images."""
    numbers = torch.Generator().manual_seed(0)
    x, y = (torch.randn(8, 5, dtype=torch.float64, generator=numbers) for _ in range(2))
    alpha = torch.randn(5, dtype=torch.float64, generator=numbers).requires_grad_()
    weight = torch.randn(5, 5, dtype=torch.float64, generator=numbers).requires_grad_()

    def loss() -> torch.Tensor:
        return ((torch.tanh(x[rows] @ weight) * torch.sigmoid(alpha) - y[rows]) ** 2).mean()

    return BilevelProblem(
        loss, loss, [alpha], [weight], torch.optim.SGD([weight], lr=0.1, momentum=0.9), average=average
    )


@pytest.mark.parametrize("gradient", [first_order, second_order])
def test_averaged_gradients_are_those_of_one_process_with_all_images(gradient):
    everyone, sent = Barrier(2), [None, None]

    def process(place: int) -> torch.Tensor:
        def average(gradients):
            sent[place] = gradients
            everyone.wait()
            both = list(zip(*sent, strict=True))
            everyone.wait()
            return [None if a is None else (a + b) / 2 for a, b in both]

        (found,) = gradient(problem_of(slice(4 * place, 4 * place + 4), average))
        return found

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(process, range(2))
    (whole,) = gradient(problem_of(slice(None)))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, whole, rtol=1e-6, atol=1e-10)


def on_validation_images(run: Path) -> tuple[float, float]:
    """Loss and accuracy of a retrained network over all its validation images."""
    training = Retraining(read_retrain(run / "config.yaml"), Genotype.load(run / "genotype.json"))
    network, data = training.network.eval(), training.data
    network.load_state_dict(torch.load(run / "weights.pt", weights_only=True))
    data.setup("fit")
    with torch.no_grad():
        logits, labels = (
            torch.cat(parts) for parts in zip(*[(network(x), y) for x, y in data.val_dataloader()], strict=True)
        )
    assert len(labels) == 65  # one process has one more, and none is counted twice
    return float(cross_entropy(logits, labels)), float((logits.argmax(1) == labels).float().mean())


@given(st.integers(1, 40), st.integers(1, 400), st.integers(2, 9))
def test_processes_that_share_images_have_as_many_batches(size, images, processes):
    assume(images >= processes)
    batch = batch_of_a_share(size, images, processes)
    shares = [len(range(place, images, processes)) for place in range(processes)]
    assert len({ceil(share / batch) for share in shares}) == 1
    assert batch >= size


IN_THE_SECOND_EPOCH = 12
"""The files that a search makes, or moves to their place, until then."""


def begin(config: Path, run: Path) -> list[str]:
    """What begins a search on two devices."""
    return ["search", "--config", str(config), "--compute.devices", "2", "--output", str(run)]


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> tuple[Path, str]:
    """A search on two devices, whose processes Lightning starts: its run, beside its config, and what it said."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "search.yaml").write_text(DIGITS)
    call = [sys.executable, "-m", "nas_plugins.cli", *begin(folder / "search.yaml", folder / "run")]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr  # of the second process, which may end before the first has written
    return folder / "run", done.stdout


@pytest.mark.slow
def test_a_search_and_a_retraining_on_two_devices_leave_one_run_directory_each(searched, tmp_path):
    run, out = searched
    (tmp_path / "retrain.yaml").write_text(RETRAIN)
    again = tmp_path / "again"
    assert out.count("searched") == 1
    assert list(pd.read_csv(run / "metrics.csv")["epoch"]) == [0, 1]
    given = [run / "genotype.json", tmp_path / "retrain.yaml", again]
    both = together(given, tmp_path, two_processes.retrain_and_save)
    assert [done.status for done in both] == [0, 0]
    metrics = pd.read_csv(again / "metrics.csv")
    assert list(metrics["epoch"]) == [0, 1]
    assert json.loads(both[0].out.splitlines()[-1]) == pytest.approx(evaluate(again))

    first, second = (torch.load(tmp_path / f"weights_{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)

    loss, accuracy = on_validation_images(again)  # of one process, where those of the run had half of them each
    assert metrics["val_loss"].iloc[-1] == pytest.approx(loss, rel=1e-5)
    assert metrics["val_acc"].iloc[-1] == pytest.approx(accuracy, rel=1e-5)


@pytest.mark.slow
def test_a_search_on_two_devices_is_resumed_to_the_same_result(searched, tmp_path):
    whole, killed = searched[0], tmp_path / "killed"
    arguments, environments = begin(whole.with_name("search.yaml"), killed), ranks()
    first = Command(arguments, tmp_path, environments[0], die_at=IN_THE_SECOND_EPOCH)
    second = Command(arguments, tmp_path, environments[1])
    assert first.end().status == -signal.SIGKILL
    second.send(signal.SIGKILL)  # it may wait for the first one for ever
    second.end()
    assert len(pd.read_csv(killed / "metrics.csv")) == 1 and (killed / "checkpoints" / "last.ckpt").exists()
    assert [done.status for done in together(["resume", killed], tmp_path)] == [0, 0]
    for file in ("alphas.csv", "genotype.json"):
        assert (killed / file).read_text() == (whole / file).read_text()


@pytest.mark.parametrize(
    ("launcher", "what"),
    [
        pytest.param(lambda: ranks()[1], "--compute.devices", id="torchrun"),
        pytest.param(lambda: {**meeting_place(), "WORLD_SIZE": "2", "NODE_RANK": "1"}, "--compute.nodes", id="nodes"),
    ],
)
def test_a_process_that_is_not_the_first_leaves_the_run_directory_to_it_whichever_comes_before(
    tmp_path, launcher, what
):
    (tmp_path / "search.yaml").write_text(DIGITS)
    arguments = ["search", "--config", tmp_path / "search.yaml", what, 2, "--output"]
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "config.yaml").touch()
    for run in ("made", "missing"):
        process = Command([*arguments, tmp_path / run], tmp_path, launcher())
        process.wait(lambda process=process: "Initializing distributed" in process.files[1].read_text())
        assert process.at_work, process.end()
        process.kill()
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["config.yaml"]
    assert not (tmp_path / "missing").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plain-ddp"], "several devices: not every operation runs in each step; give Lightning's Trainer"),
        (["--other-seeds"], "several devices: their processes have different random seeds; call"),
    ],
)
def test_processes_that_cannot_search_together_say_why(tmp_path, arguments, message):
    both = together(["EDAS", *arguments], tmp_path, two_processes.search_and_compare)
    assert any(message in done.err for done in both)


# Mixed precision


def train_loss(run: Path) -> float:
    return float(pd.read_csv(run / "metrics.csv")["train_loss"].iloc[-1])


@pytest.mark.parametrize(
    "strategy", ["{name: DARTS, order: second}", "{name: EDAS}", "{name: FairDARTS}", "{name: DDARTS}"]
)
def test_a_search_in_bf16_has_the_loss_of_one_in_full_precision_but_for_rounding(tmp_path, strategy):
    (tmp_path / "search.yaml").write_text(DIGITS)
    short = ["--training.epochs", "1", "--data.train_images", "64", "--strategy", strategy]
    full, half = (
        search(
            tmp_path / "search.yaml",
            tmp_path / precision,
            [*short, "--compute.precision", precision],
        )
        for precision in ("32-true", "bf16-mixed")
    )
    assert train_loss(half) != train_loss(full)
    assert train_loss(half) == pytest.approx(train_loss(full), rel=0.05)


def test_a_retraining_in_bf16_has_the_loss_of_one_in_full_precision_but_for_rounding(tmp_path):
    Genotype.from_sample(SAMPLE, 3).save(tmp_path / "genotype.json")
    (tmp_path / "retrain.yaml").write_text(RETRAIN)
    full, half = (
        retrain(
            tmp_path / "genotype.json", tmp_path / "retrain.yaml", tmp_path / precision,
            ["--compute.precision", precision],
        )
        for precision in ("32-true", "bf16-mixed")
    )  # fmt: skip
    assert train_loss(half) != train_loss(full)
    assert train_loss(half) == pytest.approx(train_loss(full), rel=0.05)


@pytest.mark.parametrize("kind", ["search", "retrain"])
def test_devices_of_which_none_would_get_a_batch_are_refused(tmp_path, kind):
    Genotype.from_sample(SAMPLE, 3).save(tmp_path / "genotype.json")
    (tmp_path / "config.yaml").write_text(DIGITS if kind == "search" else RETRAIN)
    overrides = ["--compute.devices", "2", "--data.batch_size", "100"]
    with pytest.raises(
        InputError, match=r"^data.batch_size: 100 should be at most (64|97): 2 devices share (128|195) tr"
    ):
        if kind == "search":
            search(tmp_path / "config.yaml", tmp_path / "run", overrides)
        else:
            retrain(tmp_path / "genotype.json", tmp_path / "config.yaml", tmp_path / "run", overrides)
    assert not (tmp_path / "run").exists()


def test_more_devices_than_there_are_end_in_one_line():
    with pytest.raises(Exception, match="compute: cuda"):
        check_compute(Compute(accelerator="cuda", devices=64))
