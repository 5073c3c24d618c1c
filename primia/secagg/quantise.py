"""Clipped real vectors as integers of a fixed public grid, rounded without bias."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primia.errors import ConfigError, FederationError

_WORD = 32
_BLOCK = 1 << 15  # values at a time, so that the work space stays in the cache


@dataclass(frozen=True)
class Quantiser:
    """A grid of 2·`levels` + 1 points over [-limit, limit]; `bits` includes the sign."""

    bits: int
    limit: float

    @property
    def levels(self) -> int:
        """Largest integer a value can become; symmetric, so that a sum of weight W stays within W·levels."""
        return (1 << (self.bits - 1)) - 1

    def quantise(self, values: NDArray[np.floating], stream: np.random.Generator) -> tuple[NDArray[np.int64], int]:
        """Clip `values`, round stochastically, and count the clipped ones.

        Rounding up with a probability equal to the fraction makes the expectation exact within the range.

        Raises:
            FederationError: a value is not finite.
        """
        integers, clipped = np.empty(len(values), dtype=np.int64), 0
        for start in range(0, len(values), _BLOCK):
            exact = values[start : start + _BLOCK].astype(np.float64)
            size = np.abs(exact)
            if not np.isfinite(size).all():
                raise FederationError(
                    "Training left the finite numbers; lower training.learning_rate or privacy.learning_rate."
                )
            clipped += int(np.count_nonzero(size > self.limit))
            exact *= self.levels / self.limit
            np.clip(exact, -self.levels, self.levels, out=exact)
            exact += stream.random(len(exact))
            np.floor(exact, out=exact)
            np.minimum(exact, self.levels, out=exact)  # levels + 0.999… may round up
            integers[start : start + _BLOCK] = exact
        return integers, clipped

    def mean(self, total: NDArray[np.int64], weight: int) -> NDArray[np.float64]:
        """The real mean behind a sum of integers whose weights add up to `weight`."""
        return total.astype(np.float64) * (self.limit / self.levels) / weight

    def check_headroom(self, weight: int) -> None:
        """Refuse a total weight whose sum could leave 32 bits.

        Raises:
            ConfigError: bits + ceil(log2(weight)) exceeds 32; names the largest number of bits that fits.
        """
        assert weight >= 1
        room = _WORD - (weight - 1).bit_length()
        if self.bits > room:
            raise ConfigError(
                f"secure_aggregation.bits is {self.bits}, but a total weight of {weight} (training images, without "
                f"differential privacy) leaves {room} of 32 bits; set secure_aggregation.bits to {room} or less."
            )


def rounding_stream(seed: int, *, round: int, site: str) -> np.random.Generator:
    """The random stream that rounds one site's update in one round; public, as no proof needs it secret."""
    digest = hashlib.sha256(f"primia rounding\0{seed}\0{round}\0{site}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest)))
