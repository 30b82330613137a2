"""Compare methods on a benchmark with the true accuracy of every architecture.

    python benchmarks/benchmark.py exhaustive OUTPUT --table docs/quality/exhaustive.csv [--methods NAME ...]
        [--seeds 0 1 2 3 4] [--jobs 2] [--baseline NAME] [--epochs 30]
    python benchmarks/benchmark.py nasbench201 OUTPUT --table CSV [--column cifar10_test_accuracy] [--images FOLDER]
        [--methods NAME ...] [...]

The benchmarks:

    exhaustive    this project's own: 207 networks on noisy digits, trained by exhaustive.py; needs no images
    nasbench201   NNI's space, with the table, the proxy and the runs of nasbench201.py. CSV has the column
                  architecture and the one given by --column; FOLDER holds train/CLASS/*

Without --methods, exhaustive uses the methods in METHODS, and nasbench201 reports the finished runs of OUTPUT.
Finished searches are not repeated. Without --images, nasbench201 runs no searches, and reports the finished runs of
--methods and --seeds. Random search and the other baselines of baselines.py are always included. The script writes
into OUTPUT

    runs/*.json          one file per finished search
    benchmark_runs.csv   one row per run: accuracy, rank and percentile among all architectures, regret
    methods.csv          one row per method
    pairs.csv            each method against the baseline: bootstrap interval, permutation test, Holm's correction
    benchmark.md, .png   the same as tables, and the average ranks with their critical difference
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from baselines import RANDOM, affordable, baseline_runs
from benchmark_report import write_report
from nasbench201_runs import apart, results

from nas_plugins.errors import InputError
from nas_plugins.parallel_runs import in_parallel

EXHAUSTIVE, NASBENCH201 = "exhaustive", "nasbench201"
METHODS = (
    "DARTS", "DARTS, one-level, weights first", "DARTS, second order", "EDAS", "EDAS, one-level", "FairDARTS",
    "DDARTS, w_abl=0", "PCDARTS", "NNI DARTS",
)  # fmt: skip
"""Default methods of the exhaustive benchmark."""
EPOCHS = 30


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the searches that have not finished, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("benchmark", choices=[EXHAUSTIVE, NASBENCH201])
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder")
    parser.add_argument("--table", type=Path, required=True, metavar="CSV", help="true accuracy of each architecture")
    parser.add_argument("--column", default="cifar10_test_accuracy", help="accuracy in the table of nasbench201")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="for searches of nasbench201: train/CLASS/*")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="default: see above")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="SEED")
    parser.add_argument("--jobs", type=int, default=1, help="searches at a time; each takes one core")
    parser.add_argument("--baseline", default=RANDOM, metavar="NAME", help=f"what others are tested against: {RANDOM}")
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help=f"of an exhaustive search: {EPOCHS}")
    options = parser.parse_args(arguments)
    try:
        check(options)
        truth = (exhaustive_table if options.benchmark == EXHAUSTIVE else nasbench201_table)(options)
        search_missing(options)
        report(options, truth)
    except InputError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def check(options: argparse.Namespace) -> None:
    """Raise an InputError for a number that is too small, or an output that is a file."""
    for name, least in (("jobs", 1), ("epochs", 1), ("seeds", 0)):
        value = min(options.seeds) if name == "seeds" else getattr(options, name)
        if value < least:
            raise InputError(f"--{name} {value}: it should be at least {least}")
    if options.output.exists() and not options.output.is_dir():
        raise InputError(f"{options.output}: it should be a folder")
    options.seeds = list(dict.fromkeys(options.seeds))
    if options.methods is None and options.benchmark == EXHAUSTIVE:
        options.methods = list(METHODS)


# The tables


def exhaustive_table(options: argparse.Namespace) -> pd.DataFrame:
    """Return accuracy, alone, alone_seconds and parameters of each architecture, from the table of exhaustive.py.

    The accuracy is the mean over the seeds that have been trained.

    Raises:
        InputError: The file is not such a table.
    """
    columns = ["seed_0", "seed_1", "seed_2", "alone", "alone_cpu_seconds", "parameters"]
    table = _read(options.table, columns)
    seeds = table[columns[:3]]
    if seeds.isna().all(axis=1).any():
        name = table.index[seeds.isna().all(axis=1)][0]
        raise InputError(f"--table {options.table}: {name} has no accuracy; finish it by benchmarks/exhaustive.py")
    return table[columns[3:]].rename(columns={"alone_cpu_seconds": "alone_seconds"}).assign(accuracy=seeds.mean(axis=1))


def nasbench201_table(options: argparse.Namespace) -> pd.DataFrame:
    """Return the accuracy of each architecture, and its ``parameters`` in units of a 1×1 convolution.

    If OUTPUT has the ranks.csv of ``nasbench201.py --rank``, ``alone`` and ``alone_seconds`` are read from it.

    Raises:
        InputError: The file is not such a table.
    """
    table = _read(options.table, [options.column])
    if table[options.column].isna().any():
        name = table.index[table[options.column].isna()][0]
        raise InputError(f"--table {options.table}: {options.column} of {name} is no number")
    weights = [9 * str(name).count("conv_3x3") + str(name).count("conv_1x1") for name in table.index]
    truth = pd.DataFrame({"accuracy": table[options.column], "parameters": weights})
    ranks = options.output / "ranks.csv"
    if ranks.exists():
        found = _read(ranks, ["alone", "seconds"], f"{ranks}")
        truth = truth.join(found.rename(columns={"seconds": "alone_seconds"}))
    return truth


def _read(path: Path, columns: Sequence[str], name: str | None = None) -> pd.DataFrame:
    """Return numeric columns of a table by architecture."""
    name = name or f"--table {path}"
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise InputError(f"{name}: cannot be read: {str(error).splitlines()[0]}") from None
    for column in ("architecture", *columns):
        if column not in table:
            raise InputError(f"{name}: has no column {column!r}; it has {', '.join(map(str, table.columns))}")
    table = table.set_index("architecture")[list(columns)].apply(pd.to_numeric, errors="coerce")
    if table.index.has_duplicates or table.empty:
        raise InputError(f"{name}: it should have one row an architecture")
    return table


# The searches


def finished(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the finished searches of the folder.

    Raises:
        InputError: The searches differ in their settings, or a file is not the result of a search.
    """
    folder = options.output / "runs"
    found = results(folder, {"epochs": options.epochs} if options.benchmark == EXHAUSTIVE else {})
    return results(folder, found[0]["settings"]) if found else []


