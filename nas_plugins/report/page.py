"""What a person looks at after a run: one page of pictures and tables, for one run or several.

A run is read whole, and found fault with, before anything is written. It may still be going: what
it has not written yet is left out.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from nas_plugins.errors import InputError
from nas_plugins.report import alphas as alpha_pictures
from nas_plugins.report import curves as pictures
from nas_plugins.report.cells import draw_cells
from nas_plugins.report.published import check_table, source
from nas_plugins.report.summary import TEXTS, results, results_cells, summary, summary_cells
from nas_plugins.runs.reader import Run, get, read_runs
from search_spaces.files import write_text_whole

_CHOSEN = ("label", "choice")
"""The headings of the table of a sample."""


def write_report(
    runs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    compare: str | None = None,
) -> Path:
    """Draw the pictures of the runs and write the page that shows them.

    Args:
        runs: run directories; one that is named twice is shown once.
        output: the folder to write to. Without it one run's report goes into the run itself, that of
            several into ``report`` in the current directory.
        compare: the name of a table of published results to set below the runs.

    Returns:
        The path of report.html: a page that needs no other file.

    Raises:
        InputError: one of the directories is no run, there is no such table, or the output cannot be
            written. Nothing is written but in the last case.
    """
    if compare is not None:
        check_table(compare)
    loaded = read_runs(runs)
    if not loaded:
        raise InputError("report: no run is given; name at least one run's directory")
    folder = Path(output) if output is not None else loaded[0].path if len(loaded) == 1 else Path("report")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _write_page(loaded, folder, compare)
    except OSError as error:
        raise InputError(f"{folder}: the report cannot be written there: {error.strerror or error}") from None


def _write_page(runs: Sequence[Run], folder: Path, compare: str | None) -> Path:
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
        loader=jinja2.PackageLoader("nas_plugins.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html").render(
        sections=sections,
        table=summary_cells(summary(runs, compare)),
        source=None if compare is None else source(compare),
        results=results_cells(results(runs)),
        texts=(*TEXTS, *_CHOSEN),
        chosen=_chosen,
        comparison=comparison,
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
        for name, plot in (("alphas", alpha_pictures.plot_alphas), ("alphas_heatmap", alpha_pictures.plot_heatmap)):
            drawn[name] = _embedded(plot(run.alphas, run.weights, f"{start}{name}.png"))
    if run.contributions is not None:
        path = f"{start}contributions.png"
        drawn["contributions"] = _embedded(pictures.plot_contributions(run.contributions, path))
    if run.metrics["distance"].notna().any():
        drawn["distance"] = _embedded(pictures.plot_distance(run.metrics, f"{start}distance.png"))
    return drawn


def _chosen(sample: Mapping[str, Any]) -> dict[str, list[str]]:
    """Heading -> texts of the table of a sample."""
    texts = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in sample.values()]
    return dict(zip(_CHOSEN, ([*sample], texts), strict=True))


def _titles(runs: Sequence[Run]) -> list[str]:
    """The names of the runs; their paths where two have the same name."""
    names = [run.name for run in runs]
    return [run.name if names.count(run.name) == 1 else str(run.path) for run in runs]


def _about(run: Run) -> str:
    """One line: what was run on what, and how far it is."""
    space, planned = get(run.config, "space", "name"), get(run.config, "training", "epochs")
    what = f"{run.method} on {space}" if run.kind == "search" and space else run.method
    done = f"{len(run.metrics)} of {planned}" if isinstance(planned, int) else str(len(run.metrics))
    parts = [what, get(run.config, "data", "dataset"), f"seed {run.config.get('seed')}", f"{done} epochs"]
    return " · ".join(str(part) for part in parts if part)


def _inline(svg: Path) -> Markup:
    """An SVG without its XML head, and without names that those of another could clash with."""
    text = svg.read_text(encoding="utf-8")
    return Markup(re.sub(r' id="[^"]*"', "", text[text.index("<svg") :]))


def _embedded(png: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode("ascii")
