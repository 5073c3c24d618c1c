import math

import pytest

from primia.training.objective import balanced_weights, learning_rate_of


def test_balanced_weights_let_every_class_count_the_same_and_keep_the_mean_at_one():
    counts = (10, 30, 60)
    weights = balanced_weights(counts)
    assert weights == pytest.approx((100 / 30, 100 / 90, 100 / 180))
    assert sum(count * weight for count, weight in zip(counts, weights, strict=True)) / 100 == pytest.approx(1.0)


def test_a_class_without_images_weighs_nothing():
    weights = balanced_weights((10, 0, 30))
    assert weights[1] == 0.0
    assert (10 * weights[0] + 30 * weights[2]) / 40 == pytest.approx(1.0)


def test_a_constant_schedule_keeps_the_learning_rate():
    assert {learning_rate_of(0.3, "constant", round=round, rounds=7) for round in range(1, 8)} == {0.3}


def test_a_cosine_schedule_begins_at_the_learning_rate_and_falls_towards_zero():
    rates = [learning_rate_of(0.4, "cosine", round=round, rounds=4) for round in range(1, 5)]
    assert rates == pytest.approx([0.4, 0.2 * (1 + math.sqrt(0.5)), 0.2, 0.2 * (1 - math.sqrt(0.5))])
    assert learning_rate_of(0.4, "cosine", round=1, rounds=1) == 0.4
