"""The parts of a composition by which methods differ: each is seen to do what its docstring says."""

from functools import partial
from itertools import pairwise

import pytest
import pytorch_lightning as pl
import torch
from nni.mutable import Categorical
from nni.nas.evaluator.pytorch import ClassificationModule, DataLoader, Lightning, Trainer
from nni.nas.experiment import NasExperiment
from nni.nas.hub.pytorch import DARTS as HubDarts
from nni.nas.hub.pytorch import NasBench201
from nni.nas.nn.pytorch import ModelSpace, MutableConv2d
from torch import nn

from nas_plugins import DartsSpace
from search_spaces.edges import NodeName
from strategies.base import DifferentiableStrategy
from strategies.composition import Composition
from strategies.derivation import ByCell, DerivedEdge, by_method, darts, derive_cell, keeps_inputs
from strategies.noise import gumbel, uniform
from strategies.objective import ArchitectureBatch, evaluator_loss, total, zero_one
from strategies.relaxation import EveryEdge, Step, WeightedOps, argmax, softmax
from strategies.supernet.architecture import Architecture
from strategies.supernet.partial_channels import NarrowError, can_narrow, narrow, run_on_part
from strategies.topology import each_input, is_node, pairs_of_inputs, per_input

SGD = partial(torch.optim.SGD, lr=0.1)


def tiny_space(**changes):
    return DartsSpace(**{"channels": 4, "layers": 3, "nodes": 2, **changes})


def strategy(**parts):
    return DifferentiableStrategy(relaxation=EveryEdge(softmax), optimizer=SGD, **parts)


def supernet(space, **parts):
    """A supernet in evaluation mode and float64, and its architecture, whose plan is the softmax of random α."""
    chosen = strategy(alpha_scale=1.0, **parts)
    model = chosen.mutate_model(space).double().eval()
    chosen.architecture.double()
    chosen.architecture.follow(softmax(chosen.architecture.living_alphas()))
    return model, chosen.architecture


def chosen_size():
    """A convolution whose kernel size is searched."""

    class Space(ModelSpace):
        def __init__(self):
            super().__init__()
            self.layer = MutableConv2d(8, 8, Categorical([1, 3], label="size"))

    return Space().layer


class WithMetric(ClassificationModule):
    """Logs a metric of torchmetrics itself, which Lightning accumulates."""

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.metrics["acc"].update(self.model(images), labels)
        self.log("val_acc", self.metrics["acc"])


