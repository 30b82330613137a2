"""Measure searches with a cost target: the networks that they find, their time, and how well they meet the target.

    python benchmarks/costs.py nasbench201 OUTPUT --images FOLDER --table CSV [--strategies NAME ...]
        [--of searched table] [--seeds 0 1 ...] [--jobs N]
    python benchmarks/costs.py step OUTPUT [--strategies NAME ...] [--pairs N]
    python benchmarks/costs.py targets OUTPUT [--strategies NAME ...] [--targets N ...] [--seeds 0 1 ...]
        [--retrain]
    python benchmarks/costs.py penalty OUTPUT

Costs are multiply-adds. FOLDER and CSV are those of nasbench201.py. Finished runs are not repeated. The script writes
into OUTPUT

    nasbench201/*.json   one file per finished search with the proxy of nasbench201.py
    nasbench201.csv      one row per search: its cost as a share of the target, and its accuracy in the table
    random.csv           all architectures of the table whose cost is within 5 % of the target
    step.csv             one row per pair of steps: CPU seconds with a cost and without
    targets/             searches on the digits of scikit-learn, and retrainings of the networks that they found
    targets.csv          one row per search in targets/
    penalty.csv          one row per search with a penalty of NNI or with a target: the derived operation

The target of nasbench201 is half the cost of the network with a 3×3 convolution on every edge. This network has the
size of the searched network, or that of the networks in the table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from costs_search import SEARCHED, TABLE, cost_of, cost_table, network_of, target_of
from nasbench201 import read_table
from nasbench201_images import find, prepare
from nasbench201_runs import apart, results
from nasbench201_search import PROTOCOLS, STRATEGIES, architecture, every_sample
from tqdm import tqdm

import nas_plugins
from nas_plugins.errors import InputError
from nas_plugins.parallel_runs import in_parallel
from nas_plugins.runs import directory as runs
from nas_plugins.runs.reader import read_run
from nas_plugins.training import evaluate, retrain
from nas_plugins.training.search import search
from nas_plugins.training.trainer import quiet
from search_spaces.complexity import count_multiply_adds
from search_spaces.files import write_text_whole
from search_spaces.genotype import Genotype
from search_spaces.network import Network

FOLDER = Path(__file__).parent
EXAMPLES = FOLDER.parent / "examples"
PROXY = PROTOCOLS["proxy"]
WITHIN = 0.05
"""Largest relative difference from a target at which the cost of an architecture counts as equal to it."""
STEP_TARGET = 25e6
"""Target that the search of ``step`` exceeds in every step."""
ONE_LEVEL = ["EDAS, one-level", "DARTS, one-level, weights first"]
"""Strategies of nasbench201.py that do well without a target."""
DIGITS = {
    "EDAS": "{name: EDAS, sign_flip_epochs: 2}",
    "DARTS": "{name: DARTS, learning_rate: 0.003}",
    "PCDARTS": "{name: PCDARTS, learning_rate: 0.003, warmup_epochs: 2}",
}
"""Strategy -> its settings in a short search on the digits."""
CHANNELS, DIGITS_PIXELS = 4, 8
SMALL = [f"--space.channels={CHANNELS}", "--space.layers=5", "--space.nodes=3", "--training.epochs=5"]
DIGITS_SEARCH = EXAMPLES / "methods" / "digits.yaml"
DIGITS_RETRAIN = EXAMPLES / "edas" / "digits_retrain.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the measurements that have not finished, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")

    def part(name: str, run: Callable[[argparse.Namespace], None], **strategies: Any) -> argparse.ArgumentParser:
        added = parts.add_parser(name, help=(run.__doc__ or "").splitlines()[0])
        added.add_argument("output", type=Path, metavar="OUTPUT", help="folder")
        if strategies:
            added.add_argument("--strategies", nargs="+", metavar="NAME", **strategies)
        added.set_defaults(run=run)
        return added

    bench = part("nasbench201", nasbench201, default=ONE_LEVEL, choices=list(STRATEGIES))
    bench.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="holds train/CLASS/*")
    bench.add_argument("--table", type=Path, required=True, metavar="CSV", help="true accuracy of each architecture")
    bench.add_argument("--of", nargs="+", default=[SEARCHED], choices=[SEARCHED, TABLE], help="network of the target")
    step = part("step", steps, default=["EDAS", "DARTS"])
    step.add_argument("--pairs", type=int, default=4, metavar="N", help="pairs of steps, with a cost and without")
    digits = part("targets", targets, default=["EDAS", "DARTS"], choices=list(DIGITS))
    digits.add_argument("--targets", type=float, nargs="+", default=[55e3, 65e3, 75e3, 90e3], metavar="N")
    bench.add_argument("--jobs", type=int, default=1, metavar="N", help="searches at a time; each takes a core")
    digits.add_argument("--retrain", action="store_true", help="also train what is found from scratch")
    for several in (bench, digits):
        several.add_argument("--seeds", type=int, nargs="+", default=list(range(5)), metavar="SEED")
    part("penalty", penalties)
    options = parser.parse_args(arguments)
    try:
        check(options)
        options.output.mkdir(parents=True, exist_ok=True)
        options.run(options)
    except InputError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def check(options: argparse.Namespace) -> None:
    """Check the numbers and the folder of a command line.

    Raises:
        InputError: A number is too small, a strategy does not exist, or OUTPUT is not a folder.
    """
    for key, least in {"pairs": 1, "jobs": 1, "seeds": 0, "targets": 1}.items():
        given = getattr(options, key, least)
        smallest = min(given) if isinstance(given, list) else given
        if smallest < least:
            raise InputError(f"--{key} {smallest:g}: it should be at least {least}")
    for name in options.strategies if options.part == "step" else []:
        if name not in nas_plugins.__all__:
            raise InputError(f"--strategies {name}: nas_plugins has no such strategy")
    if options.output.exists() and not options.output.is_dir():
        raise InputError(f"{options.output}: it should be a folder")


# NAS-Bench-201


def nasbench201(options: argparse.Namespace) -> None:
    """Search NAS-Bench-201 for half the cost of its 3×3 network."""
    table, folder = read_table(options.table), options.output / "nasbench201"
    done = {(one["strategy"], one["which"], one["seed"]) for one in results(folder, asdict(PROXY))}
    wanted = product(options.seeds, options.of, options.strategies)
    jobs = [(name, which, seed) for seed, which, name in wanted if (name, which, seed) not in done]
    if jobs:
        found = find(options.images, PROXY.train_images)
        with tempfile.TemporaryDirectory() as temporary:
            images = Path(temporary) / "images.npz"
            prepare(found, PROXY.train_images, PROXY.image_size, images)
            in_parallel(options.jobs, [partial(search_bench, folder, images, *job) for job in jobs])
    summarize(options.output, folder, table)


def search_bench(folder: Path, images: Path, name: str, which: str, seed: int) -> None:
    """Run a search in a separate process.

    Args:
        folder: Folder for the result.
        images: File of :func:`nasbench201_images.prepare`.
        name: Name of the strategy.
        which: Network whose cost sets the target, see :func:`costs_search.network_of`.
        seed: Seed of the search.
    """
    slug = "".join(letter if letter.isalnum() else "-" for letter in name)
    shared = {"settings": asdict(PROXY), "images": images, "output": (folder / f"{slug}-{which}-{seed}.json").resolve()}
    apart(str(FOLDER / "costs_search.py"), {"strategy": name, "which": which, "seed": seed, **shared})


def summarize(output: Path, folder: Path, table: pd.Series) -> None:
    """Write the tables of all finished searches, and of the architectures whose cost is close to the target."""
    found = results(folder, asdict(PROXY))
    samples = {architecture(sample): sample for sample in every_sample()}
    rows, random = [], []
    for which in (SEARCHED, TABLE):
        costs_of = cost_table(network_of(which, PROXY))
        costs = pd.Series({name: cost_of(costs_of, sample) for name, sample in samples.items()})
        target = target_of(costs_of)
        random.append({"of": which, "target": round(target), **at_cost(table, costs, target)})
        rows += [bench_row(one, table, costs, target) for one in found if one["which"] == which]
    searches = pd.DataFrame(rows)
    write(output / "nasbench201.csv", searches)
    write(output / "random.csv", pd.DataFrame(random))
    if rows:
        figures = searches.groupby(["of", "strategy"])[["share", "accuracy", "random_at_cost"]]
        print(figures.agg(["count", "mean", "std", "min"]).round(3).to_string())
    print(pd.DataFrame(random).to_string(index=False))


def at_cost(table: pd.Series, costs: pd.Series, cost: float) -> dict[str, float]:
    """Return statistics on the accuracy of architectures whose cost is within 5 % of a given one, or up to it.

    Args:
        table: Architecture -> accuracy.
        costs: Architecture -> cost.
        cost: The given cost.
    """
    near = table[costs.index[(costs / cost - 1).abs() <= WITHIN]]
    below = table[costs.index[costs <= cost]]
    figures = {"mean": near.mean(), "median": near.median(), "deviation": near.std()}
    ends = {"worst": near.min(), "best": near.max(), "mean_below": below.mean(), "best_below": below.max()}
    return {"architectures": len(near), **{key: round(value, 3) for key, value in (figures | ends).items()}}


def bench_row(one: dict[str, Any], table: pd.Series, costs: pd.Series, target: float) -> dict[str, Any]:
    """Return the row of a search.

    ``unshifted`` is the architecture derived from α without the shift that makes it meet the target.
    ``random_at_cost`` is the mean accuracy of the architectures that cost as much as the derived one.
    """
    derived, unshifted = one["architecture"], one["unshifted"]
    return {
        "of": one["which"],
        "strategy": one["strategy"],
        "seed": one["seed"],
        "architecture": derived,
        "accuracy": table[derived],
        "multiply_adds": round(costs[derived]),
        "share": round(costs[derived] / target, 4),
        "random_at_cost": round(at_cost(table, costs, costs[derived])["mean"], 3),
        "unshifted_accuracy": table[unshifted],
        "unshifted_share": round(costs[unshifted] / target, 4),
        "multiplier": round(one["multiplier"], 3),
        "cpu_seconds": one["cpu_seconds"],
    }


# A step


def steps(options: argparse.Namespace) -> None:
    """Time steps with a cost and without."""
    file = options.output / "step.csv"
    table = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["strategy"])
    for name in options.strategies:
        if name not in set(table["strategy"]):
            given = {"strategy": name, "pairs": options.pairs, "target": STEP_TARGET}
            found = pd.DataFrame(json.loads(said(FOLDER / "costs_step.py", given)))
            found = found.assign(strategy=name, ratio=found["with"] / found["without"])
            found = found.assign(ratio_inside=found["with"] / (found["with"] - found["inside"]))
            columns = ["strategy", "with", "without", "inside", "ratio", "ratio_inside"]
            table = pd.concat([frame for frame in (table, found[columns].round(5)) if len(frame)])
            write(file, table)
    figures = table.groupby("strategy")[["without", "inside", "ratio", "ratio_inside"]].agg(["median", "min", "max"])
    print(figures.round(4).to_string())


def said(script: Path, arguments: object) -> str:
    """Run a script, which uses one thread, with JSON arguments, and return the last line that it prints.

    Raises:
        SystemExit: The script failed. The message is the last line of its error output.
    """
    call = [sys.executable, str(script), json.dumps(arguments)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip().rpartition("\n")[2])
    return done.stdout.splitlines()[-1]


# Targets


def targets(options: argparse.Namespace) -> None:
    """Search the digits for several targets."""
    rows = []
    for seed, target, name in tqdm([*product(options.seeds, options.targets, options.strategies)], unit="run"):
        folder = options.output / "targets" / f"{name}-{target:g}-{seed}"
        with quiet(), warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            rows.append(target_row(name, target, seed, folder) | (retrained(folder, seed) if options.retrain else {}))
        table = pd.DataFrame(rows).sort_values(["strategy", "target", "seed"])
        write(options.output / "targets.csv", table)
    measured = [key for key in ("share", "derived_val_acc", "test_acc") if key in table]
    figures = table.groupby(["strategy", "target"])[measured]
    print(figures.agg(["count", "mean", "std", "min", "max"]).round(3).to_string())


def target_row(name: str, target: float, seed: int, folder: Path) -> dict[str, Any]:
    """Return the row of a search, which is run unless it is finished.

    Args:
        name: Key of :data:`DIGITS`.
        target: Target in multiply-adds.
        seed: Seed of the search.
        folder: Folder of the runs.
    """
    found = folder / "search"
    if not runs.is_finished(found, "search"):
        shutil.rmtree(found, ignore_errors=True)
        cost = f"--cost={{metric: multiply_adds, target: {target}}}"
        search(DIGITS_SEARCH, found, [f"--strategy={DIGITS[name]}", f"--seed={seed}", cost, *SMALL])
    last = pd.read_csv(found / runs.METRICS).iloc[-1]
    genotype = Genotype.load(found / runs.GENOTYPE)
    network = Network.from_genotype(genotype, num_classes=10, channels=CHANNELS, image_channels=1)
    derived = count_multiply_adds(network, 1, DIGITS_PIXELS)
    return {
        "strategy": name,
        "target": round(target),
        "seed": seed,
        "multiply_adds": derived,
        "share": round(derived / target, 4),
        "multiplier": last["multiplier_multiply_adds"],
        "expected": last["expected_multiply_adds"],
        "derived_val_acc": last["derived_val_acc"],
    }


def retrained(folder: Path, seed: int) -> dict[str, float]:
    """Train the network that a search found from scratch, and return its test accuracy."""
    trained = folder / "retrain"
    if not (trained / runs.TEST).exists():
        shutil.rmtree(trained, ignore_errors=True)
        evaluate(retrain(folder / "search" / runs.GENOTYPE, DIGITS_RETRAIN, trained, [f"--seed={seed}"]))
    return {"test_acc": read_run(trained).test["test_acc"]}


# NNI's penalty


def penalties(options: argparse.Namespace) -> None:
    """Search with a penalty of NNI, which ours and NNI's DARTS take."""
    found = pd.DataFrame(json.loads(said(FOLDER / "costs_penalty.py", {})))
    write(options.output / "penalty.csv", found)
    print(found.to_string(index=False))


def write(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically."""
    write_text_whole(path, table.to_csv(index=False))


if __name__ == "__main__":
    main()
