"""Where the values between two maps lie in the slots of their ciphertexts."""

from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from primia.encrypted.parameters import MOST_SLOTS, Packing

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
_Positive = Field(ge=1, le=1 << 20)


def padded(length: int) -> int:
    """The power of two that is at least `length`."""
    return 1 << (length - 1).bit_length()


class Layout(BaseModel):
    """Values (channels, height, width), in row-major order, in slots counted through all ciphertexts.

    Each plane takes `stride` slots; its rows are `pitch` slots apart. Positions may have gaps, which strided maps leave
    (they move nothing); with `shared` these gaps hold further channels (Lee et al. 2022, multiplexed packing). `patch`
    is as in `Packing`. The whole repeats every `period` slots: those of all ciphertexts, or a power of two below.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    channels: int = _Positive
    height: int = _Positive
    width: int = _Positive
    patch: int = Field(default=1, ge=1, le=64)
    stride: int = _Positive
    pitch: int = _Positive
    gaps: tuple[int, int] = (1, 1)  # rows and columns of the grid from one position to the next
    shared: bool = False
    period: int = Field(ge=1, le=256 * MOST_SLOTS)

    @classmethod
    def of_packing(cls, packing: Packing, slots: int) -> Self:
        """The layout of a question."""
        return cls(
            channels=packing.channels,
            height=packing.height,
            width=packing.width,
            patch=packing.patch,
            stride=packing.stride or packing.height * packing.width,
            pitch=packing.width // packing.patch,
            period=packing.period(slots),
        )

    @classmethod
    def folded(cls, shape: tuple[int, int, int]) -> Self:
        """One value after the other, repeated as soon as a power of two allows."""
        channels, height, width = shape
        period = padded(channels * height * width)
        return cls(channels=channels, height=height, width=width, stride=height * width, pitch=width, period=period)

    @property
    def values(self) -> int:
        """Number of values."""
        return self.channels * self.height * self.width

    @property
    def planes(self) -> int:
        """Number of planes."""
        return -(-self.channels // (self.gaps[0] * self.gaps[1])) if self.shared else self.channels * self.patch**2

    def ciphertexts(self, slots: int) -> int:
        """Ciphertexts of so many slots that the values take."""
        return max(1, self.period // slots)

    def places(self) -> Places:
        """The slot of each value: (values,)."""
        channel, row, column = np.unravel_index(np.arange(self.values), (self.channels, self.height, self.width))
        down, right = self.gaps
        size = self.patch
        if self.shared:
            plane, inner = np.divmod(channel, down * right)
        else:
            plane, inner = (channel * size + row % size) * size + column % size, np.zeros_like(channel)
        across, along = np.divmod(inner, right)
        position = (row // size * down + across) * self.pitch + column // size * right + along
        return np.asarray(plane * self.stride + position)

    def is_sound(self, slots: int) -> bool:
        """Whether no two values share a slot and all lie within the period, which fits the ciphertexts."""
        places = self.places()
        whole = self.period % slots == 0 if self.period > slots else self.period == padded(self.period)
        return bool(whole and places.max() < self.period and len(np.unique(places)) == len(places))


def spread_layouts(before: Layout, shape: tuple[int, int, int], stride: tuple[int, int], slots: int) -> list[Layout]:
    """Layouts for what a map on a grid gives: a fresh grid, and those that move little, with gaps or shared gaps."""
    channels, height, width = shape
    fresh = Layout(channels=channels, height=height, width=width, stride=padded(height * width), pitch=width, period=1)
    layouts: list[Layout] = []
    for grid in (fresh, *_kept_grids(before, fresh, stride)):
        if slots % grid.stride:
            continue
        used = grid.planes * grid.stride
        period = -(-used // slots) * slots if used > slots else max(padded(used), min(before.period, slots))
        layout = grid.model_copy(update={"period": period})
        if layout not in layouts and layout.is_sound(slots):
            layouts.append(layout)
    return layouts


def _kept_grids(before: Layout, fresh: Layout, stride: tuple[int, int]) -> list[Layout]:
    """Results at the places of the input's grid where their windows begin."""
    kept = fresh.model_copy(update={"stride": before.stride, "pitch": before.pitch})
    down, right = stride
    if before.patch > 1:
        if down == right and before.patch % down == 0:
            return [kept.model_copy(update={"patch": before.patch // down})]
        if down % before.patch or right % before.patch:
            return []
        down, right = down // before.patch, right // before.patch
    gaps = (before.gaps[0] * down, before.gaps[1] * right)
    return [kept.model_copy(update={"gaps": gaps, "shared": shared}) for shared in (False, gaps != (1, 1))]


def laid_out(values: Floats, layout: Layout, slots: int) -> Floats:
    """Values (n, values) in slots (n, ciphertexts, slots) as a layout says; other slots are 0."""
    flat = np.zeros((len(values), max(layout.period, slots)))
    flat[:, layout.places()] = values
    if layout.period < slots:
        flat = np.tile(flat[:, : layout.period], (1, slots // layout.period))
    return flat.reshape(len(values), -1, slots)