class Watch(pl.Callback):
    """The weights and α after each step, the plans of the passes, and what is logged."""

    def __init__(self, of):
        self.strategy, self.alphas, self.weights, self.epochs = of, [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if not self.alphas:
            self._note(pl_module)

    def on_train_batch_end(self, trainer, pl_module, *call):
        self._note(pl_module)

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append(trainer.current_epoch)

    def _note(self, module):
        copies = [
            torch.cat([value.detach().flatten().clone() for value in values])
            for values in (self.strategy.architecture.alphas.values(), module.model.parameters())
        ]
        self.alphas.append(copies[0])
        self.weights.append(copies[1])

    def moved(self, values):
        return [not torch.equal(before, after) for before, after in pairwise(values)]


class TestNoise:
    ALPHAS = {"a": torch.zeros(3), "b": torch.zeros(2)}

    def test_it_depends_on_the_seed_the_iteration_and_the_name_alone(self):
        first = uniform(self.ALPHAS, 1, Step(5), "weights")
        torch.rand(7)
        assert all(torch.equal(first[e], uniform(self.ALPHAS, 1, Step(5, 3), "weights")[e]) for e in self.ALPHAS)
        for other in (uniform(self.ALPHAS, 2, Step(5), "weights"), uniform(self.ALPHAS, 1, Step(6), "weights"),
                      uniform(self.ALPHAS, 1, Step(5))):  # fmt: skip
            assert not torch.equal(first["a"], other["a"])

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    def test_gumbel_noise_is_finite_in_every_precision(self, dtype):
        noise = gumbel({"a": torch.zeros(200_000, dtype=dtype)}, 0, Step())["a"]
        assert noise.isfinite().all()
        assert float(noise.double().mean()) == pytest.approx(0.5772, abs=0.05)


class TestWeightedCandidates:
    @pytest.mark.parametrize("space", [tiny_space, partial(NasBench201, stem_out_channels=4, num_modules_per_stack=1)])
    def test_they_are_what_a_relaxed_edge_is_with_the_others_at_zero(self, space):
        model, architecture = supernet(space(), none=False)
        x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
        pairs = {edge: torch.rand(2, dtype=torch.float64) for edge in architecture.alphas}
        architecture.plan = {edge: WeightedOps((1, 3), pair) for edge, pair in pairs.items()}
        chosen = model(x)
        architecture.plan = {
            edge: torch.zeros(len(alpha), dtype=torch.float64).index_put((torch.tensor([1, 3]),), pairs[edge])
            for edge, alpha in architecture.alphas.items()
        }
        torch.testing.assert_close(chosen, model(x))

    def test_only_they_run_and_their_weights_have_gradients(self):
        model, architecture = supernet(tiny_space(), none=False)
        ran = []
        for cell in model.network.cells:
            for operations in cell.operations.values():
                for index, operation in enumerate(operations):
                    operation.register_forward_hook(lambda *call, index=index: ran.append(index))
        weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
        architecture.plan = {edge: WeightedOps((3,), weight) for edge in architecture.alphas}
        model(torch.randn(2, 3, 8, 8, dtype=torch.float64)).square().sum().backward()
        assert set(ran) == {3} and len(ran) == 15  # three cells of five edges
        assert weight.grad.abs() > 0


class TestPartialChannels:
    def test_edges_run_on_the_first_channels_and_these_are_shuffled_with_the_others(self):
        model, architecture = supernet(tiny_space(nodes=1), partial_channels=2, none=False)
        cell = next(module for module in model.modules() if hasattr(module, "node_alphas"))
        assert {m.in_channels for m in cell.operations.modules() if isinstance(m, nn.Conv2d)} == {2}
        x, skip = [torch.randn(2, 4, 8, 8, dtype=torch.float64) for _ in range(2)], torch.eye(7, dtype=torch.float64)[2]
        cell.preprocessor = nn.Identity()
        architecture.plan = {"normal/0->2": 0.25 * skip, "normal/1->2": 0.5 * skip}
        out = cell(*x)
        torch.testing.assert_close(out[:, 0::2], 0.25 * x[0][:, :2] + 0.5 * x[1][:, :2])
        torch.testing.assert_close(out[:, 1::2], x[0][:, 2:] + x[1][:, 2:])
        architecture.plan = {"normal/0->2": (), "normal/1->2": (7,)}  # an edge that is gone, and one that is none
        torch.testing.assert_close(cell(*x)[:, 1::2], x[1][:, 2:])
        assert (cell(*x)[:, 0::2] == 0).all()

    @pytest.mark.parametrize("size", [8, 7])
    def test_an_edge_of_stride_2_pools_the_others(self, size):
        model, _ = supernet(tiny_space(layers=3), partial_channels=2)
        assert model(torch.randn(2, 3, size, size, dtype=torch.float64)).shape == (2, 10)

    @pytest.mark.parametrize(
        "space",
        [
            partial(tiny_space, channels=8),
            partial(HubDarts, width=8, num_cells=3, dataset="cifar"),
            partial(NasBench201, stem_out_channels=8, num_modules_per_stack=1),
        ],
        ids=["ours", "NNI's cells", "layer choices"],
    )
    def test_any_space_is_searched_so_and_frozen_whole(self, run_search, space):
        chosen = strategy(partial_channels=4)
        (sample,) = run_search(space(), chosen, batch_size=16).export_top_models(formatter="dict")
        assert space().freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)

    @pytest.mark.parametrize(
        "candidate",
        [
            nn.MaxPool2d(3, 1, 1),
            nn.Conv2d(8, 8, 3, padding=1, groups=4),
            nn.Conv2d(8, 4, 1),
            nn.Conv2d(6, 6, 1),
            chosen_size(),
            nn.Sequential(nn.Conv2d(8, 8, 1), nn.Linear(8, 8)),
        ],
        ids=["no weights", "groups", "other channels", "not divisible", "a choice inside", "other weights"],
    )
    def test_a_layer_choice_that_cannot_run_on_a_part_runs_whole(self, candidate):
        assert not can_narrow([candidate, nn.Identity()], 4)
        assert can_narrow([nn.Conv2d(8, 8, 3, padding=1), nn.Identity()], 4)

    @pytest.mark.parametrize("convolution", [{"kernel_size": 3}, {"kernel_size": 4, "stride": 4}], ids=str)
    def test_what_is_passed_on_has_the_resolution_of_the_output(self, convolution):
        narrowed = nn.Conv2d(4, 4, **convolution)
        assert run_on_part(narrowed, torch.randn(2, 8, 9, 9), 2).shape[1:2] == (8,)

    def test_channels_that_cannot_be_divided_are_named(self):
        with pytest.raises(NarrowError, match="6 channels of .* are not divisible by 4"):
            strategy(partial_channels=4).mutate_model(tiny_space(channels=6))
        with pytest.raises(NarrowError, match="Linear cannot run on 1/2 of its channels"):
            narrow(nn.Linear(4, 4), 2)
        with pytest.raises(ValueError, match="partial_channels: 0 should be at least 1"):
            Composition(EveryEdge(softmax), SGD, partial_channels=0)


