"""The strategy DARTS-, compared with its released code, and its auxiliary skip connection with other relaxations."""

import re

import pytest
import torch
from released_steps import CELL, OPERATIONS, Filled, one_batch, small_space, wave

from nas_plugins import DartsSpace, Genotype
from strategies.base import DifferentiableStrategy
from strategies.composition import adam
from strategies.darts_minus import AuxiliarySkip, DARTSMinus, auxiliary_skip
from strategies.relaxation import EveryEdge, SampledEdges, Step, argmax, softmax
from strategies.sampling import policy
from strategies.supernet.cell import MixedCell


@pytest.fixture
def images():
    return one_batch()


# Of their commit adb81a8: the gradients of epochs 0 and 25 of 50, for candidates in the order of OPERATIONS and none.
FIRST_GRADIENT = [
    [0.075325750797, 0.002015967512, -0.050196495179, -0.027145223130],
    [0.034919321108, -0.064056735431, -0.037696291080, 0.066833705404],
    [0.298668351805, -0.156935177395, -0.092104612181, -0.049628562229],
    [-0.107062132465, 0.194831636020, -0.097456233710, 0.009686730156],
    [0.049856193911, -0.126792809427, -0.225005686468, 0.301942301984],
    [0.044994586258, -0.314605229701, 0.382093191952, -0.112482548509],
    [0.174215449318, -0.170917596815, 0.066212045573, -0.069509898076],
    [-0.117032075708, 0.065676676266, 0.064471208655, -0.013115809214],
    [0.052617232732, -0.037815526134, 0.006273644262, -0.021075350860],
    [0.033707947753, -0.076805232995, 0.121316424534, -0.078219139292],
]
SECOND_GRADIENT = [
    [0.009648728679, 0.020423640785, -0.003818744759, -0.026253624704],
    [-0.097100604247, 0.129411483719, -0.033818643914, 0.001507764442],
    [0.095516808590, -0.111424423694, -0.018396924377, 0.034304539481],
    [0.127249193627, -0.119876462458, 0.056134974859, -0.063507706027],
    [0.036335335753, -0.132242932791, 0.031001998545, 0.064905598493],
    [0.044924308927, 0.042739865890, -0.154787358717, 0.067123183900],
    [0.117637957964, -0.085296024929, -0.033818737423, 0.001476804388],
    [-0.051344956027, 0.043123438752, -0.006455922895, 0.014677440170],
    [0.058613514677, -0.029017478247, -0.023794848272, -0.005801188157],
    [-0.004855872156, 0.103125237036, -0.152866188644, 0.054596823764],
]
LAST_EDGE_AFTER = [-7.623754686062e-01, -1.654460251049e-01, 5.084940452305e-01, 9.439454269317e-01]
WEIGHTS_MOVED, AUXILIARY_MOVED = -0.0430612228778359, -0.016493658248118027


def test_two_steps_are_those_of_the_released_code(run_search):
    filled = Filled()
    experiment = run_search(
        small_space(), DARTSMinus(), epochs=2, batch_size=4, precision="64-true", callbacks=[filled]
    )
    assert max(filled.differences([FIRST_GRADIENT, SECOND_GRADIENT])) < 1e-10
    assert filled.architecture.alphas["reduce/2->3"].tolist() == pytest.approx(LAST_EDGE_AFTER, abs=1e-10)
    assert filled.moved(filled.weights) == pytest.approx(WEIGHTS_MOVED, abs=1e-10)
    assert filled.moved(filled.companions) == pytest.approx(AUXILIARY_MOVED, abs=1e-10)
    (sample,) = experiment.export_top_models(formatter="dict")
    assert [set(cell) for cell in Genotype.from_sample(sample, 3).cells] == [CELL, CELL]


