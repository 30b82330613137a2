"""The strategy DrNAS, compared with its released code."""

import re
from itertools import pairwise

import pytest
import torch
from pytorch_lightning import Callback
from released_steps import CELL, OPERATIONS, Filled, one_batch, small_space, wave
from torch.distributions import Dirichlet
from torch.nn.functional import elu

from nas_plugins import DartsSpace, Genotype
from strategies.dirichlet import DirichletEdges
from strategies.dr_nas import DrNAS
from strategies.noise import generator
from strategies.relaxation import Step
from strategies.supernet.widening import Widening, widen


@pytest.fixture
def images():
    return one_batch()


@pytest.fixture
def samples_by_formula(monkeypatch):
    """Let every sample be given by a formula, so that no number depends on a generator; its gradient is PyTorch's."""
    calls = iter(range(10**6))

    def sample(concentration, generator=None):
        forward, edge = divmod(next(calls), 10)
        weights = 1.1 + wave(concentration.shape, 2.0 * edge + 5.0 * forward)
        return weights / weights.sum()

    monkeypatch.setattr(torch, "_sample_dirichlet", sample)


# Of their commit f2caa4d, the DARTS space: the gradients of two steps, for candidates in the order of OPERATIONS; α of
# the last edge and the move of the weights afterwards.
L2 = {
    "gradients": [
        [
            [-0.427857027424, 0.218422912568, 0.025611845538],
            [-0.124228510564, 0.149736550568, -0.008429826876],
            [0.233709299638, -0.352178637343, -0.073354887106],
            [0.138624252606, 0.205981655093, -0.284514763919],
            [0.098821604143, 0.261154274077, -0.425294083384],
            [-0.126530050589, 0.005363858143, 0.157599232213],
            [0.022462252255, -0.081378353922, 0.066100875013],
            [-0.008768387267, -0.083650391055, 0.095757123438],
            [0.033741418879, -0.010289409524, -0.059114106339],
            [-0.108278750652, -0.132624342226, 0.134192792929],
        ],
        [
            [-0.042224962481, 0.090188724067, -0.024367619179],
            [-0.021933633794, 0.247069366868, -0.224334160927],
            [0.069392541474, -0.175293199243, 0.084325195685],
            [0.092694935498, -0.175475154493, 0.051076182590],
            [0.022696201111, 0.124610141817, -0.103098597025],
            [-0.020670157604, 0.128613907209, -0.116480218414],
            [0.053093587522, -0.094337742771, 0.016389898258],
            [0.005525702431, 0.141986085294, -0.089803349533],
            [0.003336355158, -0.082558162332, 0.088041377767],
            [0.014278516987, -0.057597449036, 0.041952981758],
        ],
    ],
    "last_edge": [-7.615780064338e-01, -1.650616280791e-01, 5.081415060847e-01],
    "moved": 0.02992142408141544,
}
KL = {  # with k=2, reg_type="kl", reg_scale=1e-2
    "gradients": [
        [
            [0.271734806539, -0.134091872271, -0.018292209900],
            [-0.140026952631, 0.114664896702, 0.080712840258],
            [-0.275957413509, 0.012307056905, 0.279628476022],
            [0.411169030074, 0.018103992281, -0.321061707044],
            [0.427085016056, -0.316063146830, -0.256736691676],
            [-0.022979856854, -0.015984076466, 0.043931556730],
            [-0.046286171301, -0.045393491989, 0.084150644817],
            [0.096725465428, -0.154369727805, 0.034944230723],
            [-0.057767907435, 0.109034386658, -0.063798352934],
            [-0.088594984936, -0.170140082852, 0.146310825618],
        ],
        [
            [-0.057082784825, 0.098074079112, -0.014695363527],
            [0.041771677878, -0.053962883763, 0.025135804495],
            [0.195661913320, -0.136789068863, -0.124407302572],
            [0.059198597952, -0.075237686944, -0.048401712324],
            [-0.134956420440, 0.122548045095, -0.022214061947],
            [0.059941240507, -0.048057831118, 0.003509782893],
            [0.044606779943, -0.060497199311, -0.020232166806],
            [0.022744741539, -0.065357886121, 0.015384775053],
            [-0.009517351998, 0.015109599051, -0.030746453988],
            [0.029190425164, -0.042280827730, -0.034995583071],
        ],
    ],
    "last_edge": [-7.612919505294e-01, -1.645931639229e-01, 5.079179415355e-01],
    "moved": -0.09473981278810126,
}


