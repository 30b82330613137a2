"""The command line: ``nas-plugins COMMAND``. Bad input ends with one line and exit status 2."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from nas_plugins.errors import InputError, Terminated

_OVERRIDES = "--KEY VALUE overrides a key of the config"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, 2 for bad input, 130 if interrupted, 143 if terminated.
    """
    parser = _parser()
    options, overrides = parser.parse_known_args(arguments)
    if overrides and not options.takes_overrides:
        parser.exit(2, f"nas-plugins: unknown argument {overrides[0]}; see nas-plugins {options.command} --help\n")
    options.overrides = overrides
    before = signal.signal(signal.SIGTERM, _terminate), warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"nas-plugins: {message}\n"  # without the place in the code
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe may close it early
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt as interrupt:
        message = "terminated" if isinstance(interrupt, Terminated) else "interrupted"
        if options.command in ("search", "retrain", "resume"):
            message += "; nas-plugins resume goes on from the last complete epoch"
        _fail(str(interrupt) or message)
        return 143 if isinstance(interrupt, Terminated) else 130
    except _bad_input() as error:
        return _fail(str(error))
    finally:
        signal.signal(signal.SIGTERM, before[0])
        warnings.formatwarning = before[1]
    return 0


def _bad_input() -> tuple[type[Exception], ...]:
    """Return the errors of bad input; imported late, since --help and usage errors should not wait for PyTorch."""
    from search_spaces.genotype import GenotypeError

    return InputError, GenotypeError


def _terminate(number: int, frame: object) -> None:
    raise Terminated


def _fail(message: str) -> int:
    print(f"nas-plugins: {_printable(' '.join(message.split()))}", file=sys.stderr)
    return 2


def _printable(line: str) -> str:
    """Replace control characters, since text from a file could otherwise send commands to the terminal."""
    return "".join(character if character.isprintable() else "?" for character in line)


def _show(text: str) -> None:
    """Print lines with text that comes from files."""
    print(*map(_printable, text.split("\n")), sep="\n")


def _list(options: argparse.Namespace) -> None:
    from nas_plugins.data.module import DATASETS

    for title, names in (
        ("search spaces", _plugins("space")),
        ("strategies", _plugins("strategy")),
        ("datasets", DATASETS),
        ("example configs", example_configs()),
        ("NNI experiments", example_configs(experiments=True)),
    ):
        print(f"{title}:", *names, sep="\n  ")


def _plugins(kind: Literal["space", "strategy"]) -> list[str]:
    """Return a line per registered class, with the reason if it cannot be used."""
    from nas_plugins import plugins

    lines = []
    for name, point in plugins.registered(kind).items():
        lines.append(f"{name:<22} {point.value}")
        try:
            plugins.find(kind, name)
        except InputError as error:
            lines[-1] += f"  (broken: {str(error).removeprefix(f'{kind}.name: ')})"
    return lines


def example_configs(experiments: bool = False) -> list[Path]:
    """Return the config files of runs, or of NNI experiments, in the installation and in the checkout."""
    package = Path(str(files("nas_plugins")))
    found = sorted(path for folder in (package, package.parent) for path in folder.glob("examples/*/*.yaml"))
    return [path for path in found if path.name.startswith("nni") == experiments]


def _search(options: argparse.Namespace) -> None:
    from nas_plugins.runs.directory import is_first, results_of
    from nas_plugins.training.search import search

    run = search(options.config, options.output, options.overrides)
    if is_first():  # the other processes may arrive before the first one has written the result
        found = results_of(run, "search")[0]
        print(f"{run}: searched; {found.stem} in {found}")


def _resume(options: argparse.Namespace) -> None:
    from nas_plugins.runs.directory import say
    from nas_plugins.training.search import resume

    say(f"{resume(options.run_directory)}: finished")


def _derive(options: argparse.Namespace) -> None:
    from nas_plugins.training.derive import derive

    settings = (options.method, options.threshold, options.layers, options.epoch)
    genotype = derive(options.run_directory, options.output, *settings)
    print(f"{options.output}: {len(genotype.layout)} layers, {len(genotype.cells)} different cells")


def _retrain(options: argparse.Namespace) -> None:
    from nas_plugins.runs.directory import WEIGHTS, say
    from nas_plugins.training.retrain import retrain

    run = retrain(options.genotype, options.config, options.output, options.overrides)
    say(f"{run}: retrained; weights in {run / WEIGHTS}")


