"""A discrete architecture as a value: what a search finds, and what a network is built from."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as shown
from typing import Any

from search_spaces.edges import (
    INPUTS,
    Cell,
    Edge,
    Fixed,
    GenotypeError,
    after_cells,
    as_edge,
    as_fixed,
    as_integers,
    fixed_edges,
    smallest_set,
)
from search_spaces.files import write_text_whole
from search_spaces.operations import FIXED_OPERATIONS, OPERATION_SETS
from search_spaces.published import read_call
from search_spaces.samples import read_cells, sample_of_node

__all__ = [
    "INPUTS",
    "Cell",
    "Edge",
    "Fixed",
    "Genotype",
    "GenotypeError",
    "after_cells",
    "default_reductions",
    "fixed_edges",
]

FORMAT = "nas-plugins/genotype"
VERSION = 1
MOST_LAYERS, MOST_NODES = 1000, 100
"""Of a network; of a cell, its inputs not counted. More fill the memory before anybody sees that a number is wrong."""
_LONGEST_TEXT = 10_000_000
"""Characters of a genotype file, for the same reason."""


def default_reductions(layers: int) -> tuple[int, ...]:
    """The layers that halve the resolution: at a third and two thirds of the depth (DARTS, section 3)."""
    return tuple(sorted({layers // 3, 2 * layers // 3}))


@dataclass(frozen=True)
class Genotype:
    """A network of cells: which operations stand on which edges, and which layer uses which cell.

    Args:
        cells: the distinct cells, each a tuple of :class:`Edge`. Two operations may share an edge:
            their outputs are added, like all that arrive at a node.
        layout: for each layer the index in ``cells`` of its cell.
        reductions: the layers whose operations on the cell's inputs have stride 2.
        concat: the nodes whose outputs are concatenated into a cell's output.
        operations: the name of the operation set, a key of :data:`OPERATION_SETS`.
        fixed: the operations that no search chose, each a :class:`Fixed`. One on an edge is an
            addend of its target node, beside what the cell has there; those that follow the cells
            run in this order.

    A node that no operation reaches does not exist: operations that leave it go with it, fixed ones
    too, for of nothing they would compute nothing.

    Raises:
        GenotypeError: (a ``ValueError``) where any of this does not describe a network.
    """

    cells: tuple[Cell, ...]
    layout: tuple[int, ...]
    reductions: tuple[int, ...]
    concat: tuple[int, ...] = (2, 3, 4, 5)
    operations: str = "darts"
    fixed: tuple[Fixed, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.cells, (list, tuple)):
            raise GenotypeError(f"cells: {shown(self.cells)} should be a list of cells")
        for i, cell in enumerate(self.cells):
            if not isinstance(cell, (list, tuple)):
                raise GenotypeError(f"cell {i}: {shown(cell)} should be a list of edges")
        cells = tuple(tuple(as_edge(edge, f"cell {i}") for edge in cell) for i, cell in enumerate(self.cells))
        object.__setattr__(self, "cells", cells)
        for name in ("layout", "reductions", "concat"):
            object.__setattr__(self, name, as_integers(getattr(self, name), name))
        if not isinstance(self.fixed, (list, tuple)):
            raise GenotypeError(f"fixed: {shown(self.fixed)} should be a list of fixed operations")
        object.__setattr__(self, "fixed", tuple(as_fixed(one) for one in self.fixed))
        self._check()

    def _check(self) -> None:
        if not isinstance(self.operations, str) or self.operations not in OPERATION_SETS:
            known = ", ".join(OPERATION_SETS)
            raise GenotypeError(f"operations: no set is called {shown(self.operations)}; there are {known}")
        if not self.cells or not self.layout:
            raise GenotypeError("a genotype needs at least one cell and one layer in its layout")
        if len(self.layout) > MOST_LAYERS:
            raise GenotypeError(f"layout: {len(self.layout)} layers should be at most {MOST_LAYERS}")
        for layer, index in enumerate(self.layout):
            if not 0 <= index < len(self.cells):
                raise GenotypeError(
                    f"layout: layer {layer} uses cell {index}, but there are cells 0 to {len(self.cells) - 1}"
                )
        for layer in self.reductions:
            if not 0 <= layer < len(self.layout):
                raise GenotypeError(f"reductions: there is no layer {layer}; layers are 0 to {len(self.layout) - 1}")
        if len(set(self.reductions)) != len(self.reductions):
            raise GenotypeError(f"reductions: a layer is named twice in {list(self.reductions)}")
        if not self.concat or min(self.concat) < INPUTS or len(set(self.concat)) != len(self.concat):
            raise GenotypeError(
                f"concat: {list(self.concat)} should name distinct nodes from {INPUTS} on (0 and 1 are inputs)"
            )
        last = INPUTS + MOST_NODES - 1
        highest = max([*self.concat, *(edge.target for cell in self.cells for edge in cell)])
        if highest > last:
            raise GenotypeError(f"node {shown(highest)} should be at most {last}: a cell has up to {MOST_NODES} nodes")
        for one in self.fixed:
            if one.operation not in FIXED_OPERATIONS:
                known = ", ".join(FIXED_OPERATIONS)
                raise GenotypeError(f"fixed: unknown operation {shown(one.operation)}; known are {known}")
            if one.cell is not None and not 0 <= one.cell < len(self.cells):
                raise GenotypeError(
                    f"fixed: {one.operation} stands in cell {one.cell}, but there are cells 0 to {len(self.cells) - 1}"
                )
        for index in range(len(self.cells)):
            self._check_cell(index)

    def _check_cell(self, index: int) -> None:
        where = f"cell {index}"
        allowed = OPERATION_SETS[self.operations]
        for operation, _, _ in self.cells[index]:
            if operation not in allowed:
                raise GenotypeError(
                    f"{where}: unknown operation {shown(operation)}; the set {shown(self.operations)} has "
                    + ", ".join(allowed)
                )
        cell = self.edges_with_fixed(index)
        known = {0, 1, *self.concat, *(edge.target for edge in cell)}
        for operation, source, target in cell:
            edge = f"{where}: {operation} from node {source} to node {target}"
            if target < INPUTS:
                raise GenotypeError(f"{edge}: nodes 0 and 1 are the cell's inputs, nothing leads to them")
            if source >= target:
                raise GenotypeError(f"{edge} closes a cycle; an operation leads from a lower node to a higher")
            if source not in known:
                raise GenotypeError(f"{edge}: there is no node {source} in this cell")
        if not self.output_nodes(cell):
            raise GenotypeError(f"{where}: no operation reaches any of its output nodes {list(self.concat)}")

    # What the network reads

    def edges_with_fixed(self, index: int) -> Cell:
        """The operations of a cell, the fixed ones on its edges included."""
        return self.cells[index] + fixed_edges(self.fixed, index)

    @staticmethod
    def existing_edges(cell: Cell) -> Cell:
        """The operations of a cell that receive something, in topological order."""
        nodes = {0, 1}
        kept: list[Edge] = []
        for target in sorted({edge.target for edge in cell}):
            incoming = [edge for edge in cell if edge.target == target and edge.source in nodes]
            if incoming:
                nodes.add(target)
                kept += incoming
        return tuple(kept)

    def output_nodes(self, cell: Cell) -> tuple[int, ...]:
        """The nodes of ``concat`` that exist in a cell."""
        reached = {edge.target for edge in self.existing_edges(cell)}
        return tuple(node for node in self.concat if node in reached)

    def kinds(self) -> dict[str, int] | None:
        """``{"normal": cell, "reduce": cell}`` where all layers of a kind share a cell, else None."""
        normal = {cell for layer, cell in enumerate(self.layout) if layer not in self.reductions}
        reduce = {self.layout[layer] for layer in self.reductions}
        if len(normal) > 1 or len(reduce) > 1:
            return None
        return {kind: cell for kind, cells in (("normal", normal), ("reduce", reduce)) for cell in cells}

    def distance(self, other: Genotype) -> int:
        """How many operations of the different cells one has and the other lacks.

        Args:
            other: a genotype with the same layout and as many cells.

        Raises:
            GenotypeError: it has others.
        """
        mine, theirs = ((g.layout, g.reductions, len(g.cells)) for g in (self, other))
        if mine != theirs:
            raise GenotypeError(
                f"layout: {list(other.layout)} should be {list(self.layout)}, with the same reductions and "
                f"{len(self.cells)} cells"
            )
        pairs = ((self.edges_with_fixed(index), other.edges_with_fixed(index)) for index in range(len(self.cells)))
        return sum(((Counter(a) - Counter(b)) + (Counter(b) - Counter(a))).total() for a, b in pairs)

    def deepen(self, layers: int) -> Genotype:
        """The same cells in a network of another depth.

        Cells that are shared by kind are stacked anew, with the reductions at a third and two
        thirds (DARTS, section 3). Cells of single layers are repeated between the reductions by
        Algorithm 1 of D-DARTS; its m and m2 are the reductions of this layout, which for a
        layout of D-DARTS are what the paper computes.

        Args:
            layers: the number of layers, at least 3; at the present number nothing changes.

        Raises:
            GenotypeError: the layout has other than two reductions, or too few cells between them,
                or a network of single-layer cells would become shallower.
        """
        if layers == len(self.layout):
            return self
        if len(self.reductions) != 2:
            raise GenotypeError(
                f"only a layout with two reductions can be deepened; this one has {len(self.reductions)}"
            )
        if layers < 3:
            raise GenotypeError(f"layers: {layers} is too few for two reductions; at least 3")
        if layers > MOST_LAYERS:
            raise GenotypeError(f"layers: {layers} should be at most {MOST_LAYERS}")
        reductions = default_reductions(layers)
        kinds = self.kinds()
        if kinds is not None and "normal" in kinds:
            layout = tuple(kinds["reduce" if i in reductions else "normal"] for i in range(layers))
        else:
            first, second = sorted(self.reductions)
            layout = tuple(self.layout[c] for c in _algorithm_1(len(self.layout), first, second, layers))
        return replace(self, layout=layout, reductions=reductions)

    # NNI samples

    @classmethod
    def from_sample(cls, sample: Mapping[str, Any], layers: int | None = None) -> Genotype:
        """A sample of a DARTS cell space, ours or NNI's hub's (``normal/op_2_0``, ``normal/input_2_0``, …).

        A space in which every layer has a cell of its own has ``cell_0``, ``cell_1``, … in place of
        ``normal`` and ``reduce``. A node may have any number of operations (``op_2_0``, ``op_2_1``, …);
        ``none`` is no operation. What a sample does not hold, such as fixed operations or the layout of
        DARTOpti, the space knows: ``space.genotype(sample)``.

        Args:
            sample: what ``export_top_models(formatter="dict")`` gives.
            layers: the number of layers of the space; None for 8, or for one a cell where every layer has its own.

        Raises:
            GenotypeError: it is no such sample, or not of so many layers.
        """
        read, end = read_cells(sample)
        cells, own = tuple(read.values()), "normal" not in read
        if own and (len(cells) < 3 or layers not in (None, len(cells))):
            raise GenotypeError(
                f"sample: it has {len(cells)} cells, not one a layer; space.genotype(sample) knows the layers"
            )
        layers = 8 if layers is None else layers
        return cls(
            cells=cells,
            layout=tuple(range(len(cells))) if own else _stacked(layers),
            reductions=default_reductions(len(cells) if own else layers),
            concat=tuple(range(INPUTS, end)),
            operations=smallest_set(cells),
        )

    def to_sample(self) -> dict[str, Any]:
        """The sample that freezes a DARTS cell space, ours or NNI's hub's, to this architecture.

        A layout in which every layer has a cell of its own gives one of ``DDartsSpace``. There a
        node that has fewer than two operations has ``none`` in their place.

        Raises:
            GenotypeError: there is none, since layers of a kind differ or a node has other than two inputs.
        """
        count = len(self.layout)
        own = self.layout == tuple(range(count)) and self.reductions == default_reductions(count)
        kinds = {f"cell_{layer}": layer for layer in range(count)} if own else self.kinds()
        if kinds is None or not (own or set(kinds) == {"normal", "reduce"}):
            raise GenotypeError(
                "a sample has a normal and a reduction cell, or one for every layer; this genotype has others"
            )
        targets = {edge.target for index in kinds.values() for edge in self.cells[index]}
        if self.concat != tuple(range(INPUTS, INPUTS + len(self.concat))) or not targets <= set(self.concat):
            raise GenotypeError("a sample concatenates all nodes, in order")
        sample: dict[str, Any] = {}
        for kind, index in kinds.items():
            for node in self.concat:
                incoming = [(edge.operation, edge.source) for edge in self.cells[index] if edge.target == node]
                if not own and len(incoming) != 2:
                    raise GenotypeError(
                        f"a sample has two operations a node; node {node} of the {kind} cell has {len(incoming)}"
                    )
                sample |= sample_of_node(kind, node, incoming)
        return sample

    # Files

    def to_json(self) -> str:
        """The genotype as the text of a JSON file, one cell a line."""
        cells = ",\n  ".join(json.dumps({"edges": [list(edge) for edge in cell]}) for cell in self.cells)
        fixed = [[one.operation] if one.cell is None else list(one) for one in self.fixed]
        return (
            f'{{"format": "{FORMAT}", "version": {VERSION}, "operations": {json.dumps(self.operations)},\n'
            f' "cells": [\n  {cells}],\n'
            f' "layout": {list(self.layout)}, "reductions": {list(self.reductions)}, "concat": {list(self.concat)}'
            + (f',\n "fixed": {json.dumps(fixed)}}}\n' if fixed else "}\n")
        )

    @classmethod
    def from_json(cls, text: str) -> Genotype:
        """Read what :meth:`to_json` wrote.

        Raises:
            GenotypeError: the text is no such JSON.
        """
        if len(text) > _LONGEST_TEXT:
            raise GenotypeError(f"the text has {len(text):,} characters, more than the {_LONGEST_TEXT:,} it may have")
        try:
            data = json.loads(text, object_pairs_hook=_no_key_twice)
        except GenotypeError:
            raise
        except (ValueError, RecursionError) as error:
            raise GenotypeError(f"not JSON: {error}") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise GenotypeError(f'"format" should be "{FORMAT}", not {shown(found)}')
        if type(data.get("version")) is not int or data["version"] != VERSION:
            raise GenotypeError(f'"version" should be {VERSION}, not {shown(data.get("version"))}')
        fields = ("operations", "cells", "layout", "reductions", "concat")
        for key in fields:
            if key not in data:
                raise GenotypeError(f'"{key}" is missing')
        for key in data:
            if key not in (*fields, "fixed", "format", "version"):
                raise GenotypeError(f"unknown key {shown(key)}; known are {', '.join(fields)}, fixed")
        if not isinstance(data["operations"], str):
            raise GenotypeError(f'"operations" should name a set of operations, not {shown(data["operations"])}')
        cells = data["cells"]
        if not isinstance(cells, list) or not all(
            isinstance(cell, dict) and set(cell) == {"edges"} and isinstance(cell["edges"], list) for cell in cells
        ):
            raise GenotypeError('"cells" should be a list of {"edges": [[operation, from, to], …]}')
        return cls(
            cells=tuple(tuple(cell["edges"]) for cell in cells),
            **{key: data[key] for key in ("layout", "reductions", "concat", "operations", "fixed") if key in data},
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the genotype as a JSON file, whole or not at all."""
        write_text_whole(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Genotype:
        """Read a genotype file.

        Raises:
            GenotypeError: the file is no genotype; the message names it.
            OSError: it cannot be read.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise GenotypeError(f"{path}: not a text file") from None
        except GenotypeError as error:
            raise GenotypeError(f"{path}: {error}") from None

    @classmethod
    def parse(cls, text: str) -> Genotype:
        """Read a published genotype as its authors print it, without running it as code.

        Known forms: ``Genotype(normal=[(op, from), …], normal_concat=…, reduce=…, reduce_concat=…)``
        (DARTS), ``Genotype_nested(genes=[[(op, to, from), …], …], concat=…, reductions=…)`` and
        ``Genotype_opt(genes=…, seq=…, concat=…, reductions=…)`` (D-DARTS), each with or without
        ``NAME =`` before it. A DARTS genotype gets 8 layers; :meth:`deepen` gives another number.

        Raises:
            GenotypeError: the text is none of these.
        """
        try:
            name, fields = read_call(text, _PUBLISHED)
        except ValueError as error:
            raise GenotypeError(f"not a published genotype: {error}") from None
        if name == "Genotype":
            return _from_darts(fields)
        cells = tuple(
            tuple(as_edge((op, source, target), f"genes: cell {i}") for op, target, source in _triples(gene))
            for i, gene in enumerate(fields["genes"])
        )
        return cls(
            cells=cells,
            layout=tuple(fields.get("seq", range(len(cells)))),
            reductions=tuple(fields["reductions"]),
            concat=tuple(fields["concat"]),
            operations=smallest_set(cells),
        )


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise GenotypeError(f"the key {shown(key)} is there twice")
        values[key] = value
    return values


def _stacked(layers: int) -> tuple[int, ...]:
    reductions = default_reductions(layers)
    return tuple(int(layer in reductions) for layer in range(layers))


def _algorithm_1(cells: int, m: int, m2: int, layers: int) -> list[int]:
    """Algorithm 1 of D-DARTS: which of the searched layers each of the new layers copies."""
    if layers < cells:
        raise GenotypeError(f"layers: {layers} is fewer than the {cells} that were searched, each with its own cell")
    if min(m, m2 - 1 - m, cells - 1 - m2) < 1:
        raise GenotypeError(
            f"{cells} layers with reductions {m} and {m2} are too few to be deepened: a normal layer is "
            "needed before, between and after the reductions"
        )
    chosen = []
    for i in range(layers):
        if i < layers // 3:
            chosen.append(i % m)
        elif i == layers // 3:
            chosen.append(m)
        elif i < 2 * layers // 3:
            chosen.append(i % (m2 - 1 - m) + m + 1)
        elif i == 2 * layers // 3:
            chosen.append(m2)
        else:
            chosen.append(i % (cells - 1 - m2) + m2 + 1)
    return chosen


_PUBLISHED = {
    "Genotype": ("normal", "normal_concat", "reduce", "reduce_concat"),
    "Genotype_nested": ("genes", "concat", "reductions"),
    "Genotype_opt": ("genes", "seq", "concat", "reductions"),
}
"""The published text forms and their fields, each a list."""


def _triples(gene: Any) -> list[tuple[str, int, int]]:
    if not isinstance(gene, list) or not all(isinstance(item, list) and len(item) == 3 for item in gene):
        raise GenotypeError("genes: each cell should be a list of (operation, to node, from node)")
    return [tuple(item) for item in gene]


def _from_darts(fields: Mapping[str, Any]) -> Genotype:
    if as_integers(fields["normal_concat"], "normal_concat") != as_integers(fields["reduce_concat"], "reduce_concat"):
        raise GenotypeError("normal_concat and reduce_concat differ; a genotype here has one concat for all cells")
    cells = []
    for kind in ("normal", "reduce"):
        pairs = fields[kind]
        if len(pairs) % 2 or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise GenotypeError(f"{kind}: should hold two (operation, from node) for each node")
        cells.append(tuple(as_edge((op, source, INPUTS + i // 2), kind) for i, (op, source) in enumerate(pairs)))
    return Genotype(
        cells=tuple(cells),
        layout=_stacked(8),
        reductions=default_reductions(8),
        concat=tuple(fields["normal_concat"]),
        operations=smallest_set(cells),
    )
