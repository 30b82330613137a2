"""Exported networks: the same outputs without this project, files that an engineer can read, one line for bad input."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas_plugins.cli import main
from nas_plugins.errors import InputError
from nas_plugins.export import FORMATS
from nas_plugins.export.model import Model, read_model
from nas_plugins.export.source import Images, write_source
from nas_plugins.tasks import TASKS
from nas_plugins.training.inheritance import Supernet
from search_spaces.baselines import BASELINES
from search_spaces.genotype import Edge, Fixed, Genotype
from search_spaces.network import Network
from search_spaces.operations import FIXED_OPERATIONS, OPERATION_SETS
from search_spaces.stems import IMAGE_STEMS

DATA = {"dataset": "digits", "train_images": 60, "test_images": 20, "batch_size": 30}
COMPUTE = {"accelerator": "cpu", "threads": 1}
NORMAL = (Edge("sep_conv_3x3", 0, 2), Edge("skip_connect", 1, 2), Edge("avg_pool_3x3", 2, 3))
REDUCE = (Edge("max_pool_3x3", 0, 2), Edge("skip_connect", 1, 2), Edge("dil_conv_5x5", 2, 3))
GENOTYPE = Genotype((NORMAL, REDUCE), (0, 1, 0), (1,), concat=(2, 3), fixed=(Fixed("squeeze_excitation"),))
FILES = {"python": "model.py", "onnx": "model.onnx", "torch": "model.pt2", "safetensors": "weights.safetensors"}
REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """Folder with a finished retraining, with an auxiliary head, that has been evaluated: the run retrained."""
    folder = tmp_path_factory.mktemp("here")
    GENOTYPE.save(folder / "genotype.json")
    config = {
        "network": {"channels": 4, "auxiliary_weight": 0.4},
        "data": {**DATA, "val_fraction": 0.0, "image_size": 32},
        "training": {"epochs": 1},
        "compute": COMPUTE,
    }
    (folder / "retrain.yaml").write_text(yaml.safe_dump(config))
    files = ["--genotype", folder / "genotype.json", "--config", folder / "retrain.yaml"]
    assert run_main("retrain", *files, "--output", folder / "retrained") == 0
    assert run_main("evaluate", folder / "retrained") == 0
    return folder


@pytest.fixture(scope="module")
def model(here) -> Model:
    """The network of the run and some of its test images."""
    return read_model(here / "retrained")


@pytest.fixture(scope="module")
def exported(here) -> Path:
    """Folder with the exports of the run in all formats."""
    folder = here / "exported"
    for name, file in FILES.items():
        assert run_main("export", here / "retrained", "--format", name, "--output", folder / file) == 0
    return folder


def run_main(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


# Without this project

REFUSE = """
import importlib, sys

for name in REFUSED:
    sys.modules[name] = None
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} was not refused")
"""
OTHERS = {"nas_plugins", "strategies", "search_spaces", "nni", "pytorch_lightning", "torchvision"}
WITH_TORCH = """
import numpy as np, torch

sys.path.insert(0, ".")
for name, file in (("python", "model.py"), ("torch", "model.pt2")):
    exec(open(f"{file}.md").read().partition("```python")[2].partition("```")[0])
    with torch.no_grad():
        np.save(f"{name}.npy", network(torch.from_numpy(np.load("images.npy"))))
"""
WITH_ONNXRUNTIME = """
import numpy as np

