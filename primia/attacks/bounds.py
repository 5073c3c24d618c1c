"""What theory allows an attacker, and exact intervals for what one attained."""

from scipy.special import betaincinv, ndtr, ndtri


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


def clopper_pearson(successes: int, total: int, *, confidence: float) -> tuple[float, float]:
    """Exact two-sided interval of a success rate (Clopper and Pearson 1934); both ends in [0, 1]."""
    assert 0 <= successes <= total and total > 0
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, total - successes + 1, tail))
    high = 1.0 if successes == total else float(betaincinv(successes + 1, total - successes, 1 - tail))
    return low, high
