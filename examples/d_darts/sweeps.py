"""Plot Figure 2 or 3 of D-DARTS from the searches of a sweep over w_abl or w_01.

    python examples/d_darts/sweeps.py EXPERIMENT --output FOLDER

EXPERIMENT is the ID or the folder of an NNI experiment, for example of nni_w_abl.yaml or nni_w_01.yaml, or one or more
run directories. Figure 2 shows the lowest global loss over w_abl, Figure 3 the share of dominant operations over w_01.
With several seeds, the line is their mean.
"""

import argparse
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nas_plugins.errors import InputError
from nas_plugins.report.alphas import architecture_weights
from nas_plugins.report.style import MUTED, SPARE_COLOURS, STYLE
from nas_plugins.runs.reader import Run, get, read_runs
from nas_plugins.runs.tables import operations_of
from nas_plugins.sweep.records import read_trials, succeeded
from search_spaces.files import write_text_whole, write_whole

LABELS = {
    "least_loss": "least global loss (validation)",
    "dominant": "σ(α) > 0.9 (dominant)",
    "absent": "σ(α) < 0.1",
}
FIGURES = {"w_abl": ["least_loss"], "w_01": ["dominant", "absent"]}
"""Setting of a sweep -> the lines of its figure."""


def row(run: Run) -> dict[str, float | str]:
    """Return the values of a search that the figures show (section 5.2.1).

    The global loss is the mean of L_T (Eq. 8) over all cells. Their L_AB sum to zero (Eq. 7), so with
    w_01 = 0 it is the cross-entropy, here that of the supernet on the validation images.
    """
    if run.alphas is None:
        raise InputError(f"{run.path}: has no alphas.csv; a sweep is made of searches with D-DARTS")
    last = run.alphas[run.alphas["epoch"] == run.alphas["epoch"].max()]
    weights = architecture_weights(last, "sigmoid")[operations_of(last)].stack()
    return {
        "run": str(run.path),
        **{name: get(run.config, "strategy", name) for name in FIGURES},
        "seed": run.config["seed"],
        "least_loss": run.metrics["val_loss"].min(),
        "dominant": (weights > 0.9).mean(),
        "absent": (weights < 0.1).mean(),
    }


def draw(table: pd.DataFrame, setting: str, file: Path) -> None:
    """Plot the lines of the figure and a point for each search."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        FigureCanvasAgg(figure)
        axis = figure.subplots()
        for name, colour in zip(FIGURES[setting], SPARE_COLOURS, strict=False):
            scale = 1 if name == "least_loss" else 100
            axis.plot(scale * table.groupby(setting)[name].mean(), color=colour, label=LABELS[name])
            axis.plot(table[setting], scale * table[name], "o", color=colour, markersize=4)
        axis.set(xlabel=setting, ylabel="loss" if setting == "w_abl" else "% of all operations")
        axis.tick_params(length=0, colors=MUTED)
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=2, borderaxespad=0)
        write_whole(file, lambda stream: figure.savefig(stream, format="png", dpi=144, facecolor="white"))


def main(sweep: list[str], output: Path) -> pd.DataFrame:
    """Write sweep.csv and the figure, and return the table."""
    found: list[str] = []
    for name in sweep:
        found += [name] if Path(name, "config.yaml").is_file() else list(succeeded(read_trials(name))["run"])
    table = pd.DataFrame([row(run) for run in read_runs(found)])
    varied = [name for name in FIGURES if table.get(name, pd.Series(dtype=float)).nunique() > 1]
    if len(varied) != 1:
        raise InputError(f"sweep: {' and '.join(varied) or 'nothing'} varies; w_abl should, or w_01, and the other not")
    table = table.sort_values([*varied, "seed"], ignore_index=True)
    write_text_whole(output / "sweep.csv", table.to_csv(index=False))
    draw(table, varied[0], output / f"{varied[0]}.png")
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", nargs="+", metavar="EXPERIMENT", help="ID or folder of an experiment, or runs")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="for the figure and sweep.csv")
    options = parser.parse_args()
    try:
        text = (
            main(options.sweep, options.output).drop(columns="run").to_string(index=False, float_format="{:.4g}".format)
        )
    except InputError as error:
        parser.exit(2, f"sweeps.py: {error}\n")
    print(text, f"figure: {options.output}/*.png", sep="\n")
