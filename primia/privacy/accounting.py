"""How much privacy a sequence of noisy releases has spent, and how much noise a budget asks for."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from primia.errors import PrivacyError

# Above this the PRV accountant's float64 exponentials overflow, and nobody is protected anyway.
_LARGEST_EPSILON = 200.0
# More noise than this counts as this much: it costs nearly nothing either way, and Rényi sums cancel beyond.
_LARGEST_NOISE = 1e4


@dataclass(frozen=True)
class Release:
    """`steps` noisy sums over Poisson samples of patients: the subsampled Gaussian mechanism, composed.

    Args:
        sampling_rate: chance of each patient to be in a step, in (0, 1].
        noise_multiplier: standard deviation of the noise over the clip norm, > 0.
        steps: at least 1.

    Raises:
        PrivacyError: a value is out of range.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise PrivacyError(f"A release with sampling rate {self.sampling_rate} was named; it must be in (0, 1].")
        if not 0 < self.noise_multiplier < math.inf:
            raise PrivacyError(
                f"A release with noise multiplier {self.noise_multiplier} was named, which no accountant can "
                "bound; use a positive one."
            )
        if self.steps < 1:
            raise PrivacyError(f"A release of {self.steps} steps was named; it has at least one.")


def epsilon_of(releases: Iterable[Release], *, delta: float) -> float:
    """Upper bound of ε at `delta` after all `releases`, when one patient is added or removed; 0 without releases.

    Poisson-subsampled releases are composed by Opacus' PRV accountant (Gopi et al. 2021) with an ε error of at most
    0.001; where ε is below 0.2 or above 20 the error is 1/200 or 1/20,000 of it. Where every release takes all
    patients, their composition is one Gaussian mechanism and the exact conversion of Balle & Wang 2018 (theorem 8)
    is used. Above ε = 200, and where δ is too small for float64, the looser Rényi bound is given.

    Raises:
        PrivacyError: `delta` is not in (0, 1).
    """
    _check_delta(delta)
    merged = _merge(releases)
    if not merged:
        return 0.0
    if all(release.sampling_rate == 1.0 for release in merged):
        return gaussian_epsilon(math.sqrt(sum(r.steps / r.noise_multiplier**2 for r in merged)), delta=delta)
    bound = _renyi(merged, delta=delta)
    if bound > _LARGEST_EPSILON:
        return bound
    return min(bound, _prv(merged, delta=delta, error=max(min(0.001, bound / 200), bound / 20_000)))


def gaussian_epsilon(mu: float, *, delta: float) -> float:
    """Exact ε of the Gaussian mechanism with sensitivity over standard deviation `mu` (Balle & Wang 2018, theorem 8).

    δ(ε) = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ), solved for ε from above.
    """
    from scipy.special import log_ndtr, ndtr

    def spent(epsilon: float) -> float:
        return float(
            ndtr(mu / 2 - epsilon / mu) - math.exp(min(epsilon + float(log_ndtr(-mu / 2 - epsilon / mu)), 0.0))
        )

    if spent(0.0) <= delta:
        return 0.0
    # δ ≤ Φ(μ/2 − ε/μ), so this ε is always enough.
    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    return _bisect(lambda epsilon: spent(epsilon) > delta, low=0.0, high=high, tolerance=1e-9)


