"""Report of a benchmark: comparison of methods over seeds as Markdown, CSV tables and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import matplotlib
import pandas as pd
import significance as tests
from matplotlib.figure import Figure

from nas_plugins.report.style import INK, MUTED, STYLE
from search_spaces.files import write_text_whole, write_whole

SIGNIFICANCE = 0.05
BAR = "#ea580c"
"""Colour of the bars beside groups of methods."""


class Comparison(NamedTuple):
    """Average ranks over the seeds that all methods have.

    Args:
        ranks: Method -> average rank.
        seeds: Number of these seeds.
        difference: Critical difference of two ranks.
        p: p value of Friedman's test.
    """

    ranks: dict[str, float]
    seeds: int
    difference: float
    p: float


def add_ranks(runs: pd.DataFrame, truth: pd.Series) -> pd.DataFrame:
    """Return the runs with the rank of the found architecture among all architectures.

    Args:
        runs: One row per run, with the true ``accuracy`` of the found architecture.
        truth: True accuracy of every architecture.

    Returns:
        The runs with ``rank`` (1 for the best), ``percentile`` (share of the other architectures that are not better,
        in percent) and ``regret`` (the best accuracy minus the found one).
    """
    better = [int((truth > accuracy + 1e-9).sum()) for accuracy in runs["accuracy"]]
    others = max(1, len(truth) - 1)
    return runs.assign(
        rank=[count + 1 for count in better],
        percentile=[100 * (1 - count / others) for count in better],
        regret=truth.max() - runs["accuracy"],
    )


def method_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method with statistics over its seeds, in the order of the runs."""
    grouped = runs.groupby("method", sort=False)
    return pd.DataFrame(
        {
            "runs": grouped.size(),
            "mean": grouped["accuracy"].mean(),
            "deviation": grouped["accuracy"].std(),
            "median": grouped["accuracy"].median(),
            "worst": grouped["accuracy"].min(),
            "rank": grouped["rank"].mean(),
            "percentile": grouped["percentile"].mean(),
            "regret": grouped["regret"].mean(),
            "cpu_seconds": grouped["cpu_seconds"].mean(),
        }
    )


