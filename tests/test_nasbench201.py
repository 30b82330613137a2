"""The benchmark on NAS-Bench-201: what a search finds is one row of the table, and no search is run twice."""

import json
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from forked import Command, run_script
from PIL import Image

from nas_plugins.errors import InputError

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TINY = ["--channels", "2", "--image-size", "8", "--train-images", "40", "--batch-size", "10", "--epochs", "2"]
KINDS = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]


@pytest.fixture(scope="module")
def benchmark():
    """The modules of the benchmark, which import each other as scripts of one folder."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import nasbench201
    finally:
        sys.path.remove(str(BENCHMARKS))
    return nasbench201


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A made-up table of the whole space, in which convolutions are good."""
    names = [
        f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"
        for a in KINDS for b in KINDS for c in KINDS for d in KINDS for e in KINDS for f in KINDS
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("table") / "table.csv"
    accuracy = [50 + 7 * name.count("nor_conv") + 1e-4 * i for i, name in enumerate(names)]
    pd.DataFrame({"architecture": names, "cifar10_test_accuracy": accuracy}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """40 images of two classes."""
    folder = tmp_path_factory.mktemp("images")
    for label, name in enumerate(("dark", "light")):
        (folder / "train" / name).mkdir(parents=True)
        for i in range(20):
            colour = (40 + 150 * label, 2 * i, 100)
            Image.new("RGB", (12, 10), colour).save(folder / "train" / name / f"{i}.jpg")
    return folder


def test_every_sample_of_the_space_is_one_row_of_the_table(benchmark, table):
    found = [benchmark.architecture(sample) for sample in benchmark.every_sample()]
    assert len(found) == len(set(found)) == 5**6
    assert set(found) == set(benchmark.read_table(table).index)


def test_the_samples_are_those_of_the_space(benchmark):
    from nni.nas.hub.pytorch import NasBench201

    space = NasBench201(2, 1)
    samples = benchmark.every_sample()
    assert all(space.contains(sample) for sample in samples[:: len(samples) // 20])
    assert set(space.simplify()) == set(samples[0])


def test_an_operation_stands_on_its_own_edge(benchmark):
    sample = dict.fromkeys(benchmark.every_sample()[0], "none") | {"cell/1_3": "conv_3x3", "cell/0_2": "skip_connect"}
    assert benchmark.architecture(sample) == "|none~0|+|skip_connect~0|none~1|+|none~0|nor_conv_3x3~1|none~2|"


def test_paced_is_the_papers_learning_rate_in_a_search_of_the_papers_length_and_more_in_a_shorter_one(benchmark):
    import nasbench201_search

    full, proxy = (nasbench201_search.PROTOCOLS[name] for name in ("full", "proxy"))
    assert nasbench201_search.paced(full) == pytest.approx(3e-4)
    assert nasbench201_search.paced(proxy) == pytest.approx(3e-4 * (50 * 391) / (15 * 79))


@pytest.fixture
def forked(benchmark, monkeypatch, tmp_path):
    """Searches and trainings are processes that start at once."""

    def apart(script, arguments):
        log = Path(tempfile.mkdtemp(dir=tmp_path.parent))
        done = Command([script, json.dumps(arguments, default=str)], log, does=run_script).end()
        assert done.status == 0, done.err

    for module in ("nasbench201", "nasbench201_proxy"):
        monkeypatch.setattr(f"{module}.apart", apart)


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_searches_are_judged_by_the_table_and_none_runs_twice(benchmark, table, images, tmp_path, capsys):
    call = [str(tmp_path), "--images", str(images), "--table", str(table), *TINY, "--seeds", "0"]
    names = ["EDAS", "NNI DARTS"]
    benchmark.main([*call, "--jobs", "2", "--strategies", *names, "random"])

    truth = benchmark.read_table(table)
    runs = pd.read_csv(tmp_path / "runs.csv")
    assert list(runs["strategy"]) == names
    assert list(runs["accuracy"]) == list(truth[runs["architecture"]])
    assert (runs[KINDS].sum(axis=1) == 6).all()
    assert runs["supernet_val_acc"].between(0, 1).all()
    curves = pd.read_csv(tmp_path / "curves.csv")
    assert list(curves["epoch"]) == [0, 1, 0, 1]
    assert list(curves[curves["epoch"] == 1]["accuracy"]) == list(runs["accuracy"])
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert all(f"| {name} | 1 | {runs['accuracy'][i]:.2f} |" for i, name in enumerate(names))
    assert "| random | 1000 |" in text and "protocol: DARTS 54.30, ENAS" in text
    assert (tmp_path / "curves.png").stat().st_size > 1000

    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    benchmark.main([*call, "--strategies", *names])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()} == written
    (one, *_) = (json.loads(path.read_text(encoding="utf-8")) for path in written)
    assert one["settings"]["epochs"] == 2

    with pytest.raises(SystemExit):
        benchmark.main([*call, "--epochs", "3", "--strategies", *names])
    assert "epochs 3: " in (said := capsys.readouterr().err) and "holds runs with 2; give another folder" in said


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_random_architectures_trained_alone_are_ranked(benchmark, table, images, tmp_path, capsys, monkeypatch):
    call = [str(tmp_path), "--images", str(images), "--table", str(table), *TINY, "--rank-epochs", "1"]
    benchmark.main([*call, "--rank", "2"])
    first = pd.read_csv(tmp_path / "ranks.csv")
    assert list(first["table"]) == list(benchmark.read_table(table)[first["architecture"]])
    assert first["alone"].between(0, 100).all()
    assert "2 architectures: Kendall's τ" in capsys.readouterr().out
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "alone").iterdir()}
    monkeypatch.undo()
    benchmark.main([*call, "--rank", "3"])  # one more, in a real process
    assert {path: time for path, time in written.items() if path.stat().st_mtime_ns == time} == written
    assert len(pd.read_csv(tmp_path / "ranks.csv")) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--table", "{tmp}/none.csv"], "--table {tmp}/none.csv: cannot be read"),
        (["--table", "{tmp}/other.csv"], "--table {tmp}/other.csv: has no column 'cifar10_test_accuracy'"),
        (["--table", "{tmp}/short.csv"], "--table {tmp}/short.csv: has 1 of the 15625 architectures in 1 rows"),
        (["--table", "{tmp}/text.csv"], "--table {tmp}/text.csv: cifar10_test_accuracy of a is no number"),
        (["--images", "{tmp}"], "--images {tmp}: "),
        (["--seeds", "0", "-1"], "--seeds -1: it should be at least 0"),
        (["--image-size", "4"], "--image-size 4: it should be at least 8"),
        (["--train-images", "41"], "--train-images 41: "),
        (["--epochs", "0"], "--epochs 0: it should be at least 1"),
    ],
)
def test_what_cannot_work_is_said_in_one_line_before_any_work(
    benchmark, table, images, tmp_path, capsys, change, message
):
    (tmp_path / "other.csv").write_text("architecture,accuracy\n", encoding="utf-8")
    (tmp_path / "text.csv").write_text("architecture,cifar10_test_accuracy\na,good\n", encoding="utf-8")
    (tmp_path / "short.csv").write_text(
        "architecture,cifar10_test_accuracy\n|none~0|+|none~0|none~1|+|none~0|none~1|none~2|,10\n", encoding="utf-8"
    )
    output = tmp_path / "output"
    call = [str(output), "--images", str(images), "--table", str(table), *TINY]
    with pytest.raises(SystemExit) as ended:
        benchmark.main([*call, *(part.format(tmp=tmp_path) for part in change)])
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 2
    assert message.format(tmp=tmp_path) in said and "\n" not in said
    assert not output.exists()


@pytest.mark.parametrize("text", ["", "{}", '{"settings": 1}', "[]", '{"settings": {"epochs": 2}'])
def test_a_file_that_is_no_result_is_named(benchmark, tmp_path, text):
    (tmp_path / "EDAS-0.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="EDAS-0.json: no result of a run; delete it"):
        benchmark.results(tmp_path, {"epochs": 2})
