import numpy as np
import pytest

from primia.attacks.bounds import gaussian_reconstruction_bound, reconstruction_bound, trials_needed
from primia.privacy.accounting import Release, epsilon_of
from primia.privacy.curve import privacy_curve


def epsilon_at(curve, delta):
    """Smallest ε of the curve's points with at most this δ."""
    return float(curve.epsilon[curve.delta <= delta].min())


@pytest.mark.parametrize(
    "releases",
    [
        [Release(1.0, 1.5, 3)],
        [Release(0.5, 1.9, 40)],
        [Release(1.0, 10.0, 1), Release(0.1, 0.9, 100)],
        [Release(1.0, 2.2, 30, discrete=True)],
    ],
)
def test_the_curve_passes_where_the_accountant_says(releases):
    accounted = epsilon_of(releases, delta=1e-4)
    assert epsilon_at(privacy_curve(releases), 1e-4) == pytest.approx(accounted, rel=0.03)


def test_one_gaussian_release_gives_the_closed_form():
    for sigma, chance in ((1.0, 1 / 64), (2.0, 1 / 16), (0.5, 0.01)):
        expected = gaussian_reconstruction_bound(chance=chance, mu=1 / sigma)
        assert privacy_curve([Release(1.0, sigma, 1)]).most_likely(chance) == pytest.approx(expected, rel=1e-4)
        assert reconstruction_bound([Release(1.0, sigma, 1)], chance=chance) == expected


def test_sampling_lies_between_nobody_and_everybody():
    bounds = [reconstruction_bound([Release(q, 1.0, 4)], chance=1 / 64) for q in (0.01, 0.5, 1.0)]
    assert 1 / 64 < bounds[0] < bounds[1] < bounds[2]
    # Four steps that all take part in are one Gaussian of twice the sensitivity.
    assert bounds[2] == pytest.approx(gaussian_reconstruction_bound(chance=1 / 64, mu=2.0), rel=1e-9)


def test_discrete_noise_is_bounded_a_little_above_the_gaussian_of_its_size():
    discrete = reconstruction_bound([Release(1.0, 1.0, 1, discrete=True)], chance=1 / 64)
    gaussian = gaussian_reconstruction_bound(chance=1 / 64, mu=1.0)
    assert gaussian < discrete < 1.5 * gaussian


def test_what_is_likely_anyway_is_bounded_from_the_other_side():
    curve = privacy_curve([Release(1.0, 1.0, 1)])
    assert curve.most_likely(0.9) < 1
    # Symmetry of the Gaussian's trade-off: missing 1 − power has the same law as the significance.
    power = curve.most_likely(0.1)
    assert 1 - curve.most_likely(1 - power) == pytest.approx(0.1, abs=1e-3)


def test_the_number_of_trials_that_decide_is_the_smallest():
    assert trials_needed(1.0, 0.9, confidence=0.999) == 73
    assert trials_needed(0.5, 0.9, confidence=0.999) is None
    assert trials_needed(0.9, 0.9, confidence=0.999) is None
    assert np.isclose(0.9**73, 0.0005, atol=2e-4)
