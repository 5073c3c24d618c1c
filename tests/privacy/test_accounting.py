import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from primia.errors import PrivacyError
from primia.privacy.accounting import (
    Accounts,
    Release,
    check_agreement,
    check_delta,
    epsilon_of,
    epsilons,
    noise_multiplier_for,
    renyi_epsilon,
)
from primia.privacy.gaussian import gaussian_epsilon
from primia.privacy.pld import pld_epsilon
from primia.privacy.prv import prv_epsilon
from primia.privacy.release import merge


def hockey_stick(rate, sigma, epsilon):
    """δ at ε of one subsampled Gaussian step when a patient is removed, by quadrature: a third opinion."""
    x = np.linspace(-40 * sigma, 40 * sigma + 1, 100_001)
    without, with_patient = norm.pdf(x, scale=sigma), norm.pdf(x, loc=1, scale=sigma)
    return np.trapezoid(np.maximum((1 - rate) * without + rate * with_patient - math.exp(epsilon) * without, 0), x)


@pytest.mark.parametrize(("rate", "sigma", "delta"), [(0.25, 1.0, 1e-4), (0.9, 3.0, 1e-3)])
def test_one_step_costs_what_quadrature_says(rate, sigma, delta):
    release = [Release(rate, sigma, 1)]
    accounts = epsilons(release, delta=delta)
    exact = brentq(lambda epsilon: hockey_stick(rate, sigma, epsilon) - delta, 0, 50)
    assert accounts.pld == pytest.approx(exact, rel=1e-3)
    assert exact <= accounts.prv <= exact + 0.0021
    assert exact <= accounts.reported < accounts.renyi


@pytest.mark.parametrize(
    ("releases", "delta"),
    [
        ([Release(0.25, 1.0, 20)], 1e-4),
        ([Release(0.25, 1.5, 4), Release(0.5, 2.0, 2)], 1e-4),
        ([Release(1.0, 4.0, 3), Release(1.0, 9.0, 1), Release(0.25, 1.5, 10)], 1e-4),
        ([Release(0.01, 20.0, 10)], 1e-5),
    ],
)
def test_the_larger_of_two_accountants_that_agree_is_reported(releases, delta):
    accounts = epsilons(releases, delta=delta)
    assert accounts.prv == pytest.approx(accounts.pld, rel=0.01, abs=4e-4)
    assert accounts.reported == max(accounts.prv, accounts.pld)
    assert accounts.reported < accounts.renyi == renyi_epsilon(releases, delta=delta)


@given(
    rate=st.floats(0.02, 1.0),
    noise=st.floats(0.8, 10.0),
    steps=st.integers(1, 60),
    delta=st.sampled_from([1e-3, 1e-4, 1e-6]),
)
@settings(max_examples=5, deadline=None)
def test_the_accountants_agree_to_one_percent(rate, noise, steps, delta):
    accounts = epsilons([Release(rate, noise, steps)], delta=delta)
    if accounts.renyi <= 200:
        assert accounts.prv == pytest.approx(accounts.pld, rel=0.01, abs=4e-4)


@pytest.mark.parametrize(("prv", "pld"), [(1.0, 0.98), (7.9, 8.1), (0.03, 0.0295), (150.0, 152.0)])
def test_accountants_that_disagree_are_noticed(prv, pld):
    for one, other in ((prv, pld), (pld, prv)):
        with pytest.raises(PrivacyError, match=r"The two accountants disagree, ε = .* \(PRV\) against .* \(PLD\)"):
            check_agreement(prv=one, pld=other)
    check_agreement(prv=prv, pld=prv * 1.009)


@pytest.mark.parametrize(("rate", "sigma", "steps"), [(0.25, 1.0, 20), (0.05, 2.0, 101)])
def test_the_faster_grid_gives_what_the_accountant_gives_on_its_own(rate, sigma, steps):
    own = PRVAccountant()
    own.history = [(sigma, rate, steps)]
    fast = prv_epsilon([Release(rate, sigma, steps)], delta=1e-5, error=0.001)
    assert fast == pytest.approx(own.get_epsilon(1e-5, eps_error=0.001), abs=1e-6)


