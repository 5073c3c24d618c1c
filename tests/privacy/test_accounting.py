import math
import time

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from primia.errors import PrivacyError
from primia.privacy.accounting import Release, epsilon_of, gaussian_epsilon, noise_multiplier_for


def second_opinion(releases, delta):
    """ε by Google's privacy loss distributions, an independent implementation."""
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for release in releases:
        event = GaussianDpEvent(release.noise_multiplier)
        if release.sampling_rate < 1:
            event = PoissonSampledDpEvent(release.sampling_rate, event)
        accountant.compose(event, release.steps)
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize(
    ("releases", "delta"),
    [
        ([Release(0.25, 1.0, 20)], 1e-4),
        ([Release(0.02, 1.5, 300)], 1e-5),
        ([Release(0.25, 6.0, 20)], 1e-4),
        ([Release(0.1, 0.6, 10)], 1e-3),
        ([Release(0.25, 1.0, 4), Release(0.25, 1.3, 6), Release(0.5, 2.0, 2)], 1e-4),
        ([Release(1.0, 3.0, 7)], 1e-5),
        ([Release(1.0, 4.0, 3), Release(0.25, 1.5, 10)], 1e-4),
    ],
)
def test_epsilon_agrees_with_an_independent_accountant_to_one_percent(releases, delta):
    assert epsilon_of(releases, delta=delta) == pytest.approx(second_opinion(releases, delta), rel=0.01)


def test_nothing_released_costs_nothing():
    assert epsilon_of([], delta=1e-5) == 0.0


def test_steps_may_be_written_as_one_release_or_many():
    one = epsilon_of([Release(0.05, 1.2, 12)], delta=1e-4)
    many = epsilon_of([Release(0.05, 1.2, 2)] * 6, delta=1e-4)
    assert one == many


@given(mu=st.floats(0.01, 8.0), delta=st.floats(1e-8, 1e-2))
def test_the_gaussian_conversion_solves_its_own_equation(mu, delta):
    epsilon = gaussian_epsilon(mu, delta=delta)
    spent = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
    if epsilon == 0:
        assert spent <= delta
    else:
        assert spent == pytest.approx(delta, rel=1e-3)


def test_a_tenth_of_the_noise_costs_far_more():
    assert epsilon_of([Release(0.25, 0.12, 10)], delta=1e-4) > 20 * epsilon_of([Release(0.25, 1.2, 10)], delta=1e-4)


def test_hardly_any_noise_still_has_a_finite_bound():
    assert 200 < epsilon_of([Release(0.25, 0.05, 20)], delta=1e-4) < math.inf
    assert epsilon_of([Release(1.0, 0.01, 1)], delta=1e-4) == pytest.approx(5000, rel=0.1)


@pytest.mark.parametrize(
    ("target", "delta", "rate", "steps"),
    [(8.0, 1e-4, 0.25, 20), (1.0, 1e-5, 0.05, 200), (0.2, 1e-4, 0.05, 20), (8.0, 1e-4, 1.0, 50)],
)
def test_the_noise_found_spends_the_budget_and_no_more(target, delta, rate, steps):
    began = time.process_time()
    sigma = noise_multiplier_for(target_epsilon=target, delta=delta, sampling_rate=rate, steps=steps)
    assert time.process_time() - began < 10
    assert 0.99 * target <= epsilon_of([Release(rate, sigma, steps)], delta=delta) <= target
    assert 0.98 * target <= second_opinion([Release(rate, sigma, steps)], delta) <= target


@pytest.mark.parametrize("delta", [1e-16, 0.99])
def test_a_delta_beyond_the_grid_of_the_accountant_still_has_a_bound(delta):
    assert 0 <= epsilon_of([Release(0.25, 1.0, 20)], delta=delta) < math.inf


def test_a_single_release_at_a_high_sampling_rate_costs_hardly_less_than_one_of_everybody():
    nearly, all_patients = (epsilon_of([Release(q, 2.0, 5)], delta=1e-4) for q in (0.9999, 1.0))
    assert nearly == pytest.approx(all_patients, rel=0.01)


@given(
    fields=st.sampled_from(
        [
            (0.0, 1.0, 1),
            (1.1, 1.0, 1),
            (0.5, 0.0, 1),
            (0.5, -1.0, 1),
            (0.5, math.inf, 1),
            (0.5, math.nan, 1),
            (0.5, 1, 0),
        ]
    )
)
@settings(max_examples=20)
def test_a_release_that_cannot_be_bounded_cannot_be_named(fields):
    with pytest.raises(PrivacyError):
        Release(*fields)


def test_a_target_or_delta_out_of_range_is_refused():
    with pytest.raises(PrivacyError, match=r"privacy.target_epsilon is 1000000000.0"):
        noise_multiplier_for(target_epsilon=1e9, delta=1e-4, sampling_rate=0.25, steps=20)
    with pytest.raises(PrivacyError, match="δ is 0"):
        epsilon_of([Release(0.25, 1.0, 1)], delta=0)
