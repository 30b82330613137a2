"""Drawing of an architecture in a file, without a run: cells of a genotype, or the choices of a sample as a table."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import pygraphviz

from nas_plugins.architectures import read_architecture_file
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike
from nas_plugins.report.cells import FONT, cells_graph, save_graph
from nas_plugins.report.labels import as_text
from nas_plugins.report.style import FAINT, INK, MUTED
from search_spaces.genotype import Genotype

FORMATS = ("svg", "png")
"""Extensions of pictures."""


def draw(file: PathLike, picture: PathLike) -> str:
    """Draw the cells of a genotype file, or the choices of a sample of a space without cells.

    Args:
        file: A genotype file, or a sample of NNI as JSON.
        picture: SVG or PNG file to write.

    Returns:
        Description of what was drawn.

    Raises:
        InputError: The picture has another extension, or the file is not a sample.
        GenotypeError: The file is a damaged genotype.
    """
    kind = Path(picture).suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise InputError(f"--output: {picture} should end in .svg or .png")
    architecture = read_architecture_file(Path(file))
    if isinstance(architecture, Genotype):
        save_graph(cells_graph(architecture), picture, kind)
        return f"{len(architecture.cells)} different cells"
    save_graph(_choices_graph(architecture), picture, kind)
    return f"a table of {len(architecture)} choices; the sample has no cells"


def _choices_graph(choices: Mapping[str, Any]) -> pygraphviz.AGraph:
    """Return a laid out graph of a single node, a table of labels and choices."""
    graph = pygraphviz.AGraph(directed=True, pad="0.1", bgcolor="white")
    graph.node_attr.update(shape="plain", fontname=FONT, fontsize="12", fontcolor=INK)
    head = _row(f'<FONT COLOR="{MUTED}">label</FONT>', f'<FONT COLOR="{MUTED}">choice</FONT>')
    rows = "".join(_row(_cell(label), _cell(as_text(choice))) for label, choice in choices.items())
    table = f'BORDER="0" CELLBORDER="1" CELLSPACING="0" CELLPADDING="6" COLOR="{FAINT}"'
    graph.add_node("choices", label=f"<<TABLE {table}>{head}{rows}</TABLE>>")
    graph.layout("dot")
    return graph


def _row(label: str, choice: str) -> str:
    return f'<TR><TD ALIGN="LEFT" SIDES="B">{label}</TD><TD ALIGN="LEFT" SIDES="B">{choice}</TD></TR>'


def _cell(text: str) -> str:
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return escape(printable) or " "  # Graphviz refuses an empty cell
