"""Compare DARTS with one-level, first-order and second-order gradients, with the same settings and several seeds.

    python examples/darts_course_project/study.py runs/study [--images FOLDER] [--seeds 0 1 2] [--jobs 1]

The data are the handwritten digits (digits.yaml) or your images (images.yaml). A second start resumes
unfinished runs. The script prints the results table; the report has the details.
"""

import argparse
from functools import partial
from pathlib import Path

from nas_plugins.parallel_runs import in_parallel, retrained, searched
from nas_plugins.report.page import write_report
from nas_plugins.report.summary import results, results_text

HERE = Path(__file__).parent
ORDERS = ("one-level", "first", "second")


def run(folder: Path, name: str, images: Path | None, order: str, seed: int) -> list[Path]:
    """Search, retrain and evaluate with one order and seed, and return both run directories."""
    root = ["--data.root", images] if images else []
    output = folder / f"{order}-{seed}"
    search = searched(output, HERE / f"{name}.yaml", seed, ["--strategy.order", order, *root])
    again = f"{output}-retrained"
    return [search, retrained(again, search / "genotype.json", HERE / f"{name}_retrain.yaml", seed, root)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, metavar="FOLDER", help="where the runs and the report go")
    parser.add_argument("--images", type=Path, help="folder of images; default: the handwritten digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each takes one core")
    options = parser.parse_args()
    config = "images" if options.images else "digits"
    calls = [
        partial(run, options.output, config, options.images, order, seed)
        for seed in sorted(set(options.seeds))
        for order in ORDERS
    ]
    runs = [path for pair in in_parallel(options.jobs, calls) for path in pair]
    page = write_report(runs, options.output / "report")
    print(results_text(results(runs)), f"report: {page}", sep="\n")