exec(open("model.onnx.md").read().partition("```python")[2].partition("```")[0])
np.save("onnx.npy", session.run(None, {"images": np.load("images.npy")})[0])
"""


@pytest.mark.parametrize(
    ("program", "refused", "formats"),
    (
        pytest.param(WITH_TORCH, OTHERS | {"onnx", "onnxruntime"}, ("python", "torch"), id="torch"),
        pytest.param(WITH_ONNXRUNTIME, OTHERS | {"torch", "safetensors", "onnx"}, ("onnx",), id="onnxruntime"),
    ),
)
def test_the_code_of_the_card_gives_the_same_outputs_without_this_project(
    exported, model, tmp_path, program, refused, formats
):
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    np.save(tmp_path / "images.npy", model.examples.numpy())
    script = f"REFUSED = {refused!r}\n{REFUSE}\n{program}\nassert not any(sys.modules[name] for name in REFUSED)"
    subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, check=True)
    with torch.no_grad():
        right = model.network(model.examples).numpy()
    for name in formats:
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), right, atol=1e-5)


def test_the_code_of_the_card_loads_the_weights_alone_with_this_project(exported, model, monkeypatch):
    monkeypatch.chdir(exported)
    names: dict[str, Any] = {}
    for block in (exported / "weights.safetensors.md").read_text().split("```python")[1:]:
        exec(block.partition("```")[0], names)
    assert torch.equal(names["network"](model.examples), model.network(model.examples))
    assert names["classes"] == [str(digit) for digit in range(10)]


def test_no_file_names_a_place_on_this_machine(exported):
    for file in exported.iterdir():
        assert str(REPOSITORY).encode() not in file.read_bytes(), file.name


# The source


def source_module(network: Network, genotype: Genotype, size: int = 8) -> ModuleType:
    """Return an exported network as a module, with the weights of the network as ``network``."""
    images = Images("digits", (1, size, size), (0.5,), (0.5,), ("a", "b"))
    source = write_source(network, genotype, images, TASKS["classification"], trained=False)
    module = ModuleType("exported")
    exec(compile(source.text, "exported.py", "exec"), module.__dict__)
    module.network = module.Network().to(next(network.parameters()).dtype).eval()
    weights = {source.rename(name): tensor for name, tensor in network.state_dict().items()}
    module.network.load_state_dict({name: tensor for name, tensor in weights.items() if name is not None})
    module.text = source.text
    return module


def assert_same_outputs(genotype: Genotype, size: int = 8, **arguments: object) -> ModuleType:
    """Check an exported network with random weights against the network of the genotype, in double precision."""
    torch.manual_seed(0)
    network = Network.from_genotype(genotype, 2, image_channels=1, image_size=size, **arguments).double().eval()
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "running_var")) or (tensor.ndim == 1 and tensor.is_floating_point()):
            tensor.uniform_(0.5, 1.5)
    module = source_module(network, genotype, size)
    images = torch.randn(2, 1, size, size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(module.network(images), network(images), rtol=1e-6, atol=1e-6)
    return module


@st.composite
def genotypes(draw) -> Genotype:
    """Genotypes of up to three cells of any operations, also with nodes that lead nowhere and fixed operations."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    nodes = rng.randint(1, 4)
    concat = tuple(sorted(rng.sample(range(2, 2 + nodes), rng.randint(1, nodes))))
    names = OPERATION_SETS["nasnet"]

    def edge(target: int) -> Edge:
        return Edge(rng.choice(names), rng.randrange(target), target)

    cells = tuple(
        tuple(edge(target) for target in range(2, 2 + nodes) for _ in range(rng.randint(1, 3)))
        for _ in range(rng.randint(1, 3))
    )
    layers = rng.randint(len(cells), 5)
    layout = (*range(len(cells)), *(rng.randrange(len(cells)) for _ in range(layers - len(cells))))
    fixed = [Fixed(rng.choice(list(FIXED_OPERATIONS))) for _ in range(rng.randint(0, 2))]
    fixed += [Fixed(rng.choice(list(FIXED_OPERATIONS)), 0, 0, 2)] * rng.randint(0, 1)
    reductions = tuple(sorted(rng.sample(range(layers), rng.randint(0, min(2, layers)))))
    return Genotype(cells, layout, reductions, concat, "nasnet", tuple(fixed))


@settings(max_examples=12, deadline=None)
@given(genotypes(), st.sampled_from((6, 7)))
def test_the_source_of_any_genotype_computes_the_same(genotype, size):
    assert_same_outputs(genotype, size, channels=3)


def test_the_source_of_every_operation_computes_the_same():
    cell = tuple(Edge(name, source, 2 + source) for name in OPERATION_SETS["nasnet"] for source in (0, 2))
    fixed = tuple(Fixed("squeeze_excitation", 0, source, 2 + source) for source in (0, 2))
    genotype = Genotype((cell,), (0, 0, 0), (1,), (2, 4), "nasnet", (*fixed, *map(Fixed, FIXED_OPERATIONS)))
    module = assert_same_outputs(genotype, channels=17)
    assert all(name in module.text for name in FIXED_OPERATIONS)


@pytest.mark.parametrize("mlp_width", (None, 8))
@pytest.mark.parametrize("stem", IMAGE_STEMS)
def test_the_source_of_every_stem_and_classifier_computes_the_same(stem, mlp_width):
    assert_same_outputs(GENOTYPE, size=33, channels=4, stem=stem, mlp_width=mlp_width)


@pytest.mark.parametrize("name", BASELINES)
def test_the_source_of_every_handcrafted_network_computes_the_same(name):
    assert_same_outputs(BASELINES[name], channels=2)


def test_the_source_of_a_cell_for_each_layer_computes_the_same():
    genotype = Genotype((NORMAL, REDUCE, NORMAL[:2], REDUCE[:2]), (0, 1, 2, 3), (1, 3), (2, 3))
    module = assert_same_outputs(genotype, channels=4)
    assert [name for name in dir(module) if name.startswith("Cell")] == ["Cell0", "Cell1", "Cell2", "Cell3"]


