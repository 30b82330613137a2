"""docs/matrix.md says which pairs of strategy and space work.

Here the strategies of the four papers search every kind of space, and NNI's own one of ours; spaces that differ from
these in their operations have a step of all of them. test_methods.py has the others.
"""

import re
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from benchmarks.matrix import SPACES, STRATEGIES, THEIRS, _space, run
from strategies.darts import DARTS
from strategies.relaxation import softmax
from tests.test_cost_tables import derived, supernet_of

ROOT = Path(__file__).parent.parent
ALIKE = ("hub NASNet", "hub ENAS", "hub AmoebaNet", "hub PNAS", "hub ProxylessNAS", "hub ShuffleNet")
"""Spaces of cells like that of the hub's DARTS, and of layers as in that of NAS-Bench-201, with other operations."""
FOUR_PAPERS = ("DARTS second order", "EDAS", "FairDARTS", "DDARTS")
"""The second order takes the gradient of the first order too."""
ERRORS = {
    "[1]": "Proxyless",
    "[2]": "as_legacy_dict is not implemented",
    "[3]": "the ablation loss",
    "[5]": "cannot search",
}
"""What the notes of the table stand for."""


def table() -> dict[tuple[str, str], str]:
    """(strategy, space) -> what the table has."""
    lines = (ROOT / "docs" / "matrix.md").read_text(encoding="utf-8").splitlines()
    head, _, *rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in lines if line.startswith("|")]
    return {(name, space): cell for name, *cells in rows for space, cell in zip(head, cells, strict=True)}


def test_the_table_has_every_pair():
    assert set(table()) == {(strategy, space) for strategy in STRATEGIES for space in SPACES}


@pytest.mark.slow
@pytest.mark.parametrize("space", [name for name in SPACES if name not in ALIKE])
def test_the_table_is_right_where_a_strategy_of_the_four_papers_or_our_main_space_is_in_it(space):
    theirs = THEIRS if space == "DartsSpace" else ()
    for strategy in (*FOUR_PAPERS, *theirs):
        steps = 2 if strategy == "EDAS" else 1  # its second step ascends
        said, result = table()[strategy, space], run(space, strategy, steps)["result"]
        if said == "ok":
            assert result == "ok", (strategy, space)
        else:
            assert re.search(ERRORS[said], result), (strategy, space, result)


@pytest.mark.parametrize("name", ALIKE)
def test_all_operations_of_a_space_like_others_are_relaxed_and_its_sample_freezes_it(name):
    space, strategy = _space(name), DARTS()
    assert table()["DARTS", name] == "ok"
    supernet = supernet_of(space(), strategy)
    strategy.architecture.plan = softmax(strategy.architecture.alphas)
    cross_entropy(supernet(torch.randn(2, 3, 16, 16)), torch.tensor([0, 1])).backward()
    assert all(alpha.grad.isfinite().all() and alpha.grad.any() for alpha in strategy.architecture.alphas.values())
    sample, _ = derived(strategy, supernet)
    assert space().freeze(sample)(torch.randn(2, 3, 16, 16)).shape == (2, 10)
