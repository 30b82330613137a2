"""The command line: ``nas-plugins COMMAND``. Bad input ends with one line and exit status 2."""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from nas_plugins.errors import InputError, Terminated


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, 2 for bad input, 130 when interrupted, 143 when terminated.
    """
    parser = _parser()
    options, overrides = parser.parse_known_args(arguments)
    if overrides and not options.takes_overrides:
        parser.exit(2, f"nas-plugins: unknown argument {overrides[0]}; see nas-plugins {options.command} --help\n")
    try:  # here and not above: --help and wrong commands need none of what takes seconds to import
        if options.command != "genotype":
            _import_training()
        from search_spaces.genotype import GenotypeError
    except KeyboardInterrupt:
        _fail("interrupted")
        return 130

    before = signal.signal(signal.SIGTERM, _terminate), warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"nas-plugins: {message}\n"  # not where in the code it is said
    try:
        options.run(options, overrides)
        sys.stdout.flush()
    except BrokenPipeError:  # programs in a pipe may close it early; that is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (InputError, GenotypeError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt as interrupt:
        what = "terminated" if isinstance(interrupt, Terminated) else "interrupted"
        if options.command in ("search", "retrain", "resume"):
            what += "; nas-plugins resume goes on from the last complete epoch"
        _fail(str(interrupt) or what)
        return 143 if isinstance(interrupt, Terminated) else 130
    finally:
        signal.signal(signal.SIGTERM, before[0])
        warnings.formatwarning = before[1]
    return 0


def _import_training() -> None:
    """What nearly every command needs. It stays to the end: to look through it for garbage again and again would take
    a fifth of the time of the import, and some of a search's."""
    if "nas_plugins.experiment" in sys.modules:
        return
    gc.disable()
    try:
        import nas_plugins.experiment  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # at the end all is thrown away: libraries complain of what is not


def _terminate(number: int, frame: object) -> None:
    raise Terminated


def _fail(message: str) -> int:
    print(f"nas-plugins: {_printable(' '.join(message.split()))}", file=sys.stderr)
    return 2


