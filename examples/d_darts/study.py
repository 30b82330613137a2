"""Compare DARTS, FairDARTS, D-DARTS and DARTOpti, all searched and retrained with the same settings.

    python examples/d_darts/study.py runs/study [--images FOLDER] [--methods NAME ...] [--seeds 0 1 2] [--jobs 1]
        [--data.train_images 4000 ...]

The methods are DARTS and FairDARTS in the space of DARTS, D-DARTS without and with the gradient of its ablation loss,
DARTOpti starting from ResNet-18, and ResNet-18 itself, which is not searched. The data are the handwritten digits
(digits.yaml), or your images in FOLDER/train/CLASS/* and FOLDER/test/CLASS/* (images.yaml). Options of the form
--section.key value apply to searches and retrainings. A second start resumes unfinished runs. The script prints the
results table; the report has the details, and figure_4.png shows the supernets over the epochs.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import MaxNLocator

from nas_plugins.parallel_runs import in_parallel, retrained, searched
from nas_plugins.report.page import write_report
from nas_plugins.report.summary import results, results_text, summary, summary_text
from search_spaces.baselines import BASELINES

HERE = Path(__file__).parent
BASELINE = "resnet18_chained"
ONE_CELL_A_KIND = "{name: DartsSpace, channels: 4, layers: 5, nodes: 3}"
METHODS: dict[str, list[object]] = {
    "DARTS": ["--space", ONE_CELL_A_KIND, "--strategy", "{name: DARTS, learning_rate: 0.05}"],
    "FairDARTS": [
        "--space", ONE_CELL_A_KIND, "--strategy", "{name: FairDARTS, learning_rate: 0.05, derivation: sparse}",
    ],
    "D-DARTS": [],
    "D-DARTS-gradient": ["--strategy.ablation_gradient", "true"],
    "DARTOpti": [
        "--space", f"{{name: DartOptiSpace, channels: 4, baseline: {BASELINE}}}",
        "--strategy.derivation", "edge", "--strategy.warmup_epochs", 2,
        # α of the baseline starts at 10, four times as far from the threshold for dropping an operation.
        "--strategy.learning_rate", 0.2, "--strategy.min_learning_rate", 0.08,
    ],
}  # fmt: skip
"""Searched method -> overrides of the config."""


def run(output: Path, name: str, method: str, seed: int, of_both: list[object]) -> list[Path]:
    """Search, retrain and evaluate with one method and seed, and return the run directories."""
    folder, config, again = output / f"{method}-{seed}", HERE / f"{name}.yaml", HERE / f"{name}_retrain.yaml"
    if method in METHODS:
        search = searched(folder, config, seed, [*METHODS[method], *of_both])
        return [search, retrained(f"{folder}-retrained", search / "genotype.json", again, seed, of_both)]
    BASELINES[BASELINE].save(output / "resnet18.json")
    return [retrained(folder, output / "resnet18.json", again, seed, of_both)]


def draw_figure_4(output: Path, methods: Sequence[str], seeds: Sequence[int]) -> Path:
    """Plot the best validation accuracy so far of the supernet: mean and range over the seeds (Fig. 4)."""
    figure, axis = plt.subplots(figsize=(7, 3.8), layout="constrained")
    for method in (method for method in methods if method in METHODS):
        tables = [pd.read_csv(output / f"{method}-{seed}" / "metrics.csv", index_col="epoch") for seed in seeds]
        best = 100 * pd.concat([table["val_acc"].cummax() for table in tables], axis=1)
        (line,) = axis.plot(best.index, best.mean(axis=1), marker="o", markersize=3, label=method)
        axis.fill_between(
            best.index, best.min(axis=1), best.max(axis=1), color=line.get_color(), alpha=0.15, linewidth=0
        )
    axis.set(xlabel="epoch of the search", ylabel="best validation accuracy (%)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    path = output / "figure_4.png"
    figure.savefig(path, dpi=150)
    return path


if __name__ == "__main__":
    known = [*METHODS, "ResNet-18"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="where the runs and the report go")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="folder of images; default: the digits")
    parser.add_argument("--methods", nargs="+", default=known, choices=known, metavar="NAME", help=", ".join(known))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each takes one core")
    options, of_both = parser.parse_known_args()
    options.output.mkdir(parents=True, exist_ok=True)
    seeds = sorted(set(options.seeds))
    of_both += ["--data.root", options.images] if options.images else []
    calls = [
        partial(run, options.output, "images" if options.images else "digits", method, seed, of_both)
        for seed in seeds
        for method in options.methods
    ]
    runs = [path for pair in in_parallel(options.jobs, calls) for path in pair]
    page = write_report(runs, options.output / "report")
    print(results_text(results(runs)))
    print(summary_text(summary([run for run in runs if run.name.startswith("ResNet-18")])), sep="\n")
    print(f"report: {page}, {draw_figure_4(options.output, options.methods, seeds)}")
