"""The commands of derived networks: ``nas-plugins retrain``, ``evaluate``, ``predict`` and ``export``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from nas_plugins.errors import InputError
from nas_plugins.terminal import show


def add_networks(commands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands and their arguments.

    Args:
        commands: Subparsers of the command line.
        add: Function that adds a command, given the subparsers, its name, the function that runs it and a help text.
    """
    retrain = add(
        commands,
        "retrain",
        _retrain,
        "train a derived network; --KEY VALUE overrides a key of the config",
        takes_overrides=True,
    )
    found = retrain.add_mutually_exclusive_group(required=True)
    found.add_argument("--genotype", metavar="FILE", help="genotype file")
    found.add_argument("--sample", metavar="FILE", help="sample.json of a search, for a space without cells")
    weights = "weights to begin with: random ones, or those of the supernet of the search run of FILE; default: new"
    retrain.add_argument("--weights", choices=("new", "inherited"), help=weights)
    retrain.add_argument("--config", required=True, metavar="FILE", help="config file")
    retrain.add_argument("--output", required=True, metavar="RUN", help="run directory to make")

    evaluate = add(commands, "evaluate", _evaluate, "test a retrained network, also on each class")
    evaluate.add_argument("run_directory", metavar="RUN")

    predict = add(commands, "predict", _predict, "predict classes, labels, values or masks of new images")
    predict.add_argument("run_directory", metavar="RUN")
    predict.add_argument("images", nargs="+", metavar="IMAGES", help="image files, and folders of them")
    form = predict.add_mutually_exclusive_group()
    form.add_argument("--top", type=int, default=3, metavar="N", help="classes to show for each image; default: 3")
    saved = "file FILE.csv for all probabilities or values; for a segmentation also a folder for masks"
    form.add_argument("--output", metavar="PATH", help=saved)

    export = add(commands, "export", _export, "the network of a run as files that need no nas-plugins")
    export.add_argument("run_directory", metavar="RUN", help="finished retraining or search")
    formats = ("python", "onnx", "torch", "safetensors")
    export.add_argument("--format", required=True, choices=formats, help="one file of PyTorch, ONNX, .pt2, or weights")
    export.add_argument("--output", required=True, metavar="FILE", help="file to write")
    weights = "of a search: those of its supernet, or, for --format python, new ones; default: new"
    export.add_argument("--weights", choices=("new", "inherited"), help=weights)


def _retrain(options: argparse.Namespace) -> None:
    from nas_plugins.runs.directory import WEIGHTS, say
    from nas_plugins.training.retrain import retrain, retrain_sample

    weights = [] if options.weights is None else ["--network.weights", options.weights]
    given = (options.config, options.output, [*options.overrides, *weights])
    run = retrain(options.genotype, *given) if options.sample is None else retrain_sample(options.sample, *given)
    say(f"{run}: retrained; weights in {run / WEIGHTS}")


def _evaluate(options: argparse.Namespace) -> None:
    from nas_plugins.runs.directory import read_sections
    from nas_plugins.tasks import task_of
    from nas_plugins.training.retrain import evaluate

    result, task = evaluate(options.run_directory), task_of(read_sections(options.run_directory)[1])
    count = next(f"{result.pop(name):g} {name}" for name in ("images", "samples") if name in result)
    names = {f"test_{metric.key}": metric for metric in task.metrics}
    measured = [f"{metric.name} {metric.text(result.pop(name))}" for name, metric in names.items() if name in result]
    measured += [f"{name.removeprefix('test_')} {value:.4f}" for name, value in result.items()]
    print(f"{options.run_directory}: test {', '.join(measured)}, on {count}")


def _predict(options: argparse.Namespace) -> None:
    from nas_plugins.runs.directory import read_sections
    from nas_plugins.tasks import task_of
    from nas_plugins.training.predict import (
        check_predictions,
        predict,
        predict_masks,
        predictions_text,
        save_predictions,
    )

    if options.top < 1:
        raise InputError(f"--top: {options.top} should be at least 1")
    task = task_of(read_sections(options.run_directory)[1])
    if options.output:
        check_predictions(options.output, task.dense)
    if options.output and task.dense and not options.output.lower().endswith(".csv"):
        count = predict_masks(options.run_directory, options.images, options.output)
        show(f"{options.output}: masks for {count} images")
        return
    predictions = predict(options.run_directory, options.images)
    if options.output:
        save_predictions(predictions, options.output, task.name)
        show(f"{options.output}: predictions for {len(predictions)} images")
    else:
        show(predictions_text(predictions, options.top, task.name))


def _export(options: argparse.Namespace) -> None:
    from nas_plugins.export import export

    exported = export(options.run_directory, options.format, options.output, options.weights)
    main, *others = exported.files
    print(f"{main}: the same outputs on {exported.images} test samples; with it {', '.join(map(str, others))}")
