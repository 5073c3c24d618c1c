"""What theory allows an attacker, and exact intervals for what one attained."""

from collections.abc import Iterable

from scipy.special import betaincinv, ndtr, ndtri

from primia.privacy.accounting import Release
from primia.privacy.curve import privacy_curve


def gaussian_reconstruction_bound(*, chance: float, mu: float) -> float:
    """Largest success rate of any attacker that guesses one of equally likely candidates.

    γ = min over ε of e^ε·κ + δ(ε); for the Gaussian mechanism this minimum is Φ(Φ⁻¹(κ) + μ)
    (Hayes et al. 2023, "Bounding training data reconstruction in DP-SGD", theorem 2 and corollary 4;
    Balle et al. 2022, "Reconstructing training data with informed adversaries"; Kaissis et al. 2023,
    "Bounding data reconstruction attacks with the hypothesis testing interpretation of differential privacy").

    Args:
        chance: κ in (0, 1), success rate without seeing the release; 1/n for n candidates.
        mu: sensitivity over noise standard deviation, ≥ 0; 1/σ for one step in which the patient surely takes part.
    """
    return float(ndtr(ndtri(chance) + mu))


def reconstruction_bound(releases: Iterable[Release], *, chance: float) -> float:
    """γ of any sequence of releases, whatever its accountant: min over ε of e^ε·κ + δ(ε); see the Gaussian case.

    Args:
        releases: that the attacker sees, at least one.
        chance: κ in (0, 1).
    """
    gathered = list(releases)
    if len(gathered) == 1 and gathered[0].sampling_rate == 1 and not gathered[0].discrete:
        [release] = gathered
        return gaussian_reconstruction_bound(chance=chance, mu=release.steps**0.5 / release.noise_multiplier)
    return privacy_curve(gathered).most_likely(chance)


def clopper_pearson(successes: float, total: float, *, confidence: float) -> tuple[float, float]:
    """Exact two-sided interval of a success rate (Clopper and Pearson 1934); both ends in [0, 1].

    Fractions of trials are for an effective number of them.
    """
    assert 0 <= successes <= total and total > 0
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, total - successes + 1, tail))
    high = 1.0 if successes == total else float(betaincinv(successes + 1, total - successes, 1 - tail))
    return low, high


def trials_needed(rate: float, floor: float, *, confidence: float, most: int = 1_000_000) -> int | None:
    """Fewest trials whose interval lies above `floor` if the attacker is right at `rate`; None if no number does."""
    if rate <= floor:
        return None
    low, high = 1, 1
    while clopper_pearson(round(rate * high), high, confidence=confidence)[0] < floor:
        low, high = high, 2 * high
        if high > most:
            return None
    while low < high:
        middle = (low + high) // 2
        if clopper_pearson(round(rate * middle), middle, confidence=confidence)[0] < floor:
            low = middle + 1
        else:
            high = middle
    return high