def search_missing(options: argparse.Namespace) -> None:
    """Run the searches of --methods and --seeds that have not finished."""
    done = {(one["strategy"], one["seed"]) for one in finished(options)}
    if options.benchmark == NASBENCH201 and options.images is None:
        methods = {method for method, _ in done}
        for method in options.methods or []:
            if method not in methods:
                raise InputError(
                    f"--images: {method} has no finished run in {options.output}, and needs images to search"
                )
        return
    left = {
        method: seeds
        for method in options.methods or []
        if (seeds := [seed for seed in options.seeds if (method, seed) not in done])
    }
    if left and options.benchmark == EXHAUSTIVE:
        _search_exhaustive(left, options)
    elif left:
        _search_nasbench201(left, options)


def _search_exhaustive(left: dict[str, list[int]], options: argparse.Namespace) -> None:
    import exhaustive_search  # late, because it takes seconds

    _check_known(left, list(exhaustive_search.METHODS))
    shared = {"folder": options.output / "runs", "epochs": options.epochs}
    calls = [
        partial(apart, exhaustive_search.__file__, {"method": method, "seeds": seeds, **shared})
        for method, seeds in left.items()
    ]
    in_parallel(options.jobs, calls)


def _search_nasbench201(left: dict[str, list[int]], options: argparse.Namespace) -> None:
    import nasbench201  # late, because it takes seconds
    from nasbench201_search import PROTOCOLS, STRATEGIES

    _check_known(left, list(STRATEGIES))
    nasbench201.search_all(argparse.Namespace(**{**vars(options), "strategies": list(left)}), PROTOCOLS["proxy"])


def _check_known(methods: dict[str, list[int]], known: Sequence[str]) -> None:
    for method in methods:
        if method not in known:
            raise InputError(f"--methods {method}: it should be one of {'; '.join(known)}")


def report(options: argparse.Namespace, truth: pd.DataFrame) -> None:
    """Write and print the report of the finished searches and the baselines.

    Raises:
        InputError: A search found an architecture that the table lacks, or the baseline is not in the report.
    """
    rows = []
    for one in finished(options):
        chosen = options.methods is None or (one["strategy"] in options.methods and one["seed"] in options.seeds)
        if not chosen:
            continue
        name = one["architecture"]
        if name not in truth.index:
            raise InputError(f"--table {options.table}: lacks {name}, which {one['strategy']} found")
        rows.append(
            {
                "method": one["strategy"], "seed": one["seed"], "architecture": name,
                "accuracy": truth["accuracy"][name], "cpu_seconds": one.get("cpu_seconds"),
            }
        )  # fmt: skip
    searched = pd.DataFrame(rows, columns=["method", "seed", "architecture", "accuracy", "cpu_seconds"])
    seeds = sorted(set(searched["seed"])) or options.seeds
    count = affordable(truth, float(searched["cpu_seconds"].mean()) if rows else 0.0)
    baselines = baseline_runs(truth, seeds, count)
    runs = pd.concat([searched, baselines], ignore_index=True) if rows else baselines
    if options.baseline not in set(runs["method"]):
        known = "; ".join(dict.fromkeys(runs["method"]))
        raise InputError(f"--baseline {options.baseline}: it should be one of {known}")
    accuracy = f"column {options.column}" if options.benchmark == NASBENCH201 else "mean of its trainings"
    title = f"Benchmark {options.benchmark}, {len(truth):,} architectures, accuracy by the table: {accuracy}."
    title += f" Of random search k is {count}." if count else ""
    print(write_report(options.output, runs, truth["accuracy"], options.baseline, title))


if __name__ == "__main__":
    main()
