"""What is accounted: noisy sums over Poisson samples of patients."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from primia.errors import PrivacyError

# More noise than this counts as this much: it costs nearly nothing either way, and the accountants' sums cancel beyond.
LARGEST_NOISE = 1e4


@dataclass(frozen=True)
class Release:
    """`steps` noisy sums over Poisson samples of patients: the subsampled Gaussian mechanism, composed.

    Args:
        sampling_rate: chance of each patient to be in a step, in (0, 1].
        noise_multiplier: standard deviation of the noise over the clip norm, > 0.
        steps: at least 1.
        discrete: the noise is a sum of discrete Gaussians on an integer grid, see `primia.privacy.shares`; it has an
            accountant of its own.

    Raises:
        PrivacyError: a value is out of range.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int
    discrete: bool = False

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


def merge(releases: Iterable[Release]) -> list[Release]:
    """The same releases, fewer: the accountants do not ask for the order.

    Equal ones become one with the steps of all, and Gaussian sums over all patients become one Gaussian mechanism.
    """
    steps: dict[tuple[bool, float, float], int] = {}
    everybody = 0.0  # sum of (sensitivity / deviation)² of the releases over all patients
    for release in releases:
        noise = min(release.noise_multiplier, LARGEST_NOISE)
        if release.sampling_rate == 1 and not release.discrete:
            everybody += release.steps / noise**2
        else:
            kind = (release.discrete, release.sampling_rate, noise)
            steps[kind] = steps.get(kind, 0) + release.steps
    merged = [Release(q, sigma, n, discrete) for (discrete, q, sigma), n in sorted(steps.items())]
    return merged + ([Release(1.0, everybody**-0.5, 1)] if everybody else [])
