"""The Gaussian mechanism without sampling: its ε is known exactly."""

import math
from collections.abc import Callable


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
    return bisect(lambda epsilon: spent(epsilon) > delta, low=0.0, high=high, tolerance=1e-9)


def bisect(above: Callable[[float], bool], *, low: float, high: float, tolerance: float) -> float:
    """The upper end of an interval shorter than `tolerance` in which a condition, true at `low`, turns false."""
    while high - low > tolerance:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if above(middle) else (low, middle)
    return high
