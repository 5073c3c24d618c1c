import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.privacy.accounting import Release, epsilon_of, epsilons, noise_multiplier_for, renyi_epsilon
from primia.privacy.discrete_accounting import discrete_epsilon, log_moments, sum_divergence
from primia.privacy.discrete_gaussian import DEVIATION
from primia.privacy.gaussian import gaussian_epsilon

X = np.arange(-400, 401)


def log_pmf(sigma, shift=0):
    """Logarithms of the discrete Gaussian's probabilities, moved by an integer, on X."""
    weights = -((X - shift) ** 2) / (2 * sigma**2)
    return weights - np.logaddexp.reduce(-(X**2) / (2 * sigma**2))


def mixture(q, sigma, shift):
    return np.logaddexp(math.log1p(-q) + log_pmf(sigma), math.log(q) + log_pmf(sigma, shift))


@pytest.mark.parametrize(
    ("sigma", "q", "shift", "order"),
    list(product([0.4, 1.0, 3.7], [0.01, 0.3, 0.9], [1, 2, -3], [2, 3, 7])),
)
def test_the_moments_of_discrete_and_continuous_noise_are_the_same(sigma, q, shift, order):
    noise, mixed = log_pmf(sigma), mixture(q, sigma, shift)
    (bound,) = log_moments(np.array([order]), sampling_rate=q, noise=sigma / abs(shift))
    removed = np.logaddexp.reduce(order * mixed + (1 - order) * noise)
    added = np.logaddexp.reduce(order * noise + (1 - order) * mixed)
    assert removed == pytest.approx(bound, rel=1e-9, abs=1e-12)
    assert added <= bound + 1e-9


@pytest.mark.parametrize(("sigma", "order"), [(0.4, 2), (1.0, 5), (3.0, 9)])
def test_without_sampling_the_moments_are_the_gaussian_mechanisms(sigma, order):
    (bound,) = log_moments(np.array([order]), sampling_rate=1.0, noise=sigma)
    moment = np.logaddexp.reduce(order * log_pmf(sigma, 1) + (1 - order) * log_pmf(sigma))
    assert moment == pytest.approx(bound, rel=1e-9)
    assert log_moments(np.array([order]), sampling_rate=1 - 1e-9, noise=sigma)[0] == pytest.approx(bound, rel=1e-6)


@pytest.mark.parametrize("shift", [1, 4])
@pytest.mark.parametrize(("sigma", "q"), [(2.0, 0.25), (8.0, 0.05), (6.0, 1.0)])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_one_step_keeps_to_the_epsilon_it_is_charged(sigma, q, shift, delta):
    epsilon = discrete_epsilon([Release(q, sigma / shift, 1, discrete=True)], delta=delta)
    with_patient = np.exp(mixture(q, sigma, shift) if q < 1 else log_pmf(sigma, shift))
    without = np.exp(log_pmf(sigma))
    for p, other in ((with_patient, without), (without, with_patient)):
        assert np.maximum(p - math.exp(epsilon) * other, 0).sum() <= delta


def test_two_steps_keep_to_the_epsilon_they_are_charged():
    epsilon = discrete_epsilon([Release(0.3, 1.5, 2, discrete=True)], delta=1e-4)
    p, q = np.exp(mixture(0.3, 3.0, 2)), np.exp(log_pmf(3.0))
    near = np.abs(X) < 40
    twice, other = np.outer(p[near], p[near]), np.outer(q[near], q[near])
    assert np.maximum(twice - math.exp(epsilon) * other, 0).sum() <= 1e-4
    assert np.maximum(other - math.exp(epsilon) * twice, 0).sum() <= 1e-4


