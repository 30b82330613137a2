"""Drawings of the cells of a genotype as directed graphs, laid out by Graphviz."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pygraphviz

from nas_plugins.report.style import FAINT, INK, MUTED
from search_spaces.files import write_whole
from search_spaces.genotype import Genotype, after_cells

CONVOLUTION = ("#1e40af", "#dbeafe")
FAMILIES = {
    "conv": CONVOLUTION,
    "bottleneck": CONVOLUTION,
    "pool": ("#9a3412", "#ffedd5"),
    "skip": ("#166534", "#dcfce7"),
    "excitation": ("#6b21a8", "#f3e8ff"),
}
"""Part of the name of an operation -> text and background colour of its label."""

FONT = "DejaVu Sans,Verdana,sans-serif"
"""Fonts of the text."""


def draw_cells(genotype: Genotype, path_stem: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Draw each distinct cell of a genotype as a graph from its inputs to its output.

    Fixed operations, which no search chose, are labelled "fixed" and have a border.

    Args:
        genotype: Architecture to draw.
        path_stem: Path of the files to write, without ``.svg`` and ``.png``.

    Returns:
        Paths of the SVG and the PNG file.
    """
    graph = cells_graph(genotype)
    svg, png = (save_graph(graph, f"{os.fspath(path_stem)}.{kind}", kind) for kind in ("svg", "png"))
    return svg, png


def save_graph(graph: pygraphviz.AGraph, path: str | os.PathLike[str], kind: str) -> Path:
    """Write a graph as a picture.

    Args:
        graph: The graph, laid out.
        path: File to write.
        kind: ``"svg"`` or ``"png"``.

    Returns:
        The path.
    """
    if kind == "png":
        graph.graph_attr["dpi"] = "144"  # for the PNG only; the SVG is scalable
    drawn = graph.draw(format=kind)
    write_whole(path, lambda file: file.write(drawn))
    return Path(path)


def cell_titles(genotype: Genotype) -> list[str]:
    """Return the title of each cell: its kind if all layers of a kind share a cell, else its number."""
    kinds = genotype.kinds() or {}
    names = {"normal": "normal", "reduce": "reduction"}
    titles = []
    for index in range(len(genotype.cells)):
        layers = [layer for layer, cell in enumerate(genotype.layout) if cell == index]
        name = " and ".join(names[kind] for kind, cell in kinds.items() if cell == index)
        title = f"{name} cell" if name else f"cell {index}"
        title += f": layer{'s' if len(layers) > 1 else ''} {_ranges(layers)}" if layers else ": in no layer"
        if not name and layers and set(layers) <= set(genotype.reductions):
            title += " (reduction)"
        titles.append(title)
    return titles


def _ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as ranges: 1, 2, 3, 5 gives "1–3, 5"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a}–{b}" for a, b in spans)


def cells_graph(genotype: Genotype) -> pygraphviz.AGraph:
    """Return a laid out graph of all cells in a grid: one column for up to 3 cells, two for up to 12, else three."""
    count = len(genotype.cells)
    columns = 1 if count <= 3 else 2 if count <= 12 else 3
    rows = math.ceil(count / columns)
    graph = pygraphviz.AGraph(
        directed=True, strict=False, rankdir="LR", nodesep="0.16", ranksep="0.3", pad="0.1", bgcolor="white",
        fontname=FONT, fontcolor=INK, pack="16", packmode=f"array_cut{columns}",
    )  # fmt: skip
    graph.node_attr.update(
        fontname=FONT, fontsize="12", fontcolor=INK, shape="box", style="rounded,filled", color=MUTED,
        fillcolor="#f8fafc", margin="0.12,0.06", width="0.36", height="0.3", penwidth="1.2",
    )  # fmt: skip
    graph.edge_attr.update(color="#94a3b8", penwidth="1.3", arrowsize="0.6")
    titles = cell_titles(genotype)
    for row in reversed(range(rows)):  # Graphviz fills the grid from bottom to top
        for index in range(row * columns, (row + 1) * columns):
            if index < count:
                _add_cell(graph, genotype, index, titles[index])
            else:
                empty = graph.add_subgraph(name=f"cluster_{index}", style="invis")
                empty.add_node(f"{index} empty", style="invis")
    graph.layout("dot")
    return graph


def _add_cell(graph: pygraphviz.AGraph, genotype: Genotype, index: int, title: str) -> None:
    cell = graph.add_subgraph(
        name=f"cluster_{index}", label=title, labeljust="l", fontsize="14", color=FAINT, style="rounded",
        margin="12",
    )  # fmt: skip
    whole = genotype.edges_with_fixed(index)
    edges, searched = genotype.existing_edges(whole), Counter(genotype.cells[index])
    ends = {0: "input k−2", 1: "input k−1"}
    for node in sorted({*ends, *(edge.target for edge in edges)}):
        shape = {} if node in ends else {"shape": "circle", "margin": "0.02"}
        cell.add_node(f"{index} {node}", label=ends.get(node, str(node)), **shape)
    cell.add_node(f"{index} out", label="output")
    for number, edge in enumerate(edges):
        # The label is a node in the middle of the edge, so it lies on the line and labels do not overlap.
        label = f"{index} edge {number}"
        ink = _add_operation(cell, label, edge.operation, fixed=not searched[edge])
        searched[edge] -= bool(searched[edge])
        cell.add_edge(f"{index} {edge.source}", label, color=ink, arrowhead="none", weight=2)
        cell.add_edge(label, f"{index} {edge.target}", color=ink, weight=2)
    following = after_cells(genotype.fixed)
    chain = [*(f"{index} after {number}" for number in range(len(following))), f"{index} out"]
    for operation, label, after in zip(following, chain, chain[1:], strict=False):
        cell.add_edge(label, after, color=_add_operation(cell, label, operation, fixed=True))
    for node in genotype.output_nodes(whole):
        cell.add_edge(f"{index} {node}", chain[0])
    for node in {0, 1} - {edge.source for edge in edges}:
        # An invisible edge keeps an input that no operation reads in its place.
        cell.add_edge(f"{index} {node}", f"{index} edge 0", style="invis")


def _add_operation(cell: pygraphviz.AGraph, label: str, operation: str, fixed: bool) -> str:
    """Add a node for an operation and return the colour of its text."""
    ink, paper = next((FAMILIES[key] for key in FAMILIES if key in operation), (INK, FAINT))
    marked = {"label": f"{operation} (fixed)", "color": ink} if fixed else {"label": operation, "penwidth": "0"}
    cell.add_node(label, fontcolor=ink, fillcolor=paper, fontsize="11", **marked)
    return ink