def test_operations_that_reach_no_output_are_left_out():
    dead = Genotype(((Edge("sep_conv_3x3", 0, 2), Edge("dil_conv_3x3", 1, 3)),), (0, 0), (), (2,))
    module = assert_same_outputs(dead, channels=4)
    assert "dil_conv" not in module.text
    assert "preprocess_1" not in module.text


def test_a_cell_reads_like_its_genotype(exported):
    text = (exported / "model.py").read_text()
    assert "class NormalCell(nn.Module):" in text
    assert "        node_2 = self.sep_conv_3x3_0_to_2(node_0) + node_1\n" in text
    assert "                ReductionCell(12, 8, 8),\n" in text
    assert "auxiliary" not in text


def test_the_source_is_as_a_formatter_and_a_linter_leave_it(exported, tmp_path):
    files = [exported / "model.py"]
    for name in ("resnet50", "xception"):
        network = Network.from_genotype(BASELINES[name], 2, 2, 1, "dual_imagenet", mlp_width=8)
        files.append(tmp_path / f"{name}.py")
        files[-1].write_text(source_module(network, BASELINES[name]).text)
    ruff = [sys.executable, "-m", "ruff"]
    subprocess.run([*ruff, "format", "--isolated", "--check", *files], check=True)
    subprocess.run([*ruff, "check", "--isolated", "--select", "E,F,W,I,B,UP,SIM,RUF", *files], check=True)


def test_names_of_classes_are_data_and_not_source(model):
    names = ('"); print("run', "it's", "both ' and \"", "\\", "new\nline", "é")
    task, images = model.task, model.images._replace(classes=names)
    text = write_source(model.network, GENOTYPE, images, task, trained=False).text
    module = ModuleType("exported")
    exec(compile(text, "exported.py", "exec"), module.__dict__)
    assert names == module.CLASSES
    many = model.images._replace(classes=tuple(map(str, range(1000))))
    assert "CLASSES" not in write_source(model.network, GENOTYPE, many, task, trained=False).text


# The card


def test_the_card_has_what_a_user_of_the_file_needs(exported, here):
    card = (exported / "model.onnx.md").read_text()
    tested = json.loads((here / "retrained/test.json").read_text())
    size = json.loads((here / "retrained/network.json").read_text())
    for text in (
        "digits",
        "(batch, 1, 32, 32)",
        "resized to 32×32 pixels",
        "mean 0.3058 and std 0.3762",
        f"{tested['test_acc']:.2%} of 20 images",
        f"{size['parameters']:,}",
        f"{size['multiply_adds']:,}",
        f"torch {torch.__version__}",
        GENOTYPE.to_json().strip(),
    ):
        assert text in card


# Other networks


class Bessel(nn.Module):
    """A module with an operator that has no ONNX form."""

    def forward(self, images):
        return torch.special.bessel_j0(images).mean(dim=(2, 3)).expand(-1, 10)


