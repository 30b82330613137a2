"""Derived networks with the weights of the supernet: in evaluation they compute what the supernet computes."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import nni
import nni.nas.nn.pytorch as nas
import pytest
import pytorch_lightning as pl
import torch
import yaml
from nni.nas.hub.pytorch import DARTS as HubDarts
from nni.nas.hub.pytorch import AutoFormer, MobileNetV3Space, NasBench201
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas_plugins import DARTS, EDAS, PCDARTS, PDARTS, DartsSpace, DDartsSpace, FineTunedDartsSpace, ProgressiveSpace
from nas_plugins.errors import InputError
from nas_plugins.runs import read_run
from nas_plugins.training.retrain import evaluate, retrain, retrain_sample
from nas_plugins.training.search import resume, search
from search_spaces.edges import Edge, smallest_set
from strategies.inheritance import InheritanceError, inherit
from strategies.supernet.cell import MixedCell

CONVOLUTIONS = ("skip_connect", "sep_conv_3x3", "dil_conv_5x5", "simple_conv_1x1")
"""Operations that derived networks have as supernets do; pooling has a normalization behind it in supernets only."""


class Everything(nas.ModelSpace):
    """Layer choices, one inside another; an input choice; a depth; a width, and a kernel size."""

    def __init__(self):
        super().__init__()
        width = nni.choice("width", [4, 6])
        kernel = nni.choice("kernel", [1, 3])
        self.stem = nn.Sequential(
            nas.MutableConv2d(3, width, kernel, padding=kernel // 2, bias=False), nas.MutableBatchNorm2d(width)
        )
        self.constant = nas.MutableConv2d(3, 3, 1)  # without a choice
        self.expand = nas.MutableConv2d(width, 6, 1)
        inner = nas.LayerChoice([nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 3, padding=1)], label="inner")
        outer = {"plain": nn.Conv2d(6, 6, 1), "nested": nn.Sequential(inner, nn.BatchNorm2d(6))}
        self.layer = nas.LayerChoice(outer, label="outer")
        self.blocks = nas.Repeat(lambda index: nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)), (1, 3), label="d")
        self.inputs = nas.InputChoice(3, n_chosen=2, reduction="mean", label="inputs")
        self.head = nn.Linear(6, 10)

    def forward(self, x):
        first = self.expand(self.stem(self.constant(x)))
        second = self.layer(first)
        third = self.blocks(second)
        return self.head(self.inputs([first, second, third]).mean(dim=(2, 3)))


def supernet_of(space, strategy):
    """Turn a space into a supernet in float64, with weights and statistics unlike those of a new one."""
    supernet = strategy.mutate_model(space).double()
    for module in supernet.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return supernet.eval()


def supernet_output(supernet, strategy, sample, images):
    plan = strategy.architecture.path(sample)
    for module in supernet.modules():
        if isinstance(module, MixedCell):
            plan |= module.derived_plan(sample)
    strategy.architecture.plan = plan
    return supernet(images)


def assert_inherited(space, sample, strategy=None, size=8, channels=3):
    strategy = strategy or DARTS()
    supernet = supernet_of(space, strategy)
    images = torch.randn(2, channels, size, size, dtype=torch.float64)
    with torch.no_grad():
        expected = supernet_output(supernet, strategy, sample, images)
        network = inherit(supernet, sample)
        torch.testing.assert_close(network(images), expected, rtol=1e-9, atol=1e-10)
    assert expected.std() > 0
    assert all(parameter.requires_grad for parameter in network.parameters())
    theirs = {parameter.data_ptr() for parameter in supernet.parameters()}
    assert not theirs & {parameter.data_ptr() for parameter in network.parameters()}
    return network


def random_sample(space):
    return {label: choice.random() for label, choice in space.simplify().items()}


class TestChoices:
    @pytest.mark.parametrize("depth", [1, 2, 3])
    @pytest.mark.parametrize(
        "sample",
        [
            {"width": 4, "kernel": 1, "outer": "nested", "inner": 1, "inputs": [0, 2]},
            {"width": 6, "kernel": 3, "outer": "plain", "inner": 0, "inputs": [1, 2]},
        ],
    )
    def test_of_every_kind(self, sample, depth):
        network = assert_inherited(Everything(), {**sample, "d": depth})
        assert len(network.blocks) == depth
        assert network.stem[0].weight.shape == (sample["width"], 3, sample["kernel"], sample["kernel"])

    def test_of_wrapped_candidates(self):
        """P-DARTS has a dropout behind skip connections."""
        space = Everything()
        sample = {"width": 4, "kernel": 3, "outer": "nested", "inner": 1, "inputs": [0, 2], "d": 2}
        assert_inherited(space, sample, PDARTS())


class TestNnisSpaces:
    def test_of_cells(self):
        space = HubDarts(width=4, num_cells=3, dataset="cifar")
        sample = random_sample(space) | {"normal/op_3_0": "max_pool_3x3", "reduce/op_2_0": "skip_connect"}
        assert_inherited(space, sample)

    def test_of_a_stage_of_a_single_cell(self):
        """Where the depth of a stage is a choice, NNI aligns the outputs of a single cell."""
        space = HubDarts(width=2, num_cells=(3, 6), dataset="cifar")
        assert_inherited(space, random_sample(space) | {"depth": 3})

    def test_of_layer_choices(self):
        space = NasBench201(stem_out_channels=4, num_modules_per_stack=1)
        assert_inherited(space, random_sample(space))

    def test_of_super_kernels(self):
        size = {"base_widths": (8, 8, 8, 8, 8, 16, 16, 16, 32), "width_multipliers": (0.5, 1.0), "depth_range": (1, 2)}
        space = MobileNetV3Space(10, **size)
        assert_inherited(space, random_sample(space), size=32)

    def test_of_super_kernels_that_a_space_brings(self):
        small = {"img_size": 32, "patch_size": 8, "num_labels": 10, "search_depth": (1, 2)}
        space = AutoFormer(search_embed_dim=(24, 32), search_mlp_ratio=(2.0, 3.0), search_num_heads=(2, 4), **small)
        assert_inherited(space, random_sample(space), size=32)


def sample_of(space, *cells):
    """Return the sample of some cells, each of (operation, source, target)."""
    edges = tuple(tuple(Edge(*edge) for edge in cell) for cell in cells)
    return space.sample(replace(space.genotype(random_sample(space)), cells=edges, operations=smallest_set(edges)))


class TestCells:
    @pytest.mark.parametrize("strategy", [EDAS, PDARTS])
    @pytest.mark.parametrize("stem", ["cifar", "dual_cifar"])
    def test_of_two_kinds(self, strategy, stem):
        space = DartsSpace(channels=4, layers=3, nodes=2, operations=CONVOLUTIONS, stem=stem)
        assert_inherited(space, random_sample(space), strategy())

    def test_of_every_layer(self):
        space = DDartsSpace(channels=4, layers=3, nodes=2, operations=CONVOLUTIONS)
        assert_inherited(space, random_sample(space))

    def test_fixed_operations_have_theirs(self):
        space = FineTunedDartsSpace(channels=4, layers=3, nodes=2, operations=CONVOLUTIONS)
        assert_inherited(space, random_sample(space))

    def test_so_have_those_beside_a_searched_one_of_the_same_name(self):
        fixed = ["sep_conv_3x3 normal/0->2", "sep_conv_3x3 reduce/2->3"]
        space = DartsSpace(channels=4, layers=3, nodes=2, operations=CONVOLUTIONS, fixed=fixed)
        cell = (("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2), ("sep_conv_3x3", 2, 3), ("sep_conv_3x3", 0, 3))
        assert_inherited(space, sample_of(space, cell, cell))

    @pytest.mark.parametrize("mlp_width", [None, 4])
    def test_a_node_without_operations_takes_the_weights_that_read_it_with_it(self, mlp_width):
        space = DartsSpace(channels=4, layers=3, nodes=3, operations=CONVOLUTIONS, mlp_width=mlp_width, image_size=8)
        normal = (("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2), ("dil_conv_5x5", 2, 4))
        reduction = (("sep_conv_3x3", 0, 3), ("skip_connect", 1, 3), ("simple_conv_1x1", 3, 4))
        network = assert_inherited(space, sample_of(space, normal, reduction))
        assert [cell.outputs for cell in network.cells] == [(2, 4), (3, 4), (3, 4)]

    def test_pooling_is_the_same_but_for_its_normalization(self):
        space = DartsSpace(channels=4, layers=3, nodes=1, operations=("max_pool_3x3", "avg_pool_3x3"))
        strategy, sample = DARTS(), random_sample(space)
        supernet, images = supernet_of(space, strategy), torch.randn(2, 3, 8, 8, dtype=torch.float64)
        for cell in supernet.network.cells:
            for module in cell.operations.modules():
                if isinstance(module, _BatchNorm):
                    module.running_mean.zero_()
                    module.running_var.fill_(1 - module.eps)
        expected = supernet_output(supernet, strategy, sample, images)
        torch.testing.assert_close(inherit(supernet, sample)(images), expected, rtol=1e-9, atol=1e-10)

    def test_a_new_scale_is_one_and_a_new_shift_zero(self):
        space = DartsSpace(channels=4, layers=3, nodes=1, operations=CONVOLUTIONS)
        network = assert_inherited(space, random_sample(space))
        norms = [module for module in network.cells.modules() if isinstance(module, _BatchNorm)]
        assert all(bool((norm.weight == 1).all() and (norm.bias == 0).all()) for norm in norms)

    def test_of_the_deepest_network_of_several(self):
        space = ProgressiveSpace(channels=2, layers=(3, 4), nodes=1, operations=CONVOLUTIONS)
        space.enter_stage(1)
        assert_inherited(space, random_sample(space))


class TestThroughNni:
    @pytest.mark.parametrize("space", [partial(DartsSpace, channels=2, layers=3, nodes=2), Everything])
    def test_a_searched_space_and_an_instance_of_it_have_the_weights(self, run_search, space):
        searched = space()
        experiment = run_search(searched, DARTS(), batch_size=32)
        (sample,) = experiment.export_top_models(formatter="dict")
        (instance,) = experiment.export_top_models(formatter="instance")
        expected = inherit(searched, sample).state_dict()
        for network in (instance, searched.freeze(sample)):
            found = network.state_dict()
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)


class TestRefused:
    def test_partial_channels(self):
        space = DartsSpace(channels=4, layers=3, nodes=1)
        sample = random_sample(space)
        with pytest.raises(
            InheritanceError, match="partial channels: the candidates of 'normal' .* part of the channels"
        ):
            inherit(PCDARTS().mutate_model(space), sample)

    def test_a_sample_of_another_space(self):
        space = NasBench201(stem_out_channels=4, num_modules_per_stack=1)
        with pytest.raises(InheritanceError, match="sample: Label cell/0_1 is missing"):
            inherit(DARTS().mutate_model(space), {"normal/op_2_0": "skip_connect"})


DATA = {"dataset": "digits", "train_images": 64, "test_images": 20, "batch_size": 32}
OTHERS = {"data": DATA, "training": {"epochs": 1}, "compute": {"accelerator": "cpu", "threads": 1}}
CELLS = {"name": "DartsSpace", "channels": 4, "layers": 3, "nodes": 1, "stem": "dual_cifar"}
RETRAIN = {"network": {"weights": "inherited", "channels": 6, "auxiliary_weight": 0.0}, **OTHERS}


class Layers(nas.ModelSpace):
    """A choice of layers, for the digits."""

    def __init__(self, num_classes: int = 10, image_channels: int = 1, width: int = 4):
        super().__init__()
        convolutions = [nn.Conv2d(image_channels, width, 1), nn.Conv2d(image_channels, width, 3, padding=1)]
        self.layer = nas.LayerChoice(convolutions, label="layer")
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.layer(x).mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with retrain.yaml and two finished searches: cells, and layers."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "retrain.yaml").write_text(yaml.safe_dump(RETRAIN))
    for name, space in (("cells", CELLS), ("layers", {"name": f"{__name__}.Layers"})):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"space": space, "strategy": {"name": "DARTS"}, **OTHERS}))
        search(folder / f"{name}.yaml", folder / name)
    return folder


@pytest.fixture(scope="module")
def retrained(here) -> Path:
    with pytest.warns(UserWarning, match=r"^not used: network.channels \(the supernet sets the size"):
        return retrain(here / "cells" / "genotype.json", here / "retrain.yaml", here / "retrained")


class Stop(pl.Callback):
    """Interrupts a training before its first checkpoint."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        raise KeyboardInterrupt


