"""The command line: ``nas-plugins COMMAND``. Bad input ends with one line and exit status 2."""

from __future__ import annotations

import argparse
import gc
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from nas_plugins.commands.experiments import add_experiments
from nas_plugins.commands.genotype import add_actions
from nas_plugins.commands.networks import add_networks
from nas_plugins.errors import InputError, Terminated
from nas_plugins.files import read_text
from nas_plugins.terminal import printable, show

_OVERRIDES = "--KEY VALUE overrides a key of the config"
_TRAINING = ("search", "resume", "retrain", "evaluate", "predict", "derive", "export", "latency", "trial", "demo")
"""Commands that import PyTorch, NNI and Lightning."""


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
    warnings.formatwarning = lambda message, *_, **__: f"nas-plugins: {message}\n"  # without file and line
    try:
        if options.command in _TRAINING:
            if getattr(options, "config", None):
                read_text(Path(options.config))  # reports a wrong path before the slow imports
            _import_training()
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe may close it early
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt as interrupt:
        message = "terminated" if isinstance(interrupt, Terminated) else "interrupted"
        if options.command in ("demo", "search", "retrain", "resume"):
            again = "demo" if options.command == "demo" else "resume"
            message += f"; nas-plugins {again} goes on from the last complete epoch"
        _fail(str(interrupt) or message)
        return 143 if isinstance(interrupt, Terminated) else 130
    except InputError as error:
        return _fail(str(error))
    except _genotype_error() as error:
        return _fail(str(error))
    finally:
        signal.signal(signal.SIGTERM, before[0])
        warnings.formatwarning = before[1]
    return 0


def _import_training() -> None:
    """Import PyTorch, NNI and Lightning, a tenth faster without garbage collection, which would find nothing."""
    collected = gc.isenabled()
    gc.disable()
    try:
        import nas_plugins.training  # noqa: F401
    finally:
        if collected:
            gc.enable()


def _genotype_error() -> type[Exception]:
    """Return the error of a bad genotype; imported late, since other errors should not wait for PyTorch."""
    from search_spaces.genotype import GenotypeError

    return GenotypeError


def _terminate(number: int, frame: object) -> None:
    raise Terminated


def _fail(message: str) -> int:
    print(f"nas-plugins: {printable(' '.join(message.split()))}", file=sys.stderr)
    return 2


def _list(options: argparse.Namespace) -> None:
    from nas_plugins.data.conventions import DATASETS

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


def _demo(options: argparse.Namespace) -> None:
    from nas_plugins.commands.demo import demo_commands

    configs = next(path.parent for path in example_configs() if path.match("edas/digits.yaml"))
    for command in demo_commands(Path(options.output), configs, options.overrides):
        print("$", shlex.join(["nas-plugins", *command]), flush=True)
        given, overrides = _parser().parse_known_args(command)
        given.overrides = overrides
        given.run(given)


def _search(options: argparse.Namespace) -> None:
    from nas_plugins.runs.costs import say_costs
    from nas_plugins.runs.directory import is_first, results_of
    from nas_plugins.training.search import search

    run = search(options.config, options.output, options.overrides)
    if is_first():  # the other processes may arrive before the first one has written the result
        found = results_of(run, "search")[0]
        print(f"{run}: searched; {found.stem} in {found}")
        say_costs(run)


def _resume(options: argparse.Namespace) -> None:
    from nas_plugins.runs.costs import say_costs
    from nas_plugins.runs.directory import say
    from nas_plugins.training.search import resume

    run = resume(options.run_directory)
    say(f"{run}: finished")
    say_costs(run)


def _latency(options: argparse.Namespace) -> None:
    from nas_plugins.files import check_output_file
    from nas_plugins.training.costs import latency_table

    check_output_file(options.output)
    latency = latency_table(options.config, options.output, tuple(options.overrides))
    show(f"{options.output}: latencies on {latency.device}, median spread {latency.spread:.1%}")


def _derive(options: argparse.Namespace) -> None:
    from nas_plugins.training.derive import derive

    settings = (options.method, options.threshold, options.layers, options.epoch, options.max_skips)
    genotype = derive(options.run_directory, options.output, *settings)
    print(f"{options.output}: {len(genotype.layout)} layers, {len(genotype.cells)} different cells")


