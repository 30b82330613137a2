"""Compare searches by our and NNI's strategies on NNI's NAS-Bench-201 space by the benchmark's table.

    python benchmarks/nasbench201.py OUTPUT --images FOLDER --table CSV [--protocol proxy|full] [--strategies NAME ...]
        [--seeds 0 1 2 3 4] [--jobs 2]
    python benchmarks/nasbench201.py OUTPUT --images FOLDER --table CSV --rank 100 [--rank-epochs 10]

FOLDER holds train/CLASS/*. CSV has the columns architecture, in the benchmark's form, and cifar10_test_accuracy, in
percent; only the report reads it, no search does. Each run has a separate process with one thread. Finished runs are
not repeated. The script writes into OUTPUT

    runs/*.json          one file per finished run
    runs.csv             one row per run: architecture, true accuracy, seconds, operations by kind
    curves.csv, .png     true accuracy of the architecture that the strategy would have derived after each epoch
    table.md             one row per strategy, and results of the literature
    ranks.csv, .png      with --rank: random architectures trained alone for a few epochs, compared with the table

"random" is not a search, but stands for architectures drawn uniformly from the table.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import nasbench201_proxy as proxy
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator
from nasbench201_images import find, prepare
from nasbench201_runs import apart, results, run_file
from nasbench201_search import OPERATIONS, PROTOCOLS, STRATEGIES, Protocol, architecture, every_sample, missing
from tqdm import tqdm

from nas_plugins.errors import InputError
from nas_plugins.parallel_runs import in_parallel
from nas_plugins.report.style import MUTED, STYLE
from search_spaces.files import write_text_whole, write_whole

SEARCH = str(Path(__file__).with_name("nasbench201_search.py"))
RANDOM = "random"
DRAWS = 1000
"""Number of architectures drawn for "random"."""
ACCURACY = "cifar10_test_accuracy"
KINDS = list(OPERATIONS.values())
HEADINGS = dict(zip(KINDS, ("none", "skip", "1×1", "3×3", "pool"), strict=True))
"""Operation -> heading of its column."""
SMALLEST_IMAGE = 8
"""Minimum pixels per side, because the space halves the resolution twice."""
CPU = "CPU seconds"
"""Heading of the column of times; the wall time of parallel runs would depend on the load of the machine."""
TITLE = 34
"""Maximum characters per line in the title of a panel."""
OURS, THEIRS = "#ea580c", "#2563eb"
"""Colours of our strategies and of NNI's."""

LITERATURE = {
    "DARTS": "54.30", "ENAS": "53.89", "RSPS": "84 to 88", "SETN": "87.64", "SNAS": "92.77", "PC-DARTS": "93.41",
    "GDAS": "93.61", "DARTS-": "93.80", "β-DARTS": "94.36", "the best architecture": "94.37",
}  # fmt: skip
"""Mean test accuracy on CIFAR-10 by the benchmark's own protocol."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the searches that have not finished, and write the tables and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder")
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="holds train/CLASS/*")
    parser.add_argument("--table", type=Path, required=True, metavar="CSV", help="true accuracy of each architecture")
    parser.add_argument("--protocol", default="proxy", choices=PROTOCOLS)
    known = [*STRATEGIES, RANDOM]
    parser.add_argument(
        "--strategies", nargs="+", default=known, choices=known, metavar="NAME", help=f"of {'; '.join(known)}"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="SEED")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each takes one core")
    parser.add_argument("--rank", type=int, metavar="N", help="train N random architectures alone, and nothing else")
    parser.add_argument("--rank-epochs", type=int, default=10, metavar="N", help="of each of these; default: 10")
    for field in fields(Protocol):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=int, metavar="N", help="in place of the protocol's"
        )
    options = parser.parse_args(arguments)
    given = {field.name: value for field in fields(Protocol) if (value := getattr(options, field.name)) is not None}
    protocol = replace(PROTOCOLS[options.protocol], **given)
    try:
        check(options, protocol)
        table = read_table(options.table)
        if options.rank:
            rank(options, protocol, table)
        else:
            search_all(options, protocol)
            summarize(options, protocol, table)
    except InputError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def check(options: argparse.Namespace, protocol: Protocol) -> None:
    """Raise an InputError for a number that is too small."""
    numbers = {**asdict(protocol), "jobs": options.jobs, "rank_epochs": options.rank_epochs}
    for key, value in numbers.items():
        least = SMALLEST_IMAGE if key == "image_size" else 1
        if value < least:
            raise InputError(f"--{key.replace('_', '-')} {value}: it should be at least {least}")
    if min(options.seeds) < 0:
        raise InputError(f"--seeds {min(options.seeds)}: it should be at least 0")
    if options.output.exists() and not options.output.is_dir():
        raise InputError(f"{options.output}: it should be a folder")
    if options.rank is not None and not 2 <= options.rank <= len(every_sample()):
        raise InputError(f"--rank {options.rank}: it should be from 2 to {len(every_sample())}")


def read_table(path: Path) -> pd.Series:
    """Return architecture -> true accuracy in percent.

    Raises:
        InputError: The file is not such a table, or not one of this space.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise InputError(f"--table {path}: cannot be read: {str(error).splitlines()[0]}") from None
    absent = [column for column in ("architecture", ACCURACY) if column not in table]
    if absent:
        raise InputError(f"--table {path}: has no column {absent[0]!r}; it should have architecture and {ACCURACY}")
    series = pd.to_numeric(table.set_index("architecture")[ACCURACY], errors="coerce")
    if series.isna().any():
        raise InputError(f"--table {path}: {ACCURACY} of {series.index[series.isna()][0]} is no number")
    architectures = {architecture(sample) for sample in every_sample()}
    there = architectures & set(series.index)
    if series.index.has_duplicates or len(there) < len(architectures):
        raise InputError(
            f"--table {path}: has {len(there)} of the {len(architectures)} architectures in {len(series)} rows; "
            "each should have one"
        )
    return series


