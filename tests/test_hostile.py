"""Files of anybody's, made to do harm: they run no code, fill no memory, and are refused in one line."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint

from nas_plugins.cli import main
from nas_plugins.config.reader import read_retrain, read_search
from nas_plugins.errors import InputError
from nas_plugins.files import one_line
from nas_plugins.report.page import write_report
from nas_plugins.runs import directory as runs
from nas_plugins.sweep.records import read_trials, trials_text
from nas_plugins.training.retrain import retrain
from nas_plugins.training.search import search
from nas_plugins.training.trainer import make_trainer
from search_spaces.genotype import MOST_LAYERS, Genotype

BASE = {
    "data": {"dataset": "digits", "train_images": 120, "test_images": 40, "batch_size": 32},
    "training": {"epochs": 1},
    "compute": {"accelerator": "cpu", "threads": 1},
}
SPACE = {"channels": 2, "layers": 3, "nodes": 2, "operations": ["skip_connect", "sep_conv_3x3"]}
SEARCH = {**BASE, "space": {"name": "DartsSpace", **SPACE}, "strategy": {"name": "EDAS"}}
RETRAIN = {**BASE, "network": {"channels": 4}}
CELL = (("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2))
GENOTYPE = Genotype(cells=(CELL, CELL), layout=(0, 1, 1), reductions=(1, 2), concat=(2,))


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with the finished runs EDAS and retrained."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "search.yaml").write_text(yaml.safe_dump(SEARCH))
    (folder / "retrain.yaml").write_text(yaml.safe_dump(RETRAIN))
    GENOTYPE.save(folder / "g.json")
    search(folder / "search.yaml", folder / "EDAS")
    retrain(folder / "g.json", folder / "retrain.yaml", folder / "retrained")
    return folder


@pytest.fixture
def refused(capsys):
    """Run a command that must be refused, soon, and give its line."""

    def refuse(*arguments: object) -> str:
        capsys.readouterr()
        start = time.monotonic()
        assert main([str(argument) for argument in arguments]) == 2
        assert time.monotonic() - start < 20
        err = capsys.readouterr().err
        assert err.startswith("nas-plugins: ") and err.count("\n") == 1 and len(err) < 2000
        return err

    return refuse


class TestConfig:
    def test_a_folder_may_be_called_by_a_long_number(self, tmp_path):
        (tmp_path / "c.yaml").write_text(f"data: {{root: '{'9' * 30}'}}")
        assert read_search(tmp_path / "c.yaml").values["data"]["root"].endswith("9" * 30)

    @pytest.mark.parametrize("exists", (True, False))
    @pytest.mark.parametrize("fault", ("text", "write"))
    def test_a_run_that_cannot_be_begun_leaves_nothing(self, here, tmp_path, monkeypatch, fault, exists):
        run, config = tmp_path / "run", read_search(here / "search.yaml")
        if exists:
            run.mkdir()
        if fault == "text":
            config = replace(config, values={**config.values, "seed": 16**8000})
        else:
            monkeypatch.setattr(runs, "write_text_whole", lambda *_: 1 / 0)
        with pytest.raises((ValueError, ZeroDivisionError)):
            runs.create(run, config, GENOTYPE)
        assert list(tmp_path.iterdir()) == [run] * exists and not list(run.glob("*"))

    def test_where_in_its_code_pytorch_fails_is_not_told(self):
        with pytest.raises(TypeError, match="frame #1") as caught:
            torch.nn.Conv2d(3, 10**20, 1)
        line = one_line(caught.value)
        assert line.endswith("Overflow when unpacking long long") and "frame" not in line

    def test_an_alias_is_no_harm(self, tmp_path):
        (tmp_path / "c.yaml").write_text(
            "space: &s {channels: 4, layers: 3}\nstrategy: {}\ndata: {seed: &n 5}\nseed: *n\n"
        )
        assert read_search(tmp_path / "c.yaml").seed == 5

    @pytest.mark.parametrize(
        ("read", "given"), [(read_search, SEARCH), (read_retrain, RETRAIN)], ids=["search", "retrain"]
    )
    def test_a_class_in_place_of_any_value_is_not_made(self, tmp_path, read, given):
        marker, file = tmp_path / "marker", tmp_path / "c.yaml"
        file.write_text(yaml.safe_dump(given))
        values = read(file).values
        hostile = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(marker)]}}
        keys = [(section, key) for section in values if isinstance(values[section], dict) for key in values[section]]
        for section, key in keys:
            file.write_text(yaml.safe_dump({**given, section: {**given.get(section, {}), key: hostile}}))
            with pytest.raises(InputError):
                read(file)
        assert len(keys) > 25 and not marker.exists()

    def test_what_a_file_holds_is_no_command_to_the_terminal(self, refused, tmp_path):
        (tmp_path / "c.yaml").write_text('"\\e]0;title\\a\\e[2J": 1\n')
        err = refused("search", "--config", tmp_path / "c.yaml", "--output", tmp_path / "run")
        assert "unknown key ?]0;title??[2J" in err

    @pytest.mark.parametrize("space", ("DartsSpace", "DDartsSpace", "FineTunedDartsSpace"))
    def test_a_space_deeper_than_any_memory_is_refused(self, refused, here, tmp_path, space):
        overrides = ["--space", f"{{name: {space}, layers: {10**9}}}"]
        err = refused("search", "--config", here / "search.yaml", "--output", tmp_path / "run", *overrides)
        assert f"layers: {10**9} should be at most {MOST_LAYERS}" in err


class TestGenotype:
    def test_a_depth_beyond_any_memory_is_refused(self, refused, here, tmp_path):
        layers = ["--layers", 10**9]
        info = ["genotype", "info", here / "g.json", "--channels", 4, "--classes", 10]
        retraining = ["retrain", "--genotype", here / "g.json", "--config", here / "retrain.yaml"]
        commands = [
            [*info, *layers],
            ["derive", here / "EDAS", "--output", tmp_path / "d.json", *layers],
            [*retraining, "--output", tmp_path / "r", "--network.layers", 10**9],
        ]
        for command in commands:
            assert f"layers: {10**9} should be at most {MOST_LAYERS}" in refused(*command)

    def test_a_file_of_too_many_layers_is_refused(self, tmp_path):
        text = GENOTYPE.to_json().replace("[0, 1, 1]", str([0] * (MOST_LAYERS + 1)))
        with pytest.raises(ValueError, match=f"^layout: {MOST_LAYERS + 1} layers should be at most {MOST_LAYERS}$"):
            Genotype.from_json(text)


class TestCheckpoint:
    """Those that hold what runs when it is unpickled, and those that are cut, are in test_cli.py."""

    def interrupted(self, run: Path, to: Path) -> Path:
        return shutil.copytree(
            run, to, ignore=shutil.ignore_patterns("genotype.json" if run.name == "EDAS" else "*.pt")
        )

    @pytest.mark.parametrize("content", (b"", b"PK\x03\x04" + bytes(100), bytes(range(256)) * 40), ids=range(3))
    def test_a_file_that_is_none_is_refused_with_what_to_do(self, refused, here, tmp_path, content):
        run = self.interrupted(here / "EDAS", tmp_path / "run")
        (run / "checkpoints/last.ckpt").write_bytes(content)
        err = refused("resume", run)
        assert f"{run}/checkpoints/last.ckpt: damaged" in err
        assert err.endswith("; delete it, and a resume begins at the first epoch\n")
        (run / "checkpoints/last.ckpt").unlink()
        assert main(["resume", str(run)]) == 0
        assert (run / "alphas.csv").read_bytes() == (here / "EDAS/alphas.csv").read_bytes()

    @pytest.mark.parametrize(
        ("kind", "overrides", "words"),
        [
            ("EDAS", {"strategy": {"name": "DARTS"}}, "strategy.name is 'EDAS' there, and 'DARTS' here"),
            ("EDAS", {"space": {"name": "FineTunedDartsSpace", "layers": 3}}, "space.name is 'DartsSpace' there, and"),
            ("retrained", {"network": {"channels": 4, "drop_path": 0.1}}, "drop_path is 0.0 there, and 0.1 here"),
        ],
        ids=["strategy", "space", "network"],
    )
    def test_that_of_another_run_is_refused(self, refused, here, tmp_path, kind, overrides, words):
        run = self.interrupted(here / kind, tmp_path / "run")
        (run / "config.yaml").write_text(yaml.safe_dump({**(SEARCH if kind == "EDAS" else RETRAIN), **overrides}))
        err = refused("resume", run)
        assert "last.ckpt: not the checkpoint of this run: " in err and words in err and "delete it" in err

    @pytest.mark.parametrize("key", ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks"))
    def test_one_with_nonsense_in_it_is_refused(self, refused, here, tmp_path, key):
        run = self.interrupted(here / "retrained", tmp_path / "run")
        file = run / "checkpoints/last.ckpt"
        checkpoint = torch.load(file, weights_only=True)
        for nonsense in (5, "x"):
            torch.save({**checkpoint, key: nonsense}, file)
            assert "last.ckpt: not the checkpoint of this run: " in refused("resume", run)

    @pytest.mark.parametrize("path", ("local://{}", "{}/../victim"))
    @pytest.mark.parametrize("kind", ("EDAS", "retrained"))
    def test_one_that_names_a_folder_as_the_best_so_far_removes_nothing(self, here, tmp_path, kind, path):
        run, victim = self.interrupted(here / kind, tmp_path / "run"), tmp_path / "victim"
        path = path.format(victim)
        victim.mkdir()
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["training"]["epochs"] += 1  # so that one more checkpoint is written
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
        (keeper,) = make_trainer(runs.read_config(run)[0], run, []).checkpoint_callbacks
        checkpoint["callbacks"][keeper.state_key] = {**ModelCheckpoint.state_dict(keeper), "best_model_path": path}
        torch.save(checkpoint, run / "checkpoints/last.ckpt")
        assert main(["resume", str(run)]) == 0
        assert victim.is_dir()

    @pytest.mark.parametrize("content", (b"", b"PK\x03\x04" + bytes(100), bytes(range(256)) * 40), ids=range(3))
    def test_damaged_weights_are_written_anew_by_a_resume(self, refused, here, tmp_path, content):
        run = shutil.copytree(here / "retrained", tmp_path / "run")
        (run / "weights.pt").write_bytes(content)
        assert f"; delete it, and nas-plugins resume {run} writes it anew" in refused("evaluate", run)
        (run / "weights.pt").unlink()
        assert main(["resume", str(run)]) == 0 == main(["evaluate", str(run)])


def test_a_report_of_hostile_files_is_a_page_without_commands(here, tmp_path):
    """The page shows the names of the run, its settings, and through pictures what the tables name."""
    harm = "<script>alert(1)</script><img src=x onerror=alert(1)>=cmd|'/c calc'!A1$\\frac{"
    run = shutil.copytree(here / "EDAS", tmp_path / harm.replace("/", "|"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["strategy"]["name"] = config["space"]["name"] = config["data"]["dataset"] = config["seed"] = harm
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    alphas = pd.read_csv(run / "alphas.csv").rename(columns={"skip_connect": harm})
    alphas["cell"] = alphas["edge"] = harm
    alphas.drop_duplicates(["epoch", "cell", "edge"]).to_csv(run / "alphas.csv", index=False)
    pd.DataFrame({"epoch": [0], "cell": [harm], "contribution": [0.5]}).to_csv(run / "contributions.csv", index=False)
    shutil.copytree(run, tmp_path / "other")
    page = write_report([run, tmp_path / "other"], tmp_path / "out").read_text(encoding="utf-8")
    assert not re.search(r"<script|<img src=x|\sonerror=alert\(1\)>", page)
    assert "&lt;script&gt;alert(1)" in page
    assert all(file.suffix in (".html", ".png", ".svg") for file in (tmp_path / "out").iterdir())


def test_a_report_prints_no_commands_to_the_terminal(here, tmp_path, capsys):
    found = []
    for name in ("a", "b"):
        found.append(shutil.copytree(here / "EDAS", tmp_path / name))
        config = yaml.safe_load((found[-1] / "config.yaml").read_text())
        config["strategy"]["name"] = config["data"]["dataset"] = "\x1b]0;pwn\a\x1b[31mred"
        config["space"]["stem"] = f"\x1b[2J{name}"
        (found[-1] / "config.yaml").write_text(yaml.safe_dump(config))
    retrained = shutil.copytree(here / "retrained", tmp_path / "c")
    shutil.copy(found[0] / "genotype.json", retrained)  # for the table of results
    assert main(["report", *map(str, [*found, retrained]), "--output", str(tmp_path / "report")]) == 0
    out = capsys.readouterr().out
    assert out.count("?[31mred") > 4 and all(letter.isprintable() or letter == "\n" for letter in out)


@pytest.mark.parametrize("seed", ("!!binary aGk=", "2001-01-01", str(10**15)), ids=range(3))
def test_a_report_shows_a_seed_that_is_no_number(here, tmp_path, capsys, seed):
    run = shutil.copytree(here / "EDAS", tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub(r"(?m)^seed: .*", f"seed: {seed}", text))
    assert main(["report", str(run)]) == 0
    assert {"!": "b'hi'", "1": "1e+15"}.get(seed[0], seed) in capsys.readouterr().out


def test_a_report_of_a_config_with_a_tag_of_python_runs_nothing(refused, here, tmp_path):
    run, marker = shutil.copytree(here / "EDAS", tmp_path / "run"), tmp_path / "marker"
    (run / "config.yaml").write_text(f"space: !!python/object/apply:os.system ['touch {marker}']")
    assert "config.yaml" in refused("report", run)
    assert not marker.exists()


class TestRecordsOfNni:
    def experiment(self, folder: Path, result: object = 0.5, chosen: object = None) -> Path:
        """The folder of an experiment with one trial."""
        (folder / "db").mkdir()
        with closing(sqlite3.connect(folder / "db" / "nni.sqlite")) as records, records:
            records.execute("CREATE TABLE TrialJobEvent (trialJobId, event, data)")
            records.execute("CREATE TABLE MetricData (trialJobId, type, data)")
            records.execute("INSERT INTO TrialJobEvent VALUES ('T', 'SUCCEEDED', ?)", [json.dumps(chosen)])
            records.execute("INSERT INTO MetricData VALUES ('T', 'FINAL', ?)", [json.dumps(json.dumps(result))])
        return folder

    @pytest.mark.parametrize(
        "wrong",
        (
            {"result": {"default": 0.5, "run": 5}},
            {"result": {"default": 0.5, "run": None}},
            {"result": {"default": 10**400}},
            {"chosen": [1]},
        ),
        ids=range(4),
    )
    def test_that_are_none_are_refused(self, refused, tmp_path, wrong):
        folder = self.experiment(tmp_path, **{"chosen": {}, **wrong})
        for options in ([], ["--genotypes", tmp_path / "best"]):
            assert "nni.sqlite: not the records of NNI's trials: " in refused("trials", folder, *options)

    @pytest.mark.parametrize("parameters", [1, [1], "a"])
    def test_may_have_parameters_without_keys_as_a_batch_tuner_gives_them(self, tmp_path, parameters):
        trials = read_trials(self.experiment(tmp_path, 0.5, {"parameters": parameters}))
        assert trials["parameters"].tolist() == [{"parameters": parameters}]
        assert str(parameters) in trials_text(trials)

    def test_are_no_commands_to_the_terminal(self, tmp_path, capsys):
        harm = "\x1b]0;title\x07\x1b[2J\n"
        folder = self.experiment(tmp_path, {"default": 0.5, "run": harm}, {"parameters": {harm: harm}})
        assert main(["trials", str(folder)]) == 0
        out = capsys.readouterr().out
        assert "?]0;title" in out and all(letter.isprintable() or letter == "\n" for letter in out)
