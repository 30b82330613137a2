"""The strategy DARTS-PT, compared with its released code."""

import re

import pytest
import torch
from nni.nas.hub.pytorch import DARTS as HubDarts
from nni.nas.hub.pytorch import NasBench201
from pytorch_lightning import Callback
from released_steps import Filled, one_batch, small_space

from nas_plugins import Genotype
from strategies.darts_pt import DARTSPT
from strategies.projection import Projection
from strategies.relaxation import Step

ORDER = {
    "normal/edges": (3, 0, 4, 1, 2),
    "reduce/edges": (2, 4, 1, 3, 0),
    "normal/nodes": (0,),
    "reduce/nodes": (0,),
}

# Of their commit 4ec3149: project_op and project_edge by the loss, in the order above. The loss without each operation
# of an edge, in the order of the space, then without each edge of the node with three.
LOSSES = [
    *(2.547097963656845, 2.565330799291691, 2.52127460817073),
    *(2.3972502785138983, 2.4424620257613823, 2.366219770023546),
    *(2.2413143476024, 2.348335870669195, 2.3973366755421197),
    *(2.4331295149020495, 2.2856969707192234, 2.3435167823259593),
    *(2.178551776652895, 2.216274488632144, 2.049259967040657),
    *(2.3278544385316198, 2.4766318478432963, 2.298987260061853),
    *(2.291962024946711, 2.3749582929356086, 2.3707724626264444),
    *(2.342695270777785, 2.3586560334220215, 2.3555924428103454),
    *(2.481192582334857, 2.695771660510246, 2.4071814495554076),
    *(2.2689421252732327, 2.4463052219201504, 2.3866988659575483),
    *(2.656437535992454, 2.302936969366816, 2.090356729957177),
    *(2.1903811852001764, 2.100574087205869, 2.155252718210123),
]
NORMAL = (("max_pool_3x3", 0, 2), ("sep_conv_3x3", 1, 2), ("sep_conv_3x3", 0, 3), ("sep_conv_3x3", 1, 3))
REDUCE = (("sep_conv_3x3", 0, 2), ("sep_conv_3x3", 1, 2), ("sep_conv_3x3", 0, 3), ("skip_connect", 2, 3))


@pytest.fixture
def images():
    return one_batch()


def test_all_choices_are_those_of_the_released_code(run_search, monkeypatch):
    losses, validate = [], Projection._validate

    def recorded(self, epoch, edge, entry):
        losses.append(-validate(self, epoch, edge, entry))
        return -losses[-1]

    monkeypatch.setattr(Projection, "_validate", recorded)
    monkeypatch.setattr(Projection, "_shuffled", lambda self, choices, name: [choices[i] for i in ORDER[name]])
    strategy = DARTSPT(projection_epochs=1, metric="val_loss")
    experiment = run_search(small_space(), strategy, batch_size=4, precision="64-true", callbacks=[Filled()])
    assert losses == pytest.approx(LOSSES, abs=1e-10)
    (sample,) = experiment.export_top_models(formatter="dict")
    genotype = Genotype.from_sample(sample, 3)
    assert [sorted(cell) for cell in genotype.cells] == [sorted(NORMAL), sorted(REDUCE)]


class Living(Callback):
    """Count the candidates that live in each epoch, by edge of a cell."""

    def __init__(self):
        self.counts = []

    def on_train_batch_start(self, trainer, searching, *_):
        alphas = searching.architecture.living_alphas()
        self.counts.append([alpha.numel() for edge, alpha in alphas.items() if edge.startswith("normal")])


def test_choices_are_spread_over_the_last_epochs(run_search):
    living, strategy = Living(), DARTSPT(projection_epochs=11, seed=3)
    run_search(small_space(), strategy, batch_size=4, precision="64-true", epochs=12, callbacks=[living])
    # Five edges are fixed one by one in epochs 1, 3, 5, 7 and 9; in epoch 11 one of them is removed.
    assert [counts.count(1) for counts in living.counts] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 4]
    assert [len(counts) for counts in living.counts] == [5] * 11 + [4]


def test_a_cell_of_darts_has_seventeen_choices_in_an_order_by_the_seed():
    strategy = DARTSPT()
    strategy.mutate_model(HubDarts(width=2, num_cells=3, dataset="cifar"))
    one, again, other = (Projection(81, "val_acc", True, seed).choices(strategy.architecture) for seed in (0, 0, 1))
    for choices in one:
        assert [len(edges) for edges in choices[:14]] == [1] * 14
        assert sorted(len(edges) for edges in choices[14:]) == [3, 4, 5]
    assert one == again != other
    assert one[0] != sorted(one[0])


def test_none_is_never_chosen(run_search):
    strategy = DARTSPT(projection_epochs=1, none=True)
    run_search(small_space(), strategy, batch_size=4, precision="64-true")
    alphas = strategy.alphas()
    assert len(alphas) == 8
    assert all(len(names) == 1 and "none" not in names for names in alphas.values())


def test_it_has_the_settings_of_the_released_code():
    composition = DARTSPT().composition
    optimizer = composition.optimizer([torch.zeros(1, requires_grad=True)])
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": 3e-4,
        "betas": (0.5, 0.999),
        "weight_decay": 1e-3,
    }
    assert (composition.none, composition.pruning.epochs) == (False, 81)
    assert composition.searches(Step()) and not DARTSPT(fixed_alphas=True).composition.searches(Step())


def test_choices_outside_cells_are_made_one_after_the_other(run_search):
    def space():
        return NasBench201(stem_out_channels=4, num_modules_per_stack=1)

    strategy = DARTSPT(projection_epochs=1, batch_statistics=False, fixed_alphas=True)
    experiment = run_search(space(), strategy, batch_size=4, precision="64-true")
    (sample,) = experiment.export_top_models(formatter="dict")
    assert {label: [name] for label, name in sample.items()} == {
        label: list(alphas) for label, alphas in strategy.alphas().items()
    }
    assert space().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"projection_epochs": 2}, "projection_epochs: 2 should be at most max_epochs: 1 of the evaluator"),
        ({"projection_epochs": 1, "metric": "acc"}, "metric: 'acc' should be one of val_loss, val_acc"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_the_evaluator_are_named(run_search, settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run_search(small_space(), DARTSPT(**settings), batch_size=4, precision="64-true")


def test_epochs_are_at_least_one():
    with pytest.raises(ValueError, match="^projection_epochs: 0 should be at least 1$"):
        DARTSPT(projection_epochs=0)