class TestTopology:
    def test_the_factors_weigh_the_inputs_of_a_node(self):
        model, architecture = supernet(tiny_space(nodes=1), topology=each_input, none=False)
        node, _ = (edge for edge in architecture.alphas if is_node(edge))  # of the normal cell
        assert NodeName.parse(node) == ("normal", 2) and architecture.candidates[node] == ("0", "1")
        cell = next(module for module in model.modules() if hasattr(module, "node_alphas"))
        inputs, sides = [torch.randn(2, 12, 8, 8, dtype=torch.float64) for _ in range(2)], []
        plan = dict(architecture.plan)
        for factors in ([1.0, 0.0], [0.0, 1.0], [0.3, 0.7], [1.0, 1.0]):
            architecture.plan = {**plan, node: torch.tensor(factors, dtype=torch.float64)}
            sides.append(cell(*inputs))
        torch.testing.assert_close(sides[2], 0.3 * sides[0] + 0.7 * sides[1])
        del plan[node]
        architecture.plan = plan
        torch.testing.assert_close(sides[3], cell(*inputs))

    def test_a_sampled_or_pruned_node_runs_the_inputs_that_it_has(self):
        model, architecture = supernet(tiny_space(nodes=1), topology=each_input, none=False)
        cell = next(module for module in model.modules() if hasattr(module, "node_alphas"))
        inputs, plan = [torch.randn(2, 12, 8, 8, dtype=torch.float64) for _ in range(2)], dict(architecture.plan)
        factor = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
        architecture.plan = {**plan, "normal/node_2": torch.tensor([0.0, 0.3], dtype=torch.float64)}
        whole = cell(*inputs)
        architecture.plan = {**plan, "normal/node_2": WeightedOps((1,), factor)}
        torch.testing.assert_close(cell(*inputs), whole)
        cell(*inputs).sum().backward()
        assert factor.grad.abs() > 0
        architecture.prune("normal/node_2", keep=[1])
        architecture.follow(softmax(architecture.living_alphas()))
        alone = cell(*inputs)
        architecture.plan = {**plan, "normal/node_2": (1,)}
        torch.testing.assert_close(alone, cell(*inputs))

    def test_a_derivation_by_sigmoids_takes_no_notice_of_the_nodes(self):
        cell, nodes = {(0, 2): {"a": 5.0, "b": 0.0}}, {2: {"0": 1.0}}
        assert [edge.operation for edge in derive_cell(by_method("sparse", 0.9), "normal", cell, nodes)] == ["a"]

    @pytest.mark.parametrize("count", [2, 3, 4, 5])
    def test_the_factor_of_an_input_is_the_sum_of_its_pairs(self, count):
        names = pairs_of_inputs(range(count))
        weights = torch.rand(len(names), dtype=torch.float64)
        by_hand = [sum(w for n, w in zip(names, weights, strict=True) if str(i) in n.split("+")) for i in range(count)]
        torch.testing.assert_close(per_input(weights), torch.stack([torch.as_tensor(value) for value in by_hand]))

    def test_a_derivation_is_given_the_alphas_of_the_nodes(self, run_search):
        seen = []

        @keeps_inputs
        def derivation(cell, nodes, *, inputs=2):
            seen.append((nodes, inputs))
            return darts(cell, inputs=inputs)

        for space in (tiny_space(), HubDarts(width=2, num_cells=3, dataset="cifar")):
            run_search(space, strategy(topology=each_input, derivation=derivation), batch_size=32)
            nodes, inputs = seen[-1]
            assert inputs == 2 and {node: list(alphas) for node, alphas in nodes.items()}[3] == ["0", "1", "2"]

    def test_a_derivation_by_cell_knows_the_label(self):
        cell = {(0, 2): {"a": 1.0, "b": 0.0}}
        chosen = ByCell({"normal": lambda cell: [DerivedEdge("b", 0, 2, 1.0)]}, darts)
        assert [derive_cell(chosen, label, cell)[0].operation for label in ("normal", "reduce")] == ["b", "a"]


