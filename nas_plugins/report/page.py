"""HTML report for one or several runs.

All runs are loaded before any file is written. Parts that a run has not written yet are left out, so an unfinished run
can be reported too.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from PIL import Image

from nas_plugins.doctor.measures import examine
from nas_plugins.doctor.rules import findings
from nas_plugins.report.alphas import plot_alphas, plot_heatmap
from nas_plugins.report.cells import draw_cells
from nas_plugins.report.confusion import (
    CONFUSION_HEADINGS,
    MOST_BARS,
    frequent_confusions,
    plot_class_accuracy,
    plot_confusion,
)
from nas_plugins.report.curves import (
    plot_comparison,
    plot_contributions,
    plot_costs,
    plot_distance,
    plot_progress,
    validation_metric,
)
from nas_plugins.report.front import fronts, plot_front
from nas_plugins.report.health import plot_health
from nas_plugins.report.labels import as_text
from nas_plugins.report.published import source
from nas_plugins.report.summary import results, results_cells, summary, summary_cells
from nas_plugins.report.text_table import LEFT_ALIGNED
from nas_plugins.runs.reader import Run, get, read_runs
from nas_plugins.tasks import TASKS
from search_spaces.files import write_text_whole

_CHOICE_HEADINGS = ("label", "choice")
"""Headings of the table that shows the result of a search without cells."""


_RANKING_HEADINGS = ("architecture", "choice of the search")
"""Text headings of the table of ranked architectures."""

_PIXELS_PER_INCH = 118
"""Scale of the pictures in the page, whose width fits the widest ones of 10.5 inches."""


def write_report(
    runs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    compare: str | None = None,
) -> Path:
    """Draw the plots of the runs and write the HTML page that shows them.

    Args:
        runs: Run directories; duplicates are dropped.
        output: Folder to write to. Default: the run directory for a single run, ``report`` in the
            current directory for several.
        compare: Name of a table of published results to show below the runs.

    Returns:
        Path of report.html, which needs no other file.

    Raises:
        InputError: A directory is not a run, or there is no such table.
        GenotypeError: The genotype of a run is damaged.
        OSError: A file cannot be written.
    """
    loaded = read_runs(runs)
    table = summary(loaded, compare)
    folder = Path(output) if output is not None else loaded[0].path if len(loaded) == 1 else Path("report")
    folder.mkdir(parents=True, exist_ok=True)
    page = _render(loaded, folder, table=summary_cells(table), source=None if compare is None else source(compare))
    write_text_whole(folder / "report.html", page)
    return folder / "report.html"


def _render(runs: Sequence[Run], folder: Path, **tables: Any) -> str:
    """Draw the plots of the runs into a folder, and return the page that shows them and the tables."""
    titles = _titles(runs)
    sections = []
    for number, (run, title) in enumerate(zip(runs, titles, strict=True), 1):
        # The number makes the file names unique; the name is for the reader.
        name = re.sub(r"[^A-Za-z0-9._]+", "-", run.name).strip("-.")[:60]
        search = examine(run) if run.kind == "search" else None
        measures = pd.DataFrame() if search is None else search.epochs
        drawn = _draw(run, folder, f"{number}-{name}-" if len(runs) > 1 else "", measures)
        found = [] if search is None else findings(search)
        sections.append({"title": title, "run": run, "about": _about(run), "pictures": drawn, "findings": found})
    return _template().render(
        sections=sections,
        results=results_cells(results(runs)),
        left_aligned=(*LEFT_ALIGNED, "output", *_CHOICE_HEADINGS, *_RANKING_HEADINGS, *CONFUSION_HEADINGS),
        choices=_choices,
        ranking=_ranking,
        confusions=frequent_confusions,
        most_bars=MOST_BARS,
        comparisons=_draw_comparisons(dict(zip(titles, runs, strict=True)), folder),
        outputs=_outputs,
        fronts=_draw_fronts(runs, folder),
        **tables,
    )


@cache
def _template() -> jinja2.Template:
    """Return the template of the page, compiled once."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nas_plugins.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html")


def _draw_comparisons(runs: Mapping[str, Run], folder: Path) -> dict[str, Markup]:
    """Draw the metric of the runs of each task over the epochs, and return name -> attributes of the picture."""
    tasks = list(dict.fromkeys(run.task for run in runs.values()))
    drawn = {}
    for task in tasks:
        own = {title: run for title, run in runs.items() if run.task == task}
        histories = {title: run.metrics for title, run in own.items()}
        measured = {
            title: found for title, found in histories.items() if len(validation_metric(found, task.metric.key))
        }
        if len(measured) > 1:
            file = folder / ("comparison.png" if len(tasks) == 1 else f"comparison_{task.name}.png")
            searches = [title for title in measured if own[title].kind == "search"]
            name = task.metric.name
            heading = f"{name} ({task.name})" if name in drawn else name  # an evaluator may measure the accuracy too
            drawn[heading] = _embedded(plot_comparison(measured, searches, file, task.metric))
    return drawn


