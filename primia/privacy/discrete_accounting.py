"""The accountant of distributed discrete noise: Rényi differential privacy at integer orders.

A discrete Gaussian moved by integers has, at integer orders, the very moments of the continuous one: completing the
square moves the lattice onto itself. The bound for the Poisson-subsampled Gaussian therefore holds as it stands
(Mironov, Talwar & Zhang 2019, section 3.3). A sum of discrete Gaussians is one up to a factor e^±τ (Kairouz, Liu &
Steinke 2021). The proof is in docs/adr/0008-distributed-noise.md.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from primia.privacy.discrete_gaussian import DEVIATION, TOTAL_VARIATION
from primia.privacy.release import Release

LARGEST_VECTOR = 2**24  # coordinates that the bound holds for
LARGEST_COHORT = 2**8  # hospitals that the bound holds for

_INTEGER_ORDERS = np.array([*range(1, 129), 160, 192, 256, 384, 512, 768, 1024])
# Between integer orders the logarithm of the moment is convex (Hölder), so that the chord is a bound.
_ORDERS = np.unique(np.concatenate([np.arange(105, 3200) / 100, _INTEGER_ORDERS[1:]]))
_SPARED = 1e-3  # share of δ that pays for the noise being not quite a discrete Gaussian


def discrete_epsilon(releases: Sequence[Release], *, delta: float) -> float:
    """Upper bound of ε at `delta` for releases with discrete noise, composed with others without; ∞ above about 100.

    It holds for vectors of up to 2^24 coordinates and 256 hospitals. Converted as in Canonne, Kamath & Steinke 2020,
    proposition 12.

    Args:
        releases: at least one.
        delta: δ in (0, 1).
    """
    moments = np.zeros(len(_INTEGER_ORDERS))
    for release in releases:
        one = _moments(release.sampling_rate, release.noise_multiplier)
        if release.discrete:
            tau = sum_divergence(shares=LARGEST_COHORT, deviation=DEVIATION)
            one = one + (2 * _INTEGER_ORDERS - 1) * LARGEST_VECTOR * tau
        moments += release.steps * one
    order, bound = _ORDERS, np.interp(_ORDERS, _INTEGER_ORDERS, moments)
    left = math.log((1 - _SPARED) * delta)
    epsilon = max(0.0, float(np.min((bound - left - np.log(order)) / (order - 1) + np.log1p(-1 / order))))
    drawn = sum(release.steps for release in releases if release.discrete) * LARGEST_VECTOR * LARGEST_COHORT
    # P and Q are both that far from what was bounded: δ grows by (1 + e^ε) times the distance.
    room = math.log(_SPARED * delta) - math.log(TOTAL_VARIATION * drawn) if drawn else math.inf
    return epsilon if np.logaddexp(0, epsilon) <= room else math.inf


@lru_cache(maxsize=64)
def _moments(sampling_rate: float, noise: float) -> NDArray[np.float64]:
    """Kept, as a privacy curve asks for them at every δ."""
    return log_moments(_INTEGER_ORDERS, sampling_rate=sampling_rate, noise=noise)


def log_moments(orders: NDArray[np.int_], *, sampling_rate: float, noise: float) -> NDArray[np.float64]:
    """log E_Q[(P/Q)^α] for each integer α ≥ 1 of `orders`, where Q is the noise and P = (1 − q) Q + q (Q moved by 1).

    Σ_k C(α, k) (1 − q)^(α−k) q^k exp((k² − k) / 2σ²): Mironov, Talwar & Zhang 2019, section 3.3. It bounds the moment
    the other way round, too, and both for the continuous and for the discrete Gaussian.
    """
    from scipy.special import gammaln, logsumexp

    if sampling_rate == 1:
        return np.asarray(orders * (orders - 1) / (2 * noise**2), dtype=np.float64)
    moments = []
    for order in orders:
        k = np.arange(order + 1)
        choices = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
        weights = k * math.log(sampling_rate) + (order - k) * math.log1p(-sampling_rate)
        moments.append(float(logsumexp(choices + weights + (k * k - k) / (2 * noise**2))))
    return np.array(moments)


def sum_divergence(*, shares: int, deviation: float) -> float:
    """τ: the logarithm of P[sum of `shares` discrete Gaussians = x] / P[one of the same variance = x] is within ±τ.

    10 Σ_{k<n} exp(−2π² σ² k / (k + 1)) for `deviation` σ ≥ 1/2 of each share (Kairouz, Liu & Steinke 2021, section 3).
    """
    assert deviation >= 0.5
    return 10 * sum(math.exp(-2 * math.pi**2 * deviation**2 * k / (k + 1)) for k in range(1, shares))
