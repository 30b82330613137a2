"""Source of an exported Python file: a network of cells in plain PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import NamedTuple, cast

from torch import nn

from nas_plugins.export.blocks import sources
from nas_plugins.export.cells import CellClass
from nas_plugins.export.layout import exploded, listed
from nas_plugins.tasks import Task
from search_spaces.cell import DiscreteCell
from search_spaces.edges import after_cells
from search_spaces.genotype import Genotype
from search_spaces.network import Network
from search_spaces.stems import CifarStem, DenseHead, DualStem, ImageNetStem

MOST_CLASSES = 100
"""Maximum number of classes whose names are in the file; for larger data sets they are in the model card."""


class Images(NamedTuple):
    """Input images of a network.

    Args:
        dataset: Name of the data set.
        shape: Channels, height and width; for a user-defined data module the shape of a sample.
        mean: Mean of each channel, for pixels from 0 to 1; empty for samples of a user-defined data module.
        std: Standard deviation of each channel; empty if the mean is.
        classes: Names of the outputs; empty if a user-defined evaluator determines their meaning.
    """

    dataset: str
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]

    def describe(self, task: Task) -> str:
        """Describe the input and the output of the network."""
        classes = f", {len(self.classes)} {task.outputs}" if self.classes else ""
        if not self.mean:
            return f"samples of {self.dataset}, of shape ({', '.join(map(str, self.shape))}){classes}"
        channels, height, width = self.shape
        kind = {1: "grey ", 3: "colour "}.get(channels, f"{channels}-channel ")
        return f"{kind}images with {height}x{width} pixels: {self.dataset}{classes}"


class Source(NamedTuple):
    """An exported Python file.

    Args:
        text: The file.
        names: Part of the network -> part of ``Network`` in the file with the same weights.
    """

    text: str
    names: Mapping[str, str]

    def rename(self, weight: str) -> str | None:
        """Return the name of a weight of the network in the file; None if the file does not have it."""
        owner = weight
        while owner:
            if owner in self.names:
                return self.names[owner] + weight.removeprefix(owner)
            owner = owner.rpartition(".")[0]
        return None


def write_source(network: Network, genotype: Genotype, images: Images, task: Task, trained: bool) -> Source:
    """Return the source of a derived network, without its auxiliary head.

    Args:
        network: The network.
        genotype: The genotype of the network.
        images: Input images of the network.
        task: Task of the network.
        trained: Whether the file has a function that loads the weights from the file beside it.

    Raises:
        InputError: An operation has no building block in plain PyTorch.
    """
    classes = _cell_classes(network, genotype)
    stem = _stem(network.stem, images.shape[0])
    parts = [*(cell.source() for cell in classes), _network(network, classes, stem)]
    if images.mean:
        parts.append(_normalize(images))
    if trained:
        parts.append(_LOAD)
    blocks = sources("\n".join(parts))
    text = "\n\n\n".join([_head(images, task, trained), *blocks, *parts]) + "\n"
    names = {**stem.names, "classifier": "classifier"}
    for cell in classes:
        for layer in cell.layers:
            names |= {f"cells.{layer}.{old}": f"cells.{layer}.{new}" for old, new in cell.weight_names().items()}
    return Source(text, names)


_LOAD = '''\
def load(weights: str | Path = WEIGHTS) -> Network:
    """Return the trained network, ready for inference."""
    network = Network()
    network.load_state_dict(load_file(weights))
    return network.eval()'''


def _head(images: Images, task: Task, trained: bool) -> str:
    example = [
        f"    network = {'load()' if trained else 'Network()'}",
        f"    {task.raw} = network({'normalize(images)' if images.mean else 'samples'})",
    ]
    lines = [
        f'"""{task.network.capitalize()} {"of" if images.classes else "for"} {images.describe(task)}.',
        "",
        f"Written by nas-plugins {version('nas-plugins')}. "
        + ("The weights are in the .safetensors file beside it." if trained else "There are no weights yet."),
        "",
        *example,
        '"""',
        "",
        *(["from pathlib import Path", ""] if trained else []),
        "import torch",
        *(["from safetensors.torch import load_file"] if trained else []),
        "from torch import Tensor, nn",
        "",
    ]
    if 0 < len(images.classes) <= MOST_CLASSES:
        lines.append(_constant(task.outputs.upper(), [_quoted(name) for name in images.classes]))
    if images.mean:
        lines += [_constant("MEAN", list(map(str, images.mean))), _constant("STD", list(map(str, images.std)))]
    if trained:
        lines.append('WEIGHTS = Path(__file__).with_suffix(".safetensors")')
    return "\n".join(lines)


def _constant(name: str, items: Sequence[str]) -> str:
    return f"{name} = ({items[0]},)" if len(items) == 1 else listed(f"{name} = (", items, ")")


def _quoted(name: str) -> str:
    """Return a string literal, in double quotes where that needs no escapes."""
    literal = repr(name)
    return f'"{literal[1:-1]}"' if literal.startswith("'") and '"' not in name else literal


def _normalize(images: Images) -> str:
    shape = ", ".join(map(str, images.shape))
    return f'''\
def normalize(images: Tensor) -> Tensor:
    """Return images (batch, {shape}) with pixels from 0 to 1, normalized."""
    mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std'''


