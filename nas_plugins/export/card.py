"""The model card beside an exported file, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

import torch

from nas_plugins.export.formats import Exported, FormatName
from nas_plugins.export.model import Model
from nas_plugins.export.source import Images
from search_spaces.complexity import count_multiply_adds_of, count_parameters

_LOADING: Mapping[FormatName, str] = {
    "python": """\
import torch
from {stem} import {names}

network = load()
{raw} = network({prepared})""",
    "onnx": """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
{images} = {array}
({raw},) = session.run(None, {{"images": {images}.astype("float32")}})""",
    "torch": """\
import torch

network = torch.export.load("{file}").module()
{images} = {tensor}
{raw} = network({images})""",
    "safetensors": """\
import json
from safetensors import safe_open

with safe_open("{file}", "pt") as file:
    weights = {{name: file.get_tensor(name) for name in file.keys()}}
    classes = json.loads(file.metadata()["classes"])""",
}
_LOADING_UNTRAINED = """\
from {stem} import {names}

network = Network()"""
_LOADING_CELLS = """

The network itself, with nas-plugins:

```python
from nas_plugins import Genotype
from search_spaces.network import Network

with safe_open("{file}", "pt") as file:
    facts = file.metadata()
network = Network.from_genotype(Genotype.from_json(facts["genotype"]), **json.loads(facts["network"]))
network.load_state_dict(weights)
network.eval()
```"""


def write_card(model: Model, exported: Exported, name: FormatName, file: str) -> str:
    """Return the model card of an export.

    Args:
        model: The model.
        exported: The export.
        name: Its format.
        file: Name of its main file.
    """
    sections = [
        f"# {file}",
        _summary(model),
        _table(_facts(model, exported)),
        f"## Load it\n\n{_loading(model, name, file)}",
        *(
            [f"## {model.task.outputs.capitalize()}\n\n{', '.join(map(_code, model.images.classes))}"]
            if model.images.classes
            else []
        ),
        _architecture(model),
    ]
    return "\n\n".join(sections) + "\n"


def _summary(model: Model) -> str:
    network = f"A {model.task.network}{' of images' if model.images.mean else ''}"
    if model.trained:
        how = "found by a search, with the weights of its supernet," if model.searched else "trained"
        return f"{network}, {how} on the data set {model.images.dataset} with nas-plugins."
    return f"{network}, found by a search on the data set {model.images.dataset} and not trained yet."


def _facts(model: Model, exported: Exported) -> dict[str, str]:
    images = model.images
    shape = ", ".join(map(str, images.shape))
    multiply_adds = count_multiply_adds_of(exported.network, ((model.examples[:1],), {}), "cpu")
    packages = [f"nas-plugins {version('nas-plugins')}", f"torch {torch.__version__}"]
    return {
        "input": f"float32 of shape (batch, {shape})" + (": pixels from 0 to 1, normalized" if images.mean else ""),
        "preparation": model.preparation,
        **(
            {"normalization": f"(pixel - mean) / std, with mean {_numbers(images.mean)} and std {_numbers(images.std)}"}
            if images.mean
            else {}
        ),
        "output": _output(model),
        f"test {model.task.metric.name}": _tested(model),
        "training": model.history,
        "parameters": f"{count_parameters(exported.network):,}",
        "multiply-adds": f"{multiply_adds:,} for one sample",
        "checked": f"on {len(model.examples)} test samples, where outputs differ by {exported.difference:.1e} at most",
        "versions": ", ".join(packages),
    }


def _output(model: Model) -> str:
    """Describe the shape and the meaning of the output."""
    raw, count = model.task.raw, len(model.images.classes)
    if model.task.dense:
        return f"{raw} of shape (batch, {count}, height, width), a class for each pixel"
    with torch.no_grad():
        shape = model.network(model.examples[:1]).shape[1:]
    meaning = {
        "regression": ", in the units of the training table",
        "multilabel": "; the sigmoid of each is a probability",
    }
    return f"{raw} of shape (batch, {', '.join(map(str, shape))}){meaning.get(model.task.name, '')}"


def _tested(model: Model) -> str:
    """Return the results of ``nas-plugins evaluate`` as text."""
    if not model.trained:
        return "none: not trained"
    if not model.test:
        return "not measured" if model.searched else "not measured; `nas-plugins evaluate` does it"
    test, measured = dict(model.test), []
    count = next(f"{test.pop(name):,} {name}" for name in ("images", "samples") if name in test)
    for metric in model.task.metrics:
        if f"test_{metric.key}" in test:
            value = metric.text(test.pop(f"test_{metric.key}"))
            main = f"{value} {'of' if metric.key == 'acc' else 'on'} {count}"
            measured.append(main if metric is model.task.metric else f"{metric.name} {value}")
    others = [f"{name.removeprefix('test_')} {value:.4f}" for name, value in test.items()]
    return ", ".join([*(measured or [f"on {count}"]), *others])


def _table(facts: Mapping[str, str]) -> str:
    rows = [[cell.replace("|", "\\|") for cell in row] for row in facts.items()]
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {fact} |" for name, fact in rows)])


def _loading(model: Model, name: FormatName, file: str) -> str:
    images = model.images
    code = _LOADING[name] if model.trained else _LOADING_UNTRAINED
    facts = {
        "file": file,
        "raw": model.task.raw,
        "stem": file.rpartition(".")[0],
        **_calls(images, "load" if model.trained else "Network"),
    }
    text = f"```python\n{code.format(**facts)}\n```"
    return text + _LOADING_CELLS.format(**facts) if name == "safetensors" and model.arguments else text


def _calls(images: Images, maker: str) -> dict[str, str]:
    """Return the expressions in the examples: imported names, and prepared random samples."""
    shape = ", ".join(map(str, images.shape))
    names = {"images": "images" if images.mean else "samples"}
    if not images.mean:
        array, tensor = f"np.random.rand(4, {shape})", f"torch.rand(4, {shape})"
        return {**names, "names": maker, "prepared": tensor, "array": array, "tensor": tensor}
    mean, std = _per_channel(images.mean), _per_channel(images.std)
    return {
        **names,
        "names": f"{maker}, normalize",
        "prepared": f"normalize(torch.rand(4, {shape}))",
        "array": f"(np.random.rand(4, {shape}) - {mean}) / {std}",
        "tensor": f"(torch.rand(4, {shape}) - torch.tensor({mean})) / torch.tensor({std})",
    }


def _per_channel(values: Sequence[float]) -> str:
    """Return numbers as an array that fits images (batch, channels, height, width)."""
    return str(values[0]) if len(values) == 1 else str([[[value]] for value in values])


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _architecture(model: Model) -> str:
    if model.genotype is not None:
        return f"## Genotype\n\n```json\n{model.genotype.to_json().rstrip()}\n```"
    assert isinstance(model.architecture, dict)
    choices = {_code(label): _code(str(value)) for label, value in model.architecture.items()}
    return f"## Choices\n\n{_table(choices)}"


def _code(text: str) -> str:
    """Return a text as code of Markdown."""
    plain = "".join(character if character.isprintable() else "?" for character in text)
    fence = "``" if "`" in plain else "`"
    padding = " " if "`" in plain else ""
    return f"{fence}{padding}{plain}{padding}{fence}"
