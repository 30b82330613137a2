"""One level, first and second order side by side: searched alike, retrained alike, over several seeds.

    python examples/darts_course_project/study.py runs/study [--images FOLDER] [--seeds 0 1 2] [--jobs 1]

On the handwritten digits (digits.yaml), or on images of your own (images.yaml). Started again it goes
on where it stopped. The last lines are the table; the report shows everything else.
"""

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nas_plugins.report import write_report
from nas_plugins.results import results, results_text

HERE = Path(__file__).parent
ORDERS = ("one-level", "first", "second")


def command(*arguments: object) -> None:
    """One nas-plugins command, in a process of its own."""
    call = [sys.executable, "-m", "nas_plugins.cli", *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip().rpartition("\n")[2] or f"ended with status {done.returncode}: {call}")
    print(done.stdout.splitlines()[-1], flush=True)


def run(folder: Path, name: str, images: Path | None, order: str, seed: int) -> list[Path]:
    """Search, retrain and evaluate; what is done already is not done again."""
    search, trained = folder / f"{order}-{seed}", folder / f"{order}-{seed}-retrained"
    root = ["--data.root", images] if images else []
    started = {
        search: ["search", "--config", HERE / f"{name}.yaml", "--strategy.order", order],
        trained: ["retrain", "--config", HERE / f"{name}_retrain.yaml", "--genotype", search / "genotype.json"],
    }
    for output, arguments in started.items():
        if (output / "config.yaml").exists():
            command("resume", output)
        else:
            command(*arguments, "--seed", seed, *root, "--output", output)
    if not (trained / "test.json").exists():
        command("evaluate", trained)
    return [search, trained]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, metavar="FOLDER", help="where the runs and the report go")
    parser.add_argument("--images", type=Path, help="folder of images; default: the handwritten digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each takes one core")
    options = parser.parse_args()
    config = "images" if options.images else "digits"
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        jobs = [
            pool.submit(run, options.output, config, options.images, order, seed)
            for seed in sorted(set(options.seeds))
            for order in ORDERS
        ]
        runs = [path for job in jobs for path in job.result()]
    page = write_report(runs, options.output / "report")
    print(results_text(results(runs)), f"report: {page}", sep="\n")
