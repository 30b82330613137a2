"""Reproduce Figures 3, 4 and 5 and Table 1 of EDAS on other images, and compare ways to sample the relaxed edges.

    python examples/edas/evidence.py runs/evidence --images FOLDER [--seeds 0 1 2] [--jobs 2] [--epochs N]

FOLDER holds train/CLASS/* and test/CLASS/*. A second start resumes unfinished runs. The results are in
runs/evidence/evidence.html, with the tables as CSV files beside it.
"""

from __future__ import annotations

import argparse
import base64
import random
from functools import partial
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
import pandas as pd

from nas_plugins import Genotype
from nas_plugins.parallel_runs import in_parallel, retrained, searched
from nas_plugins.report.cells import draw_cells
from nas_plugins.report.style import STYLE, operation_colours
from nas_plugins.runs.reader import Run, read_run
from nas_plugins.runs.tables import operations_of
from nas_plugins.training.derive import derive
from search_spaces.files import write_text_whole

HERE = Path(__file__).parent
PLAIN = ["--strategy.sign_flip_epochs", 0]
METHODS = {
    # Ten times the rate of the DARTS paper, so that α can move about as far during the search as with EDAS.
    "DARTS": ["--strategy", "{name: DARTS, learning_rate: 0.003}"],
    "α-max": [*PLAIN, "--strategy.alpha_max", "true"],
    "EDAS": PLAIN,
    "EDAS-inv": [],
}
"""Method of Figures 3 and 5 -> its settings."""
DRAWS = {
    "uniform": [],
    "cyclic": ["--strategy.sampling", "cyclic"],
    "entropy": ["--strategy.sampling", "entropy"],
    "uniform, 4 edges": ["--strategy.relaxed_edges", 4],
}
"""Way in which EDAS-inv samples the relaxed edges -> its settings."""
COLOURS = ("#64748b", "#9333ea", "#2563eb", "#ea580c", "#059669")
CELLS = 6
"""Number of epochs whose cells are drawn and retrained for Figure 4 and Table 1."""


