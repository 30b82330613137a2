"""Run one experiment of Fine-Tuning DARTS: search, retrain, evaluate and report.

    python examples/fine_tuning_darts/run.py NAME FOLDER [--KEY VALUE ...]

NAME is a data set with configs beside this file: digits, images, cifar10, cifar100, fashion_mnist, compcars_web,
compcars_surveillance or miotcd. Overrides of the sections space and strategy apply to the search, overrides of the
section network to the retraining, and all others to both. A second start resumes unfinished runs. cifar100 retrains
the cells of CIFAR-10: in the same FOLDER, both share one search.
"""

import argparse
from itertools import islice
from pathlib import Path

from nas_plugins.cli import main as nas_plugins
from nas_plugins.errors import InputError

HERE = Path(__file__).parent
NAMES = sorted(file.name.removesuffix("_retrain.yaml") for file in HERE.glob("*_retrain.yaml"))
SEARCHED_ON = {"cifar100": "cifar10"}
"""Data set -> data set of the search, if it is another one."""
PUBLISHED = {"compcars_web": "compcars", "compcars_surveillance": "compcars", "digits": None, "images": None}
"""Data set -> its table of published results, if the name differs; None if there is none."""


def command(*arguments: object) -> None:
    """Run a nas-plugins command, and exit with its status if it fails."""
    status = nas_plugins([str(argument) for argument in arguments])
    if status:
        raise SystemExit(status)


def start(run: Path, *arguments: object) -> None:
    """Start a run, or resume it if it exists."""
    if (run / "config.yaml").exists():
        command("resume", run)
    else:
        command(*arguments, "--output", run)


def part(overrides: list[str]) -> tuple[list[str], list[str]]:
    """Split overrides ``--KEY VALUE`` and ``--KEY=VALUE`` into those of the search and those of the retraining."""
    of_search, of_retraining = [], []
    rest = iter(overrides)
    for argument in rest:
        pair = [argument] if "=" in argument else [argument, *islice(rest, 1)]
        section = argument.removeprefix("--").partition("=")[0].partition(".")[0]
        if section != "network":
            of_search += pair
        if section not in ("space", "strategy"):
            of_retraining += pair
    return of_search, of_retraining


def main(name: str, folder: Path, overrides: list[str]) -> None:
    """Run all steps of one experiment.

    Raises:
        InputError: An override is wrong; no run has started then.
    """
    # Imported here, since --help should not wait for PyTorch and NNI.
    from nas_plugins.config.reader import read_retrain, read_search

    source = SEARCHED_ON.get(name, name)
    search, trained = folder / source, folder / f"{name}-retrained"
    of_search, of_retraining = part(overrides)
    config, again = HERE / f"{source}.yaml", HERE / f"{name}_retrain.yaml"
    read_search(config, of_search)
    read_retrain(again, of_retraining)
    start(search, "search", "--config", config, *of_search)
    start(trained, "retrain", "--config", again, "--genotype", search / "genotype.json", *of_retraining)
    if not (trained / "test.json").exists():
        command("evaluate", trained)
    table = PUBLISHED.get(name, name)
    compare = ["--compare", table] if table else []
    command("report", search, trained, "--output", folder / f"{name}-report", *compare)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("name", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the runs and the report go")
    options, overrides = parser.parse_known_args()
    try:
        main(options.name, options.folder, overrides)
    except InputError as error:
        parser.exit(2, f"run.py: {error}\n")
