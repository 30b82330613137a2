"""What the fixed attention module brings: DARTS' space and the fine-tuned one, searched alike, retrained alike.

    python examples/fine_tuning_darts/study.py runs/study [--images FOLDER] [--strategy NAME] [--seeds 0 1 2] [--jobs 1]
        [--data.train_images 4000 …]

On the handwritten digits (digits.yaml), or on images of your own (images.yaml), with the strategy of the config or
another one. What is of the form --section.key value holds for searches and retrainings. Started again it goes on where
it stopped. The last lines are the table; the report shows everything else.
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
    """Search, retrain and evaluate."""
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
