"""What goes wrong in the middle of a run: images that vanish or break, a loss that is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import yaml
from forked import Command, nas_plugins
from PIL import Image
from test_kills import CONFIGS, GENOTYPE, assert_same

from nas_plugins.cli import main
from nas_plugins.errors import InputError
from nas_plugins.training.search import resume, search

EPOCHS = {"epochs": 4}


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of noisy images of two classes."""
    noise = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / "images" / part / label
            folder.mkdir(parents=True)
            for index in range(24):
                Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "images"


def command(kind: str, images: Path, workers: int = 0) -> list[object]:
    """What begins a run on the images, but for its output."""
    data = {"dataset": "folder", "root": str(images), "batch_size": 6, "workers": workers, "cache": False}
    config = {**CONFIGS[kind], "data": data, "training": EPOCHS}
    (images.parent / "c.yaml").write_text(yaml.safe_dump(config))
    GENOTYPE.save(images.parent / "g.json")
    genotype = ["--genotype", images.parent / "g.json"] if kind == "retraining" else []
    return ["retrain" if genotype else "search", *genotype, "--config", images.parent / "c.yaml", "--output"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["EDAS", "retraining"])
def test_images_that_vanish_in_an_epoch_are_named_and_the_run_goes_on_once_they_are_back(images, tmp_path, kind):
    begin, run, whole = command(kind, images), tmp_path / "run", tmp_path / "whole"
    process = Command([*begin, run], tmp_path)
    process.wait((run / "checkpoints/last.ckpt").exists)
    images.rename(tmp_path / "away")
    ended = process.end()
    assert ended.status == 2 and ended.err.count("\n") == 1, ended
    assert f"nas-plugins: data.root: image file '{images}/train/" in ended.err
    assert ended.err.endswith(f"; put it back, then nas-plugins resume {run}\n")

    before = {file: file.read_bytes() for file in run.glob("*.*")}
    again = nas_plugins(["resume", run], tmp_path)
    assert again.status == 2 and again.err.count("\n") == 1 and f"data.root is '{images}'" in again.err
    assert {file: file.read_bytes() for file in run.glob("*.*")} == before

    (tmp_path / "away").rename(images)
    assert nas_plugins(["resume", run], tmp_path).status == 0 == nas_plugins([*begin, whole], tmp_path).status
    assert_same(run, whole)


@pytest.mark.slow
def test_an_image_that_breaks_in_a_run_is_named_with_what_to_do(images, tmp_path):
    run = tmp_path / "run"
    process = Command([*command("retraining", images, workers=1), run], tmp_path)
    process.wait((run / "checkpoints/last.ckpt").exists)
    broken = images / "train" / "cat" / "3.png"
    broken.write_bytes(broken.read_bytes()[:100])
    ended = process.end()
    assert ended.status == 2 and ended.err.count("\n") == 1, ended
    assert f"image file '{broken}' cannot be used" in ended.err
    assert ended.err.endswith(f"; replace it or delete it, then nas-plugins resume {run}\n")


@pytest.mark.parametrize("content", (b"", b"some text", b"\x89PNG\r\n\x1a\n"), ids=("empty", "text", "cut"))
def test_an_image_that_is_broken_from_the_start_is_named_before_anything_is_written(images, tmp_path, capsys, content):
    (images / "train" / "cat" / "3.png").write_bytes(content)
    assert main([str(argument) for argument in [*command("EDAS", images), tmp_path / "run"]]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"image file '{images}/train/cat/3.png' cannot be used" in err
    assert not (tmp_path / "run").exists()


class Count(pl.Callback):
    """The iterations that ended."""

    iterations = 0

    def on_train_batch_end(self, *arguments):
        self.iterations += 1


def test_a_loss_that_is_lost_ends_a_long_epoch_early(tmp_path):
    """Nothing of the epoch is kept, and a resume, which would come to the same, says so as well."""
    data = {"dataset": "digits", "test_images": 40, "batch_size": 4}
    config = {**CONFIGS["EDAS"], "data": data, "training": {"epochs": 2, "learning_rate": 1e6, "weight_decay": 1e6}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    message = r"training loss became nan in epoch 0: lower training\.learning_rate in a new run; a resume of this one"
    count = Count()
    with pytest.raises(InputError, match=message):
        search(tmp_path / "c.yaml", tmp_path / "run", callbacks=[count])
    assert count.iterations < 60  # of 179
    assert not list((tmp_path / "run").glob("*.csv"))
    with pytest.raises(InputError, match=message):
        resume(tmp_path / "run")
