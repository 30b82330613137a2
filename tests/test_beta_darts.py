"""The strategy β-DARTS, compared with its released code, and its regularizer with other relaxations."""

import re
from functools import partial

import pytest
import torch
from released_steps import CELL, Filled, one_batch, small_space, wave

from nas_plugins import Genotype
from strategies.base import DifferentiableStrategy
from strategies.beta_darts import BetaDARTS, beta_decay
from strategies.derivation import by_method
from strategies.objective import evaluator_loss, total
from strategies.relaxation import EveryEdge, sigmoid


@pytest.fixture
def images():
    return one_batch()


# Of their commit f307704: the gradients of epochs 0 and 50 of 100, for candidates in the order of OPERATIONS and none.
FIRST_GRADIENT = [
    [-0.172247714685, 0.225271312736, -0.196946215740, 0.143922617689],
    [0.292941046866, -0.274487926266, 0.012377439835, -0.030830560435],
    [0.494482170121, -0.629440778859, 0.148073160776, -0.013114552039],
    [-0.323377415587, 0.423716269097, -0.106680794613, 0.006341941104],
    [-0.008704553218, 0.247564189810, -0.198140548339, -0.040719088253],
    [0.112790690402, -0.222169700690, 0.159771575620, -0.050392565332],
    [-0.005487058157, 0.080391143485, -0.076013415534, 0.001109330205],
    [-0.177146399051, 0.270687694099, -0.086896396625, -0.006644898424],
    [-0.146145416565, 0.143574761814, -0.045669706946, 0.048240361697],
    [-0.005782495954, -0.091955045311, 0.059591379310, 0.038146161955],
]
SECOND_GRADIENT = [
    [0.373069919036, 0.324487699046, 0.918525239568, 0.883917142349],
    [0.754612607227, 1.026208328136, 0.464930224409, 0.254248840228],
    [1.196501007142, 0.735463351748, 0.335156683270, 0.232878957840],
    [0.729195973804, 0.379088836324, 0.563420651144, 0.828294538728],
    [0.257725127023, 0.214378659604, 0.721428907425, 1.306467305949],
    [0.396229072707, 0.699450300572, 0.704521124813, 0.699799501908],
    [0.950922596549, 0.761223037102, 0.572546406854, 0.215307959495],
    [1.165256735729, 0.695928106835, 0.298323914144, 0.340491243292],
    [0.466605829654, 0.356505702998, 0.674348702197, 1.002539765151],
    [0.197350821114, 0.428079752499, 0.636840735425, 1.237728690962],
]
LAST_EDGE_AFTER = [-7.619614957923e-01, -1.655508641157e-01, 5.080666666268e-01, 9.431085784682e-01]
WEIGHTS_MOVED = 0.000687690433969641


def test_two_steps_are_those_of_the_released_code(run_search):
    filled = Filled()
    experiment = run_search(small_space(), BetaDARTS(), epochs=2, batch_size=4, precision="64-true", callbacks=[filled])
    assert max(filled.differences([FIRST_GRADIENT, SECOND_GRADIENT])) < 1e-10
    assert filled.architecture.alphas["reduce/2->3"].tolist() == pytest.approx(LAST_EDGE_AFTER, abs=1e-10)
    assert filled.moved(filled.weights) == pytest.approx(WEIGHTS_MOVED, abs=1e-10)
    (sample,) = experiment.export_top_models(formatter="dict")
    assert [set(cell) for cell in Genotype.from_sample(sample, 3).cells] == [CELL, CELL]


def test_it_has_the_settings_of_the_released_code():
    strategy = BetaDARTS()
    optimizer = strategy.composition.optimizer([torch.zeros(1, requires_grad=True)])
    assert isinstance(optimizer, torch.optim.Adam)
    settings = {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")}
    assert settings == {"lr": 3e-4, "betas": (0.5, 0.999), "weight_decay": 1e-3}
    strategy.mutate_model(small_space())
    assert all(names[-1] == "none" for names in strategy.architecture.candidates.values())


def test_a_negative_weight_is_named():
    with pytest.raises(ValueError, match=f"^{re.escape('weight: -1.0 should be at least 0')}$"):
        BetaDARTS(weight=-1.0)


def test_it_also_holds_back_the_sigmoids_of_fairdarts(run_search):
    """No paper combines the two: candidates that do not compete, and a loss that lowers the strongest of each edge."""

    def search(weight):
        strategy = DifferentiableStrategy(
            relaxation=EveryEdge(sigmoid),
            optimizer=partial(torch.optim.SGD, lr=0.1),
            objective=total(evaluator_loss, beta_decay(weight)),
            derivation=by_method("sparse", 0.0),
            none=False,
        )
        filled = Filled()
        run_search(small_space(), strategy, epochs=2, batch_size=4, precision="64-true", callbacks=[filled])
        return filled

    plain, decayed = search(0.0), search(8.0)
    for index, (edge, gradient) in enumerate(plain.gradients[0].items()):
        assert torch.equal(decayed.gradients[0][edge], gradient)  # the weight of the decay starts at 0
        alpha = wave(gradient.shape, 1.3 * index) - 0.1 * gradient
        decay = 8.0 * 0.5 * alpha.softmax(0) / 10  # half of the epochs are done, and the mean is over 10 edges
        assert torch.allclose(decayed.gradients[1][edge], plain.gradients[1][edge] + decay, rtol=0, atol=1e-12)
