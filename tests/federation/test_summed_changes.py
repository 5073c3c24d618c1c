from federating import NAMES

from primia.federation.summed_changes import WeightBound, weight_bound, weighted_loss
from primia.federation.summed_statistics import PooledStatistics


def test_hospitals_that_the_statistics_missed_share_what_is_left_of_a_sum(plan_with):
    def bound(images, counted, bits=20):
        statistics = PooledStatistics(images=images, mean=0.0, std=1.0, counted=counted)
        return weight_bound(plan_with(secure_aggregation__bits=bits), statistics)

    assert bound(144, NAMES) == WeightBound(total=144, spare=0)
    assert bound(96, NAMES[:2]) == WeightBound(total=4096, spare=4000)
    assert bound(97, NAMES[:1]) == WeightBound(total=97 + 2 * 1999, spare=1999)
    assert bound(5000, NAMES[:2]) == WeightBound(total=5000, spare=0)


def test_the_weighted_loss_is_finite_and_fits_its_word(plan_with):
    assert weighted_loss(plan_with(), 1.5, weight=10).tolist() == [15 * 256]
    assert weighted_loss(plan_with(), float("nan"), weight=10).tolist() == [0]
    assert weighted_loss(plan_with(), 1e9, weight=10).tolist() == [320 * 256]
    assert weighted_loss(plan_with(), 32.0, weight=10**9).tolist() == [(2**32 - 1) // 3]
