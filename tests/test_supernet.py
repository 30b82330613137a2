"""The outputs and gradients of the supernet, against NNI's own and against finite differences."""

import copy

import nni.nas.nn.pytorch as nas
import nni.nas.strategy
import pytest
import torch
from nni.mutable import frozen_context
from nni.nas.hub.pytorch import DARTS as HubDarts
from nni.nas.hub.pytorch.nasbench201 import Zero
from torch import nn
from torch.nn import functional

from nas_plugins import DARTS, DartsSpace
from search_spaces.beginnings import split_beginning
from search_spaces.operations import FactorizedReduce
from strategies.bilevel import BilevelProblem, first_order, frozen
from strategies.relaxation import argmax, softmax
from strategies.supernet.architecture import Mixed
from strategies.supernet.candidates import exchange_norms, forward_weighted, weigh
from strategies.supernet.cell import MixedCell
from strategies.supernet.choices import MixedLayer
from strategies.supernet.parts import SupernetParts


def supernet(space=None, strategy=None):
    """Return a small supernet in double precision, and its architecture with random α."""
    strategy = strategy or DARTS()
    model = strategy.mutate_model(space or DartsSpace(channels=2, layers=3)).double()
    architecture = strategy.architecture.double()
    for alpha in architecture.alphas.values():
        alpha.data.normal_()
    architecture.plan = softmax(architecture.alphas)
    return model, architecture


def gradients_of(loss, alphas, model):
    """Return the first-order gradient of each α."""
    weights = list(model.parameters())
    return first_order(BilevelProblem(loss, loss, list(alphas.values()), weights, torch.optim.SGD(weights)))


@pytest.fixture
def batch():
    return torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3])


def test_it_computes_what_nnis_own_darts_supernet_computes_gradients_included(batch):
    images, labels = batch
    ours, architecture = supernet()
    theirs = nni.nas.strategy.DARTS().mutate_model(DartsSpace(channels=2, layers=3)).double()
    weights = [p for name, p in theirs.named_parameters() if "_arch_alpha" not in name]
    for mine, other in zip(ours.parameters(), weights, strict=True):
        other.data.copy_(mine.data)
    alphas = {}
    for cell in theirs.modules():
        for edge, alpha in getattr(cell, "_arch_alpha", {}).items():
            label, _, nodes = edge.rpartition("/")
            target, source = nodes.split("_")
            alphas[f"{label}/{source}->{target}"] = alpha
            alpha.data.copy_(architecture.alphas[f"{label}/{source}->{target}"].data)
    assert set(alphas) == set(architecture.alphas)

    outputs = ours(images), theirs(images)
    assert torch.allclose(*outputs, rtol=1e-10, atol=1e-12)
    for output in outputs:
        functional.cross_entropy(output, labels).backward()
    for edge, alpha in architecture.alphas.items():
        assert torch.allclose(alpha.grad, alphas[edge].grad, rtol=1e-8, atol=1e-14)
    for mine, other in zip(ours.parameters(), weights, strict=True):
        assert torch.allclose(mine.grad, other.grad, rtol=1e-8, atol=1e-12)