@pytest.mark.parametrize(("sigma", "shares"), [(0.5, 2), (0.5, 5), (0.7, 3), (0.9, 2)])
def test_a_sum_of_shares_is_as_close_to_one_discrete_gaussian_as_is_published(sigma, shares):
    one = np.exp(log_pmf(sigma))[300:501]
    total = one
    for _ in range(shares - 1):
        total = np.convolve(total, one)
    x = np.arange(len(total)) - len(total) // 2
    near = np.abs(x) <= 6 * sigma * math.sqrt(shares)
    weights = -(x**2) / (2 * shares * sigma**2)
    ratio = np.log(total[near]) - (weights - np.logaddexp.reduce(weights))[near]
    bound = sum_divergence(shares=shares, deviation=sigma)
    assert 0 < np.abs(ratio).max() <= bound


def test_at_the_deviation_in_use_a_sum_of_shares_is_one_discrete_gaussian():
    assert sum_divergence(shares=256, deviation=DEVIATION) == 0.0  # below the smallest float: e to minus 10^11
    assert sum_divergence(shares=1, deviation=0.5) == 0.0


def test_the_bound_is_never_below_the_gaussian_and_not_far_above_it():
    for sigma, steps in ((1.0, 1), (4.0, 10), (20.0, 100)):
        exact = gaussian_epsilon(math.sqrt(steps) / sigma, delta=1e-5)
        bound = discrete_epsilon([Release(1.0, sigma, steps, discrete=True)], delta=1e-5)
        assert exact < bound < 1.15 * exact


@given(rate=st.floats(0.01, 1.0), noise=st.floats(0.8, 20.0), steps=st.integers(1, 500), more=st.floats(1.01, 4.0))
@settings(deadline=None, max_examples=12)
def test_more_noise_costs_less_and_more_steps_cost_more(rate, noise, steps, more):
    def cost(noise, steps):
        return epsilon_of([Release(rate, noise, steps, discrete=True)], delta=1e-5)

    assert cost(noise * more, steps) <= cost(noise, steps) <= cost(noise, steps + 1)


def test_one_discrete_release_has_all_of_them_bounded_by_renyi():
    continuous = Release(0.25, 2.0, 20)
    discrete = Release(0.25, 2.0, 20, discrete=True)
    accounts = epsilons([continuous, discrete], delta=1e-4)
    assert accounts.prv is None and accounts.pld is None
    assert accounts.reported == accounts.renyi == renyi_epsilon([discrete, continuous], delta=1e-4)
    both = Release(0.25, 2.0, 40, discrete=True)
    assert accounts.reported == pytest.approx(epsilon_of([both], delta=1e-4), rel=1e-12)
    # Opacus' orders are finer, ours are integers: the same bound but for the order that is best.
    assert renyi_epsilon([Release(0.25, 2.0, 40)], delta=1e-4) == pytest.approx(accounts.reported, rel=0.01)
    assert epsilon_of([Release(1.0, 2.0, 1, discrete=True)], delta=1e-4) > epsilon_of(
        [Release(1.0, 2.0, 1)], delta=1e-4
    )


def test_where_the_noise_is_not_exact_enough_nothing_is_promised():
    assert epsilon_of([Release(0.25, 0.05, 20, discrete=True)], delta=1e-4) == math.inf
    assert epsilon_of([Release(0.25, 1.0, 20, discrete=True)], delta=1e-70) == math.inf


@pytest.mark.parametrize(("target", "rate", "steps"), [(8.0, 0.25, 20), (1.0, 0.05, 200), (3.0, 1.0, 30)])
def test_the_discrete_noise_found_spends_the_budget_and_no_more(target, rate, steps):
    asked = {"target_epsilon": target, "delta": 1e-4, "sampling_rate": rate, "steps": steps}
    statistics = [Release(1.0, 30.0, 2)]
    sigma = noise_multiplier_for(**asked, other=statistics, discrete=True)
    spent = epsilon_of([Release(rate, sigma, steps, discrete=True), *statistics], delta=1e-4)
    assert 0.99 * target <= spent <= target
    assert sigma > noise_multiplier_for(**asked, other=statistics)
