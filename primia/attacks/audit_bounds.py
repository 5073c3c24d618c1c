"""Statistics of auditing privacy in one run: what right guesses prove, and how many of them a privacy curve allows."""

import numpy as np

from primia.attacks.bounds import clopper_pearson
from primia.privacy.curve import PrivacyCurve
from primia.privacy.gaussian import bisect, gaussian_epsilon

_LARGEST_EPSILON = 64.0
_TOLERANCE = 1e-6


def one_run_p_value(*, canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Largest probability that (ε, δ)-privacy leaves to as many right guesses.

    P[B ≥ v] + 2mδ · max over i of P[v > B ≥ v − i] / i, where B is binomial with r trials at e^ε / (1 + e^ε)
    (Steinke, Nasr & Jagielski 2023, theorem 5.2).

    Args:
        canaries: m, each of them in by the toss of a fair coin.
        guesses: r ≤ m, about as many of them; how many is fixed beforehand.
        right: v ≤ r of them.
        epsilon: ≥ 0, when one patient is added or removed.
        delta: in [0, 1).
    """
    from scipy.stats import binom

    assert 0 <= right <= guesses <= canaries
    likely = 1 / (1 + np.exp(-epsilon))
    fewer = np.arange(1, right + 1)
    just_below = np.cumsum(binom.pmf(right - fewer, guesses, likely)) / fewer
    slack = 2 * canaries * delta * float(just_below.max(initial=0.0))
    return min(1.0, float(binom.sf(right - 1, guesses, likely)) + slack)


def audited_epsilon(*, canaries: int, guesses: int, right: int, delta: float, confidence: float) -> float:
    """Lower bound of ε at `delta` that holds with `confidence`, one-sided; the rest as in `one_run_p_value`."""

    def refuted(epsilon: float) -> bool:
        p = one_run_p_value(canaries=canaries, guesses=guesses, right=right, epsilon=epsilon, delta=delta)
        return p < 1 - confidence

    if not refuted(0.0):
        return 0.0
    return bisect(refuted, low=0.0, high=_LARGEST_EPSILON, tolerance=_TOLERANCE) - _TOLERANCE


def too_many_right(curve: PrivacyCurve, *, canaries: int, guesses: int, chance: float) -> int:
    """Fewest right guesses that no release with this privacy curve lets happen with probability `chance`.

    Theorem 5.2 of Steinke et al. spends the canaries' δ on a single pair (ε, δ), which resolves nothing where δ is not
    far below 1/canaries. This takes all pairs at once (Mahloujifar, Melis & Chaudhuri 2025, "Auditing f-differential
    privacy in one run"). With W the right ones of r guesses about m canaries, and f̄(κ) the largest power of a test at
    significance κ, a canary's coin turned over makes a right guess a wrong one, so that for every c

        E[W; W ≥ c] / m ≤ f̄(E[r − W; W ≥ c − 1] / m).

    Going down from P[W ≥ v] = `chance`, all of it at W = v, each inequality asks for a least mass at c − 1. If they
    add up to more than 1, v is too many. For pure ε and v = r this is the binomial tail of theorem 5.2.

    Args:
        curve: of the release, when one patient is added or removed.
        canaries: m.
        guesses: r ≤ m.
        chance: in (0, 1).

    Returns:
        In 1 ... r, or r + 1 if even r right guesses can happen.
    """
    growth, delta = np.exp(curve.epsilon), curve.delta

    def significance(power: float) -> float:
        """Least κ with f̄(κ) ≥ power."""
        forward, backward = (power - delta) / growth, 1 - delta - (1 - power) * growth
        return max(0.0, float(forward.max()), float(backward.max()))

    def possible(right: int) -> bool:
        hits, misses = chance * right, chance * (guesses - right)  # E[W; W ≥ c] and E[r − W; W ≥ c]
        for fewer in range(right - 1, -1, -1):
            needed = max(misses, canaries * significance(min(1.0, hits / canaries)))
            hits += fewer / (guesses - fewer) * (needed - misses)
            misses = needed
            if hits + misses > guesses:
                return False
        return True

    low, high = 1, guesses + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if possible(middle) else (low, middle)
    return low


def rate_below(right: int, *, guesses: int, confidence: float) -> float:
    """A success rate that exact intervals lie above from `right` successes on, and not before; 1 if `right` > guesses.

    It makes a test by counts the test "lower end > bound" of all attacks.
    """
    if right > guesses:
        return 1.0
    return sum(clopper_pearson(count, guesses, confidence=confidence)[0] for count in (right - 1, right)) / 2


def least_separation(*, caught: int, inserted: int, alarms: int, absent: int, confidence: float) -> float:
    """Lower bound of μ of a Gaussian mechanism, from one threshold: Φ⁻¹(TPR) − Φ⁻¹(FPR) at exact ends.

    Sharper than any bound without assumptions, but it takes the scores of canaries for independent and the noise for
    Gaussian (Nasr et al. 2023, "Tight auditing of differentially private machine learning").

    Args:
        caught: canaries above the threshold among the `inserted` ones.
        inserted: at least 1.
        alarms: canaries above the threshold among the `absent` ones.
        absent: at least 1.
        confidence: that the bound holds with.
    """
    from scipy.special import ndtri

    power, _ = clopper_pearson(caught, inserted, confidence=confidence)
    _, significance = clopper_pearson(alarms, absent, confidence=confidence)
    return max(0.0, float(ndtri(power) - ndtri(significance)))


def separation_of(epsilon: float, *, delta: float) -> float:
    """μ of the Gaussian mechanism that is (ε, δ)-private and no better."""
    return bisect(lambda mu: gaussian_epsilon(mu, delta=delta) < epsilon, low=0.0, high=100.0, tolerance=_TOLERANCE)
