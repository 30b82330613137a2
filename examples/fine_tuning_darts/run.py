"""One experiment of Fine-Tuning DARTS: search, retrain, evaluate and report.

    python examples/fine_tuning_darts/run.py NAME FOLDER [--KEY VALUE ...]

NAME is that of the configs beside this file: digits, images, cifar10, cifar100, fashion_mnist, compcars_web,
compcars_surveillance or miotcd. Keys such as --space.channels and --strategy.order go to the search, --network.channels
goes to the retraining, all others, such as --data.root, to both. Started again it goes on where it stopped. cifar100
trains the cells of CIFAR-10: in the same FOLDER the two share the search.
"""

import argparse
from itertools import islice
from pathlib import Path

from nas_plugins.cli import main as nas_plugins
from nas_plugins.errors import InputError

HERE = Path(__file__).parent
NAMES = sorted(file.name.removesuffix("_retrain.yaml") for file in HERE.glob("*_retrain.yaml"))
SEARCHED_ON = {"cifar100": "cifar10"}
"""Where the cells of a data set come from, if not from itself."""
PUBLISHED = {"compcars_web": "compcars", "compcars_surveillance": "compcars", "digits": None, "images": None}
"""The table of the paper that a data set is in, if it is not named like it."""


def command(*arguments: object) -> None:
    """One nas-plugins command; ends the script with its status where it fails."""
    status = nas_plugins([str(argument) for argument in arguments])
    if status:
        raise SystemExit(status)


def start(run: Path, *arguments: object) -> None:
    """Begin a run, or go on with it."""
    if (run / "config.yaml").exists():
        command("resume", run)
    else:
        command(*arguments, "--output", run)


def part(overrides: list[str]) -> tuple[list[str], list[str]]:
    """What of ``--KEY VALUE`` and ``--KEY=VALUE`` is for the search, and what for the retraining."""
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
    """All steps of one experiment.

    Raises:
        InputError: an override is wrong; nothing has begun then.
    """
    # Here and not above: --help needs none of what takes seconds to import.
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
