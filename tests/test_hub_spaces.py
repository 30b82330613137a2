"""Our strategies on the spaces of NNI's hub, where tests/test_matrix.py leaves something out."""

import pytest
import torch
from nni.nas.hub.pytorch import AutoFormer, NasBench101, ShuffleNetSpace
from small_searches import HubDarts

from nas_plugins import EDAS
from strategies.relaxation import argmax, softmax

SPACES = {
    "DARTS of any size": lambda: HubDarts(width=(2, 4), num_cells=(3, 6), dataset="cifar"),
    "ShuffleNet with widths": lambda: ShuffleNetSpace(num_labels=10, channel_search=True, affine=True),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_it_is_searched_and_its_sample_freezes_it(run_search, space):
    (sample,) = run_search(space(), EDAS(), batch_size=32).export_top_models(formatter="dict")
    assert space().contains(sample)
    assert space().freeze(sample)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("relax", [softmax, argmax])
def test_the_super_kernels_that_a_space_brings_follow_the_plan(relax):
    """AutoFormer has its own, which NNI makes through a hook of the space."""
    strategy = EDAS()
    small = {"img_size": 32, "patch_size": 8, "num_labels": 10, "search_depth": (1, 2)}
    space = AutoFormer(search_embed_dim=(24, 32), search_mlp_ratio=(2.0, 3.0), search_num_heads=(2, 4), **small)
    model = strategy.mutate_model(space)
    strategy.architecture.plan = relax(strategy.architecture.alphas)
    assert {"embed_dim", "depth", "num_head_0", "mlp_ratio_1"} <= set(strategy.architecture.alphas)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_a_space_with_choices_of_its_own_kind_is_refused_by_name():
    with pytest.raises(TypeError, match="differentiable strategy cannot search"):
        EDAS().mutate_model(NasBench101(stem_out_channels=4, num_stacks=2, num_modules_per_stack=1))
