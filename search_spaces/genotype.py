"""Discrete architectures as values: the result of a search, and the specification of a network."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from reprlib import repr as shown
from typing import Any

from search_spaces import genotype_io
from search_spaces.edges import (
    INPUTS,
    KINDS,
    Cell,
    Edge,
    Fixed,
    GenotypeError,
    after_cells,
    as_edge,
    as_fixed,
    as_integers,
    darts_layout,
    default_reductions,
    existing_edges,
    fixed_edges,
)
from search_spaces.files import write_text_whole
from search_spaces.operations import FIXED_OPERATIONS, OPERATION_SETS
from search_spaces.published import read_published

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

MOST_LAYERS = 1000
"""Maximum number of layers of a network, because a mistyped number could exhaust the memory."""


@dataclass(frozen=True)
class Genotype:
    """A network of cells: the operations on the edges of each cell, and the cell of each layer.

    A node without incoming operations does not exist. Operations that read it are left out of the network as well,
    including fixed ones.

    Args:
        cells: Distinct cells, each a tuple of :class:`Edge`. The outputs of all operations that lead to a node are
            added; two operations may share an edge.
        layout: Index in ``cells`` of the cell of each layer.
        reductions: Layers in which operations on the inputs of the cell have stride 2.
        concat: Nodes whose outputs are concatenated into the output of a cell.
        operations: Name of the set of operations, a key of :data:`~search_spaces.operations.OPERATION_SETS`.
        fixed: Operations that no search chooses, each a :class:`Fixed`. One on an edge is added to its target node,
            beside the searched operations; those that follow the cells run in this order.
        max_skips: Limit of skip connections per cell with which the cells were derived, None for no limit. It is
            informative only, and ignored by comparisons.

    Raises:
        GenotypeError: The arguments do not describe a network. It is a ``ValueError``.
    """

    cells: tuple[Cell, ...]
    layout: tuple[int, ...]
    reductions: tuple[int, ...]
    concat: tuple[int, ...] = (2, 3, 4, 5)
    operations: str = "darts"
    fixed: tuple[Fixed, ...] = ()
    max_skips: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        cells = tuple(tuple(as_edge(edge, f"cell {i}") for edge in cell) for i, cell in enumerate(self.cells))
        object.__setattr__(self, "cells", cells)
        for name in ("layout", "reductions", "concat"):
            object.__setattr__(self, name, as_integers(getattr(self, name), name))
        object.__setattr__(self, "fixed", tuple(as_fixed(one) for one in self.fixed))
        if not (self.max_skips is None or (isinstance(self.max_skips, int) and self.max_skips >= 0)):
            raise GenotypeError(f"max_skips: {shown(self.max_skips)} should be a number from 0 on")
        self._check()
        for index in range(len(self.cells)):
            self._check_cell(index)

    def _check(self) -> None:
        if self.operations not in list(OPERATION_SETS):
            raise GenotypeError(f"operations: {shown(self.operations)} should be one of {', '.join(OPERATION_SETS)}")
        if len(self.layout) > MOST_LAYERS:
            raise GenotypeError(f"layout: {len(self.layout)} layers should be at most {MOST_LAYERS}")
        last_layer, last_cell = len(self.layout) - 1, len(self.cells) - 1
        for layer, index in enumerate(self.layout):
            if not 0 <= index <= last_cell:
                raise GenotypeError(f"layout: layer {layer} uses cell {index}, but there are cells 0 to {last_cell}")
        if not _distinct(self.reductions, 0, last_layer):
            raise GenotypeError(
                f"reductions: {shown(self.reductions)} should be distinct layers from 0 to {last_layer}"
            )
        if not self.concat or not _distinct(self.concat, INPUTS, max(self.concat)):
            raise GenotypeError(f"concat: {shown(self.concat)} should be distinct nodes from {INPUTS} on")
        for one in self.fixed:
            if one.operation not in FIXED_OPERATIONS:
                known = ", ".join(FIXED_OPERATIONS)
                raise GenotypeError(f"fixed: unknown operation {shown(one.operation)}; known are {known}")

    def _check_cell(self, index: int) -> None:
        where, allowed = f"cell {index}", OPERATION_SETS[self.operations]
        cell = self.edges_with_fixed(index)
        known = {0, 1, *self.concat, *(edge.target for edge in cell)}
        for number, (operation, source, target) in enumerate(cell):
            if number < len(self.cells[index]) and operation not in allowed:
                raise GenotypeError(f"{where}: unknown operation {shown(operation)}; known are {', '.join(allowed)}")
            edge = f"{where}: {operation} from node {source} to node {target}"
            if target < INPUTS or source >= target:
                raise GenotypeError(f"{edge} closes a cycle; an operation leads to a higher node, from 2 on")
            if source not in known:
                raise GenotypeError(f"{edge}: there is no node {source} in this cell")
        if not self.output_nodes(cell):
            raise GenotypeError(f"{where}: no operation reaches any of its output nodes {list(self.concat)}")

    # The network

    existing_edges = staticmethod(existing_edges)

    def edges_with_fixed(self, index: int) -> Cell:
        """Return the operations of a cell, including the fixed ones on its edges."""
        return self.cells[index] + fixed_edges(self.fixed, index)

    def output_nodes(self, cell: Cell) -> tuple[int, ...]:
        """Return the nodes of ``concat`` that exist in a cell."""
        reached = {edge.target for edge in existing_edges(cell)}
        return tuple(node for node in self.concat if node in reached)

    def kinds(self) -> dict[str, int] | None:
        """Return the index of the ``normal`` and the ``reduce`` cell, or None if a kind has several cells."""
        normal = {cell for layer, cell in enumerate(self.layout) if layer not in self.reductions}
        reduce = {self.layout[layer] for layer in self.reductions}
        if len(normal) > 1 or len(reduce) > 1:
            return None
        return {kind: cell for kind, cells in zip(KINDS, (normal, reduce), strict=True) for cell in cells}

    def distance(self, other: Genotype) -> int:
        """Return the number of operations, over all cells, that only one of two genotypes has.

        Args:
            other: A genotype with the same layout, reductions and number of cells.

        Raises:
            GenotypeError: The other genotype has another layout, other reductions or another number of cells.
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
        """Return a network of another depth with the same cells.

        Cells that are shared by kind are stacked with reductions at a third and two thirds of the depth (DARTS,
        section 3). Cells of single layers are repeated between the reductions by Algorithm 1 of D-DARTS; its m and m2
        are the reductions of this layout, which are those of the paper for a layout of D-DARTS.

        Args:
            layers: Number of layers, at least 3. The current number changes nothing.

        Raises:
            GenotypeError: The layout has more or fewer than two reductions, too few cells between them, or cells of
                single layers of which some would be lost.
        """
        if layers == len(self.layout):
            return self
        if len(self.reductions) != 2:
            raise GenotypeError(
                f"only a layout with two reductions can be deepened; this one has {len(self.reductions)}"
            )
        if not 3 <= layers <= MOST_LAYERS:
            raise GenotypeError(
                f"layers: {layers} should be {'at least 3' if layers < 3 else f'at most {MOST_LAYERS}'}"
            )
        kinds = self.kinds()
        if kinds is not None and "normal" in kinds:
            layout = tuple((kinds["normal"], kinds["reduce"])[index] for index in darts_layout(layers))
        else:
            first, second = sorted(self.reductions)
            layout = tuple(self.layout[i] for i in _repeated_layers(len(self.layout), first, second, layers))
        return replace(self, layout=layout, reductions=default_reductions(layers))

    # NNI samples

    @classmethod
    def from_sample(cls, sample: Mapping[str, Any], layers: int | None = None) -> Genotype:
        """Read a sample of a DARTS cell space, of this project or of NNI's hub (``normal/op_2_0``, …).

        A space with one cell per layer has ``cell_0``, ``cell_1`` and so on in place of ``normal`` and ``reduce``. A
        node may have any number of operations (``op_2_0``, ``op_2_1`` and so on); ``none`` counts as no operation.
        Fixed operations and the layout of DARTOpti are not part of a sample; use ``space.genotype(sample)`` for them.

        Args:
            sample: Output of ``export_top_models(formatter="dict")``.
            layers: Number of layers of the space; None for 8, or for one per cell in a space with one cell per layer.

        Raises:
            GenotypeError: The value is not such a sample, or does not have this number of layers.
        """
        return cls(**genotype_io.read_sample(sample, layers))

    def to_sample(self) -> dict[str, Any]:
        """Return the sample that freezes a DARTS cell space, of this project or of NNI's hub, to this architecture.

        A layout with one cell per layer becomes a sample of ``DDartsSpace``, with ``none`` for each operation that a
        node has fewer than two.

        Raises:
            GenotypeError: No sample describes the genotype: layers of a kind differ, or a node does not have two
                inputs.
        """
        return genotype_io.write_sample(self)

    # Files

    def to_json(self) -> str:
        """Return the genotype as the text of a JSON file, with one cell per line."""
        return genotype_io.write_json(self)

    @classmethod
    def from_json(cls, text: str) -> Genotype:
        """Read the output of :meth:`to_json`, or a sample of NNI in JSON as :meth:`from_sample` does.

        Raises:
            GenotypeError: The text is neither.
        """
        return cls(**genotype_io.read_json(text))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the genotype as a JSON file, atomically."""
        write_text_whole(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Genotype:
        """Read a genotype file, or a file with a sample of NNI in JSON.

        Raises:
            GenotypeError: The file is not a genotype; the message names the file.
            OSError: The file cannot be read.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise GenotypeError(f"{path}: {error}") from None

    @classmethod
    def parse(cls, text: str, name: str | None = None) -> Genotype:
        """Read a genotype as its authors print it, without running it as code.

        The text is a statement, a log or a whole Python file. Known forms are

        - ``Genotype(normal=[…], normal_concat=…, reduce=[…], reduce_concat=…)`` (DARTS), where an operation is
          ``(op, from)``, ``(op, from, α)`` or ``(op, to, from)``, in one list or in one list per node. It gets 8
          layers; :meth:`deepen` changes the number.
        - ``Genotype_nested(genes=[[(op, to, from), …], …], concat=…, reductions=…)`` and
          ``Genotype_opt(genes=…, seq=…, concat=…, reductions=…)`` (D-DARTS).
        - ``CNNGenotype(normal_0=[(op, from, to), …], normal_0_concat=…, reduce_1=…, reduce_1_concat=…)`` (aw_nas).
        - A sample of NNI, ``{"normal/op_2_0": …}``, as JSON or as Python prints it.

        Operations ``none`` are left out. Where the two cells concatenate different nodes, the nodes are renumbered.

        Args:
            text: The text.
            name: Name of the genotype, a key of :func:`~search_spaces.published.find_published`; None for the only one.

        Raises:
            GenotypeError: The text has no such genotype, or it is not a network of cells with known operations.
        """
        return cls(**read_published(text, name))


def _distinct(numbers: tuple[int, ...], first: int, last: int) -> bool:
    return len(set(numbers)) == len(numbers) and all(first <= number <= last for number in numbers)


def _repeated_layers(cells: int, m: int, m2: int, layers: int) -> list[int]:
    """Return the searched layer that each layer of a deeper network copies (D-DARTS, Algorithm 1)."""
    if layers < cells:
        raise GenotypeError(f"layers: {layers} is fewer than the {cells} that were searched, each with its own cell")
    parts = ((0, m), (m + 1, m2 - 1 - m), (m2 + 1, cells - 1 - m2))  # first layer and number of normal layers
    if min(size for _, size in parts) < 1:
        raise GenotypeError(
            f"{cells} layers with reductions {m} and {m2} are too few to be deepened: a normal layer is "
            "needed before, between and after the reductions"
        )
    first, second = default_reductions(layers)
    chosen = {first: m, second: m2}
    for layer in set(range(layers)) - chosen.keys():
        start, size = parts[(layer > first) + (layer > second)]
        chosen[layer] = start + layer % size
    return [chosen[layer] for layer in range(layers)]
