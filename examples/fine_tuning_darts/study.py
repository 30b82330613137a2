"""Measure the effect of the fixed attention module: compare the spaces of DARTS and of Fine-Tuning DARTS.

    python examples/fine_tuning_darts/study.py runs/study [--images FOLDER] [--strategy NAME] [--seeds 0 1 2] [--jobs 1]
        [--data.train_images 4000 ...]

The data are the handwritten digits (digits.yaml) or your images (images.yaml). Options of the form --section.key value
apply to searches and retrainings. A second start resumes unfinished runs. The script prints the results table; the
report has the details.
"""

import argparse
from functools import partial
from pathlib import Path

from nas_plugins.parallel_runs import in_parallel, retrained, searched
from nas_plugins.report.page import write_report
from nas_plugins.report.summary import results, results_text

HERE = Path(__file__).parent
SPACES = ("DartsSpace", "FineTunedDartsSpace")


def run(output: Path, name: str, of_search: list[object], of_both: list[object], space: str, seed: int) -> list[Path]:
    """Search, retrain and evaluate in one space with one seed, and return both run directories."""
    folder = output / f"{space}-{seed}"
    search = searched(folder, HERE / f"{name}.yaml", seed, ["--space.name", space, *of_search, *of_both])
    again = f"{folder}-retrained"
    return [search, retrained(again, search / "genotype.json", HERE / f"{name}_retrain.yaml", seed, of_both)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, metavar="FOLDER", help="where the runs and the report go")
    parser.add_argument("--images", type=Path, help="folder of images; default: the handwritten digits")
    parser.add_argument("--strategy", help="of both searches, such as EDAS; default: that of the config")
    parser.add_argument("--epochs", type=int, help="of a search; default: those of the config")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each takes one core")
    options, of_both = parser.parse_known_args()
    of_both += ["--data.root", options.images] if options.images else []
    of_search = ["--strategy", f"{{name: {options.strategy}}}"] if options.strategy else []
    of_search += ["--training.epochs", options.epochs] if options.epochs else []
    config = "images" if options.images else "digits"
    calls = [
        partial(run, options.output, config, of_search, of_both, space, seed)
        for seed in sorted(set(options.seeds))
        for space in SPACES
    ]
    runs = [path for pair in in_parallel(options.jobs, calls) for path in pair]
    page = write_report(runs, options.output / "report")
    print(results_text(results(runs)), f"report: {page}", sep="\n")
