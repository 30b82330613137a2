"""docs/matrix.md says which pairs of strategy and space work.

Here the strategies of the four papers run on every kind of space, one of them on spaces of cells like others here; and
NNI's own run on one of ours. test_methods.py has the others.
"""

import re
from pathlib import Path

import pytest

from benchmarks.matrix import SPACES, STRATEGIES, THEIRS, run

ROOT = Path(__file__).parent.parent
ALIKE = ("hub NASNet", "hub ENAS", "hub AmoebaNet", "hub PNAS")
"""Spaces of cells like that of the hub's DARTS, with other operations: all run in a relaxed step."""
FOUR_PAPERS = ("DARTS second order", "EDAS", "FairDARTS", "DDARTS")
"""The second order takes the gradient of the first order too."""
LARGE = ("hub ProxylessNAS", "hub ShuffleNet")
"""Spaces of layers to choose, as in that of NAS-Bench-201, which has the second order for them."""
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
    theirs = THEIRS if space == "DartsSpace" else ()
    ours = ("DARTS",) if space in ALIKE else FOUR_PAPERS[space in LARGE :]
    for strategy in (*ours, *theirs):
        said, result = table()[strategy, space], run(space, strategy)["result"]
        if said == "ok":
            assert result == "ok", (strategy, space)
        else:
            assert re.search(ERRORS[said], result), (strategy, space, result)