def pair_table(runs: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Compare every other method with the baseline on the seeds that both have.

    Returns:
        One row per method that shares a seed with the baseline: ``pairs``, mean ``difference``, its bootstrap interval
        ``low`` to ``high``, ``p`` of the permutation test, and ``p_holm``, adjusted for the number of methods.
    """
    scores = _scores(runs)
    rows = []
    for method in scores.columns.drop(baseline):
        differences = (scores[method] - scores[baseline]).dropna()
        if differences.empty:
            continue
        low, high = tests.bootstrap_interval(differences)
        rows.append(
            {
                "method": method, "baseline": baseline, "pairs": len(differences), "difference": differences.mean(),
                "low": low, "high": high, "p": tests.permutation_p(differences),
            }
        )  # fmt: skip
    table = pd.DataFrame(rows, columns=["method", "baseline", "pairs", "difference", "low", "high", "p"])
    return table.assign(p_holm=tests.holm(list(table["p"])))


def compare_ranks(runs: pd.DataFrame) -> Comparison | None:
    """Return the average ranks of the methods, or None for fewer than three methods or two common seeds."""
    scores = _scores(runs).dropna()
    if scores.shape[1] < 3 or len(scores) < 2:
        return None
    return Comparison(
        dict(zip(scores.columns, tests.average_ranks(scores), strict=True)),
        len(scores),
        tests.critical_difference(scores.shape[1], len(scores), SIGNIFICANCE),
        tests.friedman_p(scores),
    )


def _scores(runs: pd.DataFrame) -> pd.DataFrame:
    order = runs["method"].drop_duplicates()
    return runs.pivot(index="seed", columns="method", values="accuracy")[order]


def write_report(output: Path, runs: pd.DataFrame, truth: pd.Series, baseline: str, title: str) -> str:
    """Write benchmark_runs.csv, methods.csv, pairs.csv, benchmark.md and benchmark.png, and return the Markdown.

    Args:
        output: Folder to write to.
        runs: One row per run: method, seed, architecture, accuracy, cpu_seconds.
        truth: True accuracy of every architecture.
        baseline: Method that the others are compared with.
        title: First line of the Markdown.
    """
    runs = add_ranks(runs, truth)
    methods, pairs = method_table(runs), pair_table(runs, baseline)
    tables = {"benchmark_runs": runs.set_index("method"), "methods": methods, "pairs": pairs.set_index("method")}
    for name, table in tables.items():
        write_text_whole(output / f"{name}.csv", table.round(4).to_csv())
    comparison = compare_ranks(runs)
    text = f"{title}\n\n{_methods_markdown(methods, len(truth))}\n\n{_pairs_markdown(pairs, baseline)}\n"
    if comparison is not None:
        text += f"\n{describe_ranks(comparison)}\n"
        plot_ranks(comparison, output / "benchmark.png")
    write_text_whole(output / "benchmark.md", text)
    return text


def _methods_markdown(methods: pd.DataFrame, architectures: int) -> str:
    names = ["runs", "mean (%)", "deviation", "median (%)", "worst (%)", f"rank of {architectures:,}", "percentile",
             "regret", "CPU seconds"]  # fmt: skip
    decimals = {"runs": 0, "mean": 2, "deviation": 2, "median": 2, "worst": 2, "rank": 0, "percentile": 1, "regret": 2,
                "cpu_seconds": 0}  # fmt: skip
    rows = [[str(name), *(_number(row[key], places) for key, places in decimals.items())]
            for name, row in methods.sort_values("mean", ascending=False).iterrows()]  # fmt: skip
    return _markdown(["method", *names], rows)


def _pairs_markdown(pairs: pd.DataFrame, baseline: str) -> str:
    rows = [
        [row["method"], str(row["pairs"]), f"{row['difference']:+.2f}", _interval(row["low"], row["high"]),
         f"{row['p']:.3f}", f"{row['p_holm']:.3f}"]
        for _, row in pairs.sort_values("difference", ascending=False).iterrows()
    ]  # fmt: skip
    return _markdown([f"against {baseline}", "pairs", "difference", "95% interval", "p", "p (Holm)"], rows)


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _interval(low: float, high: float) -> str:
    return "" if pd.isna(low) else f"{low:+.2f} to {high:+.2f}"


def _number(value: float, places: int) -> str:
    return "" if pd.isna(value) else f"{value:,.{places}f}"


def describe_ranks(comparison: Comparison) -> str:
    """Return the average ranks in a sentence."""
    return (
        f"Over the {comparison.seeds} seeds that all methods have, Friedman's test of their ranks gives "
        f"p = {comparison.p:.2g}; by Nemenyi's, two average ranks differ significantly from "
        f"{comparison.difference:.2f} on."
    )


def plot_ranks(comparison: Comparison, path: Path) -> None:
    """Draw the average ranks, the best on top, and a bar beside each group that does not differ significantly."""
    names = sorted(comparison.ranks, key=lambda name: comparison.ranks[name])
    bars = tests.groups(comparison.ranks, comparison.difference)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 1.1 + 0.26 * len(names)), layout="constrained")
        axis = figure.subplots()
        for place, name in enumerate(names):
            axis.plot(comparison.ranks[name], place, "o", color=INK, markersize=5)
            axis.annotate(f"{comparison.ranks[name]:.1f}", (comparison.ranks[name], place), (7, 0),
                          textcoords="offset points", va="center", color=MUTED, fontsize=8)  # fmt: skip
        for number, bar in enumerate(bars):
            ends = names.index(bar[0]) - 0.25, names.index(bar[-1]) + 0.25
            axis.plot([len(names) + 1 + 0.4 * number] * 2, ends, color=BAR, linewidth=3)
        axis.set(xlim=(0.7, len(names) + 1.5 + 0.4 * len(bars)), ylim=(len(names) - 0.5, -0.5))
        axis.set_xticks(range(1, len(names) + 1))
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(length=0)
        axis.tick_params(axis="y", labelcolor=INK)
        axis.set_xlabel(
            f"average rank over {comparison.seeds} seeds\n"
            f"bars join what differs by less than {comparison.difference:.1f} (Nemenyi, 5%)"
        )
        write_whole(path, lambda file: figure.savefig(file, dpi=160, format="png"))