def search_all(options: argparse.Namespace, protocol: Protocol) -> None:
    """Run the searches that have not finished, ``--jobs`` at a time, all strategies with one seed before the next."""
    found = find(options.images, protocol.train_images)
    names = []
    for name in options.strategies:
        if (needed := missing(name)) is not None:
            print(f"{name}: left out, {needed} is not installed")
        elif name != RANDOM:
            names.append(name)
    done = {(one["strategy"], one["seed"]) for one in results(options.output / "runs", asdict(protocol))}
    jobs = [(name, seed) for seed in dict.fromkeys(options.seeds) for name in names if (name, seed) not in done]
    if not jobs:
        return
    images = options.output / "images.npz"
    prepare(found, protocol.train_images, protocol.image_size, images)
    progress = tqdm(total=len(jobs), unit="run")

    def run(name: str, seed: int) -> None:
        output = run_file(options.output / "runs", name, seed)
        shared = {"settings": asdict(protocol), "images": images, "output": output}
        apart(SEARCH, {"strategy": name, "seed": seed, **shared})
        progress.update()

    with progress:
        in_parallel(options.jobs, [partial(run, name, seed) for name, seed in jobs])


def rank(options: argparse.Namespace, protocol: Protocol, table: pd.Series) -> None:
    """Train random architectures alone, except those already trained, and compare them with the table."""
    found = find(options.images, protocol.train_images)
    protocol = replace(protocol, epochs=options.rank_epochs)
    samples = proxy.draw(options.rank)
    done = {one["architecture"] for one in proxy.finished(options.output, protocol)}
    left = [sample for sample in samples if architecture(sample) not in done]
    if left:
        images = options.output / "images.npz"
        prepare(found, protocol.train_images, protocol.image_size, images)
        proxy.train_all(left, protocol, images, options.output, options.jobs)
    wanted = {architecture(sample) for sample in samples}
    trained = [one for one in proxy.finished(options.output, protocol) if one["architecture"] in wanted]
    ranks = proxy.compare(trained, table, options.output)
    print(f"{proxy.correlations(ranks)}; {ranks['seconds'].mean():.1f} s each")


# The tables


def summarize(options: argparse.Namespace, protocol: Protocol, table: pd.Series) -> None:
    """Write the tables and the plot of all finished runs in the folder."""
    found = results(options.output / "runs", asdict(protocol))
    order = {name: place for place, name in enumerate(STRATEGIES)}  # strategies that no longer exist come last
    found = sorted(found, key=lambda one: (order.get(one["strategy"], len(order)), one["strategy"], one["seed"]))
    runs = pd.DataFrame([run_row(one, table) for one in found])
    curves = pd.DataFrame(
        [
            {"strategy": one["strategy"], "seed": one["seed"], "epoch": int(epoch), "accuracy": table[name]}
            for one in found
            for epoch, name in one["curve"].items()
        ]
    )
    drawn = table.sample(min(DRAWS, len(table)), random_state=0)
    rows = [strategy_row(str(name), group) for name, group in runs.groupby("strategy", sort=False)] if found else []
    if RANDOM in options.strategies:
        rows.append(strategy_row(RANDOM, pd.DataFrame([counted(name, table) for name in drawn.index])))
    for name, rows_of in (("runs", runs), ("curves", curves)):
        write_text_whole(options.output / f"{name}.csv", rows_of.to_csv(index=False))
    text = markdown(rows, protocol)
    write_text_whole(options.output / "table.md", text)
    print(text)
    if found:
        answers = runs.groupby("strategy")["accuracy"].mean()
        plot_curves(curves, answers, float(table.max()), float(drawn.mean()), options.output / "curves.png")


