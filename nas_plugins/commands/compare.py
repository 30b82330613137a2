"""Comparison of two genotypes, or of two samples of a space without cells, as text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from nas_plugins.architectures import read_architecture_file
from nas_plugins.commands.describe import count_operations, describe
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike
from nas_plugins.report.labels import as_text
from nas_plugins.report.text_table import text_table
from search_spaces.genotype import Genotype, after_cells

Parts = dict[tuple[str, ...], Counter[str]]
"""(cell, edge) -> its operations; or (label,) -> the choice."""

_SIDES = ("both", "only A", "only B")
_WORDS = ("", "cell", "edge", "label", *_SIDES)


def compare(a: PathLike, b: PathLike, layers: int | None = None, **size: Any) -> str:
    """Compare two genotypes edge by edge, or two samples of a space without cells choice by choice.

    Args:
        a: A genotype file, or a sample of NNI as JSON.
        b: The file to compare with, of the same kind.
        layers: Number of cells of both networks; None for those of the genotypes.
        size: Further arguments of :func:`~nas_plugins.commands.describe.describe`, for the parameters and multiply-adds
            of both networks, which are left out without such arguments.

    Returns:
        Text and tables: the common operations or choices, those of only one file, and for genotypes the sizes of the
        networks.

    Raises:
        InputError: A file has no architecture, only one of the two has cells, or a number is out of range.
        GenotypeError: A genotype is damaged, or cannot have the given number of layers.
    """
    first, second = (read_architecture_file(Path(file)) for file in (a, b))
    files = f"A: {a}\nB: {b}"
    if isinstance(first, Genotype) and isinstance(second, Genotype):
        pair = [genotype if layers is None else genotype.deepen(layers) for genotype in (first, second)]
        sizes = [describe(file, layers=layers, **size) if size else {} for file in (a, b)]
        figures = _table_of_figures(*map(_figures, pair, sizes))
        return "\n\n".join([files, *_differences(*_cells(*pair), ("cell", "edge")), figures])
    if isinstance(first, Genotype) or isinstance(second, Genotype):
        without = b if isinstance(first, Genotype) else a
        raise InputError(f"{without}: is a sample without cells, and the other file is a genotype; give two of a kind")
    if size or layers is not None:
        raise InputError(f"{a}: is a sample without cells; the size of its network cannot be given")
    return "\n\n".join([files, *_differences(_choices(first), _choices(second), ("label",))])


def _choices(sample: dict[str, Any]) -> Parts:
    return {(label,): Counter([as_text(choice)]) for label, choice in sample.items()}


def _cells(a: Genotype, b: Genotype) -> tuple[Parts, Parts]:
    """Return the operations of two genotypes by cell (its kind if both have kinds, else its number) and edge."""
    kinds = a.kinds(), b.kinds()
    if kinds[0] is not None and kinds[1] is not None:
        names = {"normal": "normal", "reduce": "reduction"}
        labelled = [{names[kind]: cell for kind, cell in of.items()} for of in (kinds[0], kinds[1])]
    else:
        labelled = [{str(cell): cell for cell in range(len(genotype.cells))} for genotype in (a, b)]
    first, second = (_operations(genotype, cells) for genotype, cells in zip((a, b), labelled, strict=True))
    return first, second


def _operations(genotype: Genotype, cells: dict[str, int]) -> Parts:
    """Return the operations of labelled cells that the network has."""
    parts: Parts = {}
    for label, index in cells.items():
        for edge in genotype.existing_edges(genotype.edges_with_fixed(index)):
            parts.setdefault((label, f"{edge.source} → {edge.target}"), Counter())[edge.operation] += 1
    if after := after_cells(genotype.fixed):
        parts["each", "after it"] = Counter(after)
    return parts


def _differences(a: Parts, b: Parts, headings: tuple[str, ...]) -> tuple[str, str]:
    """Return a line of counts, and a table of the common parts and of those that only one architecture has."""
    nothing: Counter[str] = Counter()
    keys = sorted({**a, **b}, key=_order)
    sides = [(x & y, x - y, y - x) for x, y in ((a.get(key, nothing), b.get(key, nothing)) for key in keys)]
    columns = {heading: [key[place] for key in keys] for place, heading in enumerate(headings)}
    for place, heading in enumerate(_SIDES):
        columns[heading] = [", ".join(sorted(of[place].elements())) for of in sides]
    counts = (sum(of[place].total() for of in sides) for place in range(len(_SIDES)))
    line = "; ".join(f"{name}: {count}" for name, count in zip(_SIDES, counts, strict=True))
    what = "operations" if "edge" in headings else "choices"
    return f"{what} in {line}", text_table(columns, left_aligned=_WORDS)


def _order(key: tuple[str, ...]) -> list[tuple[bool, int, str]]:
    """Return a sort key that puts 2 before 10."""
    words = " ".join(key).split()
    return [(not word.isdecimal(), int(word) if word.isdecimal() else 0, word) for word in words]


def _figures(genotype: Genotype, size: dict[str, Any]) -> dict[str, str]:
    """Return name -> text of the number of parameters and other sizes of a network."""
    figures = {
        "layers": str(len(genotype.layout)),
        "reductions": ", ".join(map(str, genotype.reductions)),
        "output nodes": ", ".join(map(str, genotype.concat)),
    }
    figures |= {name.replace("_", "-"): f"{size[name]:,}" for name in ("parameters", "multiply_adds") if size}
    return figures | {f"  {name}": str(count) for name, count in count_operations(genotype).items()}


def _table_of_figures(a: dict[str, str], b: dict[str, str]) -> str:
    names = list({**a, **b})
    columns = {"": names, **{side: [of.get(name, "0") for name in names] for side, of in (("A", a), ("B", b))}}
    return text_table(columns, left_aligned=_WORDS)
