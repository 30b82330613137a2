"""The strategy D-DARTS, through NNI's experiment."""

import math
import re

import pandas as pd
import pytest
import torch
import yaml
from pytorch_lightning.callbacks import Callback
from small_searches import FEW, CountedBatches, HubDarts

from nas_plugins import DDARTS, DartsSpace, DDartsSpace, FineTunedDartsSpace
from nas_plugins.cli import main
from strategies.base import cosine


def small_space():
    return DDartsSpace(channels=2, layers=3, nodes=2, operations=FEW)


class Kept(Callback):
    """The optimizers of α, their learning rates, and the logged metrics."""

    def on_train_start(self, trainer, module):
        self.optimizers = [o for o in trainer.optimizers if getattr(o, "is_arch_optimizer", False)]
        self.rates = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.rates.append([group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups])

    def on_train_end(self, trainer, module):
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.module = module


SPACES = {
    "a cell a layer": small_space,
    "shared cells": lambda: DartsSpace(channels=2, layers=3, nodes=2, operations=FEW),
    "attention after each cell": lambda: FineTunedDartsSpace(channels=2, layers=3, nodes=2, operations=FEW),
}


@pytest.mark.parametrize(
    ("space", "settings"),
    [
        ("a cell a layer", {}),
        ("a cell a layer", {"ablation_mode": "skip", "ablation_gradient": True}),
        ("shared cells", {"ablation_gradient": True}),
        ("attention after each cell", {"ablation_mode": "skip"}),
    ],
    ids=str,
)
def test_it_searches_chains_of_cells_and_its_sample_freezes_the_space(run_search, space, settings):
    make = SPACES[space]
    (sample,) = run_search(make(), DDARTS(**settings), batch_size=16).export_top_models(formatter="dict")
    assert make().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("derivation", ["darts", "sparse", "edge"])
@pytest.mark.filterwarnings("ignore:.*derived as 'darts'")
def test_every_derivation_is_a_point_of_the_space(run_search, derivation):
    strategy = DDARTS(derivation=derivation, threshold=0.55, learning_rate=0.5)
    (sample,) = run_search(small_space(), strategy, batch_size=16).export_top_models(formatter="dict")
    assert small_space().contains(sample)
    genotype = small_space().genotype(sample)
    assert genotype.to_sample() == sample
    counts = {"darts": [4] * 3}.get(derivation) or [len(genotype.existing_edges(cell)) for cell in genotype.cells]
    network = small_space().freeze(sample)
    assert [len(cell.edges) for cell in network.cells] == counts
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_every_cell_has_its_own_optimizer_and_schedule_with_the_settings_of_the_released_code(run_search):
    kept, strategy = Kept(), DDARTS()
    run_search(small_space(), strategy, callbacks=[kept], epochs=4, batch_size=32)
    names = {id(alpha): edge for edge, alpha in strategy.architecture.alphas.items()}
    held = [
        {names[id(alpha)].partition("/")[0] for group in optimizer.param_groups for alpha in group["params"]}
        for optimizer in kept.optimizers
    ]
    assert held == [{"cell_0"}, {"cell_1"}, {"cell_2"}]
    for optimizer in kept.optimizers:
        assert isinstance(optimizer, torch.optim.Adam)
        assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
            "lr": 3e-3,
            "betas": (0.9, 0.999),
            "weight_decay": 1e-3,
        }
    # The cosine schedule of PyTorch.
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4, eta_min=1e-3)
    assert len(kept.rates) == 4
    for rates in kept.rates:
        assert rates == pytest.approx([optimizer.param_groups[0]["lr"]] * 3)
        optimizer.step()
        schedule.step()


def test_alpha_starts_from_zero():
    strategy = DDARTS()
    strategy.mutate_model(small_space())
    assert all((alpha == 0).all() for alpha in strategy.architecture.alphas.values())


def test_a_cosine_goes_from_the_first_learning_rate_to_the_last():
    schedule = cosine(0.001)
    assert [schedule(0.003, done) for done in (0.0, 0.5, 1.0)] == pytest.approx([0.003, 0.002, 0.001])
    assert schedule(0.003, 0.25) == pytest.approx(0.002 + 0.001 * math.cos(math.pi / 4))


def test_layers_that_share_a_cell_share_its_optimizer(run_search):
    kept = Kept()
    run_search(DartsSpace(channels=2, layers=4, nodes=1, operations=FEW), DDARTS(), callbacks=[kept], batch_size=32)
    assert len(kept.optimizers) == 2


def test_contributions_are_logged(run_search):
    kept = Kept()
    run_search(small_space(), DDARTS(), batch_size=8, callbacks=[kept])
    found = {name: value for name, value in kept.metrics.items() if name.startswith("contribution/")}
    assert list(found) == ["contribution/cell_0", "contribution/cell_1", "contribution/cell_2"]
    assert all(math.isfinite(value) and value != 0 for value in found.values())


def test_contributions_leave_no_trace_in_the_batch_statistics(run_search):
    counted = CountedBatches()
    run_search(small_space(), DDARTS(), batch_size=8, callbacks=[counted])
    assert counted.counts() == {8}  # four batches, each with an architecture step and a weight step


