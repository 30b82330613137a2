"""The strategy DARTS, through NNI's experiment."""

import re
from functools import partial

import pytest
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from pytorch_lightning.callbacks import Callback
from small_searches import FEW, CountedBatches, HubDarts
from torch.func import functional_call
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from nas_plugins import DARTS, DartsSpace, Genotype
from strategies.base import Composition, DifferentiableStrategy
from strategies.bilevel import first_order, second_order
from strategies.bn_statistics import use_bn_stats
from strategies.relaxation import EveryEdge, softmax


def small_space():
    return DartsSpace(channels=2, layers=3, nodes=2, operations=FEW)


class Kept(Callback):
    """The state of the module at the end of training, and the logged metrics."""

    def on_train_end(self, trainer, module):
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.module = module


# test_matrix.py runs the first and the second order on all spaces.
@pytest.mark.parametrize(
    "space", [small_space, lambda: HubDarts(width=2, num_cells=3, dataset="cifar")], ids=["ours", "hub"]
)
def test_with_one_level_it_searches_and_its_sample_freezes_the_space(run_search, space):
    (sample,) = run_search(space(), DARTS("one-level")).export_top_models(formatter="dict")
    network = space().freeze(sample)
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    assert Genotype.from_sample(sample, layers=3).to_sample() == sample


@pytest.mark.parametrize("order", ["one-level", "first", "second"])
def test_recomputing_finds_the_same_bit_for_bit(run_search, order):
    found = []
    for recompute in (False, True):
        torch.manual_seed(3)
        strategy = DARTS(order, recompute=recompute)
        run_search(small_space(), strategy)
        found.append(strategy.architecture.alphas)
    assert all(torch.equal(found[0][edge], found[1][edge]) for edge in found[0])


