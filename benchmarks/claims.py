"""Test the claims of D-DARTS and Fine-Tuning DARTS on networks small enough for many seeds.

    python benchmarks/claims.py OUTPUT [--tables docs/quality] [--seeds 0 1 2 ...] [--jobs 2]

Each arm of claims_search.py is a search on noisy digits, whose network is trained from scratch three times. Two arms
are compared over the seeds that both have. The claim about fixed attention is tested on the architectures of two tables
of exhaustive.py, exhaustive.csv and exhaustive_fixed.csv in the folder of --tables. Finished runs are not repeated. The
script writes into OUTPUT

    runs/*.json    one file per finished search with its trainings
    arms.csv       one row per arm
    claims.csv     one row per claim: mean difference, its bootstrap interval and the p value of a permutation test
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from nasbench201_runs import apart, results, run_file
from significance import bootstrap_interval, holm, permutation_p

from nas_plugins.errors import InputError
from nas_plugins.parallel_runs import in_parallel
from search_spaces.files import write_text_whole

SEARCH = str(Path(__file__).with_name("claims_search.py"))
SETTINGS = {"epochs": 30, "layers": 4, "channels": 4, "train_images": 400, "trainings": 3, "training_epochs": 10}
"""Settings of a search, and of the trainings of the network that it finds."""
DARTOPTI, START, WIDENED = "DARTOpti", "residual network", "residual network, as many random operations"
FIRST = ("DARTS", "FairDARTS", "FairDARTS, sparse", "D-DARTS", "D-DARTS, sparse", "D-DARTS, ablation gradient",
         "DARTS, a cell a layer", DARTOPTI, START)  # fmt: skip
CLAIMS = (
    ("D-DARTS is better than DARTS", "D-DARTS", "DARTS"),
    ("D-DARTS is better than FairDARTS", "D-DARTS", "FairDARTS"),
    ("D-DARTS by its own derivation", "D-DARTS, sparse", "DARTS"),
    ("both by their own derivation", "D-DARTS, sparse", "FairDARTS, sparse"),
    ("D-DARTS is better than DARTS with a cell a layer", "D-DARTS", "DARTS, a cell a layer"),
    ("a cell a layer helps DARTS", "DARTS, a cell a layer", "DARTS"),
    ("the gradient of the ablation loss helps", "D-DARTS, ablation gradient", "D-DARTS"),
    ("DARTOpti improves its start", DARTOPTI, START),
    ("DARTOpti improves it more than random operations do", DARTOPTI, WIDENED),
)
"""Claim, the arm that it is about, and the arm that it is compared with."""
ATTENTION = "fixed attention gives better networks"
KINDS = ["seed_0", "seed_1", "seed_2"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the arms that have not finished, and write and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder")
    parser.add_argument("--tables", type=Path, metavar="FOLDER", help="of exhaustive.csv and exhaustive_fixed.csv")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=list(range(20)), metavar="SEED", help="default: 0 to 19"
    )
    parser.add_argument("--jobs", type=int, default=1, help="searches at a time; each takes one core")
    options = parser.parse_args(arguments)
    for name, least in (("jobs", 1), ("seeds", 0)):
        value = min(options.seeds) if name == "seeds" else options.jobs
        if value < least:
            parser.error(f"--{name} {value}: it should be at least {least}")
    try:
        attention = None if options.tables is None else read_attention(options.tables)
        run_missing(options.output, options.seeds, options.jobs)
        report(options.output, options.seeds, attention)
    except InputError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def run_missing(output: Path, seeds: Sequence[int], jobs: int) -> None:
    """Run the arms that have not finished; random networks come last, since their size is that of DARTOpti's result."""
    for arms in (FIRST, (WIDENED,)):
        done = {(one["strategy"], one["seed"]) for one in finished(output / "runs")}
        left = {arm: [seed for seed in seeds if (arm, seed) not in done] for arm in arms}
        calls = [
            partial(apart, SEARCH, {"folder": output / "runs", "arm": arm, "seeds": missing})
            for arm, missing in left.items()
            if missing
        ]
        if calls:
            in_parallel(jobs, calls)


def finished(folder: Path) -> list[dict[str, Any]]:
    """Return the results of the finished runs in a folder.

    Raises:
        InputError: A file is not the result of a run, or its settings differ.
    """
    found = results(folder, SETTINGS)
    for path, one in zip(sorted(folder.glob("*.json")), found, strict=True):
        try:
            figures = [one["edges"], one["parameters"], *one["accuracies"]]
            right = run_file(folder, one["strategy"], one["seed"]) == path and all(map(math.isfinite, figures))
        except (LookupError, TypeError):
            right = False
        if not right or len(one["accuracies"]) != SETTINGS["trainings"]:
            raise InputError(f"{path}: no result of a run; delete it, and it is run again")
    return found


def read_attention(folder: Path) -> pd.Series:
    """Return the gain in accuracy by squeeze-and-excitation for each architecture that both tables have.

    Raises:
        InputError: A table is missing or has no accuracies, or the two have no architecture in common.
    """
    means: list[pd.Series] = []
    for name in ("exhaustive.csv", "exhaustive_fixed.csv"):
        try:
            table = pd.read_csv(folder / name, index_col="architecture")
            means.append(table[KINDS].dropna().mean(axis=1))
        except (OSError, ValueError, LookupError, TypeError):
            raise InputError(f"--tables {folder}: has no table {name} of benchmarks/exhaustive.py") from None
    differences = (means[1] - means[0]).dropna() if all(mean.index.is_unique for mean in means) else pd.Series()
    if not len(differences):
        raise InputError(f"--tables {folder}: its two tables should have architectures in common, each once")
    return differences


def report(output: Path, seeds: Sequence[int], attention: pd.Series | None) -> None:
    """Write and print the tables of the finished runs."""
    found = pd.DataFrame(
        [
            {
                "arm": one["strategy"], "seed": one["seed"], "operations": one["edges"],
                "parameters": one["parameters"], "accuracy": sum(one["accuracies"]) / len(one["accuracies"]),
            }
            for one in finished(output / "runs")
            if one["seed"] in seeds
        ]
    )  # fmt: skip
    grouped = found.groupby("arm")
    arms = grouped[["operations", "parameters", "accuracy"]].mean()
    arms["deviation"], arms["runs"] = grouped["accuracy"].std(), grouped.size()
    accuracy = found.pivot(index="seed", columns="arm", values="accuracy")
    pairs = {f"{claim}: {arm} − {other}": accuracy[arm] - accuracy[other] for claim, arm, other in CLAIMS}
    if attention is not None:
        pairs[ATTENTION] = attention
    claims = pd.DataFrame([claim_row(claim, differences.dropna()) for claim, differences in pairs.items()])
    claims["p_holm"] = holm(list(claims["p"]))
    for name, table, index in (("arms", arms, True), ("claims", claims, False)):
        write_text_whole(output / f"{name}.csv", table.round(4).to_csv(index=index))
        print(table.round(3).to_string(index=index), "\n")


def claim_row(claim: str, differences: pd.Series) -> dict[str, object]:
    """Return the row of a claim from the differences of its pairs in percentage points."""
    interval = bootstrap_interval(differences)
    return {
        "claim": claim,
        "pairs": len(differences),
        "difference": differences.mean(),
        "low": interval.low,
        "high": interval.high,
        "better": int((differences > 0).sum()),
        "p": permutation_p(differences),
    }


if __name__ == "__main__":
    main()
