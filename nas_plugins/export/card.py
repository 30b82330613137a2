"""The model card beside an exported file, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

import torch

from nas_plugins.export.formats import Exported, FormatName
from nas_plugins.export.model import Model
from search_spaces.complexity import count_multiply_adds, count_parameters

_LOADING: Mapping[FormatName, str] = {
    "python": """\
import torch
from {stem} import load, normalize

network = load()
{raw} = network(normalize(torch.rand(4, {shape})))""",
    "onnx": """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
images = (np.random.rand(4, {shape}) - {mean}) / {std}
({raw},) = session.run(None, {{"images": images.astype("float32")}})""",
    "torch": """\
import torch

network = torch.export.load("{file}").module()
images = (torch.rand(4, {shape}) - torch.tensor({mean})) / torch.tensor({std})
{raw} = network(images)""",
    "safetensors": """\
import json
from safetensors import safe_open

with safe_open("{file}", "pt") as file:
    weights = {{name: file.get_tensor(name) for name in file.keys()}}
    classes = json.loads(file.metadata()["classes"])""",
}
_LOADING_UNTRAINED = """\
from {stem} import Network, normalize

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
        f"## {model.targets.task.outputs.capitalize()}\n\n{', '.join(map(_code, model.images.classes))}",
        _architecture(model),
    ]
    return "\n\n".join(sections) + "\n"


def _summary(model: Model) -> str:
    network, dataset = model.targets.task.network, model.images.dataset
    if model.trained:
        return f"A {network} of images, trained on the data set {dataset} with nas-plugins."
    return f"A {network} of images, found by a search on the data set {dataset} and not trained yet."


def _facts(model: Model, exported: Exported) -> dict[str, str]:
    images, task = model.images, model.targets.task
    channels, height, width = images.shape
    packages = [f"nas-plugins {version('nas-plugins')}", f"torch {torch.__version__}"]
    return {
        "input": f"float32 of shape (batch, {channels}, {height}, {width}): pixels from 0 to 1, normalized",
        "preparation": model.preparation,
        "normalization": f"(pixel - mean) / std, with mean {_numbers(images.mean)} and std {_numbers(images.std)}",
        "output": _output(model),
        f"test {task.metric.name}": _tested(model),
        "training": model.history,
        "parameters": f"{count_parameters(exported.network):,}",
        "multiply-adds": f"{count_multiply_adds(exported.network, channels, height, 'cpu'):,} for an image",
        "checked": f"on {len(model.examples)} test images, where logits differ by {exported.difference:.1e} at most",
        "versions": ", ".join(packages),
    }


def _output(model: Model) -> str:
    """Return the shape and the meaning of the output in words."""
    task, names = model.targets.task, model.images.classes
    if task.name == "regression":
        return f"values of shape (batch, {len(names)}), in the units of the training table"
    if task.dense:
        return f"logits of shape (batch, {len(names)}, height, width), a class for each pixel"
    probabilities = "; the sigmoid of each is a probability" if task.name == "multilabel" else ""
    return f"logits of shape (batch, {len(names)}){probabilities}"


def _tested(model: Model) -> str:
    """Return the results of the test in words."""
    if not model.trained:
        return "none: not trained"
    if not model.test:
        return "not measured; `nas-plugins evaluate` does it"
    first, *others = model.targets.task.metrics
    further = "".join(f", {metric.name} {metric.text(model.test[f'test_{metric.key}'])}" for metric in others)
    measured = f"{first.text(model.test[f'test_{first.key}'])}{' of' if first.key == 'acc' else ' on'}"
    return f"{measured} {model.test['images']:,} images{further}, loss {model.test['test_loss']:.4f}"


def _table(facts: Mapping[str, str]) -> str:
    rows = [[cell.replace("|", "\\|") for cell in row] for row in facts.items()]
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {fact} |" for name, fact in rows)])


def _loading(model: Model, name: FormatName, file: str) -> str:
    images = model.images
    code = _LOADING[name] if model.trained else _LOADING_UNTRAINED
    facts = {
        "file": file,
        "raw": model.targets.task.raw,
        "stem": file.rpartition(".")[0],
        "shape": ", ".join(map(str, images.shape)),
        "mean": _per_channel(images.mean),
        "std": _per_channel(images.std),
    }
    text = f"```python\n{code.format(**facts)}\n```"
    return text + _LOADING_CELLS.format(**facts) if name == "safetensors" and model.arguments else text


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
