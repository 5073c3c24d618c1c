"""One masked vector holds everything a site says in a round: named parts, one 32-bit word per entry."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from primia.errors import FederationError
from primia.secagg.masks import Words

UNSIGNED_WORD = 2**32 - 1
SIGNED_WORD = 2**31 - 1


@dataclass(frozen=True)
class Part:
    """`size` integers called `name`; no site may send an absolute value above `limit`.

    A caller chooses `limit` so that the sum over all sites fits a word: at most 2^32 - 1, or 2^31 - 1 if `signed`.
    """

    name: str
    size: int
    limit: int
    signed: bool = False


@dataclass(frozen=True)
class Layout:
    """The order of the parts in the vector; the same at every site and at the coordinator."""

    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Number of words."""
        return sum(part.size for part in self.parts)

    def pack(self, values: Mapping[str, ArrayLike]) -> Words:
        """Write every part's integers, modulo 2^32, into one vector of `size` words.

        Raises:
            FederationError: a value is too large for its part; silently wrapped it would falsify the sum.
        """
        assert set(values) == {part.name for part in self.parts}
        words = []
        for part in self.parts:
            entries = np.asarray(values[part.name], dtype=np.int64).reshape(-1)
            assert len(entries) == part.size, f"{part.name} has {len(entries)} entries, not {part.size}"
            low = -part.limit if part.signed else 0
            if part.size and not (low <= entries.min() and entries.max() <= part.limit):
                raise FederationError(
                    f"The {part.name} of this hospital does not fit its share of a 32-bit sum; "
                    "split the hospital in two or use fewer images."
                )
            words.append(entries.astype(np.uint32))
        return np.concatenate(words)

    def unpack(self, total: Words) -> dict[str, NDArray[np.int64]]:
        """Read the parts of an unmasked sum, signed ones in two's complement."""
        assert total.dtype == np.uint32 and total.shape == (self.size,)
        parts, start = {}, 0
        for part in self.parts:
            words = total[start : start + part.size]
            parts[part.name] = (words.view(np.int32) if part.signed else words).astype(np.int64)
            start += part.size
        return parts


def share_of_word(sites: int) -> int:
    """Largest count one of `sites` may send so that the sum of all fits an unsigned word."""
    return UNSIGNED_WORD // sites
