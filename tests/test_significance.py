"""The statistics of the benchmarks, against published figures, scipy and what can be counted by hand."""

import numpy as np
import pytest
from scipy import stats

from benchmarks import significance


def test_holm_adjusts_the_smallest_p_the_most_and_keeps_the_order():
    # Of 0.01, 0.02, 0.03 and 0.04: 4 × 0.01, 3 × 0.02, then no less than the one before.
    assert significance.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert significance.holm([0.6, 0.9]) == [1.0, 1.0]
    assert significance.holm([]) == []


@pytest.mark.parametrize(("pairs", "p"), [(5, 2 / 32), (10, 2 / 1024)])
def test_differences_of_one_sign_have_the_smallest_p_that_their_number_allows(pairs, p):
    assert significance.permutation_p(np.arange(1, pairs + 1)) == pytest.approx(p)


def test_the_permutation_test_counts_the_flips_that_are_as_far_from_0():
    # The sums of ±1 ±2 ±4: 7, 5, 3, 1 and their negatives. As far as 5 (1 of them flipped) are 4 of 8.
    assert significance.permutation_p([-1, 2, 4]) == pytest.approx(0.5)


def test_equal_methods_and_single_pairs_are_no_evidence():
    assert significance.permutation_p([0, 0, 0]) == 1
    assert significance.permutation_p([3]) == 1
    assert np.isnan(significance.bootstrap_interval([3])).all()
    assert significance.bootstrap_interval([2, 2]) == (2, 2)


def test_the_bootstrap_interval_is_near_that_of_students_t_for_many_normal_differences():
    values = np.random.default_rng(1).normal(0.5, 1, 400)
    t = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert significance.bootstrap_interval(values) == pytest.approx(t, abs=0.02)
    assert significance.bootstrap_interval(values) == significance.bootstrap_interval(values)


def test_ranks_share_places_and_begin_with_the_best():
    assert significance.average_ranks([[3, 1, 2], [5, 5, 1]]) == [1.25, 2.25, 2.5]


@pytest.mark.parametrize(("methods", "blocks", "difference"), [(4, 14, 1.25), (2, 10, 0.62), (10, 30, 2.47)])
def test_the_critical_difference_is_that_of_nemenyis_table(methods, blocks, difference):
    """Demšar's example (section 3.2.3), and his q of 1.960 and 3.164."""
    assert significance.critical_difference(methods, blocks) == pytest.approx(difference, abs=0.005)


def test_friedmans_p_is_scipys_and_1_for_methods_that_are_always_equal():
    scores = np.random.default_rng(0).random((6, 3))
    assert significance.friedman_p(scores) == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    assert significance.friedman_p(np.ones((4, 3))) == 1


def test_groups_are_the_largest_sets_within_the_difference():
    ranks = {"d": 4.0, "a": 1.0, "b": 1.5, "c": 2.4}
    assert significance.groups(ranks, 1.0) == [("a", "b"), ("b", "c")]
    assert significance.groups(ranks, 1.5) == [("a", "b", "c")]
    assert significance.groups(ranks, 0.1) == []
