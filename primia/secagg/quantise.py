"""Clipped real vectors as integers of a fixed public grid, rounded without bias."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primia.errors import ConfigError, FederationError
from primia.secagg.masks import Keystream, room

_WORD = 32
_SIGNED_WORD = 2**31 - 1
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

    def quantise(
        self,
        values: NDArray[np.floating],
        stream: Keystream,
        *,
        weight: int = 1,
        out: NDArray[np.int32] | None = None,
    ) -> tuple[NDArray[np.int32], int]:
        """Clip `values` (p,), round stochastically, multiply by `weight`, and count the clipped ones.

        A value x, in steps of the grid, becomes floor(x + r) with r drawn from the odd multiples of 2^-16 in [0, 1).
        It is rounded up with a probability within 2^-16 of its fraction, so the expectation is exact within 2^-15 of
        a step (the arithmetic adds less than 2^-24), and a value on the grid, the limit included, stays there.
        The integers are written to `out` (p,) if it is given.

        Raises:
            FederationError: a value is not finite, or the weighted integers do not fit 32 bits.
        """
        assert values.ndim == 1 and weight >= 0
        if self.levels * weight > _SIGNED_WORD:
            raise FederationError(f"A weight of {weight} leaves no room in 32 bits; lower secure_aggregation.bits.")
        integers = np.empty(len(values), dtype=np.int32) if out is None else out
        assert integers.shape == values.shape and integers.dtype == np.int32
        work = np.empty((2, min(_BLOCK, len(values))))
        buffer, clipped = room(2 * work.shape[1]), 0
        for start in range(0, len(values), _BLOCK):
            block, part = values[start : start + _BLOCK], integers[start : start + _BLOCK]
            exact, draws = work[:, : len(part)]
            with np.errstate(over="ignore"):  # such a value is clipped next
                np.multiply(block, self.levels / self.limit, out=exact, dtype=np.float64)
            if self._leaves_range(block):
                beyond = np.flatnonzero(np.abs(block, out=draws) > self.limit)
                exact[beyond] = np.copysign(self.levels, exact[beyond])
                clipped += len(beyond)
            stream.fill(buffer, 2 * len(part))
            bits = np.frombuffer(buffer, dtype="<u2", count=len(part))
            bits |= 1
            draws[:] = bits
            draws *= 2.0**-16
            exact += draws
            np.floor(exact, out=exact)
            part[:] = exact
            if weight != 1:
                part *= np.int32(weight)
        return integers, clipped

    def _leaves_range(self, block: NDArray[np.floating]) -> bool:
        """Whether a value lies beyond the limit; two reductions tell, since both are NaN if one value is."""
        lowest, highest = float(block.min()), float(block.max())
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise FederationError(
                "Training left the finite numbers; lower training.learning_rate or privacy.learning_rate."
            )
        return lowest < -self.limit or highest > self.limit

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


def within_norm(delta: NDArray[np.float64], *, bound: float) -> tuple[NDArray[np.float64], bool]:
    """Scale `delta` down to an L2 norm of at most `bound`, and say whether that was needed.

    The bound is public and only honest sites keep it: no single change is seen by anybody who could check.
    """
    norm = math.sqrt(np.square(delta).sum())  # not BLAS, whose sum depends on the number of threads
    if not bound < norm < math.inf:  # what is no finite number is left to the quantiser, which refuses it
        return delta, False
    return delta * (bound * (1 - 1e-12) / norm), True


def rounding_stream(seed: int, *, round: int, site: str) -> Keystream:
    """The random stream that rounds one site's update in one round; public, as no proof needs it secret.

    A keystream, since it is fast and the same with every version of every library.
    """
    return Keystream(hashlib.sha256(f"primia rounding\0{seed}\0{round}\0{site}".encode()).digest())