def halved(epoch):
    """Keep the stronger half of the candidates of every edge at the start of the second epoch."""
    if epoch.step.epoch == 1:
        for edge, alphas in epoch.architecture.table().items():
            names = epoch.architecture.candidates[edge]
            best = sorted(alphas, key=lambda name: -alphas[name])[: len(alphas) // 2]
            epoch.architecture.prune(edge, keep=[names.index(name) for name in best])


class TestPruning:
    def test_dead_candidates_do_not_run_and_are_not_derived(self):
        model, architecture = supernet(tiny_space(), none=False)
        for edge in architecture.alphas:
            architecture.prune(edge, keep=[2, 6])
        architecture.follow(softmax(architecture.living_alphas()))
        entry = next(iter(architecture.plan.values()))
        assert entry.indices == (2, 6) and float(entry.weights.detach().sum()) == pytest.approx(1)
        assert {tuple(alphas) for alphas in architecture.table().values()} == {("skip_connect", "dil_conv_5x5")}
        architecture.follow(argmax(architecture.living_alphas()))
        assert {entry[0] for entry in architecture.plan.values()} <= {2, 6}
        assert model(torch.randn(2, 3, 8, 8, dtype=torch.float64)).shape == (2, 10)

    def test_an_edge_without_candidates_is_gone(self):
        _, architecture = supernet(tiny_space(), none=False)
        architecture.prune("normal/0->2", keep=[])
        architecture.follow(softmax(architecture.living_alphas()))
        assert architecture.plan["normal/0->2"] == () and "normal/0->2" not in architecture.table()

    def test_a_pruned_search_derives_what_lives(self, run_search):
        chosen = strategy(pruning=halved, none=False)
        (sample,) = run_search(tiny_space(), chosen, epochs=2).export_top_models(formatter="dict")
        living = chosen.architecture.living
        assert {len(indices) for indices in living.values()} == {3}
        for key, operation in sample.items():
            if "/op_" in key:
                label, _, slot = key.partition("/op_")
                (source,) = sample[f"{label}/input_{slot}"]
                edge = f"{label}/{source}->{slot.partition('_')[0]}"
                assert operation in chosen.architecture.living_candidates(edge)

    def test_input_choices_of_several_inputs_keep_all(self):
        architecture = Architecture()
        architecture.add_edge("inputs", range(4))
        architecture.multi_input_choices.add("inputs")
        architecture.prune("inputs", keep=[0])
        assert architecture.living_indices("inputs") == (0, 1, 2, 3)

    def test_the_zero_one_loss_is_that_of_the_living(self):
        _, architecture = supernet(tiny_space(), none=False)
        for edge, alpha in architecture.alphas.items():
            alpha.data = torch.tensor([9.0, 0, 0, 9, 9, 9, 9], dtype=torch.float64)
            architecture.prune(edge, keep=[1, 2])
        batch = ArchitectureBatch(lambda: None, lambda: None, architecture, nn.Identity())
        assert zero_one(1.0)(batch) == 0


class TestStages:
    def test_a_restart_leaves_frozen_weights_and_the_start_of_the_space(self, run_search):
        space = tiny_space()
        space.initial_alphas = {"normal/0->2": {"skip_connect": 5.0}}
        space.teacher = nn.Linear(3, 3).requires_grad_(False)
        before, found = space.teacher.weight.clone(), {}

        def again(epoch):
            if epoch.step.epoch == 1:
                epoch.restart()
                found.update(epoch.architecture.table()["normal/0->2"], iteration=epoch.step.iteration)

        run_search(space, strategy(pruning=again), epochs=2, batch_size=32)
        assert torch.equal(space.teacher.weight, before)
        assert found["skip_connect"] == 5 and found["iteration"] == 1

    def test_a_restart_draws_new_weights_and_alphas_and_clears_the_optimizers(self, run_search):
        momenta = []

        def again(epoch):
            if epoch.step.epoch == 1:
                epoch.restart()

        class Momenta(pl.Callback):
            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
                momenta.append(sum(len(optimizer.state) for optimizer in trainer.optimizers))

        chosen = DifferentiableStrategy(
            relaxation=EveryEdge(softmax), optimizer=partial(SGD, momentum=0.9), pruning=again
        )
        watch = Watch(chosen)
        run_search(tiny_space(), chosen, epochs=2, batch_size=32, callbacks=[watch, Momenta()])
        assert momenta[1] == 0  # the first step of the second epoch
        before, after = watch.weights[1], watch.weights[2]
        assert float((before - after).abs().max()) > 0.2

    def test_alphas_and_weights_step_together_where_the_composition_says_so(self, run_search):
        asked = []

        def train_only_weights(step):
            asked.append(step)
            return step.epoch != 0

        chosen = strategy(trains_alphas=train_only_weights, joint=lambda step: step.epoch == 2)
        watch = Watch(chosen)
        run_search(tiny_space(), chosen, epochs=3, batch_size=32, callbacks=[watch])
        assert watch.moved(watch.alphas) == [False, True, True]
        assert [step.progress for step in asked] == [0, 1 / 3, 2 / 3]

    def test_several_weight_steps_go_with_an_architecture_step(self, run_search):
        chosen = strategy(weight_steps=2)
        watch = Watch(chosen)
        run_search(tiny_space(), chosen, batch_size=8, callbacks=[watch])
        assert watch.moved(watch.alphas) == [False, True, False, True]
        assert all(watch.moved(watch.weights))


class TestWhatRunsBesideAndAroundCandidates:
    class Constant(nn.Module):
        def __init__(self, architecture):
            super().__init__()
            self.architecture = [architecture]

        def forward(self, x):
            return x * (1 - self.architecture[0].step.progress)

    def test_a_companion_runs_where_candidates_are_weighted_only(self):
        def companion(candidates, architecture):
            return self.Constant(architecture) if isinstance(candidates["skip_connect"], nn.Identity) else None

        model, architecture = supernet(tiny_space(), companion=companion, none=False)
        x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
        skip = torch.eye(7, dtype=torch.float64)[2]
        outputs = {}
        for epoch in (0, 2):
            architecture.step = Step(0, epoch, 4)
            architecture.plan = dict.fromkeys(architecture.alphas, skip)
            outputs[epoch] = model(x)
            architecture.plan = {
                edge: skip * (1 if edge.startswith(("reduce/0", "reduce/1")) else 2 - epoch / 4)  # of stride 2, or not
                for edge in architecture.alphas
            }
            architecture.step = Step(0, 4, 4)  # the companion is zero at the end
            torch.testing.assert_close(outputs[epoch], model(x))
        architecture.step = Step(0, 0, 4)
        architecture.plan = dict.fromkeys(architecture.alphas, (2,))
        path = model(x)
        architecture.step = Step(0, 4, 4)
        torch.testing.assert_close(path, model(x))

    def test_candidates_are_wrapped_by_name(self):
        def halved_skip(name, module, architecture):
            return nn.Sequential(module, nn.Dropout(0.5)) if name == "skip_connect" else module

        model, _ = supernet(tiny_space(), candidate=halved_skip)
        dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]
        assert len(dropouts) == 15  # one an edge of each of the three cells