def _cell_classes(network: Network, genotype: Genotype) -> list[CellClass]:
    """Return the class of each distinct cell, in the order in which the layers use them."""
    names = {index: f"Cell{index}" for index in genotype.layout}
    kinds = genotype.kinds()
    if kinds is not None:
        named = {"normal": "NormalCell", "reduce": "ReductionCell"}
        names = {index: named[kind] if len(set(kinds.values())) > 1 else "Cell" for kind, index in kinds.items()}
    classes = []
    for index in dict.fromkeys(genotype.layout):
        layers = {
            layer: cast(DiscreteCell, network.cells[layer])
            for layer, used in enumerate(genotype.layout)
            if used == index
        }
        classes.append(CellClass(names[index], layers, genotype.reductions, after_cells(genotype.fixed)))
    return classes


class _Stem(NamedTuple):
    """Source of a stem.

    Args:
        makes: Lines that construct the stem.
        runs: Lines that compute ``before`` and ``previous`` from ``x``.
        names: Part of the stem -> attribute of the network in the file.
    """

    makes: list[str]
    runs: list[str]
    names: dict[str, str]


def _stem(stem: nn.Module, image_channels: int) -> _Stem:
    if isinstance(stem, DualStem):
        makes: list[str] = []
        names: dict[str, str] = {}
        for attribute, part in (("stem_0", "first"), ("stem_1", "second")):
            single: nn.Module = getattr(stem, part)
            makes.append(_sequential(attribute, [p for half in _convolutions(single, image_channels) for p in half]))
            names |= {f"stem.{part}.{old}": f"{attribute}.{new}" for old, new in _flat_names(single).items()}
        return _Stem(makes, ["        before, previous = self.stem_0(x), self.stem_1(x)"], names)
    halves = _convolutions(stem, image_channels)
    if len(halves) == 1:
        run = ["        before = previous = self.stem(x)"]
        return _Stem([_sequential("stem", halves[0])], run, {"stem.layers": "stem"})
    makes = [_sequential(f"stem_{number}", parts) for number, parts in enumerate(halves)]
    run = ["        before = self.stem_0(x)", "        previous = self.stem_1(before)"]
    return _Stem(makes, run, {"stem.first": "stem_0", "stem.second": "stem_1"})


def _sequential(attribute: str, parts: Sequence[str]) -> str:
    return listed(f"        self.{attribute} = nn.Sequential(", parts, ")")


def _convolutions(stem: nn.Module, image_channels: int) -> list[list[str]]:
    """Return the parts of a single stem up to each of its outputs."""
    if isinstance(stem, CifarStem):
        stride = cast(nn.Conv2d, stem.layers[0]).stride[0]
        return [[f"*conv_bn({image_channels}, {stem.out_channels}{', stride=2' if stride == 2 else ''})"]]
    channels = cast(ImageNetStem, stem).out_channels
    first = [
        f"*conv_bn({image_channels}, {channels // 2}, stride=2)",
        "nn.ReLU()",
        f"*conv_bn({channels // 2}, {channels}, stride=2)",
    ]
    return [first, ["nn.ReLU()", f"*conv_bn({channels}, {channels}, stride=2)"]]


def _flat_names(stem: nn.Module) -> dict[str, str]:
    """Return part of a single stem -> its place in the sequence of all its parts."""
    sequences = ("layers",) if isinstance(stem, CifarStem) else ("first", "second")
    parts = [f"{name}.{part}" for name in sequences for part, _ in getattr(stem, name).named_children()]
    return {part: str(place) for place, part in enumerate(parts)}


def _network(network: Network, classes: Sequence[CellClass], stem: _Stem) -> str:
    calls = {layer: cell.call(layer) for cell in classes for layer in cell.layers}
    loop = ["        for cell in self.cells:", "            before, previous = previous, cell(before, previous)"]
    if isinstance(network.classifier, DenseHead):
        head = network.classifier
        sizes = (head.early.in_channels, head.late.in_channels, head.classifier.out_channels)
        classifier = f"        self.classifier = DenseHead({', '.join(map(str, sizes))})"
        loop = _loop_with_early(network.early_layer)
        logits = "        return self.classifier(early, previous, x.shape[-2:])"
    elif network.pooled:
        last = cast(nn.Linear, network.classifier)
        classifier = f"        self.classifier = nn.Linear({last.in_features}, {last.out_features})"
        logits = "        return self.classifier(previous.mean(dim=(2, 3)))"
    else:
        layers = [_layer(layer) for layer in cast(nn.Sequential, network.classifier)]
        classifier = exploded("        self.classifier = nn.Sequential(", layers, ")")
        logits = "        return self.classifier(previous)"
    return "\n".join(
        [
            "class Network(nn.Module):",
            '    """A stem, cells that read the two layers before them, and a classifier."""',
            "",
            "    def __init__(self) -> None:",
            "        super().__init__()",
            *stem.makes,
            "        self.cells = nn.ModuleList(",
            exploded("            [", [calls[layer] for layer in sorted(calls)], "]"),
            "        )",
            classifier,
            "",
            "    def forward(self, x: Tensor) -> Tensor:",
            *stem.runs,
            *loop,
            logits,
        ]
    )


def _loop_with_early(early_layer: int) -> list[str]:
    """Return the lines that run the cells and keep the features of an early layer, or of the stem for -1."""
    if early_layer < 0:
        return [
            "        early = previous",
            "        for cell in self.cells:",
            "            before, previous = previous, cell(before, previous)",
        ]
    return [
        "        for layer, cell in enumerate(self.cells):",
        "            before, previous = previous, cell(before, previous)",
        f"            if layer == {early_layer}:",
        "                early = previous",
    ]


def _layer(layer: nn.Module) -> str:
    if isinstance(layer, nn.Linear):
        return f"nn.Linear({layer.in_features}, {layer.out_features})"
    return f"nn.{type(layer).__name__}()"
