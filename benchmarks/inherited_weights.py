"""Compare derived networks that start from the weights of the supernet with those that start from random weights.

    python benchmarks/inherited_weights.py OUTPUT [--methods NAME ...] [--seeds N] [--epochs N ...] [--KEY VALUE ...]

The script searches on the digits of scikit-learn with each method and seed. The derived network is tested with the
weights of the supernet as they are, and after some epochs of training on all training images from these weights and
from random ones. The run directories and inherited_weights.csv, with one row per test, are written into OUTPUT.
Finished runs are not repeated, and interrupted ones are resumed. Further --KEY VALUE pairs, for example
--data.train_images 200, apply to all runs, those of the section space to the searches only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from nas_plugins.config.reader import read_retrain
from nas_plugins.runs import directory as runs
from nas_plugins.training.inheritance import Supernet
from nas_plugins.training.retrain import Retraining, evaluate, retrain
from nas_plugins.training.search import resume, search
from nas_plugins.training.trainer import quiet
from search_spaces.files import write_text_whole
from search_spaces.genotype import Genotype
from strategies.bn_statistics import measure_bn_stats, use_bn_stats
from strategies.validation import CALIBRATION_BATCHES

METHODS = {"EDAS": {"sign_flip_epochs": 5}, "DARTS": {}, "FairDARTS": {}}
EPOCHS = (1, 3, 10)
COMPUTE = {"accelerator": "cpu", "threads": 1}
SEARCH = {
    "space": {"name": "DartsSpace", "channels": 8, "layers": 5, "nodes": 3},
    "data": {"dataset": "digits", "batch_size": 32, "val_fraction": 0.5},
    "training": {"epochs": 15, "learning_rate": 0.05},
    "compute": COMPUTE,
}
RETRAIN = {
    "network": {"channels": 8},
    "data": {"dataset": "digits", "batch_size": 32, "val_fraction": 0.0},
    "training": {"learning_rate": 0.025, "min_learning_rate": 0.0},
    "compute": COMPUTE,
}


def main() -> None:
    """Run the searches and trainings that have not finished, and write the table after each search."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="number of seeds; default: 3")
    parser.add_argument("--epochs", type=int, nargs="+", default=EPOCHS, metavar="N", help="of the trainings")
    options, overrides = parser.parse_known_args()
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "search.yaml").write_text(yaml.safe_dump(SEARCH))
    (folder / "retrain.yaml").write_text(yaml.safe_dump(RETRAIN))
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for method in options.methods:
            rows += measured(folder, method, seed, options.epochs, overrides)
            write_text_whole(folder / "inherited_weights.csv", pd.DataFrame(rows).to_csv(index=False))
    print(summary(pd.DataFrame(rows)).to_string())


def measured(
    folder: Path, method: str, seed: int, epochs: Sequence[int], overrides: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one search."""
    pairs = list(zip(overrides[::2], overrides[1::2], strict=True))
    given = ["--seed", str(seed), *(text for pair in pairs if not pair[0].startswith("--space.") for text in pair)]
    options = ["--seed", str(seed), *overrides, "--strategy", json.dumps({"name": method, **METHODS[method]})]
    found = finished(folder / f"{method}-{seed}", search, folder / "search.yaml", options) / runs.GENOTYPE
    row = {"method": method, "seed": seed}
    for statistics, accuracy in at_once(found, folder / "retrain.yaml", given).items():
        yield row | {"weights": "inherited", "epochs": 0, "statistics": statistics, "test_acc": accuracy}
    for count in epochs:
        for weights in ("inherited", "new"):
            options = [*given, "--training.epochs", str(count), "--network.weights", weights]
            output = folder / f"{method}-{seed}-{weights}-{count}"
            run = finished(output, retrain, found, folder / "retrain.yaml", options)
            accuracy = json.loads((run / runs.TEST).read_text())["test_acc"]
            yield row | {"weights": weights, "epochs": count, "statistics": "trained", "test_acc": accuracy}


def finished(output: Path, make: Any, *arguments: Any) -> Path:
    """Start, resume or skip a run, test it if it is a retraining, and return its directory."""
    *files, options = arguments
    kind = "search" if make is search else "retrain"
    if (output / runs.CONFIG).exists():
        resume(output)
    else:
        make(*files, output, options)
    if kind == "retrain" and not (output / runs.TEST).exists():
        evaluate(output)
    return output


@quiet()
def at_once(genotype: Path, config: Path, options: Sequence[str]) -> dict[str, float]:
    """Return the test accuracies without training, with the batch statistics of the supernet and with measured ones."""
    file = genotype.parent / "at_once.json"
    if file.exists():
        return json.loads(file.read_text())
    supernet = Supernet(genotype)
    training = Retraining(supernet.fitted(read_retrain(config, options)), Genotype.load(genotype))
    training.begin_with(supernet.weights(training.architecture, training.data), genotype)
    training.data.setup("fit")
    loader = iter(training.data.train_dataloader())
    batches = [next(loader)[0] for _ in range(CALIBRATION_BATCHES)]
    network = training.network
    statistics = measure_bn_stats(network, lambda: [network(images) for images in batches])
    accuracies = {"supernet": training.test(genotype.parent)["test_acc"]}
    with torch.no_grad(), use_bn_stats(statistics):
        accuracies["measured"] = training.test(genotype.parent)["test_acc"]
    write_text_whole(file, json.dumps(accuracies))
    return accuracies


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean and the standard deviation of the accuracies in percent, and the number of seeds."""
    keys = ["method", "epochs", "weights", "statistics"]
    return (100 * table.set_index(keys)["test_acc"]).groupby(keys).agg(["mean", "std", "count"]).round(2)


if __name__ == "__main__":
    main()