def _evaluate(options: argparse.Namespace) -> None:
    from nas_plugins.training.retrain import evaluate

    result = evaluate(options.run_directory)
    measured = f"test accuracy {result['test_acc']:.2%}, loss {result['test_loss']:.4f}"
    print(f"{options.run_directory}: {measured}, on {result['images']} images")


def _report(options: argparse.Namespace) -> None:
    from nas_plugins.report import summary as tables
    from nas_plugins.report.page import write_report
    from nas_plugins.report.published import source
    from nas_plugins.runs.reader import read_runs

    page = write_report(options.run_directories, options.output or None, options.compare)
    runs = read_runs(options.run_directories)
    _show(tables.summary_text(tables.summary(runs, options.compare)))
    if options.compare:
        print(f"published: {source(options.compare)}")
    found = tables.results(runs)
    if len(found):
        _show(f"\n{tables.results_text(found)}\n")
    _show(f"report: {page}")


def _trial(options: argparse.Namespace) -> None:
    from nas_plugins.runs.directory import say
    from nas_plugins.sweep.trial import run_trial

    say(f"{run_trial(options.config, options.overrides, options.genotype, options.output)}: finished")


def _launch(options: argparse.Namespace) -> None:
    from nas_plugins.sweep.launch import launch

    launch(options.config, options.port)


def _trials(options: argparse.Namespace) -> None:
    from nas_plugins.sweep.records import read_trials, save_genotypes, trials_text

    trials = read_trials(options.experiment)
    if options.genotypes:
        print(*save_genotypes(trials, options.best, options.genotypes), sep="\n")
    else:
        _show(trials_text(trials))


def _genotype_import(options: argparse.Namespace) -> None:
    from nas_plugins.files import read_text
    from search_spaces.genotype import Genotype, GenotypeError

    text = read_text(Path(options.text))
    if options.list:
        _list_genotypes(text)
        return
    try:
        genotype = Genotype.parse(text, options.name)
    except GenotypeError as error:
        raise InputError(f"{options.text}: {error}") from None
    genotype.save(options.output)
    print(f"{options.output}: {len(genotype.layout)} layers, {len(genotype.cells)} different cells")


def _list_genotypes(text: str) -> None:
    from search_spaces.genotype import Genotype, GenotypeError
    from search_spaces.published import find_published

    for name in find_published(text):
        try:
            genotype = Genotype.parse(text, name)
            found = f"{len(genotype.layout)} layers, {len(genotype.cells)} different cells"
        except GenotypeError as error:
            found = str(error).removeprefix(f"{name}: ")
        _show(f"{name}: {found}")


def _genotype_info(options: argparse.Namespace) -> None:
    from nas_plugins.describe import describe

    size = (options.channels, options.layers, options.classes, options.image_size)
    facts = describe(options.file, *size, options.stem, mlp_width=options.mlp_width)
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{count} × {name}" for name, count in value.items())
        print(f"{key.replace('_', ' '):<14} {value:,}" if isinstance(value, int) else f"{key:<14} {value}")


