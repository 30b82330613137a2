"""The strategy PC-DARTS, compared with its released code."""

import re

import pytest
import torch
from nni.nas.hub.pytorch import DARTS as HubDarts
from pytorch_lightning import Callback
from torch.utils.data import TensorDataset

from nas_plugins import DartsSpace, Genotype
from strategies.pc_darts import PCDARTS, normalized_edges
from strategies.supernet.cell import MixedCell

OPERATIONS = ("max_pool_3x3", "skip_connect", "sep_conv_3x3")
CANDIDATES = ("none", *OPERATIONS)  # in the order of the released code
EDGES = ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


def small_space():
    return DartsSpace(channels=8, layers=3, nodes=2, operations=OPERATIONS)


@pytest.fixture
def images():
    """Four images by a formula, of four classes."""
    pixels = (torch.arange(4 * 3 * 8 * 8, dtype=torch.float64) * 0.37).sin()
    return TensorDataset(pixels.reshape(4, 3, 8, 8), torch.arange(4))


class Formulas(Callback):
    """Fill weights, α and β by formulas, as the released code was filled for the numbers below."""

    def on_train_start(self, trainer, searching):
        self.model = searching.model
        with torch.no_grad():
            for i, weight in enumerate(searching.model.parameters()):
                values = (torch.arange(weight.numel(), dtype=torch.float64) * 0.9 + i).sin()
                weight.copy_(values.reshape(weight.shape))
            for c, cell in enumerate(("normal", "reduce")):
                alphas = (torch.arange(20, dtype=torch.float64) * 0.7 + c).sin().reshape(5, 4)
                betas = (torch.arange(5, dtype=torch.float64) * 1.1 + c).cos()
                for row, (source, target) in enumerate(EDGES):
                    values = {f"{cell}/{source}->{target}": dict(zip(CANDIDATES, alphas[row].tolist(), strict=True))}
                    searching.architecture.start(values)
                    searching.architecture.start({f"{cell}/node_{target}": {str(source): betas[row].item()}})


# Of their commit b74702f: Network(8, 10, 3, criterion, steps=2, multiplier=2) after Architect.step and a step of SGD.
ALPHA_GRADIENTS = {
    "normal": [
        [-0.015341729242, -0.052103601571, -0.022052400868, 0.089497731682],
        [0.006543773216, -0.027265837699, 0.010021112902, 0.010700951580],
        [0.000897369547, -0.027872826680, -0.015950458550, 0.042925915682],
        [-0.009184494479, -0.004839297141, 0.002568533798, 0.011455257822],
        [0.003365824757, -0.004114999859, 0.010315624895, -0.009566449793],
    ],
    "reduce": [
        [-0.013604089594, -0.020631539241, 0.064837620717, -0.030601991882],
        [-0.002066717621, 0.058026750098, -0.041452172514, -0.014507859963],
        [-0.000813118422, -0.016693485196, 0.009104885998, 0.008401717619],
        [0.012471656841, -0.054306564577, 0.028942479995, 0.012892427742],
        [0.017126408459, 0.027773085568, -0.041646340087, -0.003253153939],
    ],
}
BETA_GRADIENTS = {
    "normal": [-0.017358163077, 0.017358163077, 0.012059975975, 0.085911910769, -0.097971886744],
    "reduce": [0.273246704282, -0.273246704282, 0.007438527394, 0.309554760084, -0.316993287478],
}
FIRST_EDGE_AFTER = [5.999996089101e-04, 6.448176871211e-01, 9.860497297037e-01, 8.626093667153e-01]
FIRST_NODE_AFTER = [1.000599999633, 0.452996121762]
WEIGHTS_AFTER = 4.9434225821313
NORMAL = (("skip_connect", 0, 2), ("max_pool_3x3", 1, 2), ("sep_conv_3x3", 2, 3), ("sep_conv_3x3", 0, 3))
REDUCE = (("max_pool_3x3", 0, 2), ("sep_conv_3x3", 1, 2), ("sep_conv_3x3", 2, 3), ("max_pool_3x3", 1, 3))