def _report(options: argparse.Namespace) -> None:
    from nas_plugins.doctor import diagnose
    from nas_plugins.report import summary as tables
    from nas_plugins.report.page import write_report
    from nas_plugins.report.published import source
    from nas_plugins.runs.reader import read_runs

    page = write_report(options.run_directories, options.output or None, options.compare)
    runs = read_runs(options.run_directories)
    show(tables.summary_text(tables.summary(runs, options.compare)))
    if options.compare:
        print(f"published: {source(options.compare)}")
    found = tables.results(runs)
    if len(found):
        show(f"\n{tables.results_text(found)}\n")
    for run in runs:
        for finding in diagnose(run):
            show(f"{run.name}: {finding.text}")
    show(f"report: {page}")


def _doctor(options: argparse.Namespace) -> None:
    from nas_plugins.doctor.words import lines
    from nas_plugins.runs.reader import read_runs

    for run in read_runs(options.run_directories):
        show("\n".join(f"{run.path}: {line}" for line in lines(run)))


class _Parser(argparse.ArgumentParser):
    """Argument parser that reports a usage error in one line; --help shows the full usage."""

    def error(self, message: str) -> Any:
        self.exit(2, f"nas-plugins: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="nas-plugins", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add(commands, "list", _list, "spaces, strategies, datasets and example configs")
    _add_demo(commands)
    _add_runs(commands)
    add_networks(commands, _add)
    _add_reports(commands)
    add_experiments(commands, _add)
    _add_genotype(commands)
    return parser


def _add(commands: Any, name: str, run: Any, text: str, takes_overrides: bool = False) -> argparse.ArgumentParser:
    """Add a command that is run by a function, and return its parser."""
    short = text.partition(";")[0]
    added: argparse.ArgumentParser = commands.add_parser(name, help=short, description=text, allow_abbrev=False)
    added.set_defaults(run=run, takes_overrides=takes_overrides)
    return added


def _add_demo(commands: Any) -> None:
    text = "search, retrain, evaluate and report on handwritten digits; --KEY VALUE overrides a key of both runs"
    demo = _add(commands, "demo", _demo, text, takes_overrides=True)
    demo.add_argument("--output", default="runs/demo", metavar="DIR", help="folder to make; default: runs/demo")


def _add_runs(commands: Any) -> None:
    search = _add(commands, "search", _search, f"run a search; {_OVERRIDES}", takes_overrides=True)
    search.add_argument("--config", required=True, metavar="FILE", help="config file")
    search.add_argument("--output", required=True, metavar="RUN", help="run directory to make")

    resume = _add(commands, "resume", _resume, "go on with an interrupted search or retraining")
    resume.add_argument("run_directory", metavar="RUN")

    text = f"measure the latency of each candidate of a space, for cost.table of searches; {_OVERRIDES}"
    latency = _add(commands, "latency", _latency, text, takes_overrides=True)
    latency.add_argument("--config", required=True, metavar="FILE", help="config file of a search")
    latency.add_argument("--output", required=True, metavar="FILE", help="table to write")

    derive = _add(commands, "derive", _derive, "another genotype from a finished search")
    derive.add_argument("run_directory", metavar="RUN")
    derive.add_argument("--method", choices=("darts", "sparse", "edge"), help="default: that of the search")
    derive.add_argument("--threshold", type=float, metavar="T", help="of sparse and edge; default: that of the search")
    derive.add_argument("--layers", type=int, metavar="N", help="depth of the network")
    derive.add_argument("--epoch", type=int, metavar="E", help="by the α after this epoch, from 0; default: last")
    derive.add_argument("--max-skips", type=int, metavar="N", help="keep the N strongest skip connections of each cell")
    derive.add_argument("--output", required=True, metavar="FILE", help="genotype file to write")


def _add_reports(commands: Any) -> None:
    report = _add(commands, "report", _report, "tables and pictures of runs")
    report.add_argument("run_directories", nargs="+", metavar="RUN")
    report.add_argument("--output", metavar="DIR", help="folder of the report; with one run, the run itself")
    tables = "cifar10, cifar100, fashion_mnist, compcars or miotcd"
    report.add_argument("--compare", metavar="TABLE", help=f"published results to show beside the runs: {tables}")

    doctor = _add(commands, "doctor", _doctor, "what is wrong with a search, also with one that goes on; a line each")
    doctor.add_argument("run_directories", nargs="+", metavar="RUN")


def _add_genotype(commands: Any) -> None:
    genotype = _add(commands, "genotype", None, "import a published genotype, describe, draw or compare genotypes")
    actions = genotype.add_subparsers(dest="action", required=True, metavar="ACTION")
    add_actions(actions, _add)


if __name__ == "__main__":
    sys.exit(main())
