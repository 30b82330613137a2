"""Spaces and strategies by name: ours, those of other packages, and any importable class."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nni.nas.strategy
import pytest
import yaml

from nas_plugins import plugins
from nas_plugins.cli import main
from nas_plugins.config.reader import read_search
from nas_plugins.errors import InputError
from search_spaces.darts import DartsSpace
from search_spaces.fine_tuned import FineTunedDartsSpace
from strategies.edas import EDAS

MODULE = '''
import enum

import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn

from search_spaces.darts import DartsSpace
from strategies.darts import DARTS


class Colour(enum.Enum):
    GREEN = 1
    BLUE = 2


class SlowDarts(DARTS):
    """DARTS with a small step, and with one argument alone."""

    def __init__(self, step: float = 1e-4) -> None:
        super().__init__(learning_rate=step)


class FlatSpace(DartsSpace):
    """Ours under another name, with all its arguments."""


class Chain(ModelSpace):
    """A space without cells."""

    def __init__(self, num_classes: int = 10, image_channels: int = 3, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(image_channels, width, 1)
        self.body = LayerChoice([nn.Conv2d(width, width, 3, padding=1), nn.Identity()], label="body")
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.stem(x)).mean(dim=(2, 3)))


class Small(DartsSpace):
    """Ours with one argument alone: what the images decide it does not ask for."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(image_channels=1, channels=width, layers=3)


class UntypedSpace(DartsSpace):
    """An argument without a type."""

    def __init__(self, width):
        super().__init__(channels=width)


class Named(DartsSpace):
    """An argument that is called like a key of every space."""

    def __init__(self, name: str = "flat") -> None:
        super().__init__()


class Coloured(DartsSpace):
    """An argument that is no plain value."""

    def __init__(self, colour: Colour = Colour.GREEN) -> None:
        super().__init__()
        self.colour = colour


class Untyped(DARTS):
    """An argument without a type."""

    def __init__(self, step):
        super().__init__(learning_rate=step)


class Asking(DARTS):
    """An argument without a default."""

    def __init__(self, step: float) -> None:
        super().__init__(learning_rate=step)


