"""docs/matrix.md says which pairs of strategy and space work.

Here the strategies of the four papers run on every space, on the largest two of them, and NNI's own on one of ours;
test_methods.py has the others.
"""

import re
from pathlib import Path

import pytest

from benchmarks.matrix import OURS, SPACES, STRATEGIES, run
from benchmarks.methods import METHODS

ROOT = Path(__file__).parent.parent
SLOW = ("hub NASNet", "hub AmoebaNet", "hub PNAS")
"""Spaces of cells like others here, with more operations."""
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
@pytest.mark.parametrize("space", SPACES)
def test_the_table_is_right_where_a_strategy_of_the_four_papers_or_our_main_space_is_in_it(space):
    strategies = STRATEGIES if space == "DartsSpace" else ("DARTS", "EDAS") if space in SLOW else OURS
    for strategy in (name for name in strategies if name not in METHODS):
        said, result = table()[strategy, space], run(space, strategy)["result"]
        if said == "ok":
            assert result == "ok", (strategy, space)
        else:
            assert re.search(ERRORS[said], result), (strategy, space, result)
