"""Noise in shares: what each hospital adds so that the sum is private, though some hospitals know their own share."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primia.errors import PrivacyError
from primia.privacy.discrete_accounting import LARGEST_COHORT, LARGEST_VECTOR
from primia.privacy.discrete_gaussian import DEVIATION
from primia.privacy.noise import NoiseSource

_WORD = 32  # bits of the integers that are summed, the sign included
_WRAP = 2.0**-40  # chance of a sum that leaves them
_COARSEST = 0.5  # more of the noise than this must not go into the rounding


@dataclass(frozen=True)
class NoiseShare:
    """One plan's grid and what its noise amounts to; see `share_plan`.

    Args:
        grid: one step, in the unit of the clip norm.
        deviation_steps: of one hospital's share, in steps: always `discrete_gaussian.DEVIATION`.
        clip_steps: the clip norm in steps.
        effective_noise_multiplier: of the honest survivors' noise over the sensitivity after rounding; it belongs in
            `Release(..., discrete=True)`.
        total_noise_multiplier: deviation of all hospitals' noise over the clip norm, as the model meets it.
        hospitals: that add a share each.
        parameters: length of the vector.
    """

    grid: float
    deviation_steps: float
    clip_steps: float
    effective_noise_multiplier: float
    total_noise_multiplier: float
    hospitals: int
    parameters: int

    def words(self, exact: NDArray[np.float64], *, noise: NoiseSource) -> NDArray[np.uint32]:
        """One hospital's part: `exact`, (parameters,), is its sum of clipped gradients; integers modulo 2^32.

        The order of operations is the proof's: round, add discrete noise, reduce, and nothing after that. No cut and
        no error may depend on the values; see docs/adr/0008-distributed-noise.md.
        """
        steps = np.rint(exact / self.grid).astype(np.int64)
        return (steps + noise.discrete(len(exact))).astype(np.uint32)

    def bits_needed(self, *, population: int, sampling_rate: float = 1.0) -> int:
        """Bits, with the sign, that hold every coordinate of a sum but for a chance of 2^-40.

        A patient adds at most the clip norm to a coordinate, a hospital's rounding at most one step. Half of the chance
        is for more patients than ever drawn, half for the tail of the noise in any coordinate.

        Args:
            population: patients of all hospitals together, or more.
            sampling_rate: chance of each patient to be drawn, in (0, 1].
        """
        from scipy.stats import binom

        drawn = population if sampling_rate == 1 else int(binom.isf(_WRAP / 2, population, sampling_rate))
        # Discrete Gaussians are no heavier in the tail than continuous ones (Canonne et al. 2020, section 2).
        deviations = math.sqrt(2 * math.log(2 * self.parameters / (_WRAP / 2)))
        noise = deviations * math.sqrt(self.hospitals) * self.deviation_steps
        return math.ceil(drawn * self.clip_steps + self.hospitals + noise).bit_length() + 1

    def check_headroom(self, *, population: int, sampling_rate: float = 1.0) -> None:
        """Refuse patients whose sum could leave 32 bits; arguments as in `bits_needed`.

        Raises:
            PrivacyError: it could.
        """
        bits = self.bits_needed(population=population, sampling_rate=sampling_rate)
        if bits > _WORD:
            raise PrivacyError(
                f"The sum over {population} patients at noise multiplier {self.effective_noise_multiplier:.3g} needs "
                f"{bits} bits and has {_WORD}; lower privacy.target_epsilon or privacy.sampling_rate, or use "
                "the local trust model."
            )


def share_plan(
    *, clip_norm: float, noise_multiplier: float, hospitals: int, threshold: int, curious: int, parameters: int
) -> NoiseShare:
    """The grid on which a share has `DEVIATION` steps and the honest survivors' noise the multiplier asked for.

    At least t − c shares are in a sum and unknown to the c curious hospitals, who subtract their own. The sum of those
    alone carries the noise. A patient moves the sum by up to clip + √d · grid, as each of the d coordinates is rounded.

    Args:
        clip_norm: of one patient's contribution, > 0.
        noise_multiplier: that the honest survivors' noise must have over that sensitivity, as the accountant was given
            it, > 0.
        hospitals: n, each of which adds a share.
        threshold: t, the fewest hospitals whose sum is opened.
        curious: c, hospitals that may pool what they know with the coordinator, at least 1.
        parameters: d, length of the vector.

    Raises:
        PrivacyError: no hospital would be left to be honest, or the vector is too long for the grid or the proof.
    """
    assert clip_norm > 0 and noise_multiplier > 0 and parameters >= 1
    if not 1 <= curious < threshold <= hospitals <= LARGEST_COHORT:
        raise PrivacyError(
            f"Noise in shares needs 1 ≤ curious < threshold ≤ hospitals ≤ {LARGEST_COHORT}, but they are {curious}, "
            f"{threshold} and {hospitals}; correct the number of curious hospitals, or use the local trust model."
        )
    honest = math.sqrt(threshold - curious) * DEVIATION  # deviation of the honest survivors' noise, in steps
    # honest = noise_multiplier · (clip_steps + √d), solved for the clip in steps.
    clip_steps = honest / noise_multiplier - math.sqrt(parameters)
    if parameters > LARGEST_VECTOR or clip_steps < (1 - _COARSEST) * honest / noise_multiplier:
        raise PrivacyError(
            f"A vector of {parameters} parameters at noise multiplier {noise_multiplier:.3g} is too long for noise in "
            "shares; choose a smaller model, a larger privacy.target_epsilon, or the local trust model."
        )
    return NoiseShare(
        grid=clip_norm / clip_steps,
        deviation_steps=DEVIATION,
        clip_steps=clip_steps,
        effective_noise_multiplier=noise_multiplier,
        total_noise_multiplier=math.sqrt(hospitals) * DEVIATION / clip_steps,
        hospitals=hospitals,
        parameters=parameters,
    )