NOT_A_CLASS = 5
'''
ENTRY_POINTS = """
[nas_plugins.search_spaces]
FlatSpace = acme_nas_plugin:FlatSpace
Chain = acme_nas_plugin:Chain
Small = acme_nas_plugin:Small
UntypedSpace = acme_nas_plugin:UntypedSpace
Named = acme_nas_plugin:Named
Coloured = acme_nas_plugin:Coloured

[nas_plugins.strategies]
SlowDarts = acme_nas_plugin:SlowDarts
Untyped = acme_nas_plugin:Untyped
Asking = acme_nas_plugin:Asking
NoModule = acme_nas_missing:Strategy
NoClass = acme_nas_plugin:Strategie
Number = acme_nas_plugin:NOT_A_CLASS
Space = acme_nas_plugin:FlatSpace
Raises = acme_nas_raises:Strategy
Exits = acme_nas_exits:Strategy
EDAS = acme_nas_plugin:SlowDarts
"""
ANOTHER = """
[nas_plugins.search_spaces]
Chain = acme_nas_plugin:FlatSpace
Small = acme_nas_plugin:Small
"""
CONFIG = {
    "space": {"channels": 4, "layers": 3, "nodes": 2},
    "data": {"dataset": "digits", "train_images": 60, "test_images": 40, "batch_size": 30},
    "training": {"epochs": 1},
    "compute": {"accelerator": "cpu", "threads": 1},
}


@pytest.fixture
def acme(tmp_path, monkeypatch) -> None:
    """An installed distribution of somebody else's."""
    site = tmp_path / "site"
    information = site / "acme_nas-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-nas\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    (site / "acme_nas_plugin.py").write_text(MODULE)
    (site / "acme_nas_raises.py").write_text("raise RuntimeError('no licence\\nfor this machine')\n")
    (site / "acme_nas_exits.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(str(site))


@pytest.fixture
def another(acme, tmp_path) -> None:
    """One more, which has names of the first."""
    information = tmp_path / "site" / "another_nas-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: another-nas\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(ANOTHER)


def message_of(kind: plugins.Kind, name: str) -> str:
    with pytest.raises(InputError) as caught:
        plugins.find(kind, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def search(folder: Path, *arguments: str) -> Path:
    (folder / "search.yaml").write_text(yaml.safe_dump(CONFIG))
    status = main(["search", "--config", str(folder / "search.yaml"), "--output", str(folder / "run"), *arguments])
    assert status == 0
    return folder / "run"


class TestOurs:
    def test_are_registered_like_everybody_elses(self):
        assert {"DDartsSpace", "DartsSpace", "FineTunedDartsSpace"} <= set(plugins.registered("space"))
        assert {"DARTS", "DDARTS", "EDAS", "FairDARTS"} <= set(plugins.registered("strategy"))

    def test_every_registered_name_can_be_found(self):
        for kind in plugins.GROUPS:
            for name, plugin in plugins.registered(kind).items():
                assert plugins.find(kind, name) is plugin.load()

    def test_by_name(self):
        assert plugins.find("space", "DartsSpace") is DartsSpace
        assert plugins.find("space", "FineTunedDartsSpace") is FineTunedDartsSpace
        assert plugins.find("strategy", "EDAS") is EDAS

    def test_by_importable_name(self):
        assert plugins.find("strategy", "strategies.edas.EDAS") is EDAS
        assert plugins.find("strategy", "nni.nas.strategy.DARTS") is nni.nas.strategy.DARTS


class TestNotFound:
    def test_an_unknown_name_gets_a_suggestion_and_all_that_there_are(self):
        message = message_of("strategy", "EDSA")
        assert "strategy.name: no strategy is called 'EDSA'; did you mean EDAS?" in message
        assert "DARTS" in message
        assert "DartsSpace" in message_of("space", "Dart")

    def test_case_matters_and_is_suggested(self):
        assert "did you mean DartsSpace?" in message_of("space", "dartsspace")

    @pytest.mark.parametrize(
        "name", ("os.system", "collections.OrderedDict", "search_spaces.genotype.Genotype", "os.path")
    )
    def test_what_is_importable_but_no_strategy(self, name):
        assert f"strategy.name: {name} is no nni.nas.strategy.base.Strategy" in message_of("strategy", name)

    def test_a_space_is_no_strategy(self):
        assert "is no" in message_of("strategy", "search_spaces.darts.DartsSpace")

    @pytest.mark.parametrize("name", ("no_such_module.Strategy", "strategies.edas.EDSA", "..x", "a."))
    def test_what_cannot_be_imported(self, name):
        assert f"strategy.name: {name!r} cannot be imported" in message_of("strategy", name)

    def test_nothing(self):
        assert "no strategy is called ''" in message_of("strategy", "")


IMPORT_FIRST = """
import importlib, os, sys
import pandas, pytorch_lightning, sklearn.datasets, tianshou.data, torchvision  # take long to import, and are not NNI's
for first in sys.argv[1:]:
    if not os.fork():
        importlib.import_module(first)
        from nni.nas.strategy import DARTS
        print(first, DARTS.__module__, flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.slow
def test_nnis_own_strategies_can_be_used_whatever_is_imported_first():
    """Importing nni.nas.oneshot before nni.nas.strategy would replace them by a class that only fails."""
    modules = ["search_spaces.darts", "strategies.edas", "nas_plugins.config.reader"]
    command = [sys.executable, "-c", IMPORT_FIRST, *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{first} nni.nas.oneshot.pytorch.strategy" for first in modules], done.stderr


@pytest.mark.usefixtures("acme")
class TestThirdParties:
    def test_are_listed(self, capsys):
        assert main(["list"]) == 0
        spaces, strategies = capsys.readouterr().out.split("strategies:")
        assert "Chain" in spaces
        assert "acme_nas_plugin:SlowDarts" in strategies

    def test_those_that_cannot_be_used_are_listed_with_the_reason(self, capsys):
        assert main(["list"]) == 0
        lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
        missing = "'NoModule' cannot be imported: ModuleNotFoundError: No module named 'acme_nas_missing'"
        assert lines["NoModule"].endswith(f"acme_nas_missing:Strategy  (broken: {missing})")
        assert lines["Exits"].endswith("(broken: 'Exits' cannot be imported: SystemExit: 0)")
        assert lines["Number"].endswith("(broken: Number is no nni.nas.strategy.base.Strategy)")
        assert [name for name, line in lines.items() if "broken" in line] == sorted(
            ["Exits", "NoClass", "NoModule", "Number", "Raises", "Space"]
        )

    def test_a_name_of_ours_stays_ours_and_theirs_has_its_importable_name(self):
        assert plugins.find("strategy", "EDAS") is EDAS
        assert plugins.registered("strategy")["acme_nas_plugin.SlowDarts"].value == "acme_nas_plugin:SlowDarts"

    @pytest.mark.usefixtures("another")
    def test_a_name_of_two_others_is_neithers(self):
        assert "no space is called 'Chain'" in message_of("space", "Chain")
        assert plugins.find("space", "acme_nas_plugin.Chain").__name__ == "Chain"

    @pytest.mark.usefixtures("another")
    def test_the_same_class_registered_twice_keeps_its_name(self):
        assert plugins.find("space", "Small").__name__ == "Small"

    def test_a_space_without_the_arguments_that_the_images_decide(self, tmp_path):
        (tmp_path / "c.yaml").write_text("space: {name: Small, width: 2}")
        space = read_search(tmp_path / "c.yaml").build("space", num_classes=10, image_channels=1, image_size=8)
        assert type(space).__name__ == "Small"

    def test_a_strategy_is_used_with_its_own_keys(self, tmp_path):
        run = search(tmp_path, "--strategy.name", "SlowDarts", "--strategy.step", "0.5")
        assert yaml.safe_load((run / "config.yaml").read_text())["strategy"] == {"name": "SlowDarts", "step": 0.5}
        assert json.loads((run / "genotype.json").read_text())["format"] == "nas-plugins/genotype"

    def test_a_space_that_inherits_ours_has_its_keys_and_gives_a_genotype(self, tmp_path):
        run = search(tmp_path, "--space.name", "FlatSpace", "--space.nodes", "2")
        assert json.loads((run / "genotype.json").read_text())["concat"] == [2, 3]

    def test_a_space_without_cells_gives_its_sample(self, tmp_path, capsys):
        CHAIN = {**CONFIG, "space": {"name": "Chain", "width": 3}}
        (tmp_path / "chain.yaml").write_text(yaml.safe_dump(CHAIN))
        run = tmp_path / "run"
        assert main(["search", "--config", str(tmp_path / "chain.yaml"), "--output", str(run)]) == 0
        assert json.loads((run / "sample.json").read_text())["body"] in (0, 1, "0", "1")
        assert not (run / "genotype.json").exists()
        # What the command says it wrote is there.
        assert "sample.json" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("name", "words"),
        (
            ("NoModule", "cannot be imported: ModuleNotFoundError: No module named 'acme_nas_missing'"),
            ("NoClass", "cannot be imported: AttributeError"),
            ("Raises", "cannot be imported: RuntimeError: no licence for this machine"),
            ("Exits", "cannot be imported: SystemExit"),
            ("Number", "Number is no nni.nas.strategy.base.Strategy"),
            ("Space", "Space is no nni.nas.strategy.base.Strategy"),
        ),
    )
    def test_a_broken_one_gives_one_clear_line(self, name, words):
        assert f"strategy.name: {name!r}" in message_of("strategy", name).replace(f" {name} ", f" {name!r} ")
        assert words in message_of("strategy", name)

    def test_a_broken_one_does_not_break_the_others(self):
        assert plugins.find("strategy", "SlowDarts").__name__ == "SlowDarts"

    @pytest.mark.parametrize(
        ("kind", "name", "words"),
        (
            ("strategy", "Asking", "strategy.step"),
            ("strategy", "Untyped", "Parameter 'step' from 'acme_nas_plugin.Untyped.__init__' does not specify a type"),
            ("space", "UntypedSpace", "Parameter 'width'"),
            ("space", "Named", "argument '--space.name' already exists"),
        ),
    )
    def test_an_argument_that_no_config_can_hold_is_named(self, tmp_path, capsys, kind, name, words):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({kind: {"name": name}}))
        arguments = ["--config", str(tmp_path / "c.yaml"), "--output", str(tmp_path / "run")]
        assert main(["search", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("nas-plugins: ")
        assert words in error
        assert error.count("\n") == 1
        assert not (tmp_path / "run").exists()

    def test_an_enumeration_is_written_by_its_names(self, tmp_path):
        (tmp_path / "c.yaml").write_text("space: {name: Coloured, colour: BLUE}")
        config = read_search(tmp_path / "c.yaml")
        assert config.values["space"]["colour"] == "BLUE"
        assert config.build("space").colour.value == 2

    def test_an_argument_without_a_default_can_be_given(self, tmp_path):
        run = search(tmp_path, "--strategy.name", "Asking", "--strategy.step", "0.001")
        assert yaml.safe_load((run / "config.yaml").read_text())["strategy"]["step"] == 0.001


def test_a_module_of_python_itself_is_refused_and_not_imported():
    with pytest.raises(InputError, match=r"^strategy.name: antigravity.fly is no nni.nas.strategy.base.Strategy$"):
        plugins.find("strategy", "antigravity.fly")
    assert "antigravity" not in sys.modules
