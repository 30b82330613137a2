"""What a person looks at after a run: one page of pictures and tables, for one run or several.

A run is read whole, and found fault with, before anything is written. It may still be going: what
it has not written yet is left out.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup

from nas_plugins import pictures
from nas_plugins.cell_drawings import draw_cells
from nas_plugins.errors import InputError
from nas_plugins.pictures import Kind, Weights
from nas_plugins.tables import ALPHA_KEYS, one_line, read_table, read_text
from search_spaces.files import write_text_whole
from search_spaces.genotype import Genotype

METRICS = (
    "epoch", "train_loss", "train_acc", "val_loss", "val_acc", "derived_val_acc", "seconds", "peak_memory_mb",
)  # fmt: skip
SIGMOID_STRATEGIES = ("FairDARTS", "DDARTS")
"""Strategies whose operations do not compete: a weight is the sigmoid of its α."""


@dataclass(frozen=True)
class Run:
    """All that a run directory holds and a report shows; what is not there yet is empty or None."""

    path: Path
    config_text: str
    config: dict[str, Any]
    metrics: pd.DataFrame
    alphas: pd.DataFrame | None
    genotype: Genotype | None
    network: dict[str, Any]
    test: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def kind(self) -> Kind:
        return "search" if "space" in self.config else "retrain"

    @property
    def method(self) -> str:
        return str(_get(self.config, "strategy", "name") or "search") if self.kind == "search" else "retrain"

    @property
    def weights(self) -> Weights:
        return "sigmoid" if self.method.rpartition(".")[2] in SIGMOID_STRATEGIES else "softmax"


# Reading


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read a run directory.

    Raises:
        InputError: it is none, or a file in it is not what this project writes.
    """
    path = Path(path)
    if not path.is_dir():
        problem = "is no directory" if path.exists() else "does not exist"
        raise InputError(f"{path}: {problem}; give the directory of a run")
    if not (path / "config.yaml").is_file():
        raise InputError(f"{path}: is no run, it has no config.yaml; give what search or retrain made")
    text, config = _read_config(path / "config.yaml")
    return Run(
        path=path,
        config_text=text,
        config=config,
        metrics=_read_metrics(path / "metrics.csv"),
        alphas=_read_alphas(path / "alphas.csv"),
        genotype=_read_genotype(path / "genotype.json"),
        network=_read_numbers(path / "network.json", ("parameters", "multiply_adds")),
        test=_read_numbers(path / "test.json", ("test_acc",)),
    )


def _read_config(path: Path) -> tuple[str, dict[str, Any]]:
    text = read_text(path)
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: is no YAML: {one_line(error)}") from None
    if not isinstance(config, dict) or not {"space", "network"} & set(config):
        raise InputError(f"{path}: has neither 'space', as a search has, nor 'network', as a retraining has")
    return text, config


def _read_metrics(path: Path) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=list(METRICS), dtype=float)
    return read_table(path, METRICS)[list(METRICS)]


def _read_alphas(path: Path) -> pd.DataFrame | None:
    if not path.exists():
        return None
    table = read_table(path, ALPHA_KEYS, texts=ALPHA_KEYS[1:])
    if not pictures.operations_of(table):
        raise InputError(f"{path}: has no column of an operation beside epoch, cell and edge")
    return table if len(table) else None


def _read_genotype(path: Path) -> Genotype | None:
    if not path.exists():
        return None
    try:
        return Genotype.load(path)
    except (ValueError, OSError) as error:
        raise InputError(one_line(error)) from None


