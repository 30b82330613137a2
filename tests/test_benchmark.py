"""The benchmark: methods against baselines by tables of true accuracies, and the table of the small space."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from forked import Command, run_script

from search_spaces.edges import Edge

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
CONV, SKIP = "nor_conv_3x3", "skip_connect"


@pytest.fixture(scope="module")
def scripts():
    """The modules of the benchmark, which import each other as scripts of one folder."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import baselines
        import benchmark
        import claims
        import claims_search
        import exhaustive
        import exhaustive_space
    finally:
        sys.path.remove(str(BENCHMARKS))
    return {"benchmark": benchmark, "exhaustive": exhaustive, "space": exhaustive_space, "baselines": baselines,
            "claims": claims, "claims_search": claims_search}  # fmt: skip


@pytest.fixture
def forked(monkeypatch, tmp_path):
    """Searches in processes that are forks, which have their imports behind them."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    log = tmp_path / "log"
    log.mkdir()

    def apart(script, arguments):
        done = Command([script, json.dumps(arguments, default=str)], log, does=run_script).end()
        assert done.status == 0, done.err

    monkeypatch.setattr("benchmark.apart", apart)


# The small space


def test_isomorphic_networks_of_the_small_space_have_one_name(scripts):
    space = scripts["space"]
    assert len(space.every_sample()) == 243
    names = space.every_name()
    assert len(names) == 207
    assert [space.name_of(space.parse_name(name)) for name in names] == names
    # Nodes 2 and 3 both read the inputs, so that their names can be exchanged.
    first, second = "|max_pool_3x3~0|skip_connect~1|", "|skip_connect~0|skip_connect~1|"
    assert space.name_of(space.parse_name(f"{second}+{first}")) == f"{first}+{second}"


def test_every_architecture_is_a_sample_that_a_search_can_end_with(scripts):
    space = scripts["space"]
    searched = space.ExhaustiveSpace(channels=4)
    for genotype in space.every_sample()[::40]:
        assert space.name_of(searched.genotype(searched.sample(genotype))) == space.name_of(genotype)


def test_the_small_space_is_trained_whole_and_no_training_runs_twice(scripts, tmp_path, monkeypatch):
    exhaustive = scripts["exhaustive"]
    # In this process, which is faster; the searches below have their own.
    monkeypatch.setattr(
        exhaustive, "apart", lambda _, part: exhaustive.work(**json.loads(json.dumps(part, default=str)))
    )
    call = [str(tmp_path), "--epochs", "1", "--only"]
    exhaustive.main([*call, "1", "--jobs", "2"])
    table = pd.read_csv(tmp_path / "exhaustive_1_epochs.csv")
    assert list(table.columns[1:5]) == ["seed_0", "seed_1", "seed_2", "alone"]
    assert table[["seed_0", "seed_1", "seed_2", "alone"]].stack().between(0, 100).all()
    assert (table["parameters"] > 100).all() and (table["multiply_adds"] > 1000).all()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "trainings").iterdir()}
    assert len(written) == 2
    exhaustive.main([*call, "1"])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "trainings").iterdir()} == written
    exhaustive.main([*call, "2"])  # one more
    assert len(pd.read_csv(tmp_path / "exhaustive_1_epochs.csv")) == 2
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_a_training_is_the_same_every_time_and_another_with_another_seed(scripts):
    exhaustive, name = scripts["exhaustive"], scripts["space"].every_name()[100]
    found = [exhaustive.train(name, "", kind, 1) for kind in ("0", "0", "1")]
    assert found[0] == found[1] != found[2]


# The report


@pytest.fixture(scope="module")
def small_table(tmp_path_factory):
    """A made-up table of the small space, in which convolutions are good, trained once alone."""
    sys.path.insert(0, str(BENCHMARKS))
    from exhaustive_space import every_name

    sys.path.remove(str(BENCHMARKS))
    names = every_name()
    accuracy = [50 + 10 * name.count("conv") + 0.01 * place for place, name in enumerate(names)]
    table = pd.DataFrame({"architecture": names, "seed_0": accuracy, "seed_1": accuracy, "seed_2": None})
    table = table.assign(alone=accuracy, alone_cpu_seconds=1e-4, parameters=[name.count("conv") for name in names])
    path = tmp_path_factory.mktemp("table") / "exhaustive.csv"
    table.to_csv(path, index=False)
    return path


def test_searches_of_the_small_space_are_judged_and_none_runs_twice(scripts, small_table, tmp_path, forked, capsys):
    call = ["exhaustive", str(tmp_path), "--table", str(small_table), "--epochs", "1", "--seeds", "0", "1"]
    scripts["benchmark"].main([*call, "--methods", "EDAS", "FairDARTS"])
    runs = pd.read_csv(tmp_path / "benchmark_runs.csv")
    assert list(runs["method"].drop_duplicates()) == [
        "EDAS", "FairDARTS", "random", "best of k random", "all 3×3, the widest",
    ]  # fmt: skip
    truth = pd.read_csv(small_table).set_index("architecture")["seed_0"]
    searched = runs[runs["method"].isin(["EDAS", "FairDARTS"])]
    assert list(searched["accuracy"]) == pytest.approx(list(truth[searched["architecture"]]))
    assert list(runs["rank"]) == [1 + (truth > accuracy + 1e-3).sum() for accuracy in runs["accuracy"]]
    best = runs[runs["method"] == "best of k random"]
    assert (best["rank"] == 1).all() and (best["regret"].abs() < 1e-9).all()
    pairs = pd.read_csv(tmp_path / "pairs.csv")
    assert set(pairs["baseline"]) == {"random"} and len(pairs) == 4 and (pairs["p_holm"] >= pairs["p"]).all()
    assert (tmp_path / "benchmark.png").stat().st_size > 1000
    assert "| EDAS | 2 |" in (tmp_path / "benchmark.md").read_text(encoding="utf-8")

    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    scripts["benchmark"].main([*call, "--methods", "EDAS", "--baseline", "EDAS"])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()} == written
    assert "| against EDAS | pairs |" in capsys.readouterr().out


@pytest.fixture
def nasbench201(tmp_path):
    """A table of four architectures, and runs of two methods with three seeds."""
    names = [f"|{a}~0|+|{b}~0|{b}~1|" for a in (CONV, SKIP) for b in (CONV, SKIP)]
    pd.DataFrame({"architecture": names, "other": [94.0, 92.0, 91.0, 80.0]}).to_csv(tmp_path / "table.csv", index=False)
    (tmp_path / "output" / "runs").mkdir(parents=True)
    for method, found in {"A": (0, 0, 1), "B": (3, 2, 3)}.items():
        for seed, place in enumerate(found):
            one = {"strategy": method, "seed": seed, "settings": {"epochs": 5}, "architecture": names[place]}
            one["cpu_seconds"] = 30
            (tmp_path / "output" / "runs" / f"{method}-{seed}.json").write_text(json.dumps(one), encoding="utf-8")
    ranks = pd.DataFrame({"architecture": names[:2], "alone": [50, 60], "seconds": [20, 10]})
    ranks.to_csv(tmp_path / "output" / "ranks.csv", index=False)
    return [
        "nasbench201", str(tmp_path / "output"), "--table", str(tmp_path / "table.csv"), "--column", "other"
    ]  # fmt: skip


def test_finished_runs_of_nasbench201_are_reported_by_any_column(scripts, nasbench201, tmp_path):
    scripts["benchmark"].main([*nasbench201, "--baseline", "B"])
    methods = pd.read_csv(tmp_path / "output" / "methods.csv").set_index("method")
    expected = {"runs": 3, "mean": 93.3333, "median": 94, "worst": 92, "rank": 4 / 3, "regret": 2 / 3}
    assert methods.loc["A", list(expected)].to_dict() == pytest.approx(expected, abs=1e-3)
    assert methods.loc["A", "percentile"] == pytest.approx(100 * (1 - 1 / 9), abs=1e-3)
    assert methods.loc["all 3×3, the widest", "mean"] == 94
    # 30 seconds of search are two trainings of 15, which choose the better one by the proxy.
    assert methods.loc["best of k random", "mean"] == 92
    pairs = pd.read_csv(tmp_path / "output" / "pairs.csv").set_index("method")
    assert pairs.loc["A", "difference"] == pytest.approx((14 + 3 + 12) / 3, abs=1e-3)
    assert pairs.loc["A", "low"] == 3 and pairs.loc["A", "high"] == 14
    assert pairs.loc["A", "p"] == 0.25


def test_the_widest_is_another_baseline_where_it_is_not_all_3x3(scripts):
    truth = pd.DataFrame({"accuracy": [90.0, 80.0], "parameters": [1, 2]}, index=[f"|{CONV}~0|", "|nor_conv_7x7~0|"])
    runs = scripts["baselines"].baseline_runs(truth, [0, 1], 0)
    assert list(runs["method"]) == ["random"] * 2 + ["all 3×3"] * 2 + ["widest"] * 2
    assert list(runs["accuracy"][2:]) == [90, 90, 80, 80]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--table", "{tmp}/none.csv"], "--table {tmp}/none.csv: cannot be read"),
        (["--column", "cifar100"], "--table {tmp}/table.csv: has no column 'cifar100'; it has architecture, other"),
        (["--baseline", "C"], "--baseline C: it should be one of A; B; random"),
        (["--methods", "C"], "--images: C has no finished run in {tmp}/output"),
        (["--jobs", "0"], "--jobs 0: it should be at least 1"),
        (["--seeds", "1", "-1"], "--seeds -1: it should be at least 0"),
        (["--table", "{tmp}/short.csv"], "--table {tmp}/short.csv: lacks |nor_conv_3x3~0|+"),
        (["--table", "{tmp}/text.csv"], "--table {tmp}/text.csv: other of b is no number"),
        (["--table", "{tmp}/twice.csv"], "--table {tmp}/twice.csv: it should have one row an architecture"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(scripts, nasbench201, tmp_path, capsys, change, message):
    for name, rows in {"short": "a,90\n", "text": "a,90\nb,good\n", "twice": "a,90\na,91\n"}.items():
        (tmp_path / f"{name}.csv").write_text(f"architecture,other\n{rows}", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        scripts["benchmark"].main([*nasbench201, *(part.format(tmp=tmp_path) for part in change)])
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 2
    assert message.format(tmp=tmp_path) in said and "\n" not in said
    assert not (tmp_path / "output" / "benchmark.md").exists()


def test_a_table_that_is_not_finished_names_what_is_missing(scripts, small_table, tmp_path, capsys):
    table = pd.read_csv(small_table)
    table.loc[3, ["seed_0", "seed_1"]] = None
    table.to_csv(tmp_path / "part.csv", index=False)
    with pytest.raises(SystemExit):
        scripts["benchmark"].main(["exhaustive", str(tmp_path / "output"), "--table", str(tmp_path / "part.csv")])
    said = capsys.readouterr().err
    assert f"{table['architecture'][3]} has no accuracy; finish it by benchmarks/exhaustive.py" in said
    assert not (tmp_path / "output").exists()


# The claims of the papers


@pytest.mark.slow
def test_an_arm_is_searched_and_trained_and_compared_by_seed(scripts, tmp_path, monkeypatch, capsys):
    claims, arms = scripts["claims"], scripts["claims_search"]
    for name, small in {"epochs": 1, "training_epochs": 1, "trainings": 1, "train_images": 100}.items():
        monkeypatch.setitem(claims.SETTINGS, name, small)
    monkeypatch.setattr(claims, "apart", lambda _, given: arms.main(**json.loads(json.dumps(given, default=str))))
    claims.main([str(tmp_path), "--seeds", "3"])
    table = pd.read_csv(tmp_path / "claims.csv").set_index("claim")
    found = pd.read_csv(tmp_path / "arms.csv").set_index("arm")
    assert len(table) == len(claims.CLAIMS) and set(table["pairs"]) == {1}
    for claim, arm, other in claims.CLAIMS:
        difference = found["accuracy"][arm] - found["accuracy"][other]
        assert table["difference"][f"{claim}: {arm} − {other}"] == pytest.approx(difference, abs=2e-4)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    claims.main([str(tmp_path), "--seeds", "3"])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()} == written


def test_random_operations_join_a_network_in_place_of_those_of_a_search(scripts):
    arms = scripts["claims_search"]
    (start,) = arms.RESIDUAL.cells
    searched = replace(arms.RESIDUAL, cells=((*start, Edge("skip_connect", 0, 2), Edge("max_pool_3x3", 1, 3)),))
    (cell,) = arms.widened(searched, seed=3).cells
    assert cell[: len(start)] == start and len(set(cell)) == len(searched.cells[0])
    assert arms.widened(searched, seed=3) == arms.widened(searched, seed=3) != arms.widened(searched, seed=4)


def test_attention_is_compared_by_architecture(scripts, tmp_path):
    head = "architecture,seed_0,seed_1,seed_2\n"
    (tmp_path / "exhaustive.csv").write_text(head + "a,50,52,54\nb,40,40,40\nc,1,1,1\n")
    with pytest.raises(scripts["claims"].InputError, match="has no table exhaustive_fixed.csv"):
        scripts["claims"].read_attention(tmp_path)
    (tmp_path / "exhaustive_fixed.csv").write_text(head + "b,41,41,44\na,50,50,50\n")
    assert scripts["claims"].read_attention(tmp_path).to_dict() == {"a": -2.0, "b": 2.0}


@pytest.mark.parametrize("rows", ["c,1,1,1\n", "a,50,50,50\na,51,51,51\n", "a,text,50,50\n"])
def test_attention_is_not_compared_by_tables_that_do_not_fit(scripts, tmp_path, rows):
    head = "architecture,seed_0,seed_1,seed_2\n"
    (tmp_path / "exhaustive.csv").write_text(head + "a,50,52,54\n")
    (tmp_path / "exhaustive_fixed.csv").write_text(head + rows)
    with pytest.raises(scripts["claims"].InputError, match="--tables .*table"):
        scripts["claims"].read_attention(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("DARTS-0", {"accuracies": [80.0]}, "no result of a run"),
        ("DARTS-0", {"accuracies": [80.0, 81.0, float("nan")]}, "no result of a run"),
        ("DARTS-0", {"edges": "many"}, "no result of a run"),
        ("DARTS-0", {"settings": {}}, "no result of a run"),
        ("DARTS-0 copy", {}, "no result of a run"),
        ("DARTS-0", {"settings": {"epochs": 1}}, "holds runs with 1"),
    ],
)
def test_a_run_of_a_claim_that_is_none_is_named(scripts, tmp_path, name, change, message):
    claims = scripts["claims"]
    one = {
        "strategy": "DARTS",
        "seed": 0,
        "settings": claims.SETTINGS,
        "edges": 16,
        "parameters": 9,
        "accuracies": [8, 9, 9],
    }
    if change.get("settings"):
        change = {"settings": claims.SETTINGS | change["settings"]}
    (tmp_path / f"{name}.json").write_text(json.dumps(one | change))
    with pytest.raises(claims.InputError, match=message):
        claims.finished(tmp_path)
    (tmp_path / f"{name}.json").rename(tmp_path / "DARTS-0.json").write_text(json.dumps(one))
    assert claims.finished(tmp_path) == [one]