def test_it_has_the_settings_of_the_paper():
    strategy = DARTS()
    optimizer = strategy.composition.optimizer([torch.zeros(1, requires_grad=True)])
    assert isinstance(optimizer, torch.optim.Adam)
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": 3e-4,
        "betas": (0.5, 0.999),
        "weight_decay": 1e-3,
    }
    assert strategy.composition.gradient_clip_val == 5.0
    assert strategy.composition.none
    assert strategy.composition.gradient is first_order


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "third"}, "order: 'third' should be one of one-level, first, second"),
        ({"order": 2}, "order: 2 should be one of"),
        ({"xi": 0.1}, "xi: 0.1 should be null: order 'first' has no virtual step"),
        ({"order": "second", "xi": -1.0}, "xi: -1.0 should be at least 0"),
        ({"order": "second", "epsilon": 0.0}, "epsilon: 0.0 should be above 0"),
        ({"alpha_scale": -1.0}, "alpha_scale: -1.0 should be at least 0"),
        ({"warmup_epochs": -1}, "warmup_epochs: -1 should be at least 0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        DARTS(**settings)


def test_alpha_can_start_from_zeros():
    """Reproduces section 4.2 of the course project."""
    strategy = DARTS(alpha_scale=0.0)
    strategy.mutate_model(small_space())
    assert all((alpha == 0).all() for alpha in strategy.architecture.alphas.values())


def test_one_step_is_the_equation_computed_by_hand(run_search, images):
    """An Adam step of α on the validation batch, then an SGD step of the weights with the new α."""
    strategy, twin = DARTS(learning_rate=0.1, gradient_clip_val=None), DARTS()
    torch.manual_seed(7)
    model = twin.mutate_model(small_space()).double()
    architecture = twin.architecture.double()
    x, y = images[:][0].double(), images[:][1]  # both loaders yield all images in order

    alphas = architecture.alphas
    architecture.plan = softmax(alphas)
    gradients = torch.autograd.grad(functional.cross_entropy(model(x), y), list(alphas.values()))
    by_hand = {}
    for (edge, alpha), gradient in zip(alphas.items(), gradients, strict=True):
        gradient = gradient + 1e-3 * alpha.detach()
        # The first step of Adam is the learning rate times the sign of the gradient, up to ε = 1e-8.
        by_hand[edge] = alpha.detach() - 0.1 * gradient / (gradient.abs() + 1e-8)
        alpha.data.copy_(by_hand[edge])
    architecture.plan = softmax({edge: alpha.detach() for edge, alpha in alphas.items()})
    functional.cross_entropy(model(x), y).backward()
    weights = [w if w.grad is None else w - 0.05 * w.grad for w in model.parameters()]

    torch.manual_seed(7)
    kept = Kept()
    run_search(small_space(), strategy, batch_size=32, callbacks=[kept], precision="64-true")
    for edge, alpha in strategy.architecture.alphas.items():
        assert torch.allclose(alpha, by_hand[edge], atol=1e-9), edge
    for mine, expected in zip(kept.module.model.parameters(), weights, strict=True):
        assert torch.allclose(mine, expected, atol=1e-9)


def plain_descent(gradient):
    """Plain gradient descent for α: unlike Adam's, its steps show the size of a gradient."""
    optimizer = partial(torch.optim.SGD, lr=50.0)
    return DifferentiableStrategy(Composition(EveryEdge(softmax), optimizer, gradient=gradient, gradient_clip_val=None))


def twin_of_a_search():
    """Return the initial supernet of a search with the same seed, in float64, and its architecture."""
    twin = plain_descent(None)
    torch.manual_seed(7)
    return twin.mutate_model(small_space()).double(), twin.architecture.double()


def run_one_step(run_search, gradient):
    """Take one step on one batch of all images, and return the module and its α."""
    strategy, kept = plain_descent(gradient), Kept()
    torch.manual_seed(7)
    run_search(small_space(), strategy, batch_size=32, callbacks=[kept], precision="64-true")
    return kept.module.model, strategy.architecture.alphas


def test_a_step_of_second_order_is_the_equation_by_automatic_differentiation(run_search, images):
    model, architecture = twin_of_a_search()
    alphas, x, y = architecture.alphas, images[:][0].double(), images[:][1]
    architecture.plan = softmax(alphas)
    weights = dict(model.named_parameters())
    gradients = torch.autograd.grad(functional.cross_entropy(model(x), y), list(weights.values()), create_graph=True)
    virtual = {name: w - 0.05 * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
    loss = functional.cross_entropy(functional_call(model, virtual, x), y)
    exact = torch.autograd.grad(loss, list(alphas.values()), retain_graph=True)
    architecture.plan = softmax(alphas)
    first = torch.autograd.grad(functional.cross_entropy(model(x), y), list(alphas.values()))
    expected = {edge: alpha.detach() - 50 * g for (edge, alpha), g in zip(alphas.items(), exact, strict=True)}

    searched, found = run_one_step(run_search, partial(second_order, epsilon=1e-8))
    for edge, alpha in found.items():
        assert torch.allclose(alpha, expected[edge], rtol=1e-4, atol=1e-7), edge
    # The first order differs, so the comparison above is meaningful.
    assert not all(torch.allclose(a, b, rtol=0.05) for a, b in zip(exact, first, strict=True))

    # The weight step starts from the restored weights, with the new α.
    architecture.plan = softmax(expected)
    for name, w in model.named_parameters():
        (gradient,) = torch.autograd.grad(functional.cross_entropy(model(x), y), [w], allow_unused=True)
        if name.endswith("stem.layers.0.weight"):
            assert torch.allclose(searched.get_parameter(name), w - 0.05 * gradient, atol=1e-7)
            break
    else:
        raise AssertionError("no such weight")


def test_a_step_of_one_level_moves_alpha_and_weights_by_one_gradient_of_one_loss(run_search, images):
    model, architecture = twin_of_a_search()
    alphas, weights = architecture.alphas, list(model.parameters())
    x, y = images[:][0].double(), images[:][1]
    architecture.plan = softmax(alphas)
    loss = functional.cross_entropy(model(x), y)
    gradients = torch.autograd.grad(loss, [*alphas.values(), *weights], allow_unused=True)
    searched, found = run_one_step(run_search, None)
    for alpha, before, gradient in zip(found.values(), alphas.values(), gradients, strict=False):
        assert torch.allclose(alpha, before - 50 * gradient, atol=1e-12)
    for w, before, gradient in zip(searched.parameters(), weights, gradients[len(alphas) :], strict=True):
        assert torch.allclose(w, before if gradient is None else before - 0.05 * gradient, atol=1e-12)


def test_one_level_draws_no_images_for_the_architecture(images):
    def loader():
        return torch.utils.data.DataLoader(images, batch_size=8)

    pairs = DARTS("one-level").train_dataloader(loader, loader)
    assert [list(batch) for batch, *_ in pairs] == [["train"]] * 4


def test_the_virtual_steps_of_the_second_order_leave_no_trace_in_batch_statistics(run_search):
    counted = CountedBatches()
    run_search(small_space(), DARTS("second"), callbacks=[counted], batch_size=8)
    assert counted.counts() == {4}  # once per weight step


def test_supernet_and_derived_network_are_validated_every_epoch(run_search):
    kept = Kept()
    run_search(small_space(), DARTS(), callbacks=[kept])
    assert {"train_loss", "train_acc", "val_loss", "val_acc", "derived_val_loss", "derived_val_acc"} <= set(
        kept.metrics
    )


def test_the_derived_accuracy_is_that_of_the_derived_operations_on_the_supernets_weights(run_search, images):
    kept = Kept()
    run_search(small_space(), DARTS(), callbacks=[kept], batch_size=32)
    module = kept.module
    module.architecture.plan = module.derived_plan()
    # One batch holds all images, so the measured statistics are those of training mode.
    module.train()
    x, y = images[:]
    accuracy = (module(x).argmax(1) == y).float().mean().item()
    assert kept.metrics["derived_val_acc"] == pytest.approx(accuracy, abs=1.5 / 32)


def test_validation_does_not_depend_on_the_order_of_the_images(run_search):
    """An ordered validation set has batches of one class, which must not be normalized by their own statistics."""

    class Order(Callback):
        def on_validation_epoch_start(self, trainer, module):
            self.module = module

    x, y = torch.randn(32, 3, 8, 8), torch.arange(32) % 2
    x[y == 1] += 1
    order = Order()
    run_search(small_space(), DARTS(), callbacks=[order], epochs=2)
    module = order.module.eval()
    logits = {}
    for prefix, (plan, statistics) in module._validated.items():
        module.architecture.plan = plan
        with torch.no_grad(), use_bn_stats(statistics):
            logits[prefix] = module(x), torch.cat([module(x[y == label]) for label in (0, 1)])
    for together, sorted_by_class in logits.values():
        assert torch.allclose(together[y == 0], sorted_by_class[:16], atol=1e-4)


class Accumulating(LightningModule):
    """An evaluator that logs a torchmetrics object and computes another at the end of the epoch."""

    def __init__(self):
        super().__init__()
        self.accuracy = MulticlassAccuracy(10, average="micro")
        self.at_the_end = MulticlassAccuracy(10, average="micro")
        self.train_accuracy = MulticlassAccuracy(10, average="micro")
        self.collected = []

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.train_accuracy(logits, y)
        self.log("train_by_object", self.train_accuracy, on_step=False, on_epoch=True)
        self.log("train_by_value", (logits.argmax(1) == y).float().mean(), on_step=False, on_epoch=True)
        return functional.cross_entropy(logits, y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.log("by_value", (logits.argmax(1) == y).float().mean(), batch_size=len(y))
        self.accuracy(logits, y)
        self.log("by_object", self.accuracy)
        self.at_the_end.update(logits, y)
        self.collected.append(logits.argmax(1) == y)

    def on_validation_epoch_end(self):
        self.log("by_end", self.at_the_end.compute())
        self.at_the_end.reset()
        self.log("by_list", torch.cat(self.collected).float().mean())
        self.collected.clear()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2)


def run_accumulating(strategy, images, folder, sanity_steps=0):
    """Search for 3 epochs with that evaluator, and return the logged metrics."""
    kept = Kept()
    evaluator = Lightning(
        Accumulating(),
        Trainer(
            max_epochs=3,
            num_sanity_val_steps=sanity_steps,
            callbacks=[kept],
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ),
        train_dataloaders=DataLoader(images, batch_size=8),
        val_dataloaders=DataLoader(images, batch_size=8),
    )
    space = small_space()
    config = NasExperimentConfig.default(space, evaluator, strategy)
    config.experiment_working_directory = folder
    experiment = NasExperiment(space, evaluator, strategy, config)
    experiment.run()
    experiment.stop()
    return kept.metrics


@pytest.mark.parametrize("sanity_steps", [0, 2])
def test_metrics_that_accumulate_do_not_mix_supernet_and_derived_network(images, tmp_path, sanity_steps):
    metrics = run_accumulating(DARTS(learning_rate=0.1), images, tmp_path, sanity_steps)
    assert metrics["by_value"] != metrics["derived_by_value"]
    for prefix in ("", "derived_"):
        assert metrics[f"{prefix}by_object"] == pytest.approx(metrics[f"{prefix}by_value"])
        assert metrics[f"{prefix}by_end"] == pytest.approx(metrics[f"{prefix}by_value"])
        assert metrics[f"{prefix}by_list"] == pytest.approx(metrics[f"{prefix}by_value"])


@pytest.mark.parametrize("order", ["one-level", "first", "second"])
def test_the_training_metric_counts_the_weight_steps_alone(images, tmp_path, order):
    metrics = run_accumulating(DARTS(order, learning_rate=0.1), images, tmp_path)
    assert metrics["train_by_object"] == pytest.approx(metrics["train_by_value"])


def test_warm_up_epochs_leave_alpha_alone(run_search):
    strategy = DARTS(learning_rate=1.0, warmup_epochs=1)
    run_search(small_space(), strategy, epochs=1)
    assert all(alpha.abs().max() < 0.01 for alpha in strategy.architecture.alphas.values())


def test_the_same_seed_gives_the_same_alpha_bit_for_bit(run_search):
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        strategy = DARTS()
        run_search(small_space(), strategy)
        found.append({edge: alpha.detach().clone() for edge, alpha in strategy.architecture.alphas.items()})
    assert all(torch.equal(found[0][edge], found[1][edge]) for edge in found[0])


def test_an_epoch_is_one_pass_over_the_weight_images_whichever_loader_is_longer(images):
    def loader(size):
        return torch.utils.data.DataLoader(images, batch_size=size)

    for train, val in ((4, 8), (8, 4), (8, 8)):
        pairs = DARTS().train_dataloader(lambda size=train: loader(size), lambda size=val: loader(size))
        assert len(list(pairs)) == 32 // train
