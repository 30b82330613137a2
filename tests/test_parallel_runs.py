"""Tests of runs in parallel subprocesses."""

import re
import time

import pytest

from nas_plugins.parallel_runs import command, in_parallel, retrained
from search_spaces.genotype import Genotype

GENOTYPE = Genotype(cells=((("skip_connect", 0, 2),),), layout=(0, 0, 0), reductions=(1,), concat=(2,))


def test_command_prints_its_last_line_or_raises_its_error(tmp_path, capsys):
    command("list", "--help")
    assert re.fullmatch("  -h, --help .*\n", capsys.readouterr().out)
    with pytest.raises(SystemExit, match="^nas-plugins: the following arguments are required: --output; see"):
        command("derive", tmp_path)


def test_results_are_in_the_order_of_the_calls():
    def call(number):
        time.sleep(0.02 * (4 - number))
        return number

    assert in_parallel(4, [lambda n=n: call(n) for n in range(4)]) == [0, 1, 2, 3]


def test_a_failure_skips_calls_that_have_not_started():
    begun = []

    def call(number):
        begun.append(number)
        time.sleep(0.05)
        if number == 1:
            raise SystemExit("1 failed")

    with pytest.raises(SystemExit, match="1 failed"):
        in_parallel(2, [lambda n=n: call(n) for n in range(50)])
    assert len(begun) < 10


def test_a_retraining_of_another_genotype_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    GENOTYPE.save(tmp_path / "run" / "genotype.json")
    other = Genotype(cells=((("max_pool_3x3", 0, 2),),), layout=(0, 0, 0), reductions=(1,), concat=(2,))
    other.save(tmp_path / "other.json")
    with pytest.raises(SystemExit, match="is a retraining of another genotype than"):
        retrained(tmp_path / "run", tmp_path / "other.json", "any.yaml", seed=0)
