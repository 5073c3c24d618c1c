"""How much privacy a sequence of noisy releases has spent, and how much noise a budget asks for."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from primia.errors import PrivacyError
from primia.privacy.discrete_accounting import discrete_epsilon
from primia.privacy.gaussian import bisect, gaussian_epsilon
from primia.privacy.pld import pld_epsilon
from primia.privacy.prv import prv_epsilon, prv_error
from primia.privacy.release import LARGEST_NOISE, merge
from primia.privacy.release import Release as Release
from primia.privacy.renyi import renyi_bound

# Above this the PRV accountant's float64 exponentials overflow, and nobody is protected anyway.
_LARGEST_EPSILON = 200.0
# Below this δ is lost among the rounding errors of a Fourier transform in float64.
_SMALLEST_DELTA = 1e-10
_SMALLEST_TARGET, _LARGEST_TARGET = 0.01, 100
_AGREEMENT = 0.01  # of ε
_FLOOR = 4e-4  # of ε, twice the smallest error that the PRV accountant is asked for


@dataclass(frozen=True)
class Accounts:
    """ε of the same releases by each accountant; `reported` is what counts, None what does not apply.

    Args:
        prv: by privacy loss random variables (Opacus); None with discrete noise.
        pld: by privacy loss distributions (dp-accounting); None with discrete noise.
        renyi: by Rényi differential privacy: for comparison, but with discrete noise the one bound there is.
        reported: as `epsilon_of` gives it.
    """

    prv: float | None
    pld: float | None
    renyi: float
    reported: float


def epsilon_of(releases: Iterable[Release], *, delta: float) -> float:
    """Upper bound of ε at `delta` after all `releases`, when one patient is added or removed; 0 without releases.

    Poisson-subsampled Gaussian releases are composed by two independent accountants, Opacus' PRV (Gopi et al. 2021)
    and dp-accounting's PLD (Doroshenko et al. 2022); they must agree to 1 %, and the larger one counts. The PRV
    accountant is asked for an error of at most 0.001; above ε = 20 the error is 1/20,000 of it. Where every release
    takes all patients, their composition is one Gaussian mechanism and its exact ε is given (Balle & Wang 2018,
    theorem 8). Above ε = 200, and for δ below 10^-10, the looser Rényi bound is given. If one of the releases is
    discrete, all are bounded by Rényi divergences at integer orders (`discrete_epsilon`).

    Raises:
        PrivacyError: `delta` is not in (0, 1), or the accountants disagree.
    """
    merged = _merged(releases, delta)
    return _exact(merged, delta=delta) if _gaussian(merged) else _accounts(merged, delta=delta).reported


def quick_epsilon(releases: Iterable[Release], *, delta: float) -> float:
    """Upper bound of ε by one accountant, in a tenth of the time of `epsilon_of`.

    Within a hundredth of it where that asks both accountants; for δ below 10^-10 the Rényi bound.

    Raises:
        PrivacyError: `delta` is not in (0, 1).
    """
    merged = _merged(releases, delta)
    if not merged:
        return 0.0
    if _gaussian(merged):
        return _exact(merged, delta=delta)
    pld = pld_epsilon(merged, delta=delta) if delta >= _SMALLEST_DELTA and not _discrete(merged) else None
    return _renyi(merged, delta=delta) if pld is None else pld


def renyi_epsilon(releases: Iterable[Release], *, delta: float) -> float:
    """Upper bound of ε at `delta` by Rényi differential privacy; 0 without releases.

    Raises:
        PrivacyError: `delta` is not in (0, 1).
    """
    merged = _merged(releases, delta)
    return _renyi(merged, delta=delta) if merged else 0.0


def epsilons(releases: Iterable[Release], *, delta: float) -> Accounts:
    """ε by every accountant that can bound `releases`, for the report.

    Raises:
        PrivacyError: `delta` is not in (0, 1), or the accountants disagree.
    """
    merged = _merged(releases, delta)
    accounts = _accounts(merged, delta=delta)
    return replace(accounts, reported=_exact(merged, delta=delta)) if _gaussian(merged) else accounts


def check_agreement(*, prv: float, pld: float) -> None:
    """Refuse two values of ε that differ by more than 1 %, or by 0.0004 where they are below 0.04.

    Raises:
        PrivacyError: they do.
    """
    if abs(prv - pld) > max(_AGREEMENT * max(prv, pld), _FLOOR):
        raise PrivacyError(
            f"The two accountants disagree, ε = {prv:.4g} (PRV) against {pld:.4g} (PLD), so nothing can be promised; "
            "change privacy.sampling_rate or federation.rounds."
        )


def check_delta(delta: float, *, patients: int) -> None:
    """Refuse a δ that allows one of `patients` to be given away entirely.

    Raises:
        PrivacyError: `delta` is not in (0, 1 / `patients`).
    """
    assert patients >= 1
    if not 0 < delta < 1 / patients:
        raise PrivacyError(
            f"privacy.delta is {delta}, but with {patients} patients it must be above 0 and below 1/{patients} "
            f"= {1 / patients:.2g}; lower it."
        )


def noise_multiplier_for(
    *,
    target_epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    other: Iterable[Release] = (),
    discrete: bool = False,
) -> float:
    """Noise multiplier σ with `epsilon_of` between 0.99 and 1.0 times `target_epsilon` after everything.

    Args:
        target_epsilon: ε in [0.01, 100] for `steps` and `other` together.
        delta: δ in (0, 1).
        sampling_rate: chance of each patient to be in a step, in (0, 1].
        steps: at least 1.
        other: what is released besides, at a noise that stands already; pooled statistics, say.
        discrete: the steps carry discrete noise.

    Raises:
        PrivacyError: the target is out of range, `other` leaves nothing of it, no noise meets it, or `delta`,
            `sampling_rate` or `steps` is out of range.
    """
    from scipy.optimize import brentq

    if not _SMALLEST_TARGET <= target_epsilon <= _LARGEST_TARGET:
        raise PrivacyError(
            f"privacy.target_epsilon is {target_epsilon}, but only {_SMALLEST_TARGET} to {_LARGEST_TARGET} can be "
            "kept to; below that no model learns, above it nobody is protected."
        )
    others, shape = list(other), Release(sampling_rate, 1.0, steps, discrete)
    alone = epsilon_of(others, delta=delta)
    if alone >= 0.99 * target_epsilon:
        raise PrivacyError(
            f"What is released besides the training spends ε = {alone:.3g} of privacy.target_epsilon = "
            f"{target_epsilon:g} and leaves nothing for it; raise the target, or the noise of those releases."
        )

    def composed(sigma: float) -> list[Release]:
        return [*others, replace(shape, noise_multiplier=sigma)]

    def excess(log_sigma: float, aim: float) -> float:
        return math.log(max(quick_epsilon(composed(math.exp(log_sigma)), delta=delta), 1e-12) / aim)

    aim = 0.995 * target_epsilon
    # Close to the central limit (Bu et al. 2020): many subsampled steps are one Gaussian mechanism of this μ.
    mu = bisect(lambda m: gaussian_epsilon(m, delta=delta) < aim, low=0.0, high=100.0, tolerance=1e-4 * aim)
    start = -0.5 * math.log(math.log1p((mu / sampling_rate) ** 2 / steps))
    low = high = min(start, math.log(LARGEST_NOISE / 2))
    while excess(high, aim) > 0 and high < math.log(LARGEST_NOISE):
        low, high = high, high + 0.2
    while excess(low, aim) <= 0 and low > math.log(0.01):
        low, high = low - 0.2, low
    try:
        for _ in range(5):
            sigma = math.exp(float(brentq(excess, low, high, args=(aim,), xtol=5e-4)))
            reached = epsilon_of(composed(sigma), delta=delta)
            if 0.99 * target_epsilon <= reached <= target_epsilon:
                return sigma
            # The quick accountant was off by this factor here; aim elsewhere by as much.
            aim *= 0.995 * target_epsilon / reached
            low, high = low - 0.2, high + 0.2
    except ValueError as error:  # brentq, when the bracket holds no solution
        if isinstance(error, PrivacyError):
            raise
    raise PrivacyError(
        f"No noise was found that keeps {steps} steps at sampling rate {sampling_rate} to ε = {target_epsilon} and "
        f"δ = {delta}; choose another privacy.target_epsilon, privacy.delta or privacy.sampling_rate."
    )


def _merged(releases: Iterable[Release], delta: float) -> list[Release]:
    if not 0 < delta < 1:
        raise PrivacyError(f"δ is {delta}, but must be between 0 and 1, and below 1 / patients; correct privacy.delta.")
    return merge(releases)


def _accounts(merged: Sequence[Release], *, delta: float) -> Accounts:
    if not merged:
        return Accounts(prv=0.0, pld=0.0, renyi=0.0, reported=0.0)
    renyi = _renyi(merged, delta=delta)
    if not _discrete(merged) and renyi <= _LARGEST_EPSILON and delta >= _SMALLEST_DELTA:
        pld = pld_epsilon(merged, delta=delta)
        prv = None if pld is None else prv_epsilon(merged, delta=delta, error=prv_error(pld))
        if prv is not None and pld is not None:
            check_agreement(prv=prv, pld=pld)
            return Accounts(prv=prv, pld=pld, renyi=renyi, reported=max(prv, pld))
    return Accounts(prv=None, pld=None, renyi=renyi, reported=renyi)


def _gaussian(merged: Sequence[Release]) -> bool:
    """Whether it is all one Gaussian mechanism."""
    return len(merged) == 1 and merged[0].sampling_rate == 1 and not merged[0].discrete


def _discrete(merged: Sequence[Release]) -> bool:
    return any(release.discrete for release in merged)


def _exact(merged: Sequence[Release], *, delta: float) -> float:
    return gaussian_epsilon(1 / merged[0].noise_multiplier, delta=delta)


def _renyi(merged: Sequence[Release], *, delta: float) -> float:
    return discrete_epsilon(merged, delta=delta) if _discrete(merged) else renyi_bound(merged, delta=delta)
