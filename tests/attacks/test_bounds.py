import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest, norm

from primia.attacks.bounds import clopper_pearson, gaussian_reconstruction_bound


def test_one_step_at_unit_noise_allows_twelve_percent_among_64():
    assert gaussian_reconstruction_bound(chance=1 / 64, mu=1.0) == pytest.approx(0.1243, abs=5e-5)


@given(chance=st.floats(1e-3, 0.5), mu=st.floats(0.1, 3.0))
def test_the_closed_form_is_the_minimum_over_epsilon(chance: float, mu: float):
    def allowed(epsilon: float) -> float:
        # δ(ε) of the Gaussian mechanism: Balle and Wang 2018, theorem 8.
        delta = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
        return math.exp(epsilon) * chance + delta

    smallest = minimize_scalar(allowed, bounds=(-10, 30), method="bounded", options={"xatol": 1e-9}).fun
    assert gaussian_reconstruction_bound(chance=chance, mu=mu) == pytest.approx(smallest, rel=1e-6)


def test_without_a_release_the_bound_is_chance():
    assert gaussian_reconstruction_bound(chance=0.2, mu=0.0) == pytest.approx(0.2, rel=1e-12)


@given(total=st.integers(1, 500), share=st.floats(0, 1), confidence=st.sampled_from([0.9, 0.95, 0.999]))
def test_the_interval_is_the_exact_one_of_scipy(total: int, share: float, confidence: float):
    successes = round(share * total)
    expected = binomtest(successes, total).proportion_ci(confidence_level=confidence, method="exact")
    assert clopper_pearson(successes, total, confidence=confidence) == pytest.approx(
        (expected.low, expected.high), abs=1e-9
    )


@given(total=st.integers(1, 300), rate=st.floats(0.001, 0.999), confidence=st.sampled_from([0.9, 0.95, 0.999]))
def test_a_true_rate_lies_below_the_interval_no_more_often_than_the_confidence_allows(total, rate, confidence):
    below = [
        successes
        for successes in range(total + 1)
        if clopper_pearson(successes, total, confidence=confidence)[0] > rate
    ]
    assert binom.pmf(below, total, rate).sum() <= (1 - confidence) / 2 * (1 + 1e-6)
