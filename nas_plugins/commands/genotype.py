"""The commands ``nas-plugins genotype ACTION``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas_plugins.errors import InputError
from nas_plugins.terminal import show


def add_actions(actions: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the actions and their arguments.

    Args:
        actions: Subparsers of the command.
        add: Function that adds an action, given the subparsers, its name, the function that runs it and a help text.
    """
    imported = add(actions, "import", _import, "read a published genotype, or a sample of NNI")
    imported.add_argument("text", metavar="TEXTFILE", help="a statement, a log, a genotypes.py, or NNI's dict as JSON")
    imported.add_argument("--name", help="which genotype, if the file has several")
    result = imported.add_mutually_exclusive_group(required=True)
    result.add_argument("--output", metavar="FILE", help="genotype file to write")
    result.add_argument("--list", action="store_true", help="show the genotypes of the file, and why one is refused")

    info = add(actions, "info", _info, "parameters, multiply-adds and operations of the network")
    info.add_argument("file", metavar="FILE")
    _add_size(info, required=True)
    info.add_argument("--json", action="store_true", help="as JSON")

    draw = add(actions, "draw", _draw, "picture of the cells of a genotype, or of the choices of a sample")
    draw.add_argument("file", metavar="FILE", help="a genotype file, or NNI's dict as JSON")
    draw.add_argument("--output", required=True, metavar="PICTURE", help="picture to write, .svg or .png")

    compare = add(actions, "compare", _compare, "what two genotypes share, and how they differ")
    compare.add_argument("files", nargs=2, metavar="FILE", help="a genotype file, or NNI's dict as JSON")
    _add_size(compare, required=False)


def _add_size(parser: argparse.ArgumentParser, required: bool) -> None:
    """Add the arguments that give a genotype the size of a network."""
    parser.add_argument("--channels", type=int, required=required, metavar="C")
    parser.add_argument("--layers", type=int, metavar="L", help="default: the genotype's own")
    parser.add_argument("--classes", type=int, required=required, metavar="K")
    parser.add_argument("--image-size", type=int, metavar="S", help="default: 32, 64 or 224, as the stem is meant for")
    stems = "series, cifar, tiny_imagenet or imagenet, or one of the latter three with dual_ before it"
    parser.add_argument("--stem", help=f"{stems}; default: imagenet for images over 96 pixels")
    parser.add_argument("--mlp-width", type=int, metavar="W", help="width of the course project's classifier")


def _import(options: argparse.Namespace) -> None:
    from nas_plugins.files import read_text
    from search_spaces.genotype import Genotype, GenotypeError

    text = read_text(Path(options.text))
    if options.list:
        _list(text)
        return
    try:
        genotype = Genotype.parse(text, options.name)
    except GenotypeError as error:
        raise InputError(f"{options.text}: {error}") from None
    genotype.save(options.output)
    print(f"{options.output}: {len(genotype.layout)} layers, {len(genotype.cells)} different cells")


def _list(text: str) -> None:
    from search_spaces.genotype import Genotype, GenotypeError
    from search_spaces.published import find_published

    for name in find_published(text):
        try:
            genotype = Genotype.parse(text, name)
            found = f"{len(genotype.layout)} layers, {len(genotype.cells)} different cells"
        except GenotypeError as error:
            found = str(error).removeprefix(f"{name}: ")
        show(f"{name}: {found}")


def _info(options: argparse.Namespace) -> None:
    from nas_plugins.commands.describe import describe

    size = (options.channels, options.layers, options.classes, options.image_size)
    facts = describe(options.file, *size, options.stem, mlp_width=options.mlp_width)
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{count} × {name}" for name, count in value.items())
        print(f"{key.replace('_', ' '):<14} {value:,}" if isinstance(value, int) else f"{key:<14} {value}")


def _draw(options: argparse.Namespace) -> None:
    from nas_plugins.report.architecture import draw

    show(f"{options.output}: {draw(options.file, options.output)}")


def _compare(options: argparse.Namespace) -> None:
    from nas_plugins.commands.compare import compare

    size = {"channels": options.channels, "num_classes": options.classes, "image_size": options.image_size}
    size |= {"stem": options.stem, "mlp_width": options.mlp_width}
    given = {name: value for name, value in size.items() if value is not None}
    if given and (options.channels is None or options.classes is None):
        missing = "--channels" if options.channels is None else "--classes"
        raise InputError(f"{missing}: is missing; parameters and multiply-adds need both --channels and --classes")
    first, second = options.files
    show(compare(first, second, options.layers, **given))