def test_one_iteration_is_that_of_the_released_code(run_search):
    strategy, formulas = PCDARTS(warmup_epochs=0), Formulas()
    experiment = run_search(small_space(), strategy, batch_size=4, precision="64-true", callbacks=[formulas])
    architecture = strategy.architecture
    for cell, rows in ALPHA_GRADIENTS.items():
        gradients = {edge: alpha.grad.tolist() for edge, alpha in architecture.alphas.items() if edge.startswith(cell)}
        for row, beta, (source, target) in zip(rows, BETA_GRADIENTS[cell], EDGES, strict=True):
            edge = f"{cell}/{source}->{target}"
            by_name = dict(zip(architecture.candidates[edge], gradients[edge], strict=True))
            assert [by_name[name] for name in CANDIDATES] == pytest.approx(row, abs=1e-10), edge
            assert gradients[f"{cell}/node_{target}"][source] == pytest.approx(beta, abs=1e-10)
    after = architecture.table()
    assert [after["normal/0->2"][name] for name in CANDIDATES] == pytest.approx(FIRST_EDGE_AFTER, abs=1e-10)
    assert [*after["normal/node_2"].values()] == pytest.approx(FIRST_NODE_AFTER, abs=1e-10)
    weights = torch.cat([weight.detach().flatten() for weight in formulas.model.parameters()])
    positions = torch.arange(len(weights), dtype=torch.float64)
    assert (weights * (positions * 0.01).cos()).sum().item() == pytest.approx(WEIGHTS_AFTER, abs=1e-9)
    (sample,) = experiment.export_top_models(formatter="dict")
    genotype = Genotype.from_sample(sample, 3)
    assert [sorted(cell) for cell in genotype.cells] == [sorted(NORMAL), sorted(REDUCE)]


# Of Network.genotype with 4 nodes and all α and β as below, by s
DERIVED = [
    "max_pool_3x3 0, skip_connect 1; max_pool_3x3 2, sep_conv_3x3 1; max_pool_3x3 0, sep_conv_3x3 3; "
    "sep_conv_3x3 0, skip_connect 4",
    "max_pool_3x3 0, skip_connect 1; skip_connect 1, max_pool_3x3 0; max_pool_3x3 3, sep_conv_3x3 0; "
    "sep_conv_3x3 2, sep_conv_3x3 4",
    "skip_connect 0, skip_connect 1; skip_connect 0, skip_connect 2; sep_conv_3x3 1, max_pool_3x3 2; "
    "skip_connect 4, skip_connect 2",
]


@pytest.mark.parametrize("s", range(3))
def test_a_cell_is_derived_as_by_the_released_code(s):
    edges = [(source, target) for target in range(2, 6) for source in range(target)]
    alphas = 3 * (torch.arange(56, dtype=torch.float64) * (1.3 + s)).sin().reshape(14, 4)
    betas = 3 * (torch.arange(14, dtype=torch.float64) * (1.3 + s) + 2).sin()
    cell = {edge: dict(zip(CANDIDATES, row.tolist(), strict=True)) for edge, row in zip(edges, alphas, strict=True)}
    nodes = {node: {} for node in range(2, 6)}
    for (source, target), beta in zip(edges, betas.tolist(), strict=True):
        nodes[target][str(source)] = beta
    by_node = {}
    for operation, source, target, _ in normalized_edges(cell, nodes):
        by_node.setdefault(target, []).append(f"{operation} {source}")
    assert "; ".join(", ".join(chosen) for chosen in by_node.values()) == DERIVED[s]


def test_it_has_the_settings_of_the_paper():
    composition = PCDARTS().composition
    optimizer = composition.optimizer([torch.zeros(1, requires_grad=True)])
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": 6e-4,
        "betas": (0.5, 0.999),
        "weight_decay": 1e-3,
    }
    assert (composition.partial_channels, composition.warmup_epochs, composition.alpha_scale) == (4, 15, 1e-3)


def test_without_edge_normalization_nodes_have_no_weights():
    strategy = PCDARTS(edge_normalization=False)
    strategy.mutate_model(small_space())
    assert not any("node" in edge for edge in strategy.architecture.alphas)


def test_channels_should_be_divisible():
    with pytest.raises(ValueError, match=re.escape("6 channels")):
        PCDARTS().mutate_model(DartsSpace(channels=6, layers=3))


def test_cells_of_nnis_hub_are_derived_by_both_weights():
    def space():
        return HubDarts(width=8, num_cells=3, dataset="cifar")

    strategy = PCDARTS()
    model = strategy.mutate_model(space())
    strategy.architecture.start({"normal/node_5": {"3": 5.0, "4": 6.0}})
    sample = {}
    for module in model.modules():
        if isinstance(module, MixedCell):
            sample |= module.export(sample)
    assert [sample["normal/input_5_0"], sample["normal/input_5_1"]] == [[4], [3]]
    assert space().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)