class TestARun:
    def test_begins_with_the_weights_of_the_search(self, here, retrained):
        inherited = torch.load(retrained / "inherited.pt", weights_only=True)
        searched = torch.load(here / "cells" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        name = "stem.first.layers.0.weight"
        assert torch.equal(inherited[name], searched[f"training_module._model.network.{name}"])
        trained = torch.load(retrained / "weights.pt", weights_only=True)
        assert trained.keys() == inherited.keys()
        assert not torch.equal(trained[name], inherited[name])

    def test_has_the_size_of_the_supernet(self, retrained):
        network = read_run(retrained).config["network"]
        assert (network["weights"], network["channels"], network["stem"]) == ("inherited", 4, "dual_cifar")

    def test_that_stops_before_its_first_checkpoint_begins_with_them_again(self, here, retrained, tmp_path):
        given = (here / "cells" / "genotype.json", here / "retrain.yaml", tmp_path / "run")
        with pytest.raises(KeyboardInterrupt), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            retrain(*given, callbacks=[Stop()])
        resume(tmp_path / "run")
        weights, others = (torch.load(run / "weights.pt", weights_only=True) for run in (tmp_path / "run", retrained))
        assert all(torch.equal(weights[name], others[name]) for name in others)

    def test_of_a_sample_too(self, here, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = retrain_sample(here / "layers" / "sample.json", here / "retrain.yaml", tmp_path / "run")
        assert torch.load(run / "inherited.pt", weights_only=True)["layer.weight"].shape[:2] == (4, 1)
        assert evaluate(run)["images"] == 20

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--space.width", "6"], "space.width: 6 should be 4, as in the search whose weights are inherited"),
            (["--space", "{name: DartsSpace}"], "sample: it should have the cells"),
        ],
    )
    def test_of_another_space_is_refused(self, here, tmp_path, options, words):
        with pytest.raises(ValueError, match=words):
            retrain_sample(here / "layers" / "sample.json", here / "retrain.yaml", tmp_path / "run", options)
        assert not (tmp_path / "run").exists()

    def test_without_a_search_is_refused(self, here, retrained, tmp_path):
        shutil.copy(here / "cells" / "genotype.json", tmp_path / "g.json")
        for file, words in (
            (tmp_path / "g.json", "lies in no run directory of a search"),
            (retrained / "genotype.json", "is no search"),
        ):
            with pytest.raises(InputError, match=words):
                retrain(file, here / "retrain.yaml", tmp_path / "run")

    def test_of_a_strategy_of_nnis_is_refused(self, here, tmp_path):
        found = shutil.copytree(here / "cells", tmp_path / "cells")
        config = yaml.safe_load((found / "config.yaml").read_text())
        (found / "config.yaml").write_text(yaml.safe_dump(config | {"strategy": {"name": "nni.nas.strategy.DARTS"}}))
        with pytest.raises(InputError, match=r"nni.nas.strategy.DARTS is not a strategy of this project"):
            retrain(found / "genotype.json", here / "retrain.yaml", tmp_path / "run")