def test_the_first_order_gradient_agrees_with_finite_differences(batch):
    images, labels = batch
    model, architecture = supernet()
    alphas = architecture.alphas

    def loss():
        architecture.plan = softmax(alphas)
        return functional.cross_entropy(model(images), labels)

    gradients = dict(zip(alphas, gradients_of(loss, alphas, model), strict=True))
    for edge, indices in (("normal/0->2", range(8)), ("normal/4->5", (1, 6)), ("reduce/1->3", (1, 6))):
        for index in indices:
            difference = []
            for shift in (1e-5, -2e-5):
                alphas[edge].data[index] += shift
                with torch.no_grad():
                    difference.append(loss().item())
            alphas[edge].data[index] += 1e-5
            numeric = (difference[0] - difference[1]) / 2e-5
            assert gradients[edge][index].item() == pytest.approx(numeric, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    "plan", [softmax, lambda alphas: {**argmax(alphas), **softmax({"normal/0->3": alphas["normal/0->3"]})}]
)
def test_recomputing_changes_no_gradient_and_no_statistic(batch, plan):
    images, labels = batch
    model, architecture = supernet()
    start = copy.deepcopy(model.state_dict())
    found = []
    for architecture.recompute in (False, True):
        model.load_state_dict(start)
        model.zero_grad()
        for alpha in architecture.alphas.values():
            alpha.grad = None
        architecture.plan = plan(architecture.alphas)
        functional.cross_entropy(model(images), labels).backward()
        gradients = [p.grad for p in (*model.parameters(), *architecture.alphas.values())]
        found.append([t.clone() for t in (*gradients, *model.buffers()) if t is not None])
    assert len(found[0]) == len(found[1])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_recomputing_keeps_less(batch):
    images, _ = batch
    model, architecture = supernet()
    kept = []
    for architecture.recompute in (False, True):
        architecture.plan = softmax(architecture.alphas)
        storages = {}

        def keep(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(images)
        kept.append(sum(storages.values()))
    assert kept[1] < 0.5 * kept[0]


def test_the_gradient_of_weights_that_are_constant_is_never_computed(batch):
    model, _ = supernet()
    with pytest.raises(RuntimeError, match="stop"), frozen(model.parameters()):
        assert not any(weight.requires_grad for weight in model.parameters())
        raise RuntimeError("stop")
    assert all(weight.requires_grad for weight in model.parameters())


def test_an_edge_adds_its_candidates_weighted_by_the_softmax_and_none_adds_nothing(batch):
    model, architecture = supernet()
    cell = next(module for module in model.modules() if isinstance(module, MixedCell))
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    key = "0->2"
    weights = torch.softmax(architecture.alphas["normal/0->2"], 0)
    expected = sum(
        w * op(x if begin is None else begin(x))
        for w, op, begin in zip(weights[:7], cell.operations[key], cell.beginnings[key], strict=True)
    )
    architecture.plan = dict.fromkeys(architecture.plan, ())
    architecture.plan["normal/0->2"] = weights
    cell.preprocessor = nn.Identity()
    node_2 = cell([x, x])[:, :2]
    assert torch.allclose(node_2, expected)


class LeakyReduction(FactorizedReduce):
    """A candidate of another project, which does more than its parent."""

    def forward(self, x):
        return super().forward(x) + self.conv_1.weight.sum() * x.amin()


def test_a_subclass_of_an_operation_reads_what_it_would_read_alone(batch):
    images, _ = batch
    alone = LeakyReduction(3, 3).double()
    beginning, rest = split_beginning(copy.deepcopy(alone))
    assert beginning is None
    assert torch.equal(rest(images), alone(images))


def test_a_hook_on_what_a_candidate_begins_with_is_called(batch):
    images, _ = batch
    chain, calls = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1)).double(), []
    chain[0].register_forward_hook(lambda *_: calls.append(1))
    beginning, rest = split_beginning(chain)
    rest(images)
    assert beginning is None and calls == [1]


def test_an_edge_is_weighted_also_when_its_normalizations_were_exchanged_for_synchronized_ones(batch):
    images, _ = batch
    model, architecture = supernet()
    model.eval()
    architecture.plan = softmax(architecture.alphas)
    expected = model(images)
    exchanged = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in exchanged.modules())
    assert torch.allclose(exchanged(images), expected)


class Residual(nn.Sequential):
    """A subclass of Sequential that does more than run a chain."""

    def forward(self, x):
        return x + super().forward(x)


