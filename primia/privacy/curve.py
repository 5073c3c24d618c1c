"""The whole privacy curve of a sequence of releases: δ as a function of ε, from whichever accountant bounds it."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primia.privacy.discrete_accounting import discrete_epsilon
from primia.privacy.pld import pld_deltas
from primia.privacy.release import Release, merge

_POINTS = 400
_LARGEST = 50.0  # ε; e^ε times any chance of guessing is far above 1
_SMALLEST_DELTA = 1e-12


@dataclass(frozen=True)
class PrivacyCurve:
    """Points (ε, δ) at which releases are (ε, δ)-private, when one patient is added or removed; both (points,)."""

    epsilon: NDArray[np.float64]
    delta: NDArray[np.float64]

    def most_likely(self, chance: float) -> float:
        """Largest probability that a patient's presence lends to an event of probability `chance`: min e^ε·κ + δ.

        At most 1. Also the largest power of a test at significance `chance`, together with 1 − e^−ε·(1 − δ − κ)
        (Kairouz et al. 2015, theorem 2.1).
        """
        with np.errstate(over="ignore"):
            forward = np.min(np.exp(self.epsilon) * chance + self.delta)
            backward = np.min(1 - np.exp(-self.epsilon) * (1 - self.delta - chance))
        return float(np.clip(min(forward, backward), chance, 1.0))


def privacy_curve(releases: Iterable[Release]) -> PrivacyCurve:
    """The curve of all `releases` composed.

    Gaussian releases over all patients: exact (Balle & Wang 2018, theorem 8); Poisson samples: the privacy loss
    distributions of dp-accounting; discrete noise: Rényi divergences, at a range of δ.
    """
    from scipy.special import log_ndtr, ndtr

    merged = merge(releases)
    assert merged
    epsilon = np.concatenate([np.linspace(0.0, 2.0, _POINTS // 2), np.geomspace(2.0, _LARGEST, _POINTS // 2)])
    if any(release.discrete for release in merged):
        delta = np.concatenate([np.geomspace(_SMALLEST_DELTA, 0.1, _POINTS // 2), np.linspace(0.11, 0.99, 89)])
        found = np.array([discrete_epsilon(merged, delta=float(each)) for each in delta])
        finite = np.isfinite(found)
        return PrivacyCurve(found[finite], delta[finite])
    if len(merged) == 1 and merged[0].sampling_rate == 1:
        mu = 1 / merged[0].noise_multiplier
        return PrivacyCurve(epsilon, ndtr(mu / 2 - epsilon / mu) - np.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)))
    return PrivacyCurve(epsilon, pld_deltas(merged, epsilon))
