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

    def empty(self) -> Words:
        """A vector whose entries are still to be written."""
        return np.empty(self.size, dtype=np.uint32)

    def signed_part(self, vector: Words, name: str) -> NDArray[np.int32]:
        """The entries of one signed part of `vector`, to be written in place."""
        signed = {part.name: part.signed for part in self.parts}[name]
        assert signed
        return self._words(vector, name).view(np.int32)

    def _words(self, vector: Words, name: str) -> Words:
        assert vector.dtype == np.uint32 and vector.shape == (self.size,)
        names = [part.name for part in self.parts]
        place = names.index(name)
        start = sum(part.size for part in self.parts[:place])
        return vector[start : start + self.parts[place].size]

    def pack(self, values: Mapping[str, ArrayLike], *, into: Words | None = None) -> Words:
        """Write every part's integers, modulo 2^32, into one vector of `size` words.

        Parts that were written to `into` beforehand (see `signed_part`) may be left out of `values`, which saves a
        copy of a large one. Their limits are checked all the same.

        Raises:
            FederationError: a value is too large for its part; silently wrapped it would falsify the sum.
        """
        names = {part.name for part in self.parts}
        assert set(values) == names if into is None else set(values) <= names
        vector = self.empty() if into is None else into
        for part in self.parts:
            words = self._words(vector, part.name)
            target: NDArray[np.int32] | Words = words.view(np.int32) if part.signed else words
            entries = np.asarray(values.get(part.name, target)).reshape(-1)
            if entries.dtype != target.dtype:
                entries = entries.astype(np.int64)
            assert len(entries) == part.size, f"{part.name} has {len(entries)} entries, not {part.size}"
            low = -part.limit if part.signed else 0
            if part.size and not (low <= int(entries.min()) and int(entries.max()) <= part.limit):
                raise FederationError(
                    f"The {part.name} of this hospital does not fit its share of a 32-bit sum; "
                    "split the hospital in two or use fewer images."
                )
            target[:] = entries
        return vector

    def unpack(self, total: Words) -> dict[str, NDArray[np.int64]]:
        """Read the parts of an unmasked sum, signed ones in two's complement."""
        words = {part: self._words(total, part.name) for part in self.parts}
        return {part.name: (w.view(np.int32) if part.signed else w).astype(np.int64) for part, w in words.items()}


def share_of_word(sites: int) -> int:
    """Largest count one of `sites` may send so that the sum of all fits an unsigned word."""
    return UNSIGNED_WORD // sites


def share_of_signed_word(sites: int) -> int:
    """Largest absolute value one of `sites` may send so that the sum of all fits a signed word."""
    return SIGNED_WORD // sites
