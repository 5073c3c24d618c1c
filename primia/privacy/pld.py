"""The second accountant: privacy loss distributions (Doroshenko et al. 2022), as dp-accounting computes them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from primia.privacy.release import Release

_GRID = 0.02  # step of the grid over the standard deviation of one step's privacy loss


def pld_epsilon(releases: Sequence[Release], *, delta: float) -> float | None:
    """Upper bound of ε at `delta`, for patients added and removed; None where `delta` lies below what is cut off.

    Losses are rounded pessimistically ("connect the dots"). That adds up to (step/2)² to the variance of each loss;
    with a step of 1/50 of its deviation the total variance grows by 1/10,000 and ε by less than 1/1000 of itself.

    Args:
        releases: merged, none discrete, at least one.
        delta: δ in (0, 1).
    """
    epsilon = float(_composed(releases).get_epsilon_for_delta(delta))
    return epsilon if math.isfinite(epsilon) else None


def pld_deltas(releases: Sequence[Release], epsilons: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper bound of δ at each of `epsilons` ≥ 0, for patients added and removed; arguments as in `pld_epsilon`."""
    total = _composed(releases)
    return np.array([float(total.get_delta_for_epsilon(epsilon)) for epsilon in epsilons])


def _composed(releases: Sequence[Release]) -> Any:
    """The privacy loss distribution of all releases."""
    from dp_accounting.pld import privacy_loss_distribution

    step = _GRID * math.sqrt(
        sum(release.steps * _variance(release) for release in releases) / sum(release.steps for release in releases)
    )
    total = None
    for release in releases:
        one = privacy_loss_distribution.from_gaussian_mechanism(
            release.noise_multiplier,
            sampling_prob=release.sampling_rate,
            value_discretization_interval=step,
        )
        composed = one.self_compose(release.steps) if release.steps > 1 else one
        total = composed if total is None else total.compose(composed)
    assert total is not None
    return total


def _variance(release: Release) -> float:
    """About the variance of one step's privacy loss: χ² between its two outputs, at most that of the Gaussian."""
    gaussian = release.noise_multiplier**-2
    if release.sampling_rate == 1 or gaussian > 100:
        return gaussian
    return min(release.sampling_rate**2 * math.expm1(gaussian), gaussian)
