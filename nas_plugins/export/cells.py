"""Class of a cell in an exported Python file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import cast

from torch import nn

from nas_plugins.errors import InputError
from nas_plugins.export.blocks import OPERATIONS, expression
from nas_plugins.export.layout import assigned_call, listed, summed
from search_spaces.cell import DiscreteCell
from search_spaces.edges import INPUTS, Edge
from search_spaces.operations import FactorizedReduce

_IDENTITY = "skip_connect"


class CellClass:
    """Source of a cell as a class, which layers with different channels and strides share.

    Operations whose output reaches no output of the cell are left out.

    Args:
        name: Name of the class.
        layers: Layer -> its cell, for the layers that share the class.
        reductions: Layers that halve the resolution.
        after: Names of the fixed operations after the cell.

    Raises:
        InputError: An operation has no building block in plain PyTorch.
    """

    def __init__(
        self, name: str, layers: Mapping[int, DiscreteCell], reductions: Collection[int], after: Sequence[str]
    ) -> None:
        self.name, self.layers = name, layers
        cell = next(iter(layers.values()))
        self._outputs = cell.outputs
        self._edges = _with_effect(cell.edges, cell.outputs)
        self._inputs = {edge.source for edge in self._edges.values() if edge.source < INPUTS}
        self._after = dict(enumerate(after))
        for operation in (*(edge.operation for edge in self._edges.values()), *after):
            if operation not in OPERATIONS:
                raise InputError(f"--format python: {operation} has no plain form; onnx, torch and safetensors take it")
        self._strides = {layer: 2 if layer in reductions else 1 for layer in layers}
        self._halved = {layer: isinstance(cell.align.before, FactorizedReduce) for layer, cell in layers.items()}
        self._varies_in_stride = len(set(self._strides.values())) > 1
        self._varies_in_halving = 0 in self._inputs and len(set(self._halved.values())) > 1
        self._attributes = _distinct(
            {number: f"{e.operation}_{e.source}_to_{e.target}" for number, e in self._edges.items()}
        )
        self._after_attributes = _distinct({number: f"{name}_after" for number, name in self._after.items()})

    def call(self, layer: int) -> str:
        """Return the expression that makes the cell of a layer."""
        cell = self.layers[layer]
        previous = cast(nn.Conv2d, cell.align.previous[1])
        halved = cell.align.before
        before = halved.conv_1 if isinstance(halved, FactorizedReduce) else cast(nn.Sequential, halved)[1]
        channels = [cast(nn.Conv2d, before).in_channels, previous.in_channels]
        arguments = [str(channels[node]) for node in sorted(self._inputs)] + [str(previous.out_channels)]
        if self._varies_in_stride and self._strides[layer] != 1:
            arguments.append(f"stride={self._strides[layer]}")
        if self._varies_in_halving and self._halved[layer]:
            arguments.append("halve_before=True")
        return f"{self.name}({', '.join(arguments)})"

    def weight_names(self) -> dict[str, str]:
        """Return part of a discrete cell -> attribute of this class with the same weights."""
        names = {f"align.{('before', 'previous')[node]}": f"preprocess_{node}" for node in self._inputs}
        names |= {f"operations.{number}": attribute for number, attribute in self._attributes.items()}
        return names | {f"after.{number}": attribute for number, attribute in self._after_attributes.items()}

    def source(self) -> str:
        """Return the source of the class."""
        return "\n".join(
            [
                f"class {self.name}(nn.Module):",
                f'    """{self._summary()}"""',
                "",
                listed("    def __init__(", self._parameters(), ") -> None:"),
                "        super().__init__()",
                *self._preprocessing(),
                *self._operations(),
                "",
                "    def forward(self, before: Tensor, previous: Tensor) -> Tensor:",
                *self._computation(),
            ]
        )

    def _summary(self) -> str:
        first, *others = (str(layer) for layer in self.layers)
        if not others:
            return f"The cell of layer {first}."
        if len(others) < 10:
            return f"The cell of layers {', '.join([first, *others[:-1]])} and {others[-1]}."
        return f"The cell of {len(others) + 1} layers."

    def _parameters(self) -> list[str]:
        parameters = ["self", *(f"{('before', 'previous')[node]}: int" for node in sorted(self._inputs))]
        parameters.append("channels: int")
        if self._varies_in_stride:
            parameters.append("stride: int = 1")
        if self._varies_in_halving:
            parameters.append("halve_before: bool = False")
        return parameters

    def _preprocessing(self) -> list[str]:
        lines = []
        if self._varies_in_halving:
            lines += [
                "        if halve_before:",
                "            self.preprocess_0 = FactorizedReduce(before, channels)",
                "        else:",
                "            self.preprocess_0 = relu_conv_bn(before, channels)",
            ]
        elif 0 in self._inputs:
            make = "FactorizedReduce" if next(iter(self._halved.values())) else "relu_conv_bn"
            lines.append(f"        self.preprocess_0 = {make}(before, channels)")
        if 1 in self._inputs:
            lines.append("        self.preprocess_1 = relu_conv_bn(previous, channels)")
        return lines

    def _operations(self) -> list[str]:
        lines = []
        for number, edge in self._edges.items():
            if not self._is_identity(edge):
                call = expression(edge.operation, "channels", self._stride(edge))
                lines.append(assigned_call(f"        self.{self._attributes[number]} = ", call))
        for number, operation in self._after.items():
            if operation != _IDENTITY:
                channels = "channels" if len(self._outputs) == 1 else f"{len(self._outputs)} * channels"
                call = expression(operation, channels, "1")
                lines.append(assigned_call(f"        self.{self._after_attributes[number]} = ", call))
        return lines

    def _computation(self) -> list[str]:
        lines = [
            f"        node_{node} = self.preprocess_{node}({('before', 'previous')[node]})"
            for node in sorted(self._inputs)
        ]
        for target in sorted({edge.target for edge in self._edges.values()}):
            terms = [self._term(number) for number, edge in self._edges.items() if edge.target == target]
            lines.append(summed(f"        node_{target} = ", terms))
        nodes = [f"node_{node}" for node in self._outputs]
        after = [self._after_attributes[number] for number, name in self._after.items() if name != _IDENTITY]
        start = "        out = " if after else "        return "
        lines.append(f"{start}{nodes[0]}" if len(nodes) == 1 else listed(f"{start}torch.cat([", nodes, "], dim=1)"))
        lines += [f"        out = self.{attribute}(out)" for attribute in after[:-1]]
        return lines + [f"        return self.{attribute}(out)" for attribute in after[-1:]]

    def _term(self, number: int) -> str:
        edge = self._edges[number]
        node = f"node_{edge.source}"
        return node if self._is_identity(edge) else f"self.{self._attributes[number]}({node})"

    def _stride(self, edge: Edge) -> str:
        if edge.source >= INPUTS:
            return "1"
        return "stride" if self._varies_in_stride else str(next(iter(self._strides.values())))

    def _is_identity(self, edge: Edge) -> bool:
        return edge.operation == _IDENTITY and self._stride(edge) == "1"


def _with_effect(edges: Sequence[Edge], outputs: Collection[int]) -> dict[int, Edge]:
    """Return number -> operation, for the operations of a cell that lead to its outputs."""
    needed, kept = set(outputs), []
    for number, edge in sorted(enumerate(edges), key=lambda item: -item[1].target):
        if edge.target in needed:
            needed.add(edge.source)
            kept.append(number)
    return {number: edges[number] for number in sorted(kept)}


def _distinct(names: Mapping[int, str]) -> dict[int, str]:
    """Return the names, with a letter appended to repeated ones."""
    distinct: dict[int, str] = {}
    for number, name in names.items():
        again = sum(1 for other in distinct if names[other] == name)
        distinct[number] = f"{name}_{chr(ord('a') + again)}" if again else name
    return distinct
