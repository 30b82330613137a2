"""Formats of an export. Each is written to memory and checked on test images before a file is created."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas_plugins.errors import InputError
from nas_plugins.export.model import Model
from nas_plugins.export.source import write_source
from nas_plugins.files import one_line
from search_spaces.network import Network

FormatName = Literal["python", "onnx", "torch", "safetensors"]
TOLERANCE = 1e-5
"""Largest difference of a logit from that of the run's network, as a share of the largest logit above 1."""


@dataclass(frozen=True)
class Exported:
    """Files of an export.

    Args:
        files: Suffix -> content, the main file last.
        difference: Largest difference of a logit on the test images, see :data:`TOLERANCE`.
        network: Network whose size the model card states.
    """

    files: Mapping[str, bytes]
    difference: float
    network: nn.Module


@dataclass(frozen=True)
class Format:
    """Format of an export.

    Args:
        suffix: Suffix of the main file.
        write: Function that writes a model.
        packages: Packages that it needs.
        companions: Suffixes of further files.
    """

    suffix: str
    write: Callable[[Model], Exported]
    packages: tuple[str, ...]
    companions: tuple[str, ...] = ()


def compare(model: Model, run: Callable[[Tensor], Tensor], what: str) -> float:
    """Return the largest difference between the logits of an export and those of the run's network.

    Both are applied to all test images of the model at once, and to a single image.

    Args:
        model: The model.
        run: Function of the export from images to logits.
        what: Name of the export in messages.

    Raises:
        InputError: The difference is above the tolerance, or the logits of the network are not finite.
    """
    largest = 0.0
    for images in (model.examples, model.examples[:1]):
        with torch.no_grad():
            right, got = model.network(images), run(images)
        if not right.isfinite().all():
            raise InputError("weights: the logits of the test images are not finite, for the weights are lost; retrain")
        scale = max(1.0, float(right.abs().max()))
        difference = float((got - right).abs().max()) / scale if got.shape == right.shape else float("nan")
        if not difference <= TOLERANCE:
            raise InputError(f"--format {what}: its outputs differ by {difference:.1g} from those of the run's network")
        largest = max(largest, difference)
    return largest


# One file of Python


def _write_python(model: Model) -> Exported:
    network, genotype = model.network, model.genotype
    if isinstance(network, Network) and network.dimensions == 1:
        raise InputError(
            "--format python: for networks of images, and this one is of series; the other formats take it"
        )
    if genotype is None or not isinstance(network, Network):
        raise InputError(
            f"--format python: for networks of cells, and {type(network).__name__} is none; onnx, torch and "
            "safetensors take it"
        )
    source = write_source(network, genotype, model.images, model.task, model.trained)
    renamed = {source.rename(name): tensor for name, tensor in network.state_dict().items()}
    weights = {name: tensor.contiguous() for name, tensor in renamed.items() if name is not None}
    files = {".py": source.text.encode("utf-8")}
    if model.trained:
        files = {".safetensors": _tensors(weights, model), **files}
    with tempfile.TemporaryDirectory() as folder:
        for suffix, content in files.items():
            Path(folder, f"exported{suffix}").write_bytes(content)
        module = _imported(Path(folder, "exported.py"))
        exported: nn.Module = module.load() if model.trained else module.Network().eval()
    if not model.trained:
        exported.load_state_dict(weights)
    return Exported(files, compare(model, exported, "python"), exported)


def _imported(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("exported", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Weights alone


def _write_safetensors(model: Model) -> Exported:
    from safetensors.torch import load

    weights = model.network.state_dict()
    # Copies, because the format does not allow weights that share memory.
    copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()}
    content = _tensors(copies, model)
    loaded = copy.deepcopy(model.network)
    loaded.load_state_dict(load(content))
    return Exported({".safetensors": content}, compare(model, loaded, "safetensors"), model.network)


def _tensors(weights: dict[str, Tensor], model: Model) -> bytes:
    from safetensors.torch import save

    return save(weights, metadata={"format": "pt", **metadata(model)})


def metadata(model: Model) -> dict[str, str]:
    """Return the metadata of a file about the images and the network, as JSON texts by name."""
    images = model.images
    facts: dict[str, Any] = {
        "dataset": images.dataset,
        "task": model.task.name,
        "shape": images.shape,
        "mean": images.mean,
        "std": images.std,
        "classes": images.classes,
    }
    if model.arguments:
        facts["network"] = model.arguments
    texts = {name: json.dumps(fact, ensure_ascii=False) for name, fact in facts.items()}
    if model.genotype is None:
        return {**texts, "sample": json.dumps(model.architecture)}
    return {**texts, "genotype": model.genotype.to_json()}


# Programs


def _write_torch(model: Model) -> Exported:
    program = _traced(model, "torch")
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"metadata.json": json.dumps(metadata(model))})
    loaded = torch.export.load(io.BytesIO(file.getvalue()))
    return Exported({".pt2": file.getvalue()}, compare(model, loaded.module(), "torch"), model.network)


def _write_onnx(model: Model) -> Exported:
    import onnx
    import onnxruntime

    names: dict[str, Any] = {"input_names": ["images"], "output_names": [model.task.raw]}
    batch = ({0: "batch"},)
    with _silent():
        try:
            traced = _traced(model, "onnx")
            program = torch.onnx.export(traced, dynamo=True, verbose=False, dynamic_shapes=batch, **names)
        except torch.onnx.OnnxExporterError as error:
            raise InputError(f"--format onnx: {_without_form(error)}; torch and safetensors take it") from None
    assert program is not None
    graph = program.model_proto
    _strip(graph)
    onnx.helper.set_model_props(graph, metadata(model))
    onnx.checker.check_model(graph, full_check=True)
    content = graph.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    difference = compare(
        model, lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), "onnx"
    )
    return Exported({".onnx": content}, difference, model.network)


def _traced(model: Model, what: str) -> torch.export.ExportedProgram:
    """Return the network as a program for any number of images, without the paths of its source on this machine."""
    two_images = torch.zeros(2, *model.images.shape)  # a single image would fix the batch size
    with torch.no_grad(), _silent():
        try:
            program = torch.export.export(
                model.network, (two_images,), dynamic_shapes=({0: torch.export.Dim("batch")},)
            )
        except Exception as error:  # the tracer raises many kinds
            reason = str(error).strip().partition("\n")[0]
            raise InputError(f"--format {what}: PyTorch cannot trace the network: {reason:.200}") from None
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _without_form(error: Exception) -> str:
    """Describe the reason of a failure, for example the operator that has no ONNX form."""
    text = one_line(error)
    operator = text.partition("<OpOverload(op='")[2].partition("'")[0]
    reason = text.rpartition("Exception summary ")[2]
    return f"the operator {operator} has no ONNX form" if operator else f"PyTorch cannot convert it: {reason:.200}"


def _strip(graph: Any) -> None:
    """Remove the metadata of the exporter, which contain paths of this machine."""
    parts = graph.graph
    for part in (parts, *parts.node, *parts.input, *parts.output, *parts.initializer, *parts.value_info):
        part.ClearField("metadata_props")


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress the logs of PyTorch's exporters within this context."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


FORMATS: dict[FormatName, Format] = {
    "python": Format(".py", _write_python, ("safetensors",), (".safetensors",)),
    "onnx": Format(".onnx", _write_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "torch": Format(".pt2", _write_torch, ()),
    "safetensors": Format(".safetensors", _write_safetensors, ("safetensors",)),
}
"""Formats by name."""