class TestPerturbation:
    def test_it_changes_the_plan_of_weight_steps_alone(self, run_search):
        seen = {"architecture": [], "weights": []}

        def ones(plan, loss, step):
            before = [buffer.clone() for buffer in self.model.buffers()]
            first, second = loss(plan), loss({edge: 2 * weight for edge, weight in plan.items()})
            assert first != second and all(map(torch.equal, before, self.model.buffers()))
            return {edge: torch.ones_like(weight) for edge, weight in plan.items()}

        class Plans(pl.Callback):
            def on_train_batch_end(self, trainer, pl_module, *call):
                seen["weights"].append(chosen.architecture.plan)

        def watched(batch):
            seen["architecture"].append(batch.architecture.plan)
            return torch.tensor(0.0)

        chosen = strategy(perturbation=ones, objective=total(evaluator_loss, watched))
        self.model = tiny_space()
        run_search(self.model, chosen, batch_size=32, callbacks=[Plans()])
        assert all((weight == 1).all() for weight in seen["weights"][0].values())
        assert not any((weight == 1).any() for weight in seen["architecture"][0].values())


class TestStopRules:
    def test_one_ends_the_search_with_the_alphas_that_it_set_back(self, run_search):
        starts = []

        def after_two(epoch):
            starts.append((epoch.step.epoch, len(epoch.history), bool(epoch.sample)))
            if len(epoch.history) < 2:
                return False
            epoch.architecture.start(epoch.history[0])
            return True

        chosen = strategy(stop=after_two)
        watch = Watch(chosen)
        run_search(tiny_space(), chosen, epochs=5, batch_size=32, callbacks=[watch])
        assert watch.epochs == [0, 1] and starts == [(0, 1, True), (1, 2, True)]
        now = torch.cat([alpha.detach() for alpha in chosen.architecture.alphas.values()])
        assert torch.equal(now, watch.alphas[1])  # those after the first epoch

    def test_a_metric_object_is_that_of_all_images(self, images):
        found = {}

        def looks(epoch):
            found.update(epoch.validate(softmax(epoch.architecture.living_alphas())))
            return False

        loader = partial(DataLoader, images, batch_size=5)  # the last batch is smaller
        evaluator = Lightning(
            WithMetric(num_classes=10),
            Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, limit_train_batches=1),
            train_dataloaders=loader(),
            val_dataloaders=loader(),
        )
        experiment = NasExperiment(tiny_space(), evaluator, strategy(stop=looks))
        experiment.run()
        experiment.stop()
        assert 32 * found["val_acc"] == pytest.approx(round(32 * found["val_acc"]), abs=1e-5)

    def test_it_may_validate_plans_and_differentiate_the_validation_loss(self, run_search):
        found = {}

        def looks(epoch):
            plan = softmax(epoch.architecture.living_alphas())
            found.update(epoch.validate(plan))
            assert epoch.validate(plan) == found
            alphas = list(epoch.architecture.alphas.values())
            found["gradient"] = torch.autograd.grad(epoch.val_loss(), alphas, allow_unused=True)
            return False

        class Last(pl.Callback):
            def on_train_end(self, trainer, pl_module):
                found["logged"] = {name: float(value) for name, value in trainer.callback_metrics.items()}

        chosen = strategy(stop=looks)
        run_search(tiny_space(), chosen, batch_size=16, callbacks=[Last()])
        assert set(found) >= {"val_loss", "val_acc"} and 0 <= found["val_acc"] <= 1
        assert all(gradient.abs().sum() > 0 for gradient in found["gradient"])
        assert {"val_loss", "derived_val_loss"} <= set(found["logged"])