class CountedPasses(Callback):
    """The number of passes of the first cell in each step."""

    def on_train_start(self, trainer, module):
        self.steps, self.passes = [], 0
        module.model.network.cells[-1].register_forward_hook(lambda *args: setattr(self, "passes", self.passes + 1))

    def on_train_batch_start(self, *args):
        self.passes = 0

    def on_train_batch_end(self, *args):
        self.steps.append(self.passes)


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({}, [2 + 3, 2, 2, 2]),  # the first batch of an epoch, and every 50th
        ({"contribution_interval": 2}, [2 + 3, 2, 2 + 3, 2]),
        ({"w_abl": 0.0}, [2, 2, 2, 2]),
    ],
    ids=str,
)
def test_contributions_that_move_no_alpha_are_measured_on_some_batches(run_search, settings, passes):
    counted, strategy = CountedPasses(), DDARTS(**settings)
    run_search(small_space(), strategy, epochs=2, batch_size=8, callbacks=[counted])
    assert counted.steps == 2 * passes


def test_with_its_gradient_every_step_measures_them(run_search):
    logged = [alphas_after(run_search, ablation_gradient=True, contribution_interval=n) for n in (1, 50)]
    assert torch.equal(*logged)


def alphas_after(run_search, **settings):
    torch.manual_seed(3)
    strategy = DDARTS(**settings)
    run_search(DDartsSpace(channels=2, layers=3, nodes=1, operations=FEW), strategy, batch_size=16)
    return torch.cat([alpha.detach() for alpha in strategy.architecture.alphas.values()])


def test_the_ablation_loss_moves_alpha_with_its_gradient_alone(run_search):
    plain = alphas_after(run_search, w_abl=0.0)
    assert torch.equal(alphas_after(run_search, w_abl=0.5), plain)
    assert torch.equal(alphas_after(run_search, w_abl=0.5, ablation_mode="skip"), plain)
    assert not torch.equal(alphas_after(run_search, w_abl=0.5, ablation_gradient=True), plain)


def test_the_same_seed_gives_the_same_alpha_bit_for_bit(run_search):
    first, second = (alphas_after(run_search, ablation_gradient=True) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, alphas_after(run_search, ablation_gradient=True, seed=99))


def test_a_space_that_is_no_chain_of_cells_is_refused_before_the_search():
    with pytest.raises(ValueError, match="needs a chain of searched cells.* HubDarts is none, .* with w_abl=0"):
        DDARTS().mutate_model(HubDarts(width=2, num_cells=3, dataset="cifar"))


def test_without_the_ablation_loss_it_searches_any_space(run_search):
    def space():
        return HubDarts(width=2, num_cells=3, dataset="cifar")

    (sample,) = run_search(space(), DDARTS(w_abl=0.0), batch_size=32).export_top_models(formatter="dict")
    assert space().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"w_abl": -0.5}, "w_abl: -0.5 should be at least 0"),
        ({"w_01": -1.0}, "w_01: -1.0 should be at least 0"),
        ({"ablation_mode": "none"}, "ablation_mode: 'none' should be one of random, skip"),
        ({"derivation": "best"}, "method: 'best' should be"),
        ({"min_learning_rate": -1.0}, "min_learning_rate: -1.0 should be at least 0"),
        ({"contribution_interval": 0}, "contribution_interval: 0 should be at least 1"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        DDARTS(**settings)


# A run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A search of three epochs with its report; the first epoch only trains weights."""
    folder = tmp_path_factory.mktemp("run")
    config = {
        "space": {"name": "DDartsSpace", "channels": 2, "layers": 3, "nodes": 2, "operations": list(FEW)},
        "strategy": {"name": "DDARTS", "warmup_epochs": 1},
        "data": {"dataset": "digits", "train_images": 60, "test_images": 40, "batch_size": 30},
        "training": {"epochs": 3},
        "compute": {"accelerator": "cpu", "threads": 1},
    }
    (folder / "search.yaml").write_text(yaml.safe_dump(config))
    assert main(["search", "--config", str(folder / "search.yaml"), "--output", str(folder / "run")]) == 0
    assert main(["report", str(folder / "run")]) == 0
    return folder / "run"


def test_a_run_has_a_table_of_contributions(run):
    table = pd.read_csv(run / "contributions.csv")
    assert list(table.columns) == ["epoch", "cell", "contribution"]
    assert list(table["cell"]) == ["cell_0", "cell_1", "cell_2"] * 2
    assert list(table["epoch"]) == [1] * 3 + [2] * 3  # the first epoch has no architecture steps


def test_its_report_shows_them(run):
    assert (run / "contributions.png").stat().st_size > 5000
    assert "Marginal contributions" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["darts", "edge"])
def test_other_genotypes_are_derived_from_it(run, tmp_path, method):
    threshold = [] if method == "darts" else ["--threshold", "0.4"]
    options = ["--method", method, *threshold, "--output", str(tmp_path / "genotype.json")]
    assert main(["derive", str(run), *options]) == 0
    found = yaml.safe_load((tmp_path / "genotype.json").read_text())
    assert found["layout"] == [0, 1, 2] and found["reductions"] == [1, 2]