def _draw_fronts(runs: Sequence[Run], folder: Path) -> dict[str, Markup]:
    """Draw a metric against cost for each data set and task, and return heading -> attributes of the picture."""
    found = fronts(runs) if len(runs) > 1 else []
    drawn = {}
    for front in found:
        metric, alone = front.task.metric, len(found) == 1
        heading = f"{metric.name[0].upper()}{metric.name[1:]} against cost" + ("" if alone else f": {front.dataset}")
        prefix = "front" if front.task is TASKS["classification"] else f"front_{front.task.name}"
        file = folder / ("front.png" if alone else f"{prefix}_{front.dataset}.png")
        drawn[heading] = _embedded(plot_front(front, file))
    return drawn


def _draw(run: Run, folder: Path, prefix: str, measures: pd.DataFrame) -> dict[str, Markup]:
    """Draw the plots that a run has data for, and return name -> SVG element, or attributes of the picture."""
    drawn: dict[str, Markup] = {}
    start = os.path.join(folder, prefix)  # keeps the trailing slash if the prefix is empty
    if run.genotype is not None:
        drawn["cells"] = _inline(draw_cells(run.genotype, f"{start}cells")[0])
    if len(run.metrics):
        drawn["progress"] = _embedded(plot_progress(run.metrics, f"{start}progress.png", run.kind, run.task.metric))
    if run.targets and len(run.metrics):
        drawn["costs"] = _embedded(plot_costs(run.metrics, run.targets, f"{start}costs.png"))
    if len(measures):
        drawn["health"] = _embedded(plot_health(measures, run.metrics, f"{start}health.png"))
    if run.alphas is not None:
        for name, plot in (("alphas", plot_alphas), ("alphas_heatmap", plot_heatmap)):
            drawn[name] = _embedded(plot(run.alphas, run.weights, f"{start}{name}.png"))
    if run.contributions is not None:
        path = f"{start}contributions.png"
        drawn["contributions"] = _embedded(plot_contributions(run.contributions, path))
    if run.metrics["distance"].notna().any():
        drawn["distance"] = _embedded(plot_distance(run.metrics, f"{start}distance.png"))
    if run.confusion is not None:
        for name, draw in (("class_accuracy", plot_class_accuracy), ("confusion", plot_confusion)):
            drawn[name] = _embedded(draw(run.confusion, f"{start}{name}.png"))
    return drawn


def _outputs(run: Run) -> dict[str, list[str]]:
    """Return heading -> texts of the table of the metrics of each output; empty if they were not measured."""
    if run.outputs is None:
        return {}
    # "mIoU" is the mean of the outputs, "IoU" that of one.
    columns = {metric.short.removeprefix("m"): metric for metric in run.task.metrics if metric.key in run.outputs}
    written = {name: [metric.text(value) for value in run.outputs[metric.key]] for name, metric in columns.items()}
    return {"output": [str(name) for name in run.outputs["output"]], **written}


def _choices(sample: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return heading -> texts of the table of chosen values."""
    return dict(zip(_CHOICE_HEADINGS, ([*sample], [*map(as_text, sample.values())]), strict=True))


def _ranking(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return heading -> texts of the table of architectures that were ranked at the end of a search."""
    names = [", ".join(f"{edge} {operation}" for edge, operation in row["operations"].items()) for row in rows]
    columns = {"steps": [str(row.get("steps")) for row in rows]} if any(row.get("steps") for row in rows) else {}
    columns |= {name: [_decimals(row["metrics"][name]) for row in rows] for name in rows[0]["metrics"]}
    chosen = ["chosen" if row["chosen"] else "" for row in rows]
    return {_RANKING_HEADINGS[0]: [name or "most likely" for name in names], **columns, _RANKING_HEADINGS[1]: chosen}


def _decimals(value: float | None) -> str:
    """Return a metric as text; an empty one for None, of a network that diverged."""
    return "" if value is None else f"{value:.4f}"


def _titles(runs: Sequence[Run]) -> list[str]:
    """Return the name of each run, or its path if another run has the same name."""
    names = [run.name for run in runs]
    return [run.name if names.count(run.name) == 1 else str(run.path) for run in runs]


def _about(run: Run) -> str:
    """Return one line with method, space, data set, seed and number of finished epochs."""
    space, planned = get(run.config, "space", "name"), get(run.config, "training", "epochs")
    method = f"{run.method} on {space}" if run.kind == "search" and space else run.method
    done = f"{len(run.metrics)} of {planned}" if isinstance(planned, int) else str(len(run.metrics))
    skips = run.genotype and run.genotype.max_skips
    limit = None if skips is None else f"derived with at most {skips} skip connections per cell"
    parts = [method, run.dataset, f"seed {run.config.get('seed')}", f"{done} epochs", limit]
    return " · ".join(str(part) for part in parts if part)


def _inline(svg: Path) -> Markup:
    """Return an SVG element without XML prolog, and without IDs, which could clash with those of another SVG."""
    text = svg.read_text(encoding="utf-8")
    return Markup(re.sub(r' id="[^"]*"', "", text[text.index("<svg") :]))


def _embedded(png: Path) -> Markup:
    """Return the attributes of a picture in the page, all at one scale, so that their texts have one size."""
    with Image.open(png) as picture:
        inches = picture.width / picture.info["dpi"][0]
    data = base64.b64encode(png.read_bytes()).decode("ascii")
    return Markup(f'src="data:image/png;base64,{data}" width="{inches * _PIXELS_PER_INCH:.0f}"')