class _Parser(argparse.ArgumentParser):
    """Argument parser that reports a usage error in one line; --help shows the full usage."""

    def error(self, message: str) -> Any:
        self.exit(2, f"nas-plugins: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="nas-plugins", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add(commands, "list", _list, "spaces, strategies, datasets and example configs")
    _add_runs(commands)
    _add_experiments(commands)
    _add_genotype(commands)
    return parser


def _add(commands: Any, name: str, run: Any, text: str, takes_overrides: bool = False) -> argparse.ArgumentParser:
    """Add a command that is run by a function, and return its parser."""
    added: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    added.set_defaults(run=run, takes_overrides=takes_overrides)
    return added


def _add_runs(commands: Any) -> None:
    search = _add(commands, "search", _search, f"run a search; {_OVERRIDES}", takes_overrides=True)
    search.add_argument("--config", required=True, metavar="FILE", help="config file")
    search.add_argument("--output", required=True, metavar="RUN", help="run directory to make")

    resume = _add(commands, "resume", _resume, "go on with an interrupted search or retraining")
    resume.add_argument("run_directory", metavar="RUN")

    derive = _add(commands, "derive", _derive, "another genotype from a finished search")
    derive.add_argument("run_directory", metavar="RUN")
    derive.add_argument("--method", choices=("darts", "sparse", "edge"), help="default: that of the search")
    derive.add_argument("--threshold", type=float, metavar="T", help="of sparse and edge; default: that of the search")
    derive.add_argument("--layers", type=int, metavar="N", help="depth of the network")
    derive.add_argument("--epoch", type=int, metavar="E", help="by the α after this epoch, from 0; default: last")
    derive.add_argument("--output", required=True, metavar="FILE", help="genotype file to write")

    retrain = _add(commands, "retrain", _retrain, f"train a derived network; {_OVERRIDES}", takes_overrides=True)
    retrain.add_argument("--genotype", required=True, metavar="FILE", help="genotype file")
    retrain.add_argument("--config", required=True, metavar="FILE", help="config file")
    retrain.add_argument("--output", required=True, metavar="RUN", help="run directory to make")

    evaluate = _add(commands, "evaluate", _evaluate, "test accuracy of a retrained network")
    evaluate.add_argument("run_directory", metavar="RUN")

    report = _add(commands, "report", _report, "tables and pictures of runs")
    report.add_argument("run_directories", nargs="+", metavar="RUN")
    report.add_argument("--output", metavar="DIR", help="folder of the report; with one run, the run itself")
    tables = "cifar10, cifar100, fashion_mnist, compcars or miotcd"
    report.add_argument("--compare", metavar="TABLE", help=f"published results to show beside the runs: {tables}")


def _add_experiments(commands: Any) -> None:
    launch = _add(commands, "launch", _launch, "run an NNI experiment, such as of many searches, to its end")
    launch.add_argument("--config", required=True, metavar="FILE", help="NNI's config, as nnictl create takes it")
    launch.add_argument("--port", type=int, default=8080, metavar="P", help="of the web portal; default: 8080")

    trials = _add(commands, "trials", _trials, "the trials of an NNI experiment, the best one first")
    trials.add_argument("experiment", metavar="EXPERIMENT", help="its ID, or its folder")
    trials.add_argument("--genotypes", metavar="FOLDER", help="copy the best genotypes there: 1.json, 2.json, ...")
    trials.add_argument("--best", type=int, default=1, metavar="N", help="how many of them; default: 1")

    text = f"one search or retraining, as the trialCommand of an NNI experiment; {_OVERRIDES}"
    trial = _add(commands, "trial", _trial, text, takes_overrides=True)
    trial.add_argument("--config", required=True, metavar="FILE", help="config file of a search or a retraining")
    trial.add_argument("--genotype", metavar="FILE", help="what a retraining trains")
    trial.add_argument("--output", metavar="FOLDER", help="for the run directory, EXPERIMENT/TRIAL; default: NNI's")


def _add_genotype(commands: Any) -> None:
    genotype = _add(commands, "genotype", None, "import a published genotype, or describe one")
    actions = genotype.add_subparsers(dest="action", required=True, metavar="ACTION")
    imported = _add(actions, "import", _genotype_import, "read a published genotype, or a sample of NNI")
    imported.add_argument("text", metavar="TEXTFILE", help="a statement, a log, a genotypes.py, or NNI's dict as JSON")
    imported.add_argument("--name", help="which genotype, if the file has several")
    result = imported.add_mutually_exclusive_group(required=True)
    result.add_argument("--output", metavar="FILE", help="genotype file to write")
    result.add_argument("--list", action="store_true", help="show the genotypes of the file, and why one is refused")
    info = _add(actions, "info", _genotype_info, "parameters, multiply-adds and operations of the network")
    info.add_argument("file", metavar="FILE")
    info.add_argument("--channels", type=int, required=True, metavar="C")
    info.add_argument("--layers", type=int, metavar="L", help="default: the genotype's own")
    info.add_argument("--classes", type=int, required=True, metavar="K")
    info.add_argument("--image-size", type=int, metavar="S", help="default: 32, 64 or 224, as the stem is meant for")
    stems = "cifar, tiny_imagenet or imagenet, or one of them with dual_ before it"
    info.add_argument("--stem", help=f"{stems}; default: imagenet for images over 96 pixels")
    info.add_argument("--mlp-width", type=int, metavar="W", help="width of the course project's classifier")
    info.add_argument("--json", action="store_true", help="as JSON")


if __name__ == "__main__":
    sys.exit(main())