def counted(name: str, table: pd.Series) -> dict[str, Any]:
    """Return an architecture, its true accuracy, and its number of operations of each kind."""
    return {"architecture": name, "accuracy": table[name], **{kind: name.count(f"|{kind}~") for kind in KINDS}}


def run_row(one: dict[str, Any], table: pd.Series) -> dict[str, Any]:
    """Return a row of runs.csv."""
    measured = ("supernet_val_acc", "derived_val_acc", "seconds", "cpu_seconds")
    return {
        "strategy": one["strategy"],
        "seed": one["seed"],
        **counted(one["architecture"], table),
        **{key: one[key] for key in measured},
    }


def strategy_row(name: str, group: pd.DataFrame) -> dict[str, str]:
    """Return a row of the table with statistics over the seeds."""
    accuracy = group["accuracy"]
    return {
        "strategy": name,
        "runs": str(len(group)),
        "mean (%)": f"{accuracy.mean():.2f}",
        "deviation": f"{accuracy.std():.2f}" if len(group) > 1 else "",
        "median (%)": f"{accuracy.median():.2f}",
        "worst (%)": f"{accuracy.min():.2f}",
        **{HEADINGS[kind]: f"{group[kind].mean():.1f}" for kind in KINDS},
        **({CPU: f"{group['cpu_seconds'].mean():.0f}"} if "cpu_seconds" in group else {}),
    }


def markdown(rows: list[dict[str, str]], protocol: Protocol) -> str:
    """Return the text of table.md."""
    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in asdict(protocol).items())
    columns = ["strategy", "runs", "mean (%)", "deviation", "median (%)", "worst (%)", *HEADINGS.values(), CPU]
    literature = ", ".join(f"{name} {value}" for name, value in LITERATURE.items())
    return "\n".join(
        [
            f"Searched with {settings}. Accuracies are the benchmark's, of the derived architecture; operations are",
            "counts in its cell of six edges, on average.",
            "",
            "| " + " | ".join(columns) + " |",
            "| --- |" + " ---: |" * (len(columns) - 1),
            *("| " + " | ".join(row.get(column, "") for column in columns) + " |" for row in rows),
            "",
            f"The literature, by the benchmark's own protocol: {literature}.",
            "",
        ]
    )


def plot_curves(curves: pd.DataFrame, answers: pd.Series, best: float, average: float, path: Path) -> None:
    """Plot mean and range over the seeds with one panel per strategy, whose title has the mean of the final results.

    The final result differs from that of the last epoch if a strategy samples it.
    """
    groups = list(curves.groupby("strategy", sort=False))
    wide = min(4, len(groups))
    high = -(-len(groups) // wide)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.7 * wide + 0.4, 2.1 * high + 0.5), layout="constrained")
        axes = figure.subplots(high, wide, sharex=True, sharey=True, squeeze=False)
        for axis, (name, group) in zip(axes.flat, groups, strict=False):
            _panel(axis, f"{name}: {answers[name]:.1f}", group)
            axis.axhline(best, color=MUTED, linewidth=0.9, linestyle="--")
            axis.axhline(average, color=MUTED, linewidth=0.9, linestyle=":")
        for axis in axes.flat[len(groups) - wide : len(groups)]:
            axis.tick_params(labelbottom=True)
        for axis in axes.flat[len(groups) :]:
            axis.set_visible(False)
        # Good architectures differ by tenths of a percent, bad ones by tens: use a log of the distance to best + 1.
        scale = (lambda y: -np.log(np.maximum(best + 1 - y, 1e-9)), lambda y: best + 1 - np.exp(-y))
        axes[0, 0].set_yscale("function", functions=scale)
        axes[0, 0].set_ylim(min(curves["accuracy"].min(), average) - 1, best + 0.2)
        axes[0, 0].yaxis.set_major_locator(FixedLocator([10, 50, 80, 88, 91, 93, 94]))
        figure.supylabel("true test accuracy (%)", color=MUTED, fontsize=9)
        lines = f"dashed: the best there is, {best:.2f}; dotted: random ones, {average:.2f}; the scale widens upwards"
        figure.supxlabel(f"epoch of the search  ({lines})", color=MUTED, fontsize=9)
        write_whole(path, lambda file: figure.savefig(file, dpi=110, format="png"))


def _panel(axis: Axes, title: str, group: pd.DataFrame) -> None:
    colour = THEIRS if title.startswith("NNI ") else OURS
    by_epoch = group.groupby("epoch")["accuracy"]
    mean, epochs = by_epoch.mean(), by_epoch.mean().index + 1
    axis.fill_between(epochs, by_epoch.min(), by_epoch.max(), color=colour, alpha=0.18, linewidth=0)
    axis.plot(epochs, mean, color=colour, marker="o" if len(mean) == 1 else None)
    axis.set_title(textwrap.fill(title, TITLE), color=colour)
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.tick_params(length=0)


if __name__ == "__main__":
    main()