def _read_numbers(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """A JSON object whose ``keys`` are numbers where they are there; empty without the file."""
    if not path.exists():
        return {}
    text = read_text(path)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON: {one_line(error)}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: should be a JSON object, not {type(data).__name__}")
    for key in keys:
        if type(data.get(key, 0)) not in (int, float):
            raise InputError(f"{path}: {key} is {data[key]!r}, no number")
    return data


def _get(config: Any, *keys: str) -> Any:
    for key in keys:
        config = config.get(key) if isinstance(config, dict) else None
    return config


# Tables


def summary(runs: Sequence[str | os.PathLike[str] | Run]) -> pd.DataFrame:
    """One row a run; accuracies are fractions, and what a run has not measured is empty.

    Raises:
        InputError: one of the directories is no run.
    """
    loaded = [run if isinstance(run, Run) else read_run(run) for run in runs]
    return pd.DataFrame([_row(run) for run in loaded], columns=list(COLUMNS))


def _row(run: Run) -> dict[str, Any]:
    seconds = run.metrics["seconds"].dropna()
    return {
        "run": run.name,
        "kind": run.kind,
        "method": run.method,
        "dataset": _get(run.config, "data", "dataset"),
        "seed": run.config.get("seed"),
        "epochs": len(run.metrics),
        "val_acc": _last(run.metrics["val_acc"]),
        "derived_val_acc": _last(run.metrics["derived_val_acc"]),
        "test_acc": run.test.get("test_acc"),
        "parameters": run.network.get("parameters"),
        "multiply_adds": run.network.get("multiply_adds"),
        "seconds": seconds.sum() if len(seconds) else None,
        "seconds_per_epoch": seconds.mean() if len(seconds) else None,
        "peak_memory_mb": run.metrics["peak_memory_mb"].max() if len(run.metrics) else None,
    }


def _last(values: pd.Series) -> float | None:
    known = values.dropna()
    return float(known.iloc[-1]) if len(known) else None


COLUMNS = {
    "run": ("run", str),
    "kind": ("kind", str),
    "method": ("method", str),
    "dataset": ("dataset", str),
    "seed": ("seed", "{:g}".format),
    "epochs": ("epochs", "{:g}".format),
    "val_acc": ("val", "{:.2%}".format),
    "derived_val_acc": ("derived", "{:.2%}".format),
    "test_acc": ("test", "{:.2%}".format),
    "parameters": ("params", lambda n: f"{n / 1e6:.2f} M"),
    "multiply_adds": ("mult-adds", lambda n: f"{n / 1e6:.1f} M"),
    "seconds": ("time", "{:.0f} s".format),
    "seconds_per_epoch": ("s/epoch", "{:.1f}".format),
    "peak_memory_mb": ("memory", "{:.0f} MB".format),
}
"""The columns of a summary -> heading and text of a value in the tables for people."""


def summary_cells(table: pd.DataFrame) -> dict[str, list[str]]:
    """Heading -> texts of a summary's columns; columns without any value are left out."""
    return {
        heading: [_shown(write, value) for value in table[column]]
        for column, (heading, write) in COLUMNS.items()
        if table[column].notna().any()
    }


def _shown(write: Any, value: Any) -> str:
    if not pd.api.types.is_scalar(value) or isinstance(value, str):
        return " ".join(str(value).split())  # a config may hold anything, several lines too
    return "–" if pd.isna(value) else str(write(value))


def summary_text(table: pd.DataFrame, width: int = 120) -> str:
    """A summary as aligned text; long names of runs are cut where a line would be too wide."""
    columns = {heading: [heading, *texts] for heading, texts in summary_cells(table).items()}
    sizes = {heading: max(map(len, texts)) for heading, texts in columns.items()}
    room = width - sum(sizes.values()) - 2 * (len(sizes) - 1)
    if room < 0:
        sizes["run"] = min(sizes["run"], max(12, sizes["run"] + room))
    lines = []
    for row in zip(*columns.values(), strict=True):
        cells = []
        for heading, text in zip(columns, row, strict=True):
            text = text if len(text) <= sizes[heading] else text[: sizes[heading] - 1] + "…"
            left = heading in ("run", "kind", "method", "dataset")
            cells.append(text.ljust(sizes[heading]) if left else text.rjust(sizes[heading]))
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("─" * size for size in sizes.values()))
    return "\n".join(lines)


