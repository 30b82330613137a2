"""One level, first and second order side by side: searched alike, retrained alike, over several seeds.

    python examples/darts_course_project/study.py runs/study [--images FOLDER] [--seeds 0 1 2] [--jobs 1]

On the handwritten digits (digits.yaml), or on images of your own (images.yaml). Started again it goes
on where it stopped. The last lines are the table; the report shows everything else.
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
    """Search, retrain and evaluate."""
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
