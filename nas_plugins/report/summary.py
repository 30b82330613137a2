"""The tables over several runs: a row a run, and a row a method over its seeds."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from numbers import Real
from typing import Any

import pandas as pd
import yaml

from nas_plugins.report.published import read_published
from nas_plugins.runs.reader import Run, get, read_runs

# What tells runs apart


def methods(runs: Sequence[Run], elsewhere: Collection[str] = ()) -> list[str]:
    """The method of each run, and in brackets what is not the same in all runs of that method.

    Args:
        runs: what is compared.
        elsewhere: keys of the config that the reader sees already.
    """
    return [f"{run.method}{text}" for run, text in zip(runs, _differences(runs, elsewhere), strict=True)]


def _differences(runs: Sequence[Run], elsewhere: Collection[str]) -> list[str]:
    texts = []
    settings = [_settings(run) for run in runs]
    for run, own in zip(runs, settings, strict=True):
        others = [other for peer, other in zip(runs, settings, strict=True) if peer.method == run.method]
        keys = [key for key in own if key not in elsewhere and any(_differs(key, own, other) for other in others)]
        # What makes the method comes first, then which space.
        keys.sort(key=lambda key: (not key.startswith("strategy."), not key.endswith(".name")))
        named = [f"{key.removeprefix('strategy.')}: {own[key]}" for key in keys]
        texts.append(f" ({', '.join(named)})" if named else "")
    return texts


def _differs(key: str, own: Mapping[str, str], other: Mapping[str, str]) -> bool:
    name = f"{key.partition('.')[0]}.name"
    if other.get(name) != own.get(name) and (key not in other or own[key].startswith(("[", "{"))):
        return False  # that one is of another space says why it has no such setting, or other lists in it
    return other.get(key) != own[key]


def _settings(run: Run) -> dict[str, str]:
    """Key -> text of all settings but the seeds, the folder of the images and the machine."""
    flat: dict[str, Any] = {}
    for section, values in run.config.items():
        if isinstance(values, dict):
            flat |= {f"{section}.{key}": value for key, value in values.items()}
        else:
            flat[str(section)] = values
    return {
        key: _as_yaml(value)
        for key, value in flat.items()
        if key.rpartition(".")[2] != "seed" and key != "data.root" and not key.startswith("compute.")
    }


def _as_yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()  # the mark that YAML puts after a lone value


# A row a run


PUBLISHED = "published"
"""The kind of a row that is no run but a figure of a paper."""


def summary(runs: Iterable[str | os.PathLike[str] | Run], compare: str | None = None) -> pd.DataFrame:
    """One row a run; accuracies are fractions, and what a run has not measured is empty.

    Args:
        runs: run directories, or what is read of them; one that is named twice has one row.
        compare: the name of a table of published results, whose rows (of kind "published") follow.

    Raises:
        InputError: one of the directories is no run, or there is no such table.
    """
    loaded = read_runs(runs)
    names = methods(loaded, elsewhere=("data.dataset", "training.epochs"))
    rows = [_row(run) | {"method": name} for run, name in zip(loaded, names, strict=True)]
    if compare is not None:
        rows += [_published_row(row) for row in read_published(compare).to_dict("records")]
    return pd.DataFrame(rows, columns=[*COLUMNS, DEVIATION])


def _published_row(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    of_the_paper = {"run": row["network"], "kind": PUBLISHED, "method": row["found_by"]}
    return of_the_paper | {key: row[key] for key in ("dataset", "test_acc", DEVIATION, "parameters", "gpu_days")}


def _row(run: Run) -> dict[str, Any]:
    seconds = run.metrics["seconds"].dropna()
    return {
        "run": run.name,
        "kind": run.kind,
        "method": run.method,
        "dataset": get(run.config, "data", "dataset"),
        "seed": run.config.get("seed"),
        "epochs": len(run.metrics),
        "train_acc": _last(run.metrics["train_acc"]),
        "val_acc": _last(run.metrics["val_acc"]),
        "derived_val_acc": _last(run.metrics["derived_val_acc"]),
        "test_acc": run.test.get("test_acc"),
        "parameters": run.network.get("parameters"),
        "multiply_adds": run.network.get("multiply_adds"),
        "seconds": seconds.sum() if len(seconds) else None,
        # The median: the first epoch also waits for the machine to warm up.
        "seconds_per_iteration": run.metrics["seconds_per_iteration"].median(),
        "peak_memory_mb": run.metrics["peak_memory_mb"].max() if len(run.metrics) else None,
    }


def _last(values: pd.Series) -> float | None:
    known = values.dropna()
    return float(known.iloc[-1]) if len(known) else None


def _percent(*values: float) -> str:
    return " ± ".join(f"{100 * value:.2f}" for value in values) + "%"


def _millions(*values: float) -> str:
    return " ± ".join(f"{value / 1e6:.2f}" for value in values) + " M"


def _seconds(*values: float) -> str:
    """Three digits of the first value, and as many decimals of the others."""
    size = math.floor(math.log10(values[0])) if 0 < values[0] < math.inf else 0
    return " ± ".join(f"{value:.{min(6, max(0, 2 - size))}f}" for value in values)


COLUMNS = {
    "run": ("run", str),
    "kind": ("kind", str),
    "method": ("method", str),
    "dataset": ("dataset", str),
    "seed": ("seed", "{:g}".format),
    "epochs": ("epochs", "{:g}".format),
    "train_acc": ("train", _percent),
    "val_acc": ("val", _percent),
    "derived_val_acc": ("derived", _percent),
    "test_acc": ("test", _percent),
    "parameters": ("params", _millions),
    "multiply_adds": ("mult-adds", lambda n: f"{n / 1e6:.1f} M"),
    "seconds": ("time", "{:.0f} s".format),
    "seconds_per_iteration": ("s/iter", _seconds),
    "peak_memory_mb": ("memory", "{:.0f} MB".format),
    "gpu_days": ("GPU days", "{:g}".format),
}
"""The columns of a summary -> heading and text of a value in the tables for people."""
DEVIATION = "test_acc_std"
"""The column of a summary with the standard deviations of published accuracies."""


def summary_cells(table: pd.DataFrame) -> dict[str, list[str]]:
    """Heading -> texts of a summary's columns, without those that have no value, and the kind: the method tells it."""
    cells = {
        heading: [_shown(write, value) for value in table[column]]
        for column, (heading, write) in COLUMNS.items()
        if column != "kind" and table[column].notna().any()
    }
    for row, (mean, deviation) in enumerate(zip(table["test_acc"], table[DEVIATION], strict=True)):
        if pd.notna(deviation):
            cells["test"][row] = _percent(mean, deviation)
    return cells


