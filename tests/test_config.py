"""Config files: what they may hold, what wins over what, and how a wrong one is answered."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nas_plugins.config.reader import Config, read_kind, read_retrain, read_search
from nas_plugins.errors import InputError
from search_spaces.darts import DartsSpace
from strategies.darts import DARTS
from strategies.edas import EDAS

SEARCH = {
    "seed": 3,
    "space": {"name": "DartsSpace", "channels": 4, "layers": 3},
    "strategy": {"name": "EDAS", "sign_flip_epochs": 1},
    "data": {"dataset": "digits", "train_images": 120, "test_images": 40, "batch_size": 32},
    "training": {"epochs": 2, "learning_rate": 0.05},
    "compute": {"accelerator": "cpu", "threads": 1},
}
RETRAIN = {
    "network": {"channels": 4, "drop_path": 0.2},
    "data": {"dataset": "digits", "train_images": 120, "test_images": 40},
    "training": {"epochs": 2},
}

HANDING_ON = """
from search_spaces.darts import DartsSpace


class Whole(DartsSpace):
    def __init__(self, **kw):
        super().__init__(**kw)


class Wide(Whole):
    def __init__(self, width: int = 3, **kw):
        super().__init__(channels=width, **kw)
"""


@pytest.fixture
def search_file(tmp_path: Path) -> Path:
    return write(tmp_path / "search.yaml", SEARCH)


@pytest.fixture
def retrain_file(tmp_path: Path) -> Path:
    return write(tmp_path / "retrain.yaml", RETRAIN)


def write(file: Path, content: object) -> Path:
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return file


def message_of(read, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestPrecedence:
    def test_the_file_wins_over_the_defaults(self, search_file):
        config = read_search(search_file)
        assert config.training.learning_rate == 0.05
        assert config.training.momentum == 0.9

    def test_the_command_line_wins_over_the_file(self, search_file):
        config = read_search(search_file, ["--training.learning_rate", "0.5", "--seed=8"])
        assert config.training.learning_rate == 0.5
        assert config.seed == 8
        assert config.training.epochs == 2

    def test_of_two_overrides_the_last_wins(self, search_file):
        config = read_search(search_file, ["--training.epochs", "5", "--training.epochs", "6"])
        assert config.training.epochs == 6

    def test_an_empty_file_is_all_defaults(self, tmp_path):
        config = read_search(write(tmp_path / "empty.yaml", ""))
        assert config.values["space"]["name"] == "DartsSpace"
        assert config.values["strategy"]["name"] == "EDAS"

    def test_a_list_can_be_given_on_the_command_line(self, search_file):
        config = read_search(search_file, ["--space.operations", "[skip_connect, sep_conv_3x3]"])
        assert config.values["space"]["operations"] == ["skip_connect", "sep_conv_3x3"]

    def test_null_can_be_given_on_the_command_line(self, search_file):
        assert read_search(search_file, ["--data.train_images", "null"]).values["data"]["train_images"] is None

    def test_numbers_with_an_exponent_but_no_point_are_numbers(self, tmp_path):
        file = write(tmp_path / "c.yaml", "training: {learning_rate: 1e-3, weight_decay: 3e-4}")
        assert read_search(file).training.learning_rate == 0.001


class TestNames:
    @pytest.mark.parametrize("arguments", (["--strategy.name", "DARTS"], ["--strategy.name=DARTS"]))
    def test_the_name_of_the_strategy_decides_its_keys(self, tmp_path, arguments):
        file = write(tmp_path / "c.yaml", {**SEARCH, "strategy": {}})
        config = read_search(file, [*arguments, "--strategy.learning_rate", "0.001"])
        assert config.values["strategy"]["name"] == "DARTS"
        assert "alpha_max" not in config.values["strategy"]

    def test_a_key_of_another_strategy_is_unknown(self, tmp_path):
        file = write(tmp_path / "c.yaml", {**SEARCH, "strategy": {"name": "EDAS", "alpha_max": True}})
        assert read_search(file).values["strategy"]["alpha_max"] is True
        words = "unknown key strategy.alpha_max of DARTS; "
        assert words in message_of(read_search, file, ["--strategy.name", "DARTS"])
        strategy = read_search(file, ["--strategy", "{name: DARTS}", "--strategy.xi", "null"]).values["strategy"]
        assert strategy == {**read_search(write(file, {"strategy": {"name": "DARTS"}})).values["strategy"]}

    def test_a_strategy_of_many_trials_is_refused_by_its_name(self, search_file):
        message = message_of(read_search, search_file, ["--strategy.name", "nni.nas.strategy.Random"])
        assert message == "strategy.name: nni.nas.strategy.Random is a multi-trial strategy; search takes one-shot ones"

    def test_of_two_names_the_last_wins_as_for_every_key(self, tmp_path):
        file = write(tmp_path / "c.yaml", {**SEARCH, "strategy": {}})
        config = read_search(file, ["--strategy.name", "EDAS", "--strategy.name", "DARTS"])
        assert config.values["strategy"]["name"] == "DARTS"
        assert "alpha_max" not in config.values["strategy"]

    @pytest.mark.parametrize("name", ("DARTS", "GumbelDARTS", "RandomOneShot", "Proxyless"))
    def test_a_strategy_of_nni_by_its_importable_name(self, tmp_path, name):
        file = write(tmp_path / "c.yaml", {**SEARCH, "strategy": {"name": f"nni.nas.strategy.{name}"}})
        config = read_search(file)
        assert "mutation_hooks" not in config.values["strategy"]
        assert type(config.build("strategy")).__name__ == name

    def test_the_hub_space_of_nni(self, tmp_path):
        space = {"name": "nni.nas.hub.pytorch.DARTS", "width": 4, "num_cells": 3, "dataset": "cifar"}
        config = read_search(write(tmp_path / "c.yaml", {**SEARCH, "space": space}))
        assert {key: config.values["space"][key] for key in space} == space

    def test_a_space_that_hands_its_arguments_on_has_the_keys_of_its_base(self, tmp_path, monkeypatch):
        (tmp_path / "handing_on.py").write_text(HANDING_ON)
        monkeypatch.syspath_prepend(str(tmp_path))
        ours = read_search(write(tmp_path / "c.yaml", {})).values["space"].keys()
        file = write(tmp_path / "c.yaml", {"space": {"name": "handing_on.Whole", "layers": 4}})
        assert read_search(file).values["space"].keys() == ours
        assert len(read_search(file).build("space").network.cells) == 4
        wide = read_search(file, ["--space.name", "handing_on.Wide", "--space.width", "2"])
        assert wide.values["space"].keys() == ours - {"channels"} | {"width"}  # it decides on the channels itself
        assert len(wide.build("space").network.cells) == 4


class TestBuild:
    def test_space_and_strategy_get_their_arguments(self, search_file):
        config = read_search(search_file)
        space = config.build("space", num_classes=7, image_channels=1)
        assert isinstance(space, DartsSpace)
        assert space.network.classifier.out_features == 7
        assert len(space.network.cells) == 3
        assert isinstance(config.build("strategy"), EDAS)

    def test_the_defaults_are_those_of_the_class(self, tmp_path):
        config = read_search(write(tmp_path / "c.yaml", {"strategy": {"name": "DARTS"}}))
        strategy, default = config.build("strategy"), DARTS()
        given, usual = strategy.composition.optimizer.keywords, default.composition.optimizer.keywords
        assert {**given, "betas": tuple(given["betas"])} == usual
        assert strategy.composition.gradient_clip_val == default.composition.gradient_clip_val

    def test_what_the_images_decide_is_no_key(self, tmp_path):
        file = write(tmp_path / "c.yaml", {"space": {"num_classes": 10}})
        assert "unknown key space.num_classes of DartsSpace; known are " in message_of(read_search, file)

    @pytest.mark.parametrize(
        ("space", "words"),
        (
            ({"layers": 2}, "layers: 2"),
            ({"channels": 0}, "channels: 0"),
            ({"nodes": 0}, "nodes: 0"),
            ({"operations": ["skip_connect", "conv_9x9"]}, "unknown operation 'conv_9x9'"),
            ({"operations": ["skip_connect"]}, "at least two"),
        ),
    )
    def test_a_space_that_refuses_its_arguments(self, tmp_path, space, words):
        config = read_search(write(tmp_path / "c.yaml", {"space": space}))
        message = message_of(config.build, "space")
        assert message.startswith("space: ")
        assert words in message


class TestRepeating:
    def test_the_text_reads_as_the_same_values(self, search_file, tmp_path):
        config = read_search(search_file, ["--training.epochs", "7"])
        again = read_search(write(tmp_path / "again.yaml", config.to_yaml()))
        assert again.values == config.values

    def test_the_text_names_every_key(self, search_file):
        values = yaml.safe_load(read_search(search_file).to_yaml())
        assert set(values) == {"seed", "task", "space", "strategy", "data", "training", "compute", "logger"}
        assert values["training"]["momentum"] == 0.9
        assert values["space"]["operations"][0] == "max_pool_3x3"

    @pytest.mark.parametrize(
        "strategy",
        ("DARTS", "EDAS", "nni.nas.strategy.DARTS", "nni.nas.strategy.GumbelDARTS", "nni.nas.strategy.RandomOneShot"),
    )
    def test_also_for_every_strategy(self, tmp_path, strategy):
        config = read_search(write(tmp_path / "c.yaml", {"strategy": {"name": strategy}}))
        assert read_search(write(tmp_path / "again.yaml", config.to_yaml())).values == config.values

    def test_also_for_a_retraining(self, retrain_file, tmp_path):
        config = read_retrain(retrain_file, ["--network.layers", "5"])
        file = write(tmp_path / "again.yaml", config.to_yaml())
        assert read_retrain(file).values == config.values
        assert config.derived is not None
        assert config.derived.layers == 5

    def test_a_search_and_a_retraining_are_told_apart(self, search_file, retrain_file, tmp_path):
        assert read_kind(search_file) == "search"
        assert read_kind(retrain_file) == "retrain"
        assert read_kind(write(tmp_path / "s.yaml", read_search(search_file).to_yaml())) == "search"
        assert read_kind(write(tmp_path / "r.yaml", read_retrain(retrain_file).to_yaml())) == "retrain"

    def test_words_with_accents_stay_readable(self, search_file):
        text = read_search(search_file, ["--data.root", "données"]).to_yaml()
        assert "données" in text


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("content", "words"),
        (
            ({"sed": 1}, "unknown key sed; did you mean seed?"),
            ({"training": {"epoch": 1}}, "unknown key training.epoch; did you mean training.epochs?"),
            ({"space": {"layer": 3}}, "unknown key space.layer of DartsSpace; did you mean space.layers?"),
            ({"strategy": {"lerning_rate": 3}}, "did you mean strategy.learning_rate?"),
            ({"data": {"zzz": 3}}, "unknown key data.zzz; known are data.dataset"),
            ({1: 2}, "unknown key 1; known are seed, task, space, strategy, data, training, compute"),
        ),
    )
    def test_in_the_file(self, tmp_path, content, words):
        file = write(tmp_path / "c.yaml", content)
        assert words in message_of(read_search, file)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        (
            (["--training.epoch", "3"], "unknown key training.epoch; did you mean training.epochs?"),
            (["--space.layer=3"], "unknown key space.layer of DartsSpace; did you mean space.layers?"),
            (["--epochs", "3"], "unknown key epochs; known are seed, task, space, strategy, data, training, compute"),
        ),
    )
    def test_on_the_command_line(self, search_file, arguments, words):
        assert words in message_of(read_search, search_file, arguments)

    @pytest.mark.parametrize("arguments", (["training.epochs", "3"], ["-x"], ["--"], ["--seed", "1", "2"], ["--seed"]))
    def test_a_command_line_that_is_no_key_and_value(self, search_file, arguments):
        message_of(read_search, search_file, arguments)

    def test_a_config_of_another_command_is_named_so(self, search_file, retrain_file):
        assert "has the section 'space', which is for nas-plugins search" in message_of(read_retrain, search_file)
        assert "has the section 'network', which is for nas-plugins retrain" in message_of(read_search, retrain_file)


class TestWrongValues:
    @pytest.mark.parametrize(
        "content",
        (
            {"seed": -1},
            {"seed": 2**32},
            {"seed": "many"},
            {"seed": None},
            {"training": {"epochs": "many"}},
            {"training": {"epochs": 2.5}},
            {"training": {"epochs": 0}},
            {"training": {"epochs": True}},
            {"training": {"epochs": None}},
            {"training": {"learning_rate": None}},
            {"data": {"batch_size": None}},
            {"space": {"channels": None}},
            {"space": {"operations": None}},
            {"strategy": {"learning_rate": None}},
            {"training": {"learning_rate": 0}},
            {"training": {"learning_rate": float("nan")}},
            {"training": {"min_learning_rate": -1}},
            {"training": {"momentum": 1.5}},
            {"training": {"label_smoothing": 2}},
            {"training": {"restart_epochs": 0}},
            {"training": {"restart_factor": 1.5}},
            {"training": {"restart_factor": None}},
            {"data": {"random_erasing": "often"}},
            {"data": {"resized_crop": "maybe"}},
            {"training": {"weight_decay": [1]}},
            {"compute": {"precision": "8"}},
            {"compute": {"threads": 0}},
            {"compute": {"accelerator": 5}},
            {"data": {"batch_size": "big"}},
            {"data": {"download": "maybe"}},
            {"data": {"dataset": "mnist1d"}},
            {"data": {"batch_size": 0}},
            {"data": {"val_fraction": -0.1}},
            {"data": {"val_fraction": float("nan")}},
            {"data": {"train_images": 0}},
            {"data": {"test_images": -1}},
            {"data": {"image_size": 0}},
            {"data": {"crop_padding": -1}},
            {"data": {"cutout": -1}},
            {"data": {"random_erasing": 1.5}},
            {"data": {"workers": -1}},
            {"data": {"seed": 2**32}},
            {"space": {"channels": "four"}},
            {"space": {"stem": "mnist"}},
            {"space": {"operations": "sep_conv_3x3"}},
            {"strategy": {"betas": [0.5]}},
            {"strategy": {"none": 3}},
        ),
        ids=lambda content: " ".join(str(content).split()).translate(str.maketrans("", "", "{}' ")),
    )
    def test_a_value_of_the_wrong_type_or_out_of_range(self, tmp_path, content):
        message = message_of(read_search, write(tmp_path / "c.yaml", content))
        (section,) = content
        key = f"{section}.{next(iter(content[section]))}" if isinstance(content[section], dict) else section
        assert key in message

    @pytest.mark.parametrize(
        ("key", "value", "right"),
        (
            ("space.fixed", "squeeze_excitation", "Sequence"),
            ("space.operations", [3], "str"),
            ("space.mlp_width", "wide", "int"),
            ("space.stem", 3, "'cifar', 'imagenet', 'tiny_imagenet', 'dual_cifar'"),
            ("strategy.betas", [0.5], "a tuple with 2 elements"),
            ("strategy.none", "perhaps", "bool"),
            ("data.root", 5, "str"),
            ("data.val_fraction", "half", "float"),
            ("training.epochs", 0, "v>0"),
            ("training.learning_rate", -0.1, "v>0"),
            ("training.momentum", 1.5, "v>=0 and v<=1"),
            ("compute.threads", "two", "PositiveInt"),
        ),
    )
    def test_the_message_names_the_key_the_value_and_the_type(self, tmp_path, key, value, right):
        section, _, name = key.partition(".")
        message = message_of(read_search, write(tmp_path / "c.yaml", {section: {name: value}}))
        assert f'"{key}"' in message and right in message
        assert str(value) in message or str(value[0]) in message

    def test_a_date_is_shown_as_it_was_written(self, tmp_path):
        message = message_of(read_search, write(tmp_path / "c.yaml", "seed: 2001-01-01"))
        assert '"seed"' in message and "'2001-01-01'" in message
        file = write(tmp_path / "c.yaml", "data: {root: 2001-02-31}")
        assert read_search(file).values["data"]["root"].endswith("2001-02-31")

    @pytest.mark.parametrize(
        "network",
        (
            {"channels": 0},
            {"layers": 0},
            {"stem": "mnist"},
            {"auxiliary_weight": -1},
            {"drop_path": 1.5},
            {"gradient_clip_val": 0},
        ),
        ids=lambda network: next(iter(network)),
    )
    def test_also_in_a_retraining(self, tmp_path, network):
        message = message_of(read_retrain, write(tmp_path / "c.yaml", {"network": network}))
        assert f"network.{next(iter(network))}" in message

    @pytest.mark.parametrize(
        ("key", "value"), (("space", 5), ("training", [1]), ("data", "digits"), ("strategy", None))
    )
    def test_a_section_that_is_something_else(self, tmp_path, key, value):
        message = message_of(read_search, write(tmp_path / "c.yaml", {key: value}))
        assert f"{key}: {value!r} should be a section" in message

    @pytest.mark.parametrize("name", (5, None, ["EDAS"], {"a": 1}, ""))
    def test_a_name_that_is_no_name(self, tmp_path, name):
        assert "strategy.name" in message_of(read_search, write(tmp_path / "c.yaml", {"strategy": {"name": name}}))


class TestFiles:
    def test_missing(self, tmp_path):
        assert "nowhere.yaml: cannot be read: No such file" in message_of(read_search, tmp_path / "nowhere.yaml")

    def test_a_folder(self, tmp_path):
        assert str(tmp_path) in message_of(read_search, tmp_path)

    @pytest.mark.parametrize("text", ("seed: [1", "a: b: c", "\tseed: 1", "seed: 1\n...\nx: {"))
    def test_no_yaml(self, tmp_path, text):
        assert "c.yaml: is no YAML" in message_of(read_search, write(tmp_path / "c.yaml", text))

    def test_binary(self, tmp_path):
        file = tmp_path / "c.yaml"
        file.write_bytes(b"\xff\xfe\x00\x80")
        assert "is no text file" in message_of(read_search, file)

    @pytest.mark.parametrize(
        ("text", "key"), (("seed: 1\nseed: 2", "seed"), ("training: {epochs: 1, epochs: 2}", "epochs"))
    )
    def test_a_key_that_is_given_twice(self, tmp_path, text, key):
        assert f"has the key {key} more than once" in message_of(read_search, write(tmp_path / "c.yaml", text))

    @pytest.mark.parametrize("text", ("- 1\n- 2\n", "7", "just words"))
    def test_yaml_that_holds_no_keys(self, tmp_path, text):
        assert "should hold keys such as seed" in message_of(read_search, write(tmp_path / "c.yaml", text))

    @pytest.mark.parametrize(
        "text",
        (
            "seed: !!python/object/apply:os.system ['touch {}']",
            "!!python/object/apply:os.system ['touch {}']",
            "data: {{root: !!python/object/new:os.system ['touch {}']}}",
        ),
    )
    def test_a_tag_that_would_run_something_runs_nothing(self, tmp_path, text):
        trace = tmp_path / "trace"
        assert "is no YAML" in message_of(read_search, write(tmp_path / "c.yaml", text.format(trace)))
        assert not trace.exists()

    @pytest.mark.parametrize("key", ("strategy", "space"))
    def test_a_class_hidden_in_a_section_is_not_made(self, tmp_path, key):
        content = {key: {"class_path": "subprocess.Popen", "init_args": {"args": f"touch {tmp_path / 'trace'}"}}}
        assert f"unknown key {key}.class_path" in message_of(read_search, write(tmp_path / "c.yaml", content))
        assert not (tmp_path / "trace").exists()


def test_a_config_is_a_value(search_file):
    config = read_search(search_file)
    assert isinstance(config, Config)
    with pytest.raises(AttributeError):
        config.training = None  # type: ignore[misc]


@pytest.mark.parametrize(
    ("strategy", "section", "old", "new", "value"),
    [
        ("EDAS", "strategy", "warmup_epochs", "sign_flip_epochs", 3),
        ("DDARTS", "strategy", "still", "min_alpha_change", 0.5),
        ("DDARTS", "strategy", "absent", "ablation_mode", "skip"),
        ("EDAS", "data", "held_out", "val_fraction", 0.25),
    ],
)
def test_a_key_that_was_renamed_goes_on_working_with_a_warning(tmp_path, strategy, section, old, new, value):
    file = write(tmp_path / "old.yaml", {"strategy": {"name": strategy}, "data": {"dataset": "digits"}})
    with pytest.warns(FutureWarning, match=rf"{section}\.{old} is now called {section}\.{new}"):
        config = read_search(file, [f"--{section}.{old}", str(value)])
    assert config.values[section][new] == value
    assert old not in config.values[section]


def test_an_argument_that_was_renamed_goes_on_working_with_a_warning():
    with pytest.warns(FutureWarning, match="warmup_epochs: renamed to sign_flip_epochs"):
        assert EDAS(warmup_epochs=3).composition.relaxation.sign_flip_epochs == 3


def test_an_override_by_the_old_name_of_a_key_wins_over_the_file(tmp_path):
    file = write(tmp_path / "new.yaml", {"data": {"dataset": "digits", "val_fraction": 0.5}})
    with pytest.warns(FutureWarning, match=r"data\.held_out is now called"):
        assert read_search(file, ["--data.held_out", "0.25"]).values["data"]["val_fraction"] == 0.25


def test_an_argument_by_both_of_its_names_is_refused():
    with pytest.raises(TypeError, match="warmup_epochs: renamed to sign_flip_epochs, which is given too"):
        EDAS(warmup_epochs=3, sign_flip_epochs=4)