# The page


def write_report(runs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str] | None = None) -> Path:
    """Draw the pictures of the runs and write the page that shows them.

    Args:
        runs: run directories; one that is named twice is shown once.
        output: the folder to write to. Without it one run's report goes into the run itself, that of
            several into ``report`` in the current directory.

    Returns:
        The path of report.html: a page that needs no other file.

    Raises:
        InputError: one of the directories is no run, or the output cannot be written. In the first
            case nothing is written.
    """
    loaded = [read_run(path) for path in {Path(run).resolve(): Path(run) for run in runs}.values()]
    if not loaded:
        raise InputError("report: no run is given; name at least one run's directory")
    folder = Path(output) if output is not None else loaded[0].path if len(loaded) == 1 else Path("report")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _write_page(loaded, folder)
    except OSError as error:
        raise InputError(f"{folder}: the report cannot be written there: {error.strerror or error}") from None


def _write_page(runs: Sequence[Run], folder: Path) -> Path:
    titles = _titles(runs)
    sections = []
    for number, (run, title) in enumerate(zip(runs, titles, strict=True), 1):
        # The number alone tells the files of two runs apart; the name is for people.
        name = re.sub(r"[^A-Za-z0-9._]+", "-", run.name).strip("-.")[:60]
        drawn = _draw(run, folder, f"{number}-{name}-" if len(runs) > 1 else "")
        sections.append({"title": title, "run": run, "about": _about(run), "pictures": drawn})
    comparison = None
    measured = {title: run.metrics for run, title in zip(runs, titles, strict=True) if len(run.metrics)}
    if len(measured) > 1:
        searches = [title for run, title in zip(runs, titles, strict=True) if run.kind == "search"]
        comparison = _embedded(pictures.plot_comparison(measured, searches, folder / "comparison.png"))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nas_plugins"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html").render(
        sections=sections, table=summary_cells(summary(runs)), comparison=comparison
    )
    write_text_whole(folder / "report.html", page)
    return folder / "report.html"


def _draw(run: Run, folder: Path, prefix: str) -> dict[str, str | Markup]:
    """Draw what a run has; picture -> what stands in the page for it."""
    drawn: dict[str, str | Markup] = {}
    start = os.path.join(folder, prefix)  # keeps the slash where the prefix is empty
    if run.genotype is not None:
        drawn["cells"] = _inline(draw_cells(run.genotype, f"{start}cells")[0])
    if len(run.metrics):
        drawn["progress"] = _embedded(pictures.plot_progress(run.metrics, f"{start}progress.png", run.kind))
    if run.alphas is not None:
        for name, plot in (("alphas", pictures.plot_alphas), ("alphas_heatmap", pictures.plot_heatmap)):
            drawn[name] = _embedded(plot(run.alphas, run.weights, f"{start}{name}.png"))
    return drawn


def _titles(runs: Sequence[Run]) -> list[str]:
    """The names of the runs; their paths where two have the same name."""
    names = [run.name for run in runs]
    return [run.name if names.count(run.name) == 1 else str(run.path) for run in runs]


def _about(run: Run) -> str:
    """One line: what was run on what, and how far it is."""
    space, planned = _get(run.config, "space", "name"), _get(run.config, "training", "epochs")
    what = f"{run.method} on {space}" if run.kind == "search" and space else run.method
    done = f"{len(run.metrics)} of {planned}" if isinstance(planned, int) else str(len(run.metrics))
    parts = [what, _get(run.config, "data", "dataset"), f"seed {run.config.get('seed')}", f"{done} epochs"]
    return " · ".join(str(part) for part in parts if part)


def _inline(svg: Path) -> Markup:
    """An SVG without its XML head, and without names that those of another could clash with."""
    text = svg.read_text(encoding="utf-8")
    return Markup(re.sub(r' id="[^"]*"', "", text[text.index("<svg") :]))


def _embedded(png: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode("ascii")