@pytest.mark.parametrize("epsilon_is", [pld_epsilon, lambda r, delta: prv_epsilon(r, delta=delta, error=0.001)])
@pytest.mark.parametrize(("sigma", "steps"), [(3.0, 7), (20.0, 50)])
def test_both_accountants_meet_the_exact_gaussian(epsilon_is, sigma, steps):
    exact = gaussian_epsilon(math.sqrt(steps) / sigma, delta=1e-5)
    assert exact <= epsilon_is(merge([Release(1.0, sigma, steps)]), delta=1e-5) <= exact * 1.001 + 0.002


@given(
    rate=st.sampled_from([0.05, 0.3, 1.0]),
    noise=st.floats(0.7, 8.0),
    more_noise=st.floats(1.01, 3.0),
    steps=st.integers(1, 30),
    more_steps=st.integers(1, 30),
)
@settings(max_examples=3, deadline=None)
def test_more_noise_costs_less_and_more_steps_cost_more(rate, noise, more_noise, steps, more_steps):
    cost, quieter, longer = (
        epsilon_of([Release(rate, noise * a, steps + b)], delta=1e-4)
        for a, b in ((1, 0), (more_noise, 0), (1, more_steps))
    )
    # Each may lie above the true value by twice the error of the PRV accountant.
    assert quieter <= cost + 0.002
    assert longer >= cost - 0.002


def test_nothing_released_costs_nothing():
    assert epsilon_of([], delta=1e-5) == 0.0


def test_steps_may_be_written_as_one_release_or_many():
    one = epsilon_of([Release(0.05, 1.2, 12)], delta=1e-4)
    many = epsilon_of([Release(0.05, 1.2, 2)] * 6, delta=1e-4)
    assert one == many == epsilons([Release(0.05, 1.2, 12)], delta=1e-4).reported


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
    [(8.0, 1e-4, 0.25, 20), (1.0, 1e-5, 0.05, 200), (8.0, 1e-4, 1.0, 50)],
)
def test_the_noise_found_spends_the_budget_and_no_more(target, delta, rate, steps):
    sigma = noise_multiplier_for(target_epsilon=target, delta=delta, sampling_rate=rate, steps=steps)
    assert 0.99 * target <= epsilon_of([Release(rate, sigma, steps)], delta=delta) <= target


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


OTHERS = [Release(1.0, 8.0, 1), Release(0.25, 5.0, 10)]


def test_the_noise_found_leaves_room_for_what_is_released_besides():
    asked = {"target_epsilon": 2.0, "delta": 1e-4, "sampling_rate": 0.1, "steps": 50}
    sigma = noise_multiplier_for(**asked, other=iter(OTHERS))
    assert 1.98 <= epsilon_of([*OTHERS, Release(0.1, sigma, 50)], delta=1e-4) <= 2.0
    assert sigma > noise_multiplier_for(**asked)


def test_a_budget_that_is_spent_already_buys_no_training():
    with pytest.raises(PrivacyError, match=r"besides the training spends ε = .* leaves nothing"):
        noise_multiplier_for(target_epsilon=0.3, delta=1e-4, sampling_rate=0.1, steps=50, other=OTHERS)


@pytest.mark.parametrize("target", [1e9, 101.0, 0.0, -1.0, 1e-3, math.inf, math.nan])
def test_an_absurd_target_is_refused(target):
    with pytest.raises(PrivacyError, match=rf"privacy.target_epsilon is {target}"):
        noise_multiplier_for(target_epsilon=target, delta=1e-4, sampling_rate=0.25, steps=20)


@pytest.mark.parametrize("delta", [0, 1, -1e-5, math.nan])
def test_a_delta_out_of_range_is_refused(delta):
    for account in (epsilon_of, renyi_epsilon, epsilons):
        with pytest.raises(PrivacyError, match=f"δ is {delta}"):
            account([Release(0.25, 1.0, 1)], delta=delta)


@pytest.mark.parametrize("delta", [0.0, -1.0, 0.01, 0.02, 1.0, math.nan])
def test_a_delta_that_gives_a_patient_away_is_refused(delta):
    with pytest.raises(PrivacyError, match=r"privacy.delta is .* with 100 patients"):
        check_delta(delta, patients=100)


def test_a_delta_below_one_in_all_patients_is_taken():
    check_delta(0.0099, patients=100)


def test_nothing_released_costs_nothing_by_any_account():
    assert epsilons([], delta=1e-5) == Accounts(prv=0.0, pld=0.0, renyi=0.0, reported=0.0)
    assert renyi_epsilon([], delta=1e-5) == 0.0
