"""The commands of NNI experiments: ``nas-plugins launch``, ``trials`` and ``trial``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from nas_plugins.terminal import show


def add_experiments(commands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands and their arguments.

    Args:
        commands: Subparsers of the command line.
        add: Function that adds a command, given the subparsers, its name, the function that runs it and a help text.
    """
    launch = add(commands, "launch", _launch, "run an NNI experiment, such as of many searches, to its end")
    launch.add_argument("--config", required=True, metavar="FILE", help="NNI's config, as nnictl create takes it")
    launch.add_argument("--port", type=int, default=8080, metavar="P", help="of the web portal; default: 8080")

    trials = add(commands, "trials", _trials, "the trials of an NNI experiment, the best one first")
    trials.add_argument("experiment", metavar="EXPERIMENT", help="its ID, or its folder")
    trials.add_argument("--genotypes", metavar="FOLDER", help="copy the best genotypes there: 1.json, 2.json, ...")
    trials.add_argument("--best", type=int, default=1, metavar="N", help="how many of them; default: 1")

    text = (
        "one search or retraining, as the trialCommand of an NNI experiment; --KEY VALUE overrides a key of the config"
    )
    trial = add(commands, "trial", _trial, text, takes_overrides=True)
    trial.add_argument("--config", required=True, metavar="FILE", help="config file of a search or a retraining")
    found = trial.add_mutually_exclusive_group()
    found.add_argument("--genotype", metavar="FILE", help="what a retraining trains")
    found.add_argument("--sample", metavar="FILE", help="what a retraining of a space without cells trains")
    trial.add_argument("--output", metavar="FOLDER", help="for the run directory, EXPERIMENT/TRIAL; default: NNI's")


def _trial(options: argparse.Namespace) -> None:
    from nas_plugins.runs.directory import say
    from nas_plugins.sweep.trial import run_trial

    run = run_trial(options.config, options.overrides, options.genotype, options.output, options.sample)
    say(f"{run}: finished")


def _launch(options: argparse.Namespace) -> None:
    from nas_plugins.sweep.launch import launch

    launch(options.config, options.port)


def _trials(options: argparse.Namespace) -> None:
    from nas_plugins.sweep.records import read_trials, save_genotypes, trials_text

    trials = read_trials(options.experiment)
    if options.genotypes:
        print(*save_genotypes(trials, options.best, options.genotypes), sep="\n")
    else:
        show(trials_text(trials))
