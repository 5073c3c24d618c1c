"""Sums over patients in which every patient weighs as much as another, released with noise."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from primia.privacy.noise import NoiseSource

STEPS = 2**8  # of the grid per unit; rounding to it is far below any noise that protects


def weights_of(patients: Tensor) -> Tensor:
    """(images,) float64 weights that add up to 1 over the images of each patient; `patients` is (images,) int64."""
    _, place, count = torch.unique(patients, return_inverse=True, return_counts=True)
    return torch.reciprocal(count[place].to(torch.float64))


@dataclass(frozen=True)
class NoisySum:
    """How a sum of `entries` real numbers over patients is rounded to the grid and protected.

    `sensitivity` bounds the L2 norm of what one patient adds, and `noise_multiplier` is the noise's standard deviation
    in units of the sensitivity on the grid. What is released is an integer plus a rounded normal value, which is the
    rounding of the integer plus that value: the Gaussian mechanism, then something that looks at no data. Two rounded
    sums differ by at most a step per entry more than the exact ones, which `deviation` pays for.
    """

    entries: int
    sensitivity: float
    noise_multiplier: float

    @property
    def deviation(self) -> float:
        """Standard deviation of one site's noise, in steps of the grid."""
        return self.noise_multiplier * (self.sensitivity * STEPS + math.sqrt(self.entries))

    def release(self, exact: NDArray[np.float64], *, limit: int, noise: NoiseSource) -> NDArray[np.int64]:
        """`exact`, (entries,), in steps of the grid with noise on every entry, cut to ±`limit` afterwards."""
        assert exact.shape == (self.entries,) and self.noise_multiplier > 0
        # In float64: a normal value of float32 times a large deviation would leave out integers.
        drawn = np.rint(noise.normal([self.entries]).double().numpy() * self.deviation)
        released: NDArray[np.float64] = np.clip(np.rint(exact * STEPS) + drawn, -limit, limit)
        return released.astype(np.int64)

    def spread(self, sites: int) -> float:
        """How far the sum over `sites` may be from the exact one, in steps; more has a chance below 10^-32."""
        return 12.0 * math.sqrt(sites) * self.deviation
