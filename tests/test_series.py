"""Cells for series: operations, the space, and runs of it with a data module and a module of the user's."""

import json

import pytest
import torch
import yaml

from nas_plugins import DARTS, PCDARTS, Cell1dSpace, Genotype
from nas_plugins.errors import InputError
from nas_plugins.export import export
from nas_plugins.training import evaluate, retrain
from nas_plugins.training.search import search
from search_spaces.complexity import count_multiply_adds, count_parameters
from search_spaces.edges import Edge
from search_spaces.network import Network
from search_spaces.operations import FIXED_OPERATIONS, IMAGES_ONLY, FactorizedReduce, derived_operation, searchable

CANDIDATES = ("skip_connect", "max_pool_3x3", "sep_conv_3x3", "dil_conv_5x5")


@pytest.mark.parametrize("steps", [8, 7, 1])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", [name for name in FIXED_OPERATIONS if name not in IMAGES_ONLY])
def test_an_operation_keeps_the_channels_and_divides_the_steps_by_its_stride(name, stride, steps):
    for make in (searchable, derived_operation):
        assert make(name, 3, stride, dimensions=1)(torch.randn(2, 3, steps)).shape == (2, 3, -(-steps // stride))


@pytest.mark.parametrize(
    ("name", "offsets"),
    [
        ("sep_conv_3x3", range(-2, 3)),
        ("sep_conv_5x5", range(-4, 5)),
        ("dil_conv_3x3", (-2, 0, 2)),
        ("dil_conv_5x5", (-4, -2, 0, 2, 4)),
        ("avg_pool_3x3", (-1, 0, 1)),
        ("skip_connect", (0,)),
    ],
)
def test_an_operation_reads_the_steps_that_its_name_tells(name, offsets):
    operation = derived_operation(name, 2, 1, dimensions=1).eval()
    for parameter in operation.parameters():
        torch.nn.init.ones_(parameter)
    steps = torch.ones(1, 2, 21, requires_grad=True)
    operation(steps)[0, :, 10].sum().backward()
    assert (steps.grad[0].sum(0).nonzero()[:, 0] - 10).tolist() == list(offsets)


def test_a_reduction_reads_every_step():
    reduce = FactorizedReduce(2, 2, dimensions=1).eval()
    steps = torch.ones(1, 2, 7, requires_grad=True)
    for parameter in reduce.parameters():
        torch.nn.init.ones_(parameter)
    reduce(steps).sum().backward()
    assert (steps.grad != 0).all()


def test_an_operation_without_a_form_for_series_is_refused():
    with pytest.raises(ValueError, match="operations: conv_7x1_1x7 has no form for series"):
        Cell1dSpace(operations=("skip_connect", "conv_7x1_1x7"))


def test_an_auxiliary_head_is_refused():
    genotype = Genotype(cells=((Edge("skip_connect", 0, 2),),), layout=(0,), reductions=(), concat=(2,))
    with pytest.raises(ValueError, match="stem: series is for series, and the auxiliary head for images"):
        Network.from_genotype(genotype, stem="series", auxiliary=True)


@pytest.mark.parametrize("strategy", [DARTS, PCDARTS])
def test_a_supernet_gives_outputs_of_series_of_any_length_and_gradients_of_every_alpha(strategy):
    found = strategy()
    supernet = found.mutate_model(Cell1dSpace(5, 4, 3, 2, nodes=2, operations=CANDIDATES))
    found.architecture.plan = found.composition.relaxation.architecture(
        found.architecture.living_alphas(), found.architecture.step
    )
    for steps in (16, 9):
        out = supernet(torch.randn(2, 2, steps))
        assert out.shape == (2, 5)
    out.square().sum().backward()
    assert all(alpha.grad is not None for alpha in found.architecture.alphas.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("series")


@pytest.fixture(scope="module")
def searched(folder):
    config = {
        "space": {"name": "Cell1dSpace", "channels": 4, "layers": 3, "nodes": 2, "operations": list(CANDIDATES)},
        "strategy": {"name": "DARTS"},
        "evaluator": {"class_path": "series_parts.Margin", "init_args": {"learning_rate": 0.01}, "metric": "val_error"},
        "data": {"class_path": "series_parts.DigitSeries", "init_args": {"samples": 120}},
        "cost": {"metric": "multiply_adds", "target": "60k"},
        "training": {"epochs": 1},
        "compute": {"accelerator": "cpu"},
    }
    (folder / "search.yaml").write_text(yaml.safe_dump(config))
    return search(folder / "search.yaml", folder / "searched")


@pytest.fixture(scope="module")
def retrained(folder, searched):
    config = yaml.safe_load((folder / "search.yaml").read_text())
    config = {key: config[key] for key in ("evaluator", "data", "training", "compute")}
    config["network"] = {"channels": 4, "stem": "series"}
    (folder / "retrain.yaml").write_text(yaml.safe_dump(config))
    return retrain(searched / "genotype.json", folder / "retrain.yaml", folder / "retrained")


class TestRuns:
    def test_the_cost_of_the_found_network_is_that_of_one_series(self, searched):
        network = Network.from_genotype(Genotype.load(searched / "genotype.json"), 10, 4, 8, "series")
        (cost,) = json.loads((searched / "cost.json").read_text())["costs"]
        assert cost["derived"] == count_multiply_adds(network, 8, 8)

    def test_a_retraining_trains_the_network_of_series(self, searched, retrained):
        network = Network.from_genotype(Genotype.load(searched / "genotype.json"), 10, 4, 8, "series")
        size = json.loads((retrained / "network.json").read_text())
        assert size["parameters"] == count_parameters(network)
        assert size["multiply_adds"] == count_multiply_adds(network, 8, 8)
        assert 0 <= evaluate(retrained)["test_error"] <= 1

    def test_its_network_is_exported(self, retrained, tmp_path):
        assert export(retrained, "torch", tmp_path / "network.pt2").difference < 1e-5

    def test_python_is_refused(self, retrained, tmp_path):
        with pytest.raises(InputError, match="--format python: for networks of images, and this one is of series"):
            export(retrained, "python", tmp_path / "network.py")

    def test_a_retraining_as_one_of_images_does_not_fit(self, folder, searched, retrained):
        with pytest.raises(
            InputError, match="Margin, DigitSeries, Network fail on a first batch: .*the stem is series"
        ):
            retrain(searched / "genotype.json", folder / "retrain.yaml", folder / "images", ["--network.stem", "cifar"])
