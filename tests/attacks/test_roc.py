import numpy as np
import pytest
from scipy.stats import beta, mannwhitneyu

from primia.attacks.roc import POINTS, Roc, caught, false_positive_interval, let_through, operating_rate


def drawn(count, *, above=0.0, seed=0):
    return np.random.default_rng(seed).normal(above, 1, count)


@pytest.mark.parametrize(
    ("others", "rate"), [(30, 0.1), (100, 0.1), (199, 0.1), (200, 0.05), (999, 0.05), (1000, 0.01), (5000, 0.01)]
)
def test_the_smallest_rate_is_taken_that_lets_ten_others_through(others, rate):
    assert operating_rate(others) == rate


@pytest.mark.parametrize(
    ("rate", "others", "passing"), [(0.1, 180, 18), (0.05, 213, 10), (0.1, 48, 4), (0.01, 1000, 10), (0.1, 9, 0)]
)
def test_a_rate_lets_through_whole_others_rounded_down(rate, others, passing):
    assert let_through(rate, others) == passing


def test_members_are_caught_who_score_above_all_but_a_few_others():
    others = np.array([1.0, 5.0, 3.0, 4.0, 2.0])
    members = np.array([6.0, 4.5, 4.0, 3.5, 0.0])
    assert [caught(members, others, passing=k) for k in range(5)] == [1, 2, 4, 4, 4]


def test_a_member_as_high_as_the_threshold_is_not_caught():
    assert caught(np.array([2.0, 2.0]), np.array([2.0, 1.0]), passing=0) == 0


def test_low_scores_of_members_catch_nobody():
    assert caught(drawn(50, above=-9), drawn(50, seed=1), passing=5) == 0
    assert caught(drawn(50, above=9), drawn(50, seed=1), passing=5) == 50


def test_the_false_positive_rate_has_the_quantiles_of_the_beta_distribution():
    low, high = false_positive_interval(18, 180, confidence=0.999)
    assert high == pytest.approx(beta(19, 162).ppf(0.9995))
    assert low == pytest.approx(beta(18, 163).ppf(0.0005))


def test_the_interval_holds_for_the_rate_at_which_new_others_pass_the_threshold():
    # The threshold of uniform scores is its own false-positive rate, from above.
    generator = np.random.default_rng(4)
    rates = [1 - np.sort(generator.random(48))[::-1][4] for _ in range(4000)]
    _, high = false_positive_interval(4, 48, confidence=0.95)
    assert np.mean(np.array(rates) > high) == pytest.approx(0.025, abs=0.008)
    assert np.mean(rates) == pytest.approx(5 / 49, abs=0.003)


def test_the_area_is_that_of_mann_and_whitney_and_falls_below_a_half_for_members_who_score_low():
    for above in (1.0, -1.0):
        members, others = drawn(60, above=above), drawn(80, seed=1)
        expected = mannwhitneyu(members, others).statistic / (60 * 80)
        auc, low, high = Roc(members, others, 0.95).area()
        assert auc == pytest.approx(expected)
        assert low < auc < high and (auc > 0.5) == (above > 0)


def test_equal_scores_count_half():
    assert Roc(np.array([1.0, 1.0]), np.array([1.0, 1.0, 1.0]), 0.95).area()[0] == 0.5


def test_a_rate_of_true_positives_is_reported_only_where_others_resolve_it():
    members, others = drawn(100, above=2), drawn(400, seed=1)
    found = Roc(members, others, 0.95).to_json()
    assert found["tpr_at_0.1_percent"] is None
    at_one = found["tpr_at_1_percent"]
    assert at_one["rate"] == np.mean(members > np.sort(others)[-5])
    assert at_one["low"] < at_one["rate"] < at_one["high"]


def test_a_curve_has_few_points_and_both_ends():
    fpr, tpr = Roc(drawn(900, above=1), drawn(900, seed=1), 0.95).curve()
    assert len(fpr) <= POINTS
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert bool((np.diff(fpr) >= 0).all() and (np.diff(tpr) >= 0).all())