@pytest.mark.parametrize(
    "candidate",
    [
        lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, affine=False)),
        lambda: nn.Sequential(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, affine=False))),
        lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)),
        lambda: nn.Sequential(Residual(nn.ReLU(), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, affine=False))),
        lambda: nn.BatchNorm2d(2, affine=False),
        nn.Identity,
    ],
    ids=["chain", "nested", "with a scale", "more than a chain", "norm alone", "identity"],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_weighted_candidate_is_its_output_times_the_weight(candidate, training):
    plain = candidate().double().train(training)
    for norm in (module for module in plain.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    weighed = copy.deepcopy(plain)
    exchange_norms(weighed)
    x = torch.randn(4, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(0.3, requires_grad=True)  # α is in single precision, regardless of the network
    (form,) = weigh([(("edge", 0),)], {"edge": weight.unsqueeze(0)}, {"edge": nn.ModuleList([weighed])})
    expected, found = weight * plain(x), forward_weighted(weighed, form, x)
    assert torch.allclose(found, expected)
    for a, b in zip(
        torch.autograd.grad(expected.sin().sum(), [x, weight]),
        torch.autograd.grad(found.sin().sum(), [x, weight]),
        strict=True,
    ):
        assert torch.allclose(a, b)
    for (name, a), (_, b) in zip(plain.state_dict().items(), weighed.state_dict().items(), strict=True):
        assert torch.equal(a, b) or "num_batches_tracked" in name, name


def test_a_node_that_only_none_reaches_is_zero_and_the_network_still_runs(batch):
    images, _ = batch
    model, architecture = supernet()
    architecture.plan = dict.fromkeys(architecture.plan, (7,))
    assert torch.isfinite(model(images)).all()
    cell = model.network.cells[0]
    out = cell(*model.network.stem(images))
    assert out.shape == (4, 8, 8, 8)
    assert not out.any()


def test_a_path_runs_one_operation_an_edge(batch):
    images, _ = batch
    model, architecture = supernet()
    plan = argmax(architecture.alphas)
    calls = {}
    for cell in model.network.cells:
        for key, candidates in cell.operations.items():
            for index, candidate in enumerate(candidates):
                at = (id(cell), f"{cell.label}/{key}", index)
                candidate.register_forward_hook(lambda *_, at=at: calls.update({at: 1}))
    architecture.plan = plan
    model(images)
    assert all(plan[edge] == (index,) for _, edge, index in calls)
    edges = [edge for cell in model.network.cells for edge in cell.edges()]
    assert len(calls) == len([edge for edge in edges if plan[edge] != (7,)])  # 7 is none, for which nothing runs


def test_the_derived_plan_is_the_one_hot_plan_of_the_sample(batch):
    images, _ = batch
    model, architecture = supernet()
    sample, plan = {}, {}
    for module in model.modules():
        if isinstance(module, Mixed):
            sample |= module.export(sample)
            plan |= module.derived_plan(sample)
    hot = {edge: torch.zeros(8, dtype=torch.float64) for edge in architecture.alphas}
    for edge, choice in plan.items():
        for index in choice:
            hot[edge][index] = 1
    assert sum(weights.sum() for weights in hot.values()) == 16  # two operations for each of 2 · 4 nodes
    outputs = []
    for architecture.plan in (plan, hot):
        outputs.append(model(images))
    assert torch.allclose(*outputs)
    DartsSpace(channels=2, layers=3).freeze(sample)


def test_a_node_without_operations_leaves_every_statistic_alone(batch):
    images, _ = batch
    model, architecture = supernet()
    cell = model.network.cells[0]
    architecture.plan = dict.fromkeys(architecture.plan, (7,))
    before = {name: value.clone() for name, value in cell.operations.state_dict().items()}
    model(images)
    assert all(torch.equal(value, before[name]) for name, value in cell.operations.state_dict().items())
    assert all(module.training for module in cell.modules())


@pytest.mark.parametrize("order", [("gate", "map"), ("map", "gate")])
def test_outputs_of_candidates_are_broadcast_in_any_order(batch, order):
    class Gates(nas.ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            candidates = {"gate": nn.AdaptiveAvgPool2d(1), "map": nn.Sigmoid()}
            self.layer = nas.LayerChoice({name: candidates[name] for name in order}, label="layer")

    images, _ = batch
    model, architecture = supernet(Gates())
    weights = dict(zip(order, torch.softmax(architecture.alphas["layer"], 0), strict=True))
    expected = weights["gate"] * images.mean((2, 3), keepdim=True) + weights["map"] * images.sigmoid()
    assert torch.allclose(model.layer(images), expected)


class OneCell(nas.ModelSpace):
    """A space of one NNI cell with any number of inputs and of operations per node.

    Args:
        label: Format of the label of the choice inside a candidate (node, operation, source). Empty for no choice.
    """

    def __init__(self, inputs: int = 2, operations: int = 2, inside: bool = False, label: str = "") -> None:
        super().__init__()
        self.inputs = inputs

        def choice(target: int, slot: int, source: int | None) -> nn.Module:
            name = label.format(target=target, slot=slot, source=source) or None
            return nas.LayerChoice([nn.Conv2d(3, 3, 1), nn.Tanh()], label=name) if inside else nn.Tanh()

        candidates = {"nested": choice, "relu": lambda *_: nn.ReLU(), "pool": lambda *_: nn.AvgPool2d(3, 1, 1)}
        self.cell = nas.Cell(candidates, 3, operations, inputs, label="cell")

    def forward(self, x):
        return self.cell([x] * self.inputs)


def exported(model):
    """Return the sample of the derived architecture."""
    sample = {}
    for module in model.modules():
        if isinstance(module, Mixed):
            sample |= module.export(sample)
    return sample


@pytest.mark.parametrize("inputs", [1, 2, 3])
@pytest.mark.parametrize("operations", [1, 2, 3, 4])
def test_a_node_of_nnis_cell_gets_its_number_of_operations_from_as_many_nodes_as_there_are(batch, inputs, operations):
    images, _ = batch
    sample = exported(supernet(OneCell(inputs, operations))[0])
    for node in range(inputs, inputs + 3):
        sources = {sample[f"cell/input_{node}_{slot}"][0] for slot in range(operations)}
        assert len(sources) == min(node, operations)
    assert OneCell(inputs, operations).freeze(sample).double()(images).shape == (4, 9, 8, 8)


@pytest.mark.parametrize("label", ["all", "node_{target}"])
def test_a_choice_inside_a_candidate_is_derived(batch, label):
    images, _ = batch
    model, _ = supernet(OneCell(inside=True, label=label))
    assert model(images).shape == (4, 9, 8, 8)
    assert OneCell(inside=True, label=label).freeze(exported(model)).double()(images).shape == (4, 9, 8, 8)


@pytest.mark.parametrize("operations", [1, 2])
@pytest.mark.parametrize("label", ["{slot}_{source}", ""], ids=["of the slot", "none"])
def test_a_choice_inside_a_candidate_that_is_another_one_for_every_operation_is_refused(operations, label):
    if label and operations == 1:
        supernet(OneCell(operations=1, inside=True, label=label))
        return
    with pytest.raises(ValueError, match=r"the choice 'cell/.*' in a candidate of the cell 'cell' .* without op_index"):
        supernet(OneCell(operations=operations, inside=True, label=label))


def test_an_edge_where_no_path_leads_has_no_gradient(batch):
    images, _ = batch
    model, architecture = supernet(Choices())
    plan = argmax(architecture.alphas)
    alphas = architecture.alphas
    architecture.plan = {**plan, "skip": (0, 0), **softmax({"shared.label": alphas["shared.label"]})}
    gradients = gradients_of(lambda: model(images).sum(), alphas, model)
    assert gradients == [None] * len(alphas)


def test_layers_of_one_kind_share_their_alpha():
    _, architecture = supernet(DartsSpace(channels=2, layers=8))
    assert len(architecture.alphas) == 28
    assert all(alpha.numel() == 8 for alpha in architecture.alphas.values())


def test_without_none_an_edge_has_one_alpha_for_each_operation():
    _, architecture = supernet(strategy=DARTS(none=False))
    assert all(alpha.numel() == 7 for alpha in architecture.alphas.values())


def test_alpha_is_not_among_the_weights_of_the_network():
    model, architecture = supernet()
    weights = {id(parameter) for parameter in model.parameters()}
    assert not weights & {id(alpha) for alpha in architecture.alphas.values()}


def test_nnis_hub_space_becomes_the_same_supernet():
    _, ours = supernet()
    _, hub = supernet(HubDarts(width=2, num_cells=3, dataset="cifar"))
    assert ours.candidates == hub.candidates


class Choices(nas.ModelSpace):
    """A space with layer choices and input choices of NNI, one shared by label."""

    def __init__(self):
        super().__init__()
        self.first = nas.LayerChoice([nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)], label="first")
        self.deep = nas.LayerChoice(
            {"wide": nn.Conv2d(4, 4, 3, padding=1), "same": nn.Identity()}, label="shared.label"
        )
        self.deeper = nas.LayerChoice(
            {"wide": nn.Conv2d(4, 4, 3, padding=1), "same": nn.Identity()}, label="shared.label"
        )
        self.skip = nas.InputChoice(n_candidates=3, n_chosen=2, reduction="mean", label="skip")
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        a = self.first(x)
        b = self.deep(a)
        c = self.deeper(b)
        return self.head(self.skip([a, b, c]).mean(dim=(2, 3)))


def test_layer_and_input_choices_are_edges_shared_by_label(batch):
    images, _ = batch
    model, architecture = supernet(Choices())
    assert {edge: len(alpha) for edge, alpha in architecture.alphas.items()} == {
        "first": 2,
        "shared.label": 2,
        "skip": 3,
    }
    a = model.first(images)
    weights = torch.softmax(architecture.alphas["first"], 0)
    assert torch.allclose(
        a, weights[0] * model.first.candidates[0](images) + weights[1] * model.first.candidates[1](images)
    )
    inputs = [torch.full((1,), value, dtype=torch.float64) for value in (1.0, 10.0, 100.0)]
    architecture.plan = {**architecture.plan, "skip": (0, 2)}
    assert model.skip(inputs) == 50.5


@pytest.mark.parametrize(
    ("none", "alpha", "found"),
    [
        (lambda: Zero(4, 4, 1), [3.0, 1.0, 2.0], "b"),  # its α only scales the others (DARTS, section 2.4)
        (nn.Identity, [3.0, 1.0, 2.0], "none"),  # an identity skips the layer and is no zero
        (lambda: Zero(4, 4, 1), [0.0, 2.0, 1.0], "a"),
    ],
)
def test_the_zero_of_a_layer_choice_is_never_derived(none, alpha, found):
    class Space(nas.ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            candidates = {"none": none(), "a": nn.Conv2d(4, 4, 1), "b": nn.Conv2d(4, 4, 3, padding=1)}
            self.layer = nas.LayerChoice(candidates, label="layer")

    strategy = DARTS()
    layer = strategy.mutate_model(Space()).layer
    with torch.no_grad():
        strategy.architecture.alphas["layer"].copy_(torch.tensor(alpha))
    assert layer.export({}) == {"layer": found}
    assert layer.export({"layer": "none"}) == {}


def test_the_zero_of_a_layer_choice_costs_nothing_beside_others_and_changes_no_gradient():
    class Space(nas.ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            candidates = {"none": Zero(4, 4, 1), "a": nn.Conv2d(4, 4, 1), "b": nn.Identity()}
            self.layer = nas.LayerChoice(candidates, label="layer")

    strategy = DARTS()
    layer, alpha = strategy.mutate_model(Space()).layer, strategy.architecture.alphas["layer"]
    x, ran = torch.randn(2, 4, 3, 3), []
    layer.candidates[0].register_forward_hook(lambda *_: ran.append(True))
    weights = strategy.architecture.plan["layer"] = torch.softmax(alpha, 0)
    found, expected = layer(x), weights[1] * layer.candidates[1](x) + weights[2] * x
    assert torch.equal(found, expected)
    assert not ran
    gradients = [torch.autograd.grad(out.square().sum(), alpha, retain_graph=True)[0] for out in (found, expected)]
    assert torch.equal(*gradients)
    assert gradients[0][0] != 0  # its weight takes from the others
    strategy.architecture.plan = {"layer": (0,)}
    assert not layer(x).any()


def test_a_zero_that_another_module_replaces_is_run():
    class Space(nas.ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nas.LayerChoice({"none": Zero(4, 4, 1), "a": nn.Conv2d(4, 4, 1)}, label="layer")

    strategy = DARTS()
    parts = SupernetParts(candidate=lambda name, module, _: nn.Identity() if name == "none" else module)
    layer = MixedLayer(Space().layer, strategy.architecture, parts)
    x, weights = torch.randn(2, 4, 3, 3), torch.tensor([0.5, 0.5])
    strategy.architecture.plan = {"layer": weights}
    torch.testing.assert_close(layer(x), 0.5 * x + 0.5 * layer.candidates[1](x))


def test_a_layer_choice_that_is_nothing_but_zero_gives_it():
    class Space(nas.ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nas.LayerChoice({"none": Zero(4, 4, 1)}, label="layer")

    assert DARTS().mutate_model(Space()).layer.export({}) == {"layer": "none"}


def test_a_choice_gives_the_softmax_weights_of_its_candidates_once():
    model, architecture = supernet(Choices())
    weights = torch.softmax(architecture.alphas["skip"], 0).tolist()
    assert model.skip.export_probs({}) == {"skip": dict(enumerate(weights))}
    assert set(model.deep.export_probs({})["shared.label"]) == {"wide", "same"}
    assert model.deeper.export_probs({"shared.label": {}}) == {}


def test_an_input_choice_that_another_of_its_label_has_decided_gives_nothing():
    model, _ = supernet(Choices())
    decided = model.skip.export({})
    assert len(decided["skip"]) == 2 and model.skip.export(decided) == {}


def test_an_input_choice_that_concatenates_is_refused():
    class Space(nas.ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.skip = nas.InputChoice(2, reduction="concat", label="skip")

    with pytest.raises(TypeError, match="input choice 'skip' has the reduction 'concat'"):
        supernet(Space())


def test_an_input_choice_of_any_number_is_given_one_and_says_so():
    class Space(nas.ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.skip = nas.InputChoice(3, n_chosen=None, label="skip")

    with pytest.warns(UserWarning, match="input choice 'skip' may take any number of inputs; it is given one"):
        model, architecture = supernet(Space())
    assert model.skip.export({}) == {"skip": [int(architecture.alphas["skip"].argmax())]}


def test_a_label_shared_by_different_candidates_is_refused():
    _, architecture = supernet(Choices())
    with pytest.raises(ValueError, match=r"shared\.label"):
        architecture.add_edge("shared.label", ("wide", "narrow"))


def test_a_choice_of_a_supernet_is_not_frozen_in_place():
    """The space is, to a copy with the weights of the supernet (tests/test_inheritance.py)."""
    model, _ = supernet(Choices())
    choice = next(module for module in model.modules() if isinstance(module, MixedLayer))
    with pytest.raises(NotImplementedError), frozen_context():
        choice.freeze({"first": 0, "shared.label": "same", "skip": [0, 1]})