def _printable(line: str) -> str:
    """What a file holds must not reach the terminal as a command to it."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _show(text: str) -> None:
    """Print lines that hold what a file does."""
    print(*map(_printable, text.split("\n")), sep="\n")


def _check_genotype(path: str | os.PathLike[str]) -> None:
    """Say of what is no genotype file also what to do, before a command that needs it."""
    from search_spaces.genotype import Genotype, GenotypeError

    file = Path(path)
    if file.is_dir():
        found = file / "genotype.json"
        right = found if found.exists() else "the genotype.json of a run"
        raise InputError(f"{file}: a folder and no genotype file; give {right}")
    try:
        Genotype.load(file)
    except GenotypeError as error:
        run = file.parent
        if file.name == "sample.json":
            what = "the sample of a space without cells; freeze the space with it and train the network by a script"
            raise InputError(f"{file}: no genotype but {what}") from None
        if file.name != "genotype.json" or not (run / "config.yaml").exists():
            raise
        cure = "copy that of the search there anew"
        if (run / "alphas.csv").exists():
            cure = f"delete it, and nas-plugins resume {run} writes it anew"
        raise InputError(f"{error}; {cure}") from None


def _list(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from nas_plugins import plugins
    from nas_plugins.data.module import DATASETS

    for title, names in (
        ("search spaces", [f"{p.name:<22} {p.value}" for p in plugins.registered("space").values()]),
        ("strategies", [f"{p.name:<22} {p.value}" for p in plugins.registered("strategy").values()]),
        ("datasets", list(DATASETS)),
        ("example configs", [str(path) for path in example_configs()]),
        ("NNI experiments", [str(path) for path in example_configs(experiments=True)]),
    ):
        print(f"{title}:", *names, sep="\n  ")


def example_configs(experiments: bool = False) -> list[Path]:
    """The config files that came with the installation, or lie in the checkout: of runs, or of NNI experiments."""
    package = Path(str(files("nas_plugins")))
    folders = (package / "examples", package.parent / "examples")
    found = sorted(path for folder in folders for path in folder.glob("*/*.yaml"))
    return [path for path in found if path.name.startswith("nni") == experiments]


def _search(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from nas_plugins.runs.directory import is_first
    from nas_plugins.training.search import search

    run = search(options.config, options.output, overrides)
    if is_first():  # the others may be here before it has written what was found
        found = next(run / name for name in ("genotype.json", "sample.json") if (run / name).exists())
        print(f"{run}: searched; {found.stem} in {found}")


def _resume(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from nas_plugins.runs.directory import say
    from nas_plugins.training.search import resume

    say(f"{resume(options.run_directory)}: finished")


def _derive(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from nas_plugins.training.derive import derive

    genotype = derive(
        options.run_directory, options.output, options.method, options.threshold, options.layers, options.epoch
    )
    print(f"{options.output}: {len(genotype.layout)} layers, {len(genotype.cells)} different cells")


def _retrain(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from nas_plugins.runs.directory import say
    from nas_plugins.training.retrain import retrain

    _check_genotype(options.genotype)
    run = retrain(options.genotype, options.config, options.output, overrides)
    say(f"{run}: retrained; weights in {run / 'weights.pt'}")


def _evaluate(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from nas_plugins.training.retrain import evaluate

    result = evaluate(options.run_directory)
    print(
        f"{options.run_directory}: test accuracy {result['test_acc']:.2%}, "
        f"loss {result['test_loss']:.4f}, on {result['images']} images"
    )


def _report(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from nas_plugins.report import summary as results
    from nas_plugins.report.page import write_report
    from nas_plugins.report.published import source
    from nas_plugins.runs.reader import read_runs

    for run in options.run_directories:
        if Path(run, "genotype.json").exists():
            _check_genotype(Path(run, "genotype.json"))
    page = write_report(options.run_directories, options.output or None, options.compare)
    runs = read_runs(options.run_directories)
    _show(results.summary_text(results.summary(runs, options.compare)))
    if options.compare:
        print(f"published: {source(options.compare)}")
    found = results.results(runs)
    if len(found):
        _show(f"\n{results.results_text(found)}\n")
    _show(f"report: {page}")


def _trial(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from nas_plugins.runs.directory import say
    from nas_plugins.sweep.trial import run_trial

    say(f"{run_trial(options.config, overrides, options.genotype, options.output)}: finished")


def _launch(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from nas_plugins.sweep.launch import launch

    launch(options.config, options.port)


def _trials(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from nas_plugins.sweep.records import read_trials, save_genotypes, trials_text

    trials = read_trials(options.experiment)
    if options.genotypes:
        print(*save_genotypes(trials, options.best, options.genotypes), sep="\n")
    else:
        _show(trials_text(trials))


def _genotype_import(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from search_spaces.genotype import Genotype, GenotypeError

    try:
        text = Path(options.text).read_text(encoding="utf-8")
        genotype = Genotype.parse(text)
    except UnicodeDecodeError:
        raise GenotypeError(f"{options.text}: not a text file") from None
    except GenotypeError as error:
        raise GenotypeError(f"{options.text}: {error}") from None
    genotype.save(options.output)
    print(f"{options.output}: {len(genotype.layout)} layers, {len(genotype.cells)} different cells")


def _genotype_info(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    import json

    from nas_plugins.describe import describe

    _check_genotype(options.file)
    facts = describe(
        options.file,
        options.channels,
        options.layers,
        options.classes,
        options.image_size,
        options.stem,
        mlp_width=options.mlp_width,
    )
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{count} × {name}" for name, count in value.items())
        print(f"{key.replace('_', ' '):<14} {value:,}" if isinstance(value, int) else f"{key:<14} {value}")


class _Parser(argparse.ArgumentParser):
    """One line on bad usage, like everything else; the full usage is in --help."""

    def error(self, message: str) -> Any:
        self.exit(2, f"nas-plugins: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="nas-plugins", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Any, text: str, into: Any = commands, takes_overrides: bool = False
    ) -> argparse.ArgumentParser:
        added = into.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(run=run, takes_overrides=takes_overrides)
        return added

    command("list", _list, "spaces, strategies, datasets and example configs")

    added = command("search", _search, "run a search; --KEY VALUE overrides a key of the config", takes_overrides=True)
    added.add_argument("--config", required=True, metavar="FILE", help="config file")
    added.add_argument("--output", required=True, metavar="RUN", help="run directory to make")

    added = command("resume", _resume, "go on with an interrupted search or retraining")
    added.add_argument("run_directory", metavar="RUN")

    added = command("derive", _derive, "another genotype from a finished search")
    added.add_argument("run_directory", metavar="RUN")
    added.add_argument("--method", choices=("darts", "sparse", "edge"), help="default: that of the search")
    added.add_argument(
        "--threshold", type=float, metavar="T", help="of sparse and edge, from 0 to 1; default: that of the search"
    )
    added.add_argument("--layers", type=int, metavar="N", help="depth of the network")
    added.add_argument("--epoch", type=int, metavar="E", help="by the α after this epoch, from 0; default: last")
    added.add_argument("--output", required=True, metavar="FILE", help="genotype file to write")

    added = command(
        "retrain", _retrain, "train a derived network; --KEY VALUE overrides a key of the config", takes_overrides=True
    )
    added.add_argument("--genotype", required=True, metavar="FILE", help="genotype file")
    added.add_argument("--config", required=True, metavar="FILE", help="config file")
    added.add_argument("--output", required=True, metavar="RUN", help="run directory to make")

    added = command("evaluate", _evaluate, "test accuracy of a retrained network")
    added.add_argument("run_directory", metavar="RUN")

    added = command("report", _report, "tables and pictures of runs")
    added.add_argument("run_directories", nargs="+", metavar="RUN")
    added.add_argument("--output", metavar="DIR", help="folder of the report; with one run, the run itself")
    added.add_argument(
        "--compare",
        metavar="TABLE",
        help="published results to show beside the runs: cifar10, cifar100, fashion_mnist, compcars or miotcd",
    )

    added = command("launch", _launch, "run an NNI experiment, such as of many searches, to its end")
    added.add_argument("--config", required=True, metavar="FILE", help="NNI's config, as nnictl create takes it")
    added.add_argument("--port", type=int, default=8080, metavar="P", help="of the web portal; default: 8080")

    added = command("trials", _trials, "the trials of an NNI experiment, the best one first")
    added.add_argument("experiment", metavar="EXPERIMENT", help="its ID, or its folder")
    added.add_argument("--genotypes", metavar="FOLDER", help="copy the best genotypes there: 1.json, 2.json, ...")
    added.add_argument("--best", type=int, default=1, metavar="N", help="how many of them; default: 1")

    added = command(
        "trial",
        _trial,
        "one search or retraining, as the trialCommand of an NNI experiment; --KEY VALUE overrides a key of the config",
        takes_overrides=True,
    )
    added.add_argument("--config", required=True, metavar="FILE", help="config file of a search or a retraining")
    added.add_argument("--genotype", metavar="FILE", help="what a retraining trains")
    added.add_argument("--output", metavar="FOLDER", help="for the run directory, EXPERIMENT/TRIAL; default: NNI's")

    added = command("genotype", None, "import a published genotype, or describe one")
    actions = added.add_subparsers(dest="action", required=True, metavar="ACTION")
    added = command("import", _genotype_import, "read a published genotype", actions)
    added.add_argument("text", metavar="TEXTFILE")
    added.add_argument("--output", required=True, metavar="FILE", help="genotype file to write")
    added = command("info", _genotype_info, "parameters, multiply-adds and operations of the network", actions)
    added.add_argument("file", metavar="FILE")
    added.add_argument("--channels", type=int, required=True, metavar="C")
    added.add_argument("--layers", type=int, metavar="L", help="default: the genotype's own")
    added.add_argument("--classes", type=int, required=True, metavar="K")
    added.add_argument("--image-size", type=int, metavar="S", help="default: 32, 64 or 224, as the stem is meant for")
    added.add_argument(
        "--stem",
        help="cifar, tiny_imagenet or imagenet, or one of them with dual_ before it; "
        "default: imagenet for images over 96 pixels",
    )
    added.add_argument(
        "--mlp-width", type=int, metavar="W", help="the course project's classifier, with a first layer that wide"
    )
    added.add_argument("--json", action="store_true", help="as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