def noise_multiplier_for(*, target_epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Noise multiplier σ with `epsilon_of` between 0.99 and 1.0 times `target_epsilon` after `steps`.

    Raises:
        PrivacyError: the target is not in [0.01, 100], no noise meets it, or `delta`, `sampling_rate` or `steps` is out
            of range.
    """
    from scipy.optimize import brentq

    _check_delta(delta)
    if not 0.01 <= target_epsilon <= 100:
        raise PrivacyError(
            f"privacy.target_epsilon is {target_epsilon}, but only 0.01 to 100 can be kept to; "
            "below that no model learns, above it nobody is protected."
        )

    def coarse(sigma: float) -> float:
        releases = [Release(sampling_rate=sampling_rate, noise_multiplier=sigma, steps=steps)]
        if sampling_rate == 1.0:
            return epsilon_of(releases, delta=delta)
        return _prv(releases, delta=delta, error=target_epsilon / 100) - target_epsilon / 100

    aim = 0.995 * target_epsilon
    try:
        # Close to the central limit (Bu et al. 2020): many subsampled steps are one Gaussian mechanism of this μ.
        mu = _bisect(lambda m: gaussian_epsilon(m, delta=delta) < aim, low=0.0, high=100.0, tolerance=1e-4 * aim)
        start = min(1 / math.sqrt(math.log1p((mu / sampling_rate) ** 2 / steps)), _LARGEST_NOISE / 2)
        low = high = start
        while coarse(high) > aim and high < _LARGEST_NOISE:
            low, high = high, high * 1.2
        while coarse(low) <= aim and low > 0.01:
            low, high = low / 1.2, low
        for _ in range(5):
            sigma = float(brentq(partial(_log_ratio, coarse, aim), low, high, xtol=5e-4 * low))
            reached = epsilon_of([Release(sampling_rate, sigma, steps)], delta=delta)
            if 0.99 * target_epsilon <= reached <= target_epsilon:
                return sigma
            # The coarse accountant was off by this factor here; aim elsewhere by as much.
            aim *= 0.995 * target_epsilon / reached
            low, high = low / 1.2, high * 1.2
    except ValueError as error:  # brentq, when the bracket holds no solution
        if isinstance(error, PrivacyError):
            raise
    raise PrivacyError(
        f"No noise was found that keeps {steps} steps at sampling rate {sampling_rate} to ε = {target_epsilon} and "
        f"δ = {delta}; choose another privacy.target_epsilon, privacy.delta or privacy.sampling_rate."
    )


def _log_ratio(epsilon: Callable[[float], float], aim: float, sigma: float) -> float:
    return math.log(max(epsilon(sigma), 1e-12) / aim)


def _bisect(above: Callable[[float], bool], *, low: float, high: float, tolerance: float) -> float:
    """The upper end of an interval shorter than `tolerance` in which a condition, true at `low`, turns false."""
    while high - low > tolerance:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if above(middle) else (low, middle)
    return high


def _merge(releases: Iterable[Release]) -> list[Release]:
    """Releases with equal rate and noise, their steps added: order does not matter to the accountant."""
    steps: dict[tuple[float, float], int] = {}
    for release in releases:
        kind = (release.sampling_rate, release.noise_multiplier)
        steps[kind] = steps.get(kind, 0) + release.steps
    return [Release(sampling_rate=q, noise_multiplier=sigma, steps=n) for (q, sigma), n in sorted(steps.items())]


def _history(releases: Sequence[Release]) -> list[tuple[float, float, int]]:
    return [(min(r.noise_multiplier, _LARGEST_NOISE), r.sampling_rate, r.steps) for r in releases]


def _prv(releases: Sequence[Release], *, delta: float, error: float) -> float:
    """Opacus' PRV accountant: an upper bound, at most twice `error` above the true ε; ∞ where its grid fails."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = _history(releases)
    # At a sampling rate of 1 it takes the logarithm of zero and rightly gets −∞; a tail that overflows ends as NaN.
    with _quiet_bound(), np.errstate(all="ignore"):
        try:
            epsilon = float(accountant.get_epsilon(delta, eps_error=error))
        except (RuntimeError, ValueError):
            return math.inf
    return math.inf if math.isnan(epsilon) else max(0.0, epsilon)


def _renyi(releases: Sequence[Release], *, delta: float) -> float:
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = _history(releases)
    with _quiet_bound():
        return max(0.0, float(accountant.get_epsilon(delta)))


@contextmanager
def _quiet_bound() -> Iterator[None]:
    """Silence the remark that a Rényi bound could be tighter; it only sizes the PRV accountant's grid."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the")
        yield


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise PrivacyError(f"δ is {delta}, but must be between 0 and 1, and below 1 / patients; correct privacy.delta.")
