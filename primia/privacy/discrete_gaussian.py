"""Discrete Gaussian noise of one fixed deviation, exact to 2^-240, from uniform words: for sums of integers.

A table of the discrete Gaussian of deviation 108, with probabilities of 256 bits, is sampled by inversion. Three such
values are combined to x = a + 36 b + 36² c, which is a discrete Gaussian again, of deviation 140,022 steps
(Micciancio & Walter 2017, section 4.1; the proof and its constants are in docs/adr/0008-distributed-noise.md).
"""

import bisect
import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import cache

import numpy as np
from numpy.typing import NDArray

Words = Callable[[int], NDArray[np.uint64]]

BASE = 108  # deviation of the table
STRIDE = 36  # three times the smoothing the lattice asks for: BASE / STRIDE = 3
CUT = 2000  # the table ends here, 18.5 deviations away
DEVIATION = BASE * math.sqrt(1 + STRIDE**2 + STRIDE**4)  # 140,022, of one value, in steps of the grid
LARGEST = CUT * (1 + STRIDE + STRIDE**2)  # no value lies further from zero; it fits 32 bits
TOTAL_VARIATION = 2.0**-240  # between one value and the discrete Gaussian of DEVIATION, at most

_BITS = 256
_GUIDE_BITS = 16
_UNDECIDED = np.int16(32767)
_CHUNK = 2**14  # values at a time; the work space then fits the processor's cache


def discrete_gaussian(words: Words, n: int) -> NDArray[np.int64]:
    """(n,) independent values of the discrete Gaussian with deviation `DEVIATION`.

    Args:
        words: gives that many independent uniform 64-bit words; they must come from a secure generator.
        n: at least 0.
    """
    values = np.empty(n, dtype=np.int64)
    for start in range(0, n, _CHUNK):
        part = values[start : start + _CHUNK]
        low, middle, high = base_gaussian(words, 3 * len(part)).reshape(3, -1).astype(np.int32)
        part[:] = low + STRIDE * (middle + STRIDE * high)
    return values


def base_gaussian(words: Words, n: int) -> NDArray[np.int16]:
    """(n,) independent values of the table's discrete Gaussian, of deviation `BASE`, within ±`CUT`.

    The value is the number of cumulative probabilities that a uniform number of 256 bits reaches. Its first 16 bits
    nearly always tell; else 64 are compared, and in a tie all of them.
    """
    cumulative, high, guide = _table()
    drawn = words(n)
    index: NDArray[np.int16] = guide[drawn >> np.uint64(64 - _GUIDE_BITS)]
    undecided = np.flatnonzero(index == _UNDECIDED)
    at_least = np.searchsorted(high, drawn[undecided], side="left")
    at_most = np.searchsorted(high, drawn[undecided], side="right")
    index[undecided] = at_most
    for position in undecided[at_least != at_most]:
        number = int(drawn[position])
        for word in words(_BITS // 64 - 1):
            number = number << 64 | int(word)
        index[position] = bisect.bisect_right(cumulative, number)
    return index - np.int16(CUT)


def probabilities() -> list[Decimal]:
    """P[X = x] of the table's discrete Gaussian (Canonne et al. 2020, definition 1) for x from 0 to `CUT`."""
    with localcontext() as context:
        context.prec = 100
        weights = [(Decimal(-x * x) / (2 * BASE**2)).exp() for x in range(CUT + 1)]
        total = 2 * sum(weights[1:], weights[0] / 2)
        return [weight / total for weight in weights]


@cache
def _table() -> tuple[list[int], NDArray[np.uint64], NDArray[np.int16]]:
    """Cumulative probabilities times 2^256; their first 64 bits; and the index that 16 bits decide, if they do."""
    with localcontext() as context:
        context.prec = 100
        half, sum_ = probabilities(), Decimal(0)
        cumulative = []
        for probability in (*half[:0:-1], *half[:-1]):
            sum_ += probability
            cumulative.append(int(sum_ * 2**_BITS))
    high = np.array([boundary >> (_BITS - 64) for boundary in cumulative], dtype=np.uint64)
    rest = _BITS - _GUIDE_BITS
    buckets = np.arange(1 << _GUIDE_BITS)
    # Boundaries at or below the first number of a bucket, and at or below its last.
    first = np.searchsorted([-(-boundary >> rest) for boundary in cumulative], buckets, side="right")
    last = np.searchsorted([boundary >> rest for boundary in cumulative], buckets, side="right")
    return cumulative, high, np.where(first == last, first, _UNDECIDED).astype(np.int16)
