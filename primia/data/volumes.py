"""The one and only way from a volume to what a network sees, and back to a mask that lies on the volume."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from primia.config import Volume
from primia.data.masks import resampled_classes
from primia.data.nifti import MOST_VOXELS, values_of
from primia.errors import DataError

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

PERCENTILES = (0.5, 99.5)  # without a window; as nnU-Net clips CT (Isensee et al. 2021)

_RAS = np.array([[0, 1], [1, 1], [2, 1]])  # nibabel's orientation of axes to the right, to the front and upwards

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Placement:
    """Where the voxels of a prepared volume come from.

    `shape` is the stored one, (i, j, k); `axes` names for each stored axis the one of (x, y, z) it runs along, and +1
    or -1; `resampled` is the shape (x, y, z) at the wanted spacing, and `size` that of the prepared volume.
    """

    shape: Shape
    axes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    resampled: Shape
    size: Shape

    @property
    def upright(self) -> Shape:
        """The stored shape as (x, y, z)."""
        lengths = [0, 0, 0]
        for length, (axis, _) in zip(self.shape, self.axes, strict=True):
            lengths[axis] = length
        return _shape(lengths)

    @property
    def seen(self) -> float:
        """Share of the volume that is not cut off."""
        kept = (min(want, have) / have for have, want in zip(self.resampled, self.size, strict=True))
        return math.prod(kept)

    @property
    def margins(self) -> list[int]:
        """What is added before and after z, y and x in turn; negative where it is cut off."""
        margins: list[int] = []
        for have, want in zip(reversed(self.resampled), reversed(self.size), strict=True):
            before = (want - have) // 2
            margins += [before, want - have - before]
        return margins


@dataclass(frozen=True)
class Lost:
    """How many voxels each structure has at the wanted spacing, and how many of them are cut off: (structures,).

    A structure for which the spacing leaves no voxel counts as one voxel that is lost.
    """

    voxels: tuple[int, ...] = ()
    outside: tuple[int, ...] = ()

    def __add__(self, other: "Lost") -> "Lost":
        if not (self.voxels and other.voxels):
            return self if self.voxels else other
        return Lost(
            tuple(map(sum, zip(self.voxels, other.voxels, strict=True))),
            tuple(map(sum, zip(self.outside, other.outside, strict=True))),
        )

    @property
    def shares(self) -> list[float]:
        """Of each structure, in [0, 1]."""
        return [outside / max(voxels, 1) for voxels, outside in zip(self.voxels, self.outside, strict=True)]

    @property
    def entirely(self) -> list[bool]:
        """Of each structure, whether it was there and nothing of it is left."""
        return [0 < voxels == outside for voxels, outside in zip(self.voxels, self.outside, strict=True)]


def place(image: "Nifti1Image", settings: Volume, *, pixels: int) -> Placement:
    """Say how `image` becomes a volume of `pixels` x `pixels` x `settings.depth` (without depth: all its slices).

    The axes are turned to the closest of right, front and up, without interpolating; then each is resampled to the
    number of voxels closest to the wanted spacing, over the same extent (as in nnU-Net, Isensee et al. 2021); then cut
    or padded about the centre.

    Raises:
        DataError: at this spacing the volume would be absurdly large.
    """
    from nibabel.affines import voxel_sizes
    from nibabel.orientations import io_orientation

    axes = io_orientation(image.affine).astype(int)
    spacing = voxel_sizes(image.affine)
    resampled = [0, 0, 0]
    for length, size, (axis, _) in zip(image.shape, spacing, axes, strict=True):
        resampled[axis] = max(1, round(float(length * size) / settings.spacing[axis]))
    if math.prod(resampled) > MOST_VOXELS:
        raise DataError(
            f"A volume of {_by(image.shape)} voxels of {_by(round(float(size), 3) for size in spacing)} mm would have "
            f"{_by(resampled)} voxels at preprocess.volume.spacing {list(settings.spacing)}; give a larger spacing, or "
            "correct the volume's header."
        )
    return Placement(
        shape=_shape(image.shape),
        axes=tuple((int(axis), int(direction)) for axis, direction in axes),  # type: ignore[arg-type]
        resampled=_shape(resampled),
        size=(pixels, pixels, settings.depth or resampled[2]),
    )


def prepare(image: "Nifti1Image", settings: Volume, *, pixels: int) -> tuple[Tensor, Placement]:
    """What a network sees of a volume, (1, x, y, z) float16 in [0, 1], and where it lies in the volume.

    See `place`. Intensities are clipped to the window (or percentiles) and scaled before they are interpolated
    linearly; what is padded is 0, and so is a volume of equal values without a window.

    Raises:
        DataError: see `place`.
    """
    placement = place(image, settings, pixels=pixels)
    values = values_of(image)
    low, high = settings.window or (float(value) for value in np.percentile(values, PERCENTILES))
    with np.errstate(over="ignore"):  # beyond the window anything is 1
        values = values - np.float32(low)
        values /= np.float32(max(high - low, 1e-30))
    np.clip(values, 0.0, 1.0, out=values)
    grid = _resized(_turned(values, placement)[None, None], placement.resampled, mode="trilinear")
    return functional.pad(grid[0], placement.margins).clamp(0.0, 1.0).to(torch.float16), placement


def prepare_mask(classes: NDArray[np.uint8], placement: Placement, *, structures: int) -> tuple[Tensor, Lost]:
    """Take a mask (i, j, k), a class per stored voxel, the same way as its volume; see `resampled_classes`.

    `structures` is the number of classes beside class 0.

    Returns:
        The class per prepared voxel, (x, y, z) uint8, and what of the structures is not in it.
    """
    assert classes.shape == placement.shape
    stored = _turned(classes, placement)
    grid = resampled_classes(stored, placement.resampled)
    prepared = functional.pad(grid, placement.margins)
    there, voxels, kept = (
        torch.bincount(each.flatten(), minlength=1 + structures)[1:] for each in (stored, grid, prepared)
    )
    voxels = torch.where(there > 0, voxels.clamp_min(1), 0)
    return prepared, Lost(tuple(voxels.tolist()), tuple((voxels - kept).tolist()))


def restore(classes: Tensor, placement: Placement) -> NDArray[np.uint8]:
    """Bring a class per prepared voxel, (x, y, z) uint8, back to the volume's own voxels, (i, j, k).

    Outside of what the network saw the class is 0. It undoes `prepare_mask` exactly where nothing was cut off and the
    spacing did not change.
    """
    from nibabel.orientations import apply_orientation, ornt_transform

    assert classes.dtype == torch.uint8 and classes.shape == placement.size, tuple(classes.shape)
    grid = functional.pad(classes, [-margin for margin in placement.margins])
    upright = _resized(grid[None, None], placement.upright, mode="nearest-exact")[0, 0]
    back = apply_orientation(upright.numpy(), ornt_transform(_RAS, np.array(placement.axes)))
    return np.ascontiguousarray(back, dtype=np.uint8)


def to_images(volume: Tensor, settings: Volume) -> Tensor:
    """Cut a volume (..., x, y, z) into what a network sees as one image: slices (z, ..., x, y), or itself (1, ...)."""
    return volume.movedim(-1, 0) if settings.depth is None else volume[None]


def from_images(images: Tensor, settings: Volume) -> Tensor:
    """Undo `to_images`."""
    if settings.depth is None:
        return images.movedim(0, -1)
    assert len(images) == 1
    return images[0]


def _turned(values: NDArray[np.generic], placement: Placement) -> Tensor:
    """Stored voxels (i, j, k) as (x, y, z), a copy."""
    from nibabel.orientations import apply_orientation

    return torch.from_numpy(np.ascontiguousarray(apply_orientation(values, np.array(placement.axes))))


def _resized(grid: Tensor, shape: Shape, *, mode: str) -> Tensor:
    """(1, 1, x, y, z) over the same extent with other numbers of voxels."""
    return grid if grid.shape[2:] == shape else functional.interpolate(grid, size=shape, mode=mode)


def _shape(lengths: Iterable[int]) -> Shape:
    x, y, z = lengths
    return int(x), int(y), int(z)


def _by(values: Iterable[object]) -> str:
    return " x ".join(str(value) for value in values)