def test_it_has_the_settings_of_the_released_code():
    strategy = DARTSMinus()
    optimizer = strategy.composition.optimizer([torch.zeros(1, requires_grad=True)])
    assert isinstance(optimizer, torch.optim.Adam)
    settings = {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")}
    assert settings == {"lr": 3e-4, "betas": (0.5, 0.999), "weight_decay": 1e-3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -1.0}, "beta: -1.0 should be at least 0"),
        ({"decay": "slow"}, "decay: 'slow' should be linear or cosine"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DARTSMinus(**settings)


@pytest.mark.parametrize(("decay", "halfway", "late"), [("linear", 0.5, 0.25), ("cosine", 0.5, 0.1464466)])
def test_beta_decays_over_the_epochs(decay, halfway, late):
    strategy = DARTSMinus(beta=2.0, decay=decay)
    architecture = strategy.architecture
    skip = auxiliary_skip(2.0, decay)({"skip_connect": torch.nn.Identity()}, architecture)
    for epoch, share in ((0, 1.0), (4, halfway), (6, late)):
        architecture.step = Step(epoch=epoch, epochs=8)
        assert skip(torch.ones(1)).item() == pytest.approx(2.0 * share)


def test_edges_without_a_skip_connection_have_no_auxiliary_one():
    strategy = DARTSMinus()
    model = strategy.mutate_model(DartsSpace(channels=4, layers=3, nodes=2, operations=OPERATIONS[1:]))
    assert not any(isinstance(module, AuxiliarySkip) for module in model.modules())


def test_a_derived_path_has_no_auxiliary_skip_connections():
    plain = DifferentiableStrategy(relaxation=EveryEdge(softmax), optimizer=adam(0.0, 0.0, (0.5, 0.999)))
    strategy, outputs = DARTSMinus(), []
    for each in (plain, strategy):
        model = each.mutate_model(small_space()).eval()
        each.architecture.step = Step(epochs=2)
        each.architecture.plan = argmax({edge: torch.arange(4.0) % 3 for edge in each.architecture.alphas})
        with torch.no_grad():
            names = [name for name, _ in model.named_parameters() if "companions" not in name]
            for index, name in enumerate(names):
                weight = model.get_parameter(name)
                weight.copy_(wave(weight.shape, index))
        outputs.append(model(torch.ones(2, 3, 8, 8)))
    assert torch.equal(*outputs)


def test_an_auxiliary_skip_connection_has_its_own_weights():
    cells = [module for module in DARTSMinus().mutate_model(small_space()).modules() if isinstance(module, MixedCell)]
    for key in ("0->2", "1->2", "0->3", "1->3"):
        skip, auxiliary = cells[1].operations[key][0], cells[1].companions[key].skip
        assert skip.conv_1.weight.shape == auxiliary.conv_1.weight.shape
        assert not torch.equal(skip.conv_1.weight, auxiliary.conv_1.weight)


class RunningSkips(Filled):
    """Note the edges whose auxiliary skip connections run in a step."""

    def on_train_start(self, trainer, searching):
        super().on_train_start(trainer, searching)
        self.run, self.by_step = set(), []
        for cell in (module for module in searching.model.modules() if isinstance(module, MixedCell)):
            for key, companion in cell.companions.items():
                edge = f"{cell.label}/{key}"
                companion.register_forward_hook(lambda *_, edge=edge: self.run.add(edge))

    def on_train_batch_start(self, *_):
        self.run.clear()

    def on_train_batch_end(self, *args):
        super().on_train_batch_end(*args)
        self.by_step.append(set(self.run))


def test_it_also_fades_beside_the_sampled_edges_of_edas(run_search):
    """No paper combines the two: the one relaxed edge of an iteration has the auxiliary skip connection, no other."""
    strategy = DifferentiableStrategy(
        relaxation=SampledEdges(policy("cyclic", seed=0, count=1)),
        optimizer=adam(0.025, 0.0, (0.5, 0.999)),
        companion=auxiliary_skip(),
    )
    skips = RunningSkips()
    run_search(small_space(), strategy, epochs=3, batch_size=4, precision="64-true", callbacks=[skips])
    relaxed = [{edge for edge, gradient in step.items() if gradient is not None} for step in skips.gradients]
    assert skips.by_step[1:] == relaxed[1:]  # before the first step all candidates are tried
    assert [len(edges) for edges in relaxed] == [1, 1, 1]