def _shown(write: Any, value: Any) -> str:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return "–"
    with suppress(OverflowError):  # of a whole number of hundreds of digits
        if isinstance(value, Real):
            return str(write(value))
    return " ".join(str(value).split())  # a config may hold anything, several lines too


def summary_text(table: pd.DataFrame, width: int = 120) -> str:
    """A summary as aligned text; names are broken, and long ones of runs cut, where a line would be too wide.

    Published rows have few of the columns: they stand below, in a table of their own.
    """
    published = table["kind"] == PUBLISHED
    parts = [part for part in (table[~published], table[published]) if len(part)]
    return "\n\n".join(_aligned(summary_cells(part), width) for part in parts)


# A row a method


SEARCHED = ("seconds_per_iteration", "derived_val_acc")
RETRAINED = ("parameters", "train_acc", "val_acc", "test_acc")
"""The columns of a summary that a table of results takes from searches and from retrainings."""


def results(runs: Iterable[str | os.PathLike[str] | Run]) -> pd.DataFrame:
    """What each method found, and how good that was when it was retrained, over all seeds.

    Searches that share all settings but their seeds make one method. It has a row for every kind of
    retraining (data set and settings, again but for the seeds) that trained the cells of one of
    these searches, in a network of any depth; a method of which nothing was retrained has one row.
    Runs that have not ended are left out.

    Args:
        runs: run directories, or what is read of them; one that is named twice counts once.

    Returns:
        Columns method, searches (how many), retrained_on and retrainings (how many), and for every
        measure its mean, its sample standard deviation (``_std``; empty for a single run) and how
        many runs have it (``_n``). No rows where no retraining belongs to a search and no method was searched twice.

    Raises:
        InputError: one of the directories is no run.
    """
    loaded = read_runs(runs)
    searches = [run for run in loaded if run.kind == "search" and (run.genotype or run.sample)]
    retrainings = [run for run in loaded if run.kind == "retrain" and run.genotype and run.network]
    datasets = [get(run.config, "data", "dataset") or "–" for run in retrainings]
    settings = _differences(retrainings, elsewhere=("data.dataset",))
    kinds = _grouped(retrainings, [f"{dataset}{text}" for dataset, text in zip(datasets, settings, strict=True)])
    rows = []
    for method, found in _grouped(searches, methods(searches)).items():
        cells = {_cells(run) for run in found}
        own = {kind: [run for run in group if _cells(run) in cells] for kind, group in kinds.items()}
        for kind, group in {kind: group for kind, group in own.items() if group}.items() or [(None, [])]:
            row = {"method": method, "searches": len(found), **_spread(found, SEARCHED)}
            rows.append(row | {"retrained_on": kind, "retrainings": len(group), **_spread(group, RETRAINED)})
    searched, retrained = _spread([], SEARCHED), _spread([], RETRAINED)
    table = pd.DataFrame(rows, columns=["method", "searches", *searched, "retrained_on", "retrainings", *retrained])
    return table if table["retrainings"].any() or (table["searches"] > 1).any() else table[:0]