def main() -> None:
    """Search, retrain and write the HTML page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, metavar="FOLDER", help="where the runs and the page go")
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--epochs", type=int, default=12, help="of a search; two fifths are EDAS-inv's warm-up")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each takes one core")
    options = parser.parse_args()
    if options.epochs < 5:
        parser.error(f"--epochs: {options.epochs} should be at least 5, of which two are EDAS-inv's warm-up")
    root = ["--data.root", options.images]
    length = ["--training.epochs", options.epochs]

    def search(name: str, settings: list[object], seed: int) -> Run:
        warm = [] if "DARTS" in str(settings) else ["--strategy.sign_flip_epochs", 2 * options.epochs // 5]
        output = options.output / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
        return read_run(searched(output, HERE / "evidence.yaml", seed, [*root, *length, *warm, *settings]))

    def retrain(genotype: Path, name: str, seed: int) -> Run:
        return read_run(retrained(options.output / name, genotype, HERE / "evidence_retrain.yaml", seed, root))

    names = {**METHODS, **{name: settings for name, settings in DRAWS.items() if name != "uniform"}}
    seeds = sorted(set(options.seeds))
    # All methods of the first seed run first; the other long runs, those of DARTS, run last.
    jobs = sorted(((n, s) for s in seeds for n in names), key=lambda job: job[0] == "DARTS" and job[1] != seeds[0])
    runs = dict(zip(jobs, in_parallel(options.jobs, [partial(search, n, names[n], s) for n, s in jobs]), strict=True))

    watched = runs["EDAS-inv", seeds[0]]
    epochs = sorted({round(i * (options.epochs - 1) / (CELLS - 1)) for i in range(CELLS)})
    genotypes = {epoch: options.output / f"cell-{epoch}-{seeds[0]}.json" for epoch in epochs}
    for epoch, genotype in genotypes.items():
        derive(watched.path, genotype, epoch=epoch)
    at_epochs = in_parallel(
        options.jobs,
        [partial(retrain, g, f"cell-{epoch}-{seeds[0]}-retrained", seeds[0]) for epoch, g in genotypes.items()],
    )

    histories = {m: [runs[m, s] for s in seeds] for m in METHODS}
    drawn = {d: [runs["EDAS-inv" if d == "uniform" else d, s] for s in seeds] for d in DRAWS}
    one_edge = [run for draw, group in drawn.items() if "edges" not in draw for run in group]
    # Sampling methods that relax the same number of edges share one cost, free of timing noise.
    costs = {draw: seconds_an_iteration(group if "edges" in draw else one_edge) for draw, group in drawn.items()}
    budget = min(costs.values()) * iterations(one_edge[0]) * options.epochs
    tables = {
        "methods": pd.DataFrame([method_row(m, histories[m]) for m in METHODS]),
        "cells": pd.DataFrame(
            [
                {
                    "cell": f"({chr(97 + i)})",
                    "epochs": epoch + 1,
                    "parameters (M)": f"{run.network['parameters'] / 1e6:.3f}",
                    "test accuracy (%)": f"{100 * run.test['test_acc']:.2f}",
                }
                for i, (epoch, run) in enumerate(zip(epochs, at_epochs, strict=True))
            ]
        ),
        "draws": pd.DataFrame([draw_row(d, drawn[d], costs[d], budget) for d in DRAWS]),
    }
    for name, table in tables.items():
        write_text_whole(options.output / f"{name}.csv", table.to_csv(index=False))
        print(table.to_string(index=False), end="\n\n")
    with plt.rc_context(STYLE):
        pictures = {
            "figure_3": accuracy_over_epochs(histories, options.output / "figure_3.png"),
            "figure_5": alphas_over_epochs(
                {m: histories[m][0] for m in METHODS if m != "DARTS"}, options.output / "figure_5.png"
            ),
            "draws": accuracy_over_seconds(drawn, costs, budget, options.output / "draws.png"),
        }
    cells = {
        f"({chr(97 + i)}) epochs: {epoch + 1}": draw_cells(Genotype.load(genotype), genotype.with_suffix(""))[1]
        for i, (epoch, genotype) in enumerate(genotypes.items())
    }
    write_page(options.output / "evidence.html", tables, pictures, cells, watched, budget)
    print(f"page: {options.output / 'evidence.html'}")


# Tables


def top_changes(run: Run) -> int:
    """Count over all edges how often the operation with the highest α changed from one epoch to the next."""
    assert run.alphas is not None
    tops = run.alphas.set_index(["cell", "edge", "epoch"])[operations_of(run.alphas)].idxmax(axis=1)
    by_edge = tops.groupby(["cell", "edge"])
    return int((by_edge.shift() != tops)[by_edge.cumcount() > 0].sum())


def method_row(name: str, runs: list[Run]) -> dict[str, object]:
    """Return a row of the table of methods: mean ± standard deviation over the seeds."""
    last = [run.metrics.iloc[-1] for run in runs]
    return {
        "method": name,
        "supernet or path, val (%)": spread([100 * row["val_acc"] for row in last]),
        "derived, val (%)": spread([100 * row["derived_val_acc"] for row in last]),
        "top changes": spread([top_changes(run) for run in runs], 0),
        "s/iteration": f"{seconds_an_iteration(runs):.3f}",
    }


def draw_row(name: str, runs: list[Run], cost: float, budget: float) -> dict[str, object]:
    """Return a row of the table of draws; "then" is the time at which the cheapest draw has finished all epochs."""
    at = [run.metrics[seconds_at(run, cost) <= budget * 1.001].iloc[-1] for run in runs]
    last = [run.metrics.iloc[-1] for run in runs]
    return {
        "draw": name,
        "epochs at equal cost": int(at[0]["epoch"]) + 1,
        "path, val, then (%)": spread([100 * epoch["val_acc"] for epoch in at]),
        "derived, val, then (%)": spread([100 * epoch["derived_val_acc"] for epoch in at]),
        "derived, val, at the end (%)": spread([100 * epoch["derived_val_acc"] for epoch in last]),
        "top changes": spread([top_changes(run) for run in runs], 0),
        "s/iteration": f"{cost:.3f}",
    }


def seconds_an_iteration(runs: list[Run]) -> float:
    """Return the median over the runs of the seconds per iteration in the fastest epoch of each run."""
    return float(pd.Series([run.metrics["seconds_per_iteration"].min() for run in runs]).median())


def iterations(run: Run) -> int:
    """Return the iterations per epoch: the images outside the validation fraction train the weights."""
    data = run.config["data"]
    return round((1 - data["val_fraction"]) * data["train_images"]) // data["batch_size"]


def seconds_at(run: Run, cost: float) -> pd.Series:
    """Return the search time at the end of each epoch, given the seconds per iteration, without validation."""
    return (run.metrics["epoch"] + 1) * iterations(run) * cost


def spread(values: list[float], digits: int = 1) -> str:
    """Format mean ± sample standard deviation, or the value alone if there is only one."""
    series = pd.Series(values, dtype=float)
    mean = f"{series.mean():.{digits}f}"
    return mean if len(series) == 1 else f"{mean} ± {series.std():.{digits}f}"


# Figures


def accuracy_over_epochs(histories: dict[str, list[Run]], path: Path) -> Path:
    """Plot Figure 3: accuracy of the derived network and of the trained supernet or path over the epochs."""
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.9), layout="constrained", sharey=True)
    for axis, column, title in zip(
        axes,
        ("derived_val_acc", "val_acc"),
        ("derived network (8 edges)", "what is searched: supernet of DARTS, path of the others (14 edges)"),
        strict=True,
    ):
        for colour, (method, runs) in zip(COLOURS, histories.items(), strict=False):
            values = 100 * pd.concat([run.metrics[column] for run in runs], axis=1)
            epochs, mean = values.index + 1, values.mean(axis=1)
            axis.plot(epochs, mean, color=colour, label=method)
            axis.fill_between(epochs, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.12, linewidth=0)
        axis.set(xlabel="epoch", title=title)
        axis.tick_params(length=0)
    axes[0].set_ylabel("validation accuracy (%)")
    axes[0].legend()
    figure.savefig(path, dpi=160)
    return path


def alphas_over_epochs(runs: dict[str, Run], path: Path) -> Path:
    """Plot Figure 5: α of three randomly chosen edges for each method."""
    first = next(iter(runs.values())).alphas
    assert first is not None
    edges = random.Random(0).sample(sorted(set(zip(first["cell"], first["edge"], strict=True))), 3)
    names = operations_of(first)
    colours = operation_colours(names)
    figure, axes = plt.subplots(
        len(runs), 3, figsize=(10.5, 2.5 * len(runs)), layout="constrained", sharex=True, sharey="row"
    )
    for row, (method, run) in zip(axes, runs.items(), strict=True):
        assert run.alphas is not None
        for axis, (cell, edge) in zip(row, edges, strict=True):
            own = run.alphas[(run.alphas["cell"] == cell) & (run.alphas["edge"] == edge)]
            for name in names:
                axis.plot(own["epoch"] + 1, own[name], color=colours[name], label=name, linewidth=1.4)
            axis.set_title(f"{method}: {cell} {edge.replace('->', ' → ')}")
            axis.tick_params(length=0)
        row[0].set_ylabel("α")
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=160)
    return path


def accuracy_over_seconds(drawn: dict[str, list[Run]], costs: dict[str, float], budget: float, path: Path) -> Path:
    """Plot the accuracy of the derived network against the search time, for each way to sample the relaxed edges."""
    figure, axis = plt.subplots(figsize=(10.5, 3.9), layout="constrained")
    for colour, (name, runs) in zip(COLOURS, drawn.items(), strict=False):
        seconds = seconds_at(runs[0], costs[name])
        values = 100 * pd.concat([run.metrics["derived_val_acc"] for run in runs], axis=1)
        axis.plot(seconds, values.mean(axis=1), color=colour, label=name)
        axis.fill_between(seconds, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.1, linewidth=0)
    axis.axvline(budget, color="#94a3b8", linestyle=":", linewidth=1)
    axis.set(xlabel="iterations × seconds an iteration", ylabel="derived network, validation (%)")
    axis.tick_params(length=0)
    axis.legend()
    figure.savefig(path, dpi=160)
    return path


# HTML page

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>The evidence of EDAS</title><style>
body { margin: 0; background: #f8fafc; color: #0f172a; font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 17px; margin: 0 0 4px; } p { color: #64748b; margin: 0 0 12px; }
.card { background: #fff; border: 1px solid #e2e8f0; border-radius: 10px; padding: 18px 20px; margin: 18px 0;
        overflow-x: auto; }
img { max-width: 100%; } table { border-collapse: collapse; font-size: 13px; width: 100%; }
th, td { padding: 6px 8px; text-align: right; border-bottom: 1px solid #f1f5f9; white-space: nowrap; }
th { color: #64748b; border-color: #cbd5e1; white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
.cells { display: grid; gap: 20px; } figure { margin: 0; }
figcaption { font-size: 13px; color: #64748b; }
</style></head><body><main>
<h1>The evidence of EDAS</h1><p>{{ about }}</p>
<div class="card"><h2>Figure 3: what the derived network is worth during the search</h2>
<p>Mean over the seeds; the band is from the lowest to the highest.</p><img src="{{ pictures.figure_3 }}"
alt="validation accuracy over the epochs of each method">{{ tables.methods }}</div>
<div class="card"><h2>Figure 4 and Table 1: the cells of EDAS-inv at several epochs</h2>
<p>Seed {{ seed }}; each was trained from scratch.</p><div class="cells">{% for name, image in cells.items() %}
<figure><figcaption>{{ name }}</figcaption><img src="{{ image }}" alt="cells {{ name }}"></figure>{% endfor %}</div>
{{ tables.cells }}</div>
<div class="card"><h2>Figure 5: α of three edges</h2><p>Seed {{ seed }}; in the table above, "top changes" counts over
all edges how often the strongest operation was another one than an epoch before.</p>
<img src="{{ pictures.figure_5 }}" alt="α of three edges for α-max, EDAS and EDAS-inv"></div>
<div class="card"><h2>Which edges are relaxed</h2><p>EDAS-inv with other draws, and with more edges an iteration. The
dotted line and the first columns are after {{ budget }} s of iterations, what all epochs of the cheapest draw take.</p>
<img src="{{ pictures.draws }}" alt="accuracy of the derived network over the seconds of the search">
{{ tables.draws }}</div>
</main></body></html>
"""


def write_page(
    path: Path,
    tables: dict[str, pd.DataFrame],
    pictures: dict[str, Path],
    cells: dict[str, Path],
    watched: Run,
    budget: float,
) -> None:
    """Write an HTML page that needs no other file."""
    config = watched.config
    about = (
        f"{config['space']['layers']} cells, {config['space']['channels']} channels, "
        f"{config['data']['train_images']} images of {config['data']['image_size']} pixels a side, "
        f"{len(watched.metrics)} epochs of {iterations(watched)} iterations"
    )
    page = (
        jinja2.Environment(autoescape=True)
        .from_string(PAGE)
        .render(
            about=about,
            seed=config["seed"],
            budget=f"{budget:.0f}",
            tables={
                name: jinja2.utils.markupsafe.Markup(t.to_html(index=False, border=0)) for name, t in tables.items()
            },
            pictures={name: embedded(picture) for name, picture in pictures.items()},
            cells={name: embedded(picture) for name, picture in cells.items()},
        )
    )
    write_text_whole(path, page)


def embedded(png: Path) -> str:
    """Return a PNG file as a data URL."""
    return "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode("ascii")


if __name__ == "__main__":
    main()
