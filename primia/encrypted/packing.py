"""A sparse matrix on packed values as generalised diagonals, evaluated with baby and giant steps.

A diagonal holds the weights of all pairs of slots (from ciphertext j, to ciphertext k) that are the same rotation
apart (Halevi & Shoup 2014, "Algorithms in HElib", section 4.3). A `spread` map takes each value to its place; a
`folded` map needs as many diagonals a ciphertext as it has rows only, and sums the rest by doubling (Juvekar et al.
2018, GAZELLE, section 4.2).
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from primia.encrypted.layout import Floats as Floats
from primia.encrypted.layout import Layout

Integers = NDArray[np.int64]
Kind = Literal["spread", "folded"]


@dataclass(frozen=True)
class Diagonals:
    """To and from which ciphertext, and by which rotation: (count,) each, in the order of ciphertexts and rotations.

    period: slots after which every diagonal repeats; doublings: rotations by which the result is folded onto itself
    at the end; copies: how often that adds the same value up.
    """

    slots: int
    to: Integers
    source: Integers
    rotation: Integers
    period: int
    doublings: tuple[int, ...] = ()
    copies: int = 1

    @property
    def count(self) -> int:
        """Products with a plaintext, once equal diagonals are one."""
        return len(self.to)

    def at(self, index: Integers) -> "Diagonals":
        """Some of them."""
        return replace(self, to=self.to[index], source=self.source[index], rotation=self.rotation[index])

    def keys(self) -> Integers:
        """One number for each, equal for equal diagonals."""
        return np.asarray((self.to * (1 << 16) + self.source) * (1 << 32) + self.rotation + (1 << 31))


@dataclass(frozen=True)
class Steps:
    """Rotations of the sources (baby) and of sums (giant): rotation = baby + giant for each diagonal, (count,)."""

    baby: Integers
    giant: Integers

    @classmethod
    def split(cls, diagonals: Diagonals, size: int) -> Self:
        """Baby steps modulo `size`, a power of two; around zero where rotations go both ways, as convolutions do."""
        half = size // 2 if (diagonals.rotation < 0).any() else 0
        baby = (diagonals.rotation + half) % size - half
        return cls(baby=baby, giant=diagonals.rotation - baby)

    def babies(self, diagonals: Diagonals) -> int:
        """Rotations of ciphertexts before the products."""
        return _distinct(diagonals.source, self.baby)

    def giants(self, diagonals: Diagonals) -> int:
        """Rotations of sums of products."""
        return _distinct(diagonals.to, self.giant)

    def rotations(self) -> set[int]:
        """Distinct rotations that need a key."""
        return {int(step) for step in np.concatenate([self.baby, self.giant])} - {0}


def _distinct(ciphertext: Integers, step: Integers) -> int:
    return len(np.unique(ciphertext[step != 0] * (1 << 32) + step[step != 0]))


@dataclass(frozen=True)
class PackedMap:
    """A matrix as its diagonals' weights, in slots of the result before doublings.

    starts (count + 1,) cuts slot and weight into diagonals.
    """

    diagonals: Diagonals
    steps: Steps
    starts: Integers
    slot: Integers
    weight: Floats

    def weights(self, index: int) -> Floats:
        """One diagonal over all slots, rotated back by its giant step, which the sum over the babies undoes."""
        values = np.zeros(self.diagonals.period)
        span = slice(self.starts[index], self.starts[index + 1])
        values[self.slot[span]] = self.weight[span]
        return np.roll(np.tile(values, self.diagonals.slots // len(values)), self.steps.giant[index])

    @property
    def rotations(self) -> int:
        """Rotations made in one evaluation."""
        made = self.steps.babies(self.diagonals) + self.steps.giants(self.diagonals)
        return made + len(self.diagonals.doublings)


def diagonals_of(
    matrix: csr_array, before: Layout, after: Layout, *, kind: Kind, slots: int, over_all: bool = False
) -> Diagonals:
    """The diagonals that a matrix (rows, columns) has between two layouts.

    `over_all` folds the result over all slots, whatever the period of the input: copies that ought to be equal are
    averaged, so that a question with different images in them gets one answer, not several.
    """
    entries, _ = _entries(matrix, before, after, kind=kind, slots=slots, over_all=over_all)
    return entries.at(np.unique(entries.keys(), return_index=True)[1])


def pack(
    matrix: csr_array, before: Layout, after: Layout, *, kind: Kind, baby: int, slots: int, over_all: bool = False
) -> PackedMap:
    """Lay a matrix out as diagonals, with baby steps below `baby`."""
    entries, slot = _entries(matrix, before, after, kind=kind, slots=slots, over_all=over_all)
    keys = entries.keys()
    order = np.argsort(keys, kind="stable")
    _, starts = np.unique(keys[order], return_index=True)
    diagonals = entries.at(order[starts])
    return PackedMap(
        diagonals=diagonals,
        steps=Steps.split(diagonals, baby),
        starts=np.append(starts, len(keys)),
        slot=slot[order],
        weight=matrix.data[order] / diagonals.copies,
    )


def _entries(
    matrix: csr_array, before: Layout, after: Layout, *, kind: Kind, slots: int, over_all: bool
) -> tuple[Diagonals, Integers]:
    """For each weight its diagonal, and its slot there."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    source, place = np.divmod(before.places()[matrix.indices], slots)
    turn = min(before.period, slots)  # rotations matter modulo the period of the input
    if kind == "spread":
        to, slot = np.divmod(after.places()[rows], slots)
        rotation = (place - slot + turn // 2) % turn - turn // 2
        period = min(after.period, slots)
        assert not over_all and period % turn == 0
        return Diagonals(slots=slots, to=to, source=source, rotation=rotation, period=period), slot
    tall = after.period
    assert tall <= slots
    # Slot i adds up slots i to i + tall - 1, and belongs to row i modulo tall; doublings collect the other windows.
    rotation = (place - rows) % min(tall, turn)
    slot = (place - rotation) % turn if tall <= turn else rows
    end = slots if over_all else turn
    return Diagonals(
        slots=slots,
        to=np.zeros_like(rows),
        source=source,
        rotation=rotation,
        period=max(tall, turn),
        doublings=tuple(tall << step for step in range(max(1, end // tall).bit_length() - 1)),
        copies=slots // max(tall, turn) if over_all else 1,
    ), slot
