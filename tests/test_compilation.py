"""compute.compile: the same results but for rounding, the same files, and a line where nothing can be compiled."""

import io
from contextlib import contextmanager, redirect_stdout

import pandas as pd
import pytest
import torch
import yaml
from pytorch_lightning.callbacks import Callback

from nas_plugins import DARTS, DartsSpace
from nas_plugins.experiment import resume, search
from nas_plugins.training import compilation
from nas_plugins.training.checkpoints import load_tensors
from nas_plugins.training.retrain import evaluate, retrain
from search_spaces.genotype import Genotype
from strategies.relaxation import softmax
from strategies.supernet.cell import MixedCell

CELL = (("dil_conv_3x3", 0, 2), ("skip_connect", 1, 2))
GENOTYPE = Genotype(cells=(CELL, CELL), layout=(0, 1), reductions=(1,), concat=(2,))
BASE = {
    "data": {"dataset": "digits", "train_images": 64, "test_images": 16, "batch_size": 16},
    "training": {"epochs": 2},
    "compute": {"accelerator": "cpu", "threads": 1},
}
OPERATIONS = ["skip_connect", "dil_conv_3x3"]
SPACE = {"name": "DartsSpace", "channels": 2, "layers": 3, "nodes": 1, "operations": OPERATIONS}
COMPILED = ["--compute.compile", "true"]


@contextmanager
def compiling():
    """Graphs are traced as ever, and run without a C++ compiler as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, "BACKEND", "eager")
        try:
            yield
        finally:
            torch.compiler.reset()


def retrained(folder, options=(), **kwargs):
    GENOTYPE.save(folder / "g.json")
    (folder / "c.yaml").write_text(yaml.safe_dump({**BASE, "network": {"channels": 4, "drop_path": 0.3}}))
    return retrain(folder / "g.json", folder / "c.yaml", folder / "run", options, **kwargs)


def weights_of(run):
    return load_tensors(run / "weights.pt")


def assert_close(some, others):
    assert list(some) == list(others)
    assert all(torch.allclose(some[name], others[name], atol=1e-4) for name in some)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return weights_of(retrained(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The run of a compiled retraining, and what it printed."""
    with compiling(), redirect_stdout(io.StringIO()) as printed:
        run = retrained(tmp_path_factory.mktemp("compiled"), COMPILED)
    return run, printed.getvalue()


def test_a_compiled_retraining_learns_the_same_weights_under_the_same_names(compiled, plain):
    run, printed = compiled
    assert_close(weights_of(run), plain)
    lines = [line for line in printed.splitlines() if line.startswith("compute.compile")]
    assert len(lines) == 1 and "the network is compiled; the first step took" in lines[0]
    assert evaluate(run)["images"] == 16


@pytest.mark.slow
def test_a_compiled_retraining_is_resumed_to_the_same_weights(compiled, tmp_path):
    class Interrupt(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            raise SystemExit

    with compiling(), pytest.raises(SystemExit):
        retrained(tmp_path, COMPILED, callbacks=[Interrupt()])
    with compiling():
        resumed = weights_of(resume(tmp_path / "run"))
    right = weights_of(compiled[0])
    assert all(torch.equal(resumed[name], right[name]) for name in right)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "operations", "words"),
    [
        ("DARTS", OPERATIONS, "3 cells are compiled"),
        ("EDAS", OPERATIONS, "operations are compiled"),
        ("GDAS", ["skip_connect", "max_pool_3x3"], "operations are compiled"),
    ],
)
def test_a_compiled_search_finds_the_same_alpha(tmp_path, capsys, strategy, operations, words):
    config = {**BASE, "space": {**SPACE, "operations": operations}, "strategy": {"name": strategy}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(config))
    tables = []
    for name, options in (("plain", []), ("compiled", COMPILED)):
        with compiling():
            run = search(tmp_path / "s.yaml", tmp_path / name, ["--training.epochs", "1", *options])
        tables.append(pd.read_csv(run / "alphas.csv"))
    pd.testing.assert_frame_equal(*tables, atol=1e-4)
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(("index", "kind"), [(0, "normal"), (1, "reduce")])
def test_a_cell_that_runs_all_candidates_is_one_graph_with_the_same_gradients(index, kind):
    strategy = DARTS()
    model = strategy.mutate_model(DartsSpace(channels=2, layers=3, nodes=1))
    alphas = strategy.architecture.alphas
    cell = [module for module in model.modules() if isinstance(module, MixedCell)][index]
    learned = [*(alphas[edge] for edge in alphas if edge.startswith(kind)), *cell.parameters()]
    inputs = []
    strategy.architecture.follow(softmax(alphas))
    with torch.no_grad(), cell.register_forward_pre_hook(lambda _, given: inputs.append(given)):
        model(torch.rand(2, 3, 8, 8))

    def differentiated(run):
        strategy.architecture.follow(softmax(alphas))
        output = run(*inputs[0])
        return output, *torch.autograd.grad(output.square().sum(), learned)

    compiled = torch.compile(cell, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(differentiated(compiled), differentiated(cell), atol=1e-4, rtol=1e-4)
    torch.compiler.reset()


class Grouping(Callback):
    """Sets candidates to be computed together, as on an accelerator, and records whether they still are."""

    def on_fit_start(self, trainer, pl_module):
        pl_module.architecture.grouped = True

    def on_train_start(self, trainer, pl_module):
        self.grouped = pl_module.architecture.grouped


def test_operations_are_computed_apart_if_each_is_compiled(tmp_path):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({**BASE, "space": SPACE, "strategy": {"name": "EDAS"}}))
    grouping = Grouping()
    with compiling():
        search(tmp_path / "s.yaml", tmp_path / "run", ["--training.epochs", "1", *COMPILED], [grouping])
    assert grouping.grouped is False


def test_a_machine_without_a_compiler_trains_as_ever_and_says_so(plain, tmp_path, capsys):
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        assert_close(weights_of(retrained(tmp_path, COMPILED)), plain)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("compute.compile")]
    assert len(lines) == 1 and "not used" in lines[0] and "compiler" in lines[0]
    torch.compiler.reset()


@pytest.mark.slow
def test_the_compiler_of_this_machine_gives_the_same_weights(tmp_path):
    cell = (("skip_connect", 0, 2), ("skip_connect", 1, 2))
    Genotype(cells=(cell,), layout=(0,), reductions=(), concat=(2,)).save(tmp_path / "g.json")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**BASE, "network": {"channels": 2}}))
    runs = [
        retrain(tmp_path / "g.json", tmp_path / "c.yaml", tmp_path / name, ["--training.epochs", "1", *options])
        for name, options in (("plain", []), ("compiled", COMPILED))
    ]
    assert_close(*map(weights_of, runs))
    torch.compiler.reset()