def _grouped(runs: Sequence[Run], names: Sequence[str]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {name: [] for name in names}
    for run, name in zip(runs, names, strict=True):
        groups[name].append(run)
    return groups


def _cells(run: Run) -> object:
    return run.genotype and (run.genotype.cells, run.genotype.fixed)


def _spread(runs: Sequence[Run], columns: Sequence[str]) -> dict[str, float]:
    table = pd.DataFrame([_row(run) for run in runs], columns=list(columns)).astype(float)
    spread: dict[str, float] = {}
    for name, values in table.items():
        spread |= {f"{name}": values.mean(), f"{name}_std": values.std(), f"{name}_n": values.count()}
    return spread


def results_cells(table: pd.DataFrame) -> dict[str, list[str]]:
    """Heading -> texts of the columns of a table of results; empty for a table without rows.

    A value that fewer runs have than are counted says so: "n=2: 95.59 ± 0.06%".
    """
    if table.empty:
        return {}
    cells = {"method": list(table["method"]), "searches": [str(n) for n in table["searches"]]}
    cells |= {COLUMNS[name][0]: _means(table, name, table["searches"]) for name in SEARCHED}
    if not table["retrainings"].any():
        return cells
    cells["retrained on"] = [_shown(str, kind) for kind in table["retrained_on"]]
    cells["runs"] = [str(n) for n in table["retrainings"]]
    return cells | {COLUMNS[name][0]: _means(table, name, table["retrainings"]) for name in RETRAINED}


def _means(table: pd.DataFrame, name: str, runs: pd.Series) -> list[str]:
    write: Any = COLUMNS[name][1]
    texts = []
    for mean, deviation, n, all_runs in zip(table[name], table[f"{name}_std"], table[f"{name}_n"], runs, strict=True):
        text = write(mean, deviation) if n > 1 else write(mean) if n else "–"
        texts.append(f"n={n:g}: {text}" if 0 < n < all_runs else text)
    return texts


def results_text(table: pd.DataFrame, width: int = 120) -> str:
    """A table of results as aligned text; long names are broken where a line would be too wide."""
    cells = {heading: [text.replace(" ± ", "±") for text in texts] for heading, texts in results_cells(table).items()}
    return _aligned(cells, width)


# Text


TEXTS = ("run", "method", "dataset", "retrained on")
"""The headings of columns of words; all others are of numbers."""
LEAST = {"method": 14, "retrained on": 12, "run": 12}
"""The headings of columns whose texts can be broken -> how narrow these become."""


def _aligned(columns: dict[str, list[str]], width: int) -> str:
    if not columns:
        return ""
    sizes = {heading: max(map(len, [heading, *texts])) for heading, texts in columns.items()}
    least = sum(min(size, LEAST.get(heading, size)) for heading, size in sizes.items())
    gap = "  " if least + 2 * (len(sizes) - 1) <= width else " "
    for heading in [heading for heading in LEAST if heading in sizes]:
        excess = sum(sizes.values()) + len(gap) * (len(sizes) - 1) - width
        sizes[heading] -= max(0, min(excess, sizes[heading] - LEAST[heading]))
    lines = [gap.join(_padded(heading, heading, sizes) for heading in sizes).rstrip()]
    lines.append(gap.join("─" * size for size in sizes.values()))
    for row in zip(*columns.values(), strict=True):
        broken = [_broken(heading, text, sizes[heading]) for heading, text in zip(columns, row, strict=True)]
        for parts in zip_longest(*broken, fillvalue=""):
            cells = [_padded(heading, part, sizes) for heading, part in zip(columns, parts, strict=True)]
            lines.append(gap.join(cells).rstrip())
    return "\n".join(lines)


def _padded(heading: str, text: str, sizes: Mapping[str, int]) -> str:
    return text.ljust(sizes[heading]) if heading in TEXTS else text.rjust(sizes[heading])


def _broken(heading: str, text: str, size: int) -> list[str]:
    # The settings of a method are all told; a run has a page of its own.
    return textwrap.wrap(text, size, max_lines=3 if heading == "run" else None, placeholder="…")
