"""Matrix times packed vector by hybrid diagonals with baby and giant steps.

Halevi & Shoup 2014 ("Algorithms in HElib", section 4.3) write a matrix product as a sum of diagonals times rotations;
GAZELLE (Juvekar et al. 2018, section 4.2) needs only min(rows, columns) diagonals and sums the rest by doubling.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primia.encrypted.parameters import SLOTS

Floats = NDArray[np.float64]


def padded(length: int) -> int:
    """The power of two that is at least `length`."""
    return 1 << (length - 1).bit_length()


def repeat(vector: Floats, *, period: int) -> Floats:
    """Pad (n,) with zeros to `period` and repeat it over all slots: (SLOTS,)."""
    return np.tile(np.pad(vector, (0, period - len(vector))), SLOTS // period)


@dataclass(frozen=True)
class PackedMap:
    """A linear map (rows, columns) on a vector that repeats with period `columns_padded` over all slots.

    Its result repeats with period `rows_padded` over all slots: every slot holds a finished value, so nothing
    half-summed is left that would tell about the weights, and maps follow each other without masks.

    diagonals[g, b]: (SLOTS,), already rotated back by the giant step g * baby, which the sum over b then undoes.
    """

    rows: int
    columns: int
    rows_padded: int
    columns_padded: int
    baby: int
    diagonals: Floats  # (giant steps, baby steps, period) with period = max(rows_padded, columns_padded)

    @property
    def giant(self) -> int:
        """Number of giant steps, the zeroth included."""
        return len(self.diagonals)

    @property
    def doublings(self) -> tuple[int, ...]:
        """Rotations by which the diagonals' sum is folded onto itself."""
        steps = []
        step = self.rows_padded
        while step < self.columns_padded:
            steps.append(step)
            step *= 2
        return tuple(steps)

    @property
    def rotations(self) -> tuple[int, ...]:
        """All steps for which a Galois key is needed, ascending."""
        babies = set(range(1, self.baby))
        giants = {giant * self.baby for giant in range(1, self.giant)}
        return tuple(sorted(babies | giants | set(self.doublings)))

    def slots(self, giant: int, baby: int) -> Floats:
        """One diagonal over all slots: (SLOTS,)."""
        diagonal: Floats = self.diagonals[giant, baby]
        return np.tile(diagonal, SLOTS // len(diagonal))


def pack(matrix: Floats, *, columns_padded: int | None = None) -> PackedMap:
    """Lay a matrix (rows, columns) out as diagonals; `columns_padded` is the period of the vector it will meet."""
    rows, columns = matrix.shape
    tall, wide = padded(rows), columns_padded or padded(columns)
    assert columns <= wide and max(tall, wide) <= SLOTS and wide == padded(wide)
    full = np.zeros((tall, wide))
    full[:rows, :columns] = matrix
    count, period = min(tall, wide), max(tall, wide)
    baby = 1 << ((count.bit_length() - 1) + 1) // 2
    slot = np.arange(period)
    # diagonal d: slot i meets column (i + d) of the rotated vector and belongs to row i
    diagonals = np.stack([full[slot % tall, (slot + d) % wide] for d in range(count)])
    rotated_back = [np.roll(diagonal, (d // baby) * baby) for d, diagonal in enumerate(diagonals)]
    return PackedMap(
        rows=rows,
        columns=columns,
        rows_padded=tall,
        columns_padded=wide,
        baby=baby,
        diagonals=np.stack(rotated_back).reshape(count // baby, baby, period),
    )