@pytest.fixture
def other(model) -> Model:
    """The model with a network that is not one of cells."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)).eval()
    return replace(model, network=network, architecture={"width": 10}, arguments={})


@pytest.mark.parametrize("name", ("torch", "safetensors"))
def test_any_module_can_be_exported(other, name):
    assert FORMATS[name].write(other).difference < 1e-5


def test_a_module_without_cells_has_no_source(other):
    with pytest.raises(InputError, match="--format python: for networks of cells, and Sequential is none"):
        FORMATS["python"].write(other)


def test_an_operator_without_onnx_form_is_named(other):
    with pytest.raises(InputError, match=r"--format onnx: the operator \S*bessel_j0 has no ONNX form"):
        FORMATS["onnx"].write(replace(other, network=Bessel()))


def test_a_network_that_fixes_the_number_of_images_is_refused(other):
    fixed = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (2, 1024)), nn.Linear(1024, 10)).eval()
    with pytest.raises(InputError, match="--format torch: PyTorch cannot trace the network: ") as caught:
        FORMATS["torch"].write(replace(other, network=fixed))
    assert "\n" not in str(caught.value)


def test_lost_weights_are_refused(other):
    nn.init.constant_(other.network[1].bias, float("nan"))
    with pytest.raises(InputError, match="the logits of the test images are not finite"):
        FORMATS["safetensors"].write(other)


# Searches and bad input


@pytest.fixture(scope="module")
def searched(here) -> Path:
    """A finished search."""
    config = {
        "space": {"name": "DartsSpace", "channels": 2, "layers": 3, "nodes": 1},
        "strategy": {"name": "EDAS"},
        "data": DATA,
        "training": {"epochs": 1},
        "compute": COMPUTE,
    }
    (here / "search.yaml").write_text(yaml.safe_dump(config))
    assert run_main("search", "--config", here / "search.yaml", "--output", here / "searched") == 0
    return here / "searched"


def test_a_search_is_exported_as_python_without_weights(searched, tmp_path, refuse):
    assert run_main("export", searched, "--format", "python", "--output", tmp_path / "found.py") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.py", "found.py.md"]
    assert "safetensors import" not in (tmp_path / "found.py").read_text()
    assert "not trained" in (tmp_path / "found.py.md").read_text()
    refuse("is a search, which has no trained network", searched, "onnx", tmp_path / "found.onnx")


@pytest.mark.parametrize(("format", "file"), [("python", "found.py"), ("torch", "found.pt2")])
def test_a_search_is_exported_with_the_weights_of_its_supernet(searched, tmp_path, monkeypatch, format, file):
    given = ["--format", format, "--weights", "inherited", "--output", tmp_path / file]
    assert run_main("export", searched, *given) == 0
    found = read_model(searched, "inherited")
    supernet = Supernet(searched / "genotype.json")
    right = supernet.weights(found.architecture, supernet.data)
    assert all(torch.equal(tensor, right[name]) for name, tensor in found.network.state_dict().items())
    card = (tmp_path / f"{file}.md").read_text()
    assert "found by a search, with the weights of its supernet" in card and "| test accuracy | not measured |" in card
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {}
    exec(card.partition("```python")[2].partition("```")[0], names)
    with torch.no_grad():
        torch.testing.assert_close(names["network"](found.examples), found.network(found.examples))


def test_a_retraining_is_exported_with_its_own_weights(here, tmp_path, capsys):
    given = ["--format", "python", "--weights", "new", "--output", tmp_path / "found.py"]
    assert run_main("export", here / "retrained", *given) == 2
    assert "is a retraining, which is exported with its own weights" in capsys.readouterr().err


@pytest.fixture
def refuse(capsys):
    """Return a function that checks that an export is refused in one line and writes nothing."""

    def check(message: str, run: Path, format: str, output: Path) -> None:
        before = sorted(output.parent.glob("*"))
        capsys.readouterr()
        assert run_main("export", run, "--format", format, "--output", output) == 2
        out, error = capsys.readouterr()
        assert out == ""
        assert error.startswith("nas-plugins: ")
        assert error.count("\n") == 1
        assert message in error
        assert sorted(output.parent.glob("*")) == before

    return check


def test_a_folder_that_is_no_run(refuse, tmp_path):
    refuse("is no run, it has no config.yaml", tmp_path, "torch", tmp_path / "model.pt2")


def test_a_run_that_is_not_finished(refuse, here, tmp_path):
    unfinished = tmp_path / "run"
    shutil.copytree(here / "retrained", unfinished)
    (unfinished / "weights.pt").unlink()
    refuse("not finished; nas-plugins resume", unfinished, "torch", tmp_path / "model.pt2")


def test_damaged_weights(refuse, here, tmp_path):
    damaged = tmp_path / "run"
    shutil.copytree(here / "retrained", damaged)
    (damaged / "weights.pt").write_bytes(b"no weights")
    refuse("weights.pt: damaged", damaged, "safetensors", tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("format", "name", "message"),
    (
        ("torch", "model.pt", "should be a file that ends in .pt2"),
        ("onnx", "model", "should be a file that ends in .onnx"),
        ("python", "my-model.py", "cannot be imported"),
        ("python", "class.py", "cannot be imported"),
        ("python", "torch.py", "would hide the module torch"),
        ("torch", "file/model.pt2", "file is not a folder that can be written"),
    ),
)
def test_an_output_that_is_no_good(refuse, here, tmp_path, format, name, message):
    (tmp_path / "file").touch()
    refuse(message, here / "retrained", format, tmp_path / name)


@pytest.mark.parametrize("taken", ("model.py", "model.safetensors", "model.py.md"))
def test_no_file_is_overwritten(refuse, here, tmp_path, taken):
    (tmp_path / taken).touch()
    refuse(f"{taken} already exists", here / "retrained", "python", tmp_path / "model.py")


@pytest.mark.parametrize(("format", "package"), (("onnx", "onnxscript"), ("python", "safetensors")))
def test_a_missing_package(refuse, here, tmp_path, monkeypatch, format, package):
    monkeypatch.setitem(sys.modules, package, None)
    suffix = FORMATS[format].suffix
    refuse("pip install 'nas-plugins[export]'", here / "retrained", format, tmp_path / f"model{suffix}")