@pytest.mark.parametrize(
    ("settings", "released"),
    [({}, L2), ({"partial_channels": 2, "reg_type": "kl", "reg_scale": 1e-2, "learning_rate": 6e-4}, KL)],
    ids=["l2", "kl, partial channels"],
)
def test_two_steps_are_those_of_the_released_code(run_search, samples_by_formula, settings, released):
    filled = Filled()
    strategy = DrNAS(**settings)
    experiment = run_search(small_space(), strategy, epochs=2, batch_size=4, precision="64-true", callbacks=[filled])
    assert max(filled.differences(released["gradients"])) < 1e-10
    assert filled.architecture.alphas["reduce/2->3"].tolist() == pytest.approx(released["last_edge"], abs=1e-10)
    assert filled.moved(filled.weights) == pytest.approx(released["moved"], abs=1e-10)
    (sample,) = experiment.export_top_models(formatter="dict")
    assert [set(cell) for cell in Genotype.from_sample(sample, 3).cells] == [CELL, CELL]


def test_it_has_the_settings_of_the_released_code():
    for strategy, decay in ((DrNAS(), 1e-3), (DrNAS(reg_type="kl"), 0.0)):
        optimizer = strategy.composition.optimizer([torch.zeros(1, requires_grad=True)])
        assert isinstance(optimizer, torch.optim.Adam)
        settings = {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")}
        assert settings == {"lr": 3e-4, "betas": (0.5, 0.999), "weight_decay": decay}
    strategy.mutate_model(small_space())
    assert all(names == OPERATIONS for names in strategy.architecture.candidates.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reg_type": "l1"}, "reg_type: 'l1' should be l2 or kl"),
        ({"reg_scale": -1.0}, "reg_scale: -1.0 should be at least 0"),
        ({"keep": 0}, "keep: 0 should be at least 1, or null for all candidates"),
        (
            {"partial_channels": 4, "wider_partial_channels": 4},
            "wider_partial_channels: 4 should be from 1 to below partial_channels, 4",
        ),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DrNAS(**settings)


# Samples

ALPHAS = {"a": torch.tensor([0.5, -1.0, 0.0]), "b": torch.tensor([2.0, -3.0])}


def test_a_sample_is_that_of_pytorchs_distribution_and_so_is_its_gradient():
    alphas = {edge: alpha.double().requires_grad_() for edge, alpha in ALPHAS.items()}
    step = Step(iteration=3)
    torch.manual_seed(generator(7, step, "architecture").initial_seed())
    expected = [Dirichlet(elu(alpha) + 1).rsample() for alpha in alphas.values()]
    plan = DirichletEdges(7).architecture(alphas, step)
    assert all(torch.equal(sample, each) for sample, each in zip(plan.values(), expected, strict=True))
    gradients = [
        torch.autograd.grad(sum(each.square().sum() for each in samples), alphas.values())
        for samples in (plan.values(), expected)
    ]
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_samples_depend_on_seed_iteration_and_kind_of_step_alone():
    def sample(seed=0, iteration=0, kind="architecture", dtype=torch.float64):
        alphas = {edge: alpha.to(dtype) for edge, alpha in ALPHAS.items()}
        return torch.cat([*getattr(DirichletEdges(seed), kind)(alphas, Step(iteration)).values()])

    before = torch.get_rng_state()
    first = sample()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(sample(), first)
    assert sample(dtype=torch.float32).dtype == torch.float32
    assert torch.allclose(sample(dtype=torch.float32).double(), first, atol=1e-6)
    for other in (sample(seed=1), sample(iteration=1), sample(kind="weights")):
        assert not torch.allclose(other, first, atol=1e-3)


def test_the_supernet_is_validated_with_the_mean_of_the_distribution():
    mean = torch.cat([*DirichletEdges(0).evaluation(ALPHAS).values()])
    samples = [torch.cat([*DirichletEdges(0).weights(ALPHAS, Step(i)).values()]) for i in range(1000)]
    assert torch.allclose(torch.stack(samples).mean(0), mean, atol=0.04)


# Pruning


def test_each_edge_keeps_its_strongest_candidates_in_the_second_half(run_search):
    class Record(Callback):
        tables, alphas = [], []

        def on_train_start(self, trainer, searching):
            self.alphas.append(torch.cat([alpha.detach() for alpha in searching.architecture.alphas.values()]))

        def on_train_epoch_end(self, trainer, searching):
            self.tables.append(searching.architecture.table())
            self.on_train_start(trainer, searching)

    record = Record()
    strategy = DrNAS(keep=2, warmup_epochs=1, alpha_scale=1.0, seed=0)
    experiment = run_search(small_space(), strategy, epochs=5, batch_size=4, precision="64-true", callbacks=[record])
    tables, alphas = record.tables, record.alphas
    assert [{len(edge) for edge in table.values()} for table in tables] == [{3}, {3}, {3}, {2}, {2}]
    for edge, before in tables[2].items():
        assert set(tables[3][edge]) == set(sorted(before, key=before.get)[1:])
    # Weights only: in the first epoch, and in the first with the remaining candidates.
    assert [not torch.equal(*pair) for pair in pairwise(alphas)] == [False, True, True, False, True]
    (sample,) = experiment.export_top_models(formatter="dict")
    assert small_space().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


# More channels

WIDER = {
    "gradients": [
        [
            [-0.077214894616, 0.058712290732, -0.011170731584],
            [-0.031843384232, 0.032038376070, 0.007865281545],
            [0.001461129810, 0.026805865484, -0.014951231367],
            [-0.010362336779, 0.002674811176, 0.004709383069],
            [-0.007320995926, 0.042638088860, -0.037167443178],
            [-0.010022765692, 0.008366939181, 0.005771334105],
            [-0.025382709381, -0.008977024745, 0.029053383489],
            [-0.021021883212, 0.045976069608, -0.022961465315],
            [0.025403833221, -0.012581877140, -0.037666256986],
            [0.165208143540, 0.032447560148, -0.098079818334],
        ],
        [
            [0.050841414022, -0.051343754059, -0.016531114391],
            [0.055363892737, -0.089257971941, 0.047879805447],
            [-0.007565482175, -0.001195603240, 0.010900282457],
            [0.060099584823, -0.049627928400, -0.055846204324],
            [0.076538687785, -0.000797219441, -0.040259871131],
            [-0.078323422594, 0.103858511420, -0.044359168489],
            [0.044971476223, -0.061402519686, -0.028663525360],
            [-0.030553098827, -0.139083895418, 0.098773573651],
            [0.022724835726, -0.036098230637, 0.016701324469],
            [-0.004917774232, -0.043850315942, 0.065623048928],
        ],
    ],
    "last_edge": [-7.624151900884e-01, -1.657597460297e-01, 5.089198360718e-01],
    "checksum": 956.0721788796826,
}
"""Of the same commit: the gradients of two steps, the model widened from K = 4 to 2 between them."""


class FilledStages(Filled):
    """The weights of the first half of the search, in the order of the released code."""

    def on_train_start(self, trainer, searching):
        super().on_train_start(trainer, searching)
        named = dict(searching.model.named_parameters())
        self.weights = [weight for name, weight in named.items() if "stages.1" not in name]
        self.later = [named[name.replace("stages.0", "stages.1")] for name in named if "stages.1" not in name]
        with torch.no_grad():
            for index, weight in enumerate(self.weights):
                weight.copy_(0.3 * wave(weight.shape, index) + (index == 1))


def test_a_step_with_more_channels_is_that_of_the_released_code(run_search, samples_by_formula, monkeypatch):
    monkeypatch.setattr(torch, "randint", lambda high, size, generator: (3 * torch.arange(*size) + 1) % high)
    filled, space = FilledStages(), DartsSpace(channels=8, layers=3, nodes=2, operations=OPERATIONS)
    strategy = DrNAS(partial_channels=4, wider_partial_channels=2, seed=0)
    run_search(space, strategy, epochs=2, batch_size=4, precision="64-true", callbacks=[filled])
    assert max(filled.differences(WIDER["gradients"])) < 1e-10
    assert filled.architecture.alphas["reduce/2->3"].tolist() == pytest.approx(WIDER["last_edge"], abs=1e-10)
    checksum = sum((weight * wave(weight.shape, index)).sum().item() for index, weight in enumerate(filled.later))
    assert checksum == pytest.approx(WIDER["checksum"], abs=1e-9)


def test_the_momentum_of_a_weight_is_repeated_with_it():
    strategy = DrNAS(partial_channels=2, wider_partial_channels=1, seed=0)
    model = strategy.mutate_model(small_space())
    first, second = (next(m for m in model.modules() if isinstance(m, Widening) and [*m.parameters()])).stages
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for weight in first.parameters():
        weight.grad = weight.detach().clone()
    optimizer.step()  # the momentum of a weight is its old value
    momentum = {weight: optimizer.state[weight]["momentum_buffer"] for weight in first.parameters()}
    assert all(torch.allclose(weight, 0.9 * momentum[weight]) for weight in momentum)
    widen(model, [optimizer], 0, Step())
    for weight, before in zip(second.parameters(), momentum, strict=True):
        assert torch.equal(weight[tuple(map(slice, before.shape))], before)
        assert torch.allclose(weight, 0.9 * optimizer.state[weight]["momentum_buffer"])
