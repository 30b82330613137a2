"""A disk that is full: a run ends with one line that says what to do, and goes on once there is space."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_kills import CONFIGS, GENOTYPE, assert_same


@pytest.fixture
def tried(tmp_path) -> list[dict]:
    """What happened at several fillings of a disk of 4 MB, in the memory."""
    folder, disk = tmp_path, tmp_path / "disk"
    disk.mkdir()
    for name, kind in (("search", "EDAS"), ("retrain", "retraining")):
        config = {**CONFIGS[kind], "training": {"epochs": 2}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    GENOTYPE.save(folder / "g.json")
    mount = f"mount -t tmpfs -o size=4m none {disk}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    script = f"{mount} && exec {sys.executable} {Path(__file__).with_name('full_disk.py')} {disk}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_a_full_disk_is_one_line_that_says_what_to_do_and_with_space_the_run_goes_on_to_the_same_end(tried):
    stopped = [one for one in tried if one["status"] != 0]
    for one in stopped:
        run = Path(one["run"]).parent / "disk" / "run"
        assert one["status"] == 2 and one["err"].count("\n") == 1, one
        assert str(run) in one["err"] and "No space left on device" in one["err"], one
        if one["between"]:
            assert one["err"].endswith(f"; free some space, then nas-plugins resume {run}\n"), one
    for file in ("config.yaml", "metrics.csv", "alphas.csv", "last.ckpt"):
        assert any(file in one["err"] for one in stopped), file
    for one in tried:
        assert not [name for name in one["between"] if name.endswith(".tmp")]
        assert one["again"] == [0, ""], one
        assert_same(Path(one["run"]), Path(one["run"]).with_name(one["command"]))
