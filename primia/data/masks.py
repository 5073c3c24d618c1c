"""What the values in a mask file mean: a class for every pixel or voxel."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from primia.data.decoding import RefusedFileError

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

MOST_APART = 0.1  # of the smallest side of a voxel; files keep a place to about seven digits

_WAY_OUT = "correct the mask"


def meaning_of(
    classes: Sequence[str], label_values: Mapping[str, Sequence[int]] | None = None
) -> dict[str, tuple[int, ...]]:
    """The values of each class, in the order of `classes`.

    Without `label_values` the value i is class i. Otherwise they say it, and 0 is the first class unless they give it
    to another one.
    """
    if label_values is None:
        return {name: (value,) for value, name in enumerate(classes)}
    meaning = {name: tuple(label_values.get(name, ())) for name in classes}
    if not any(0 in values for values in meaning.values()):
        meaning[classes[0]] = (0, *meaning[classes[0]])
    return meaning


def to_classes(values: NDArray[np.generic], meaning: Mapping[str, Sequence[int]]) -> NDArray[np.uint8]:
    """The values of a mask file as classes, an index into `meaning`; any shape.

    Raises:
        RefusedFileError: a value is no integer, or no class has it.
    """
    whole = np.rint(values)
    broken = values[values != whole]
    if broken.size:
        raise _refused(f"has a mask with the value {broken.flat[0]:g}, which is no whole number")
    known = {value: index for index, of_class in enumerate(meaning.values()) for value in of_class}
    classes = np.zeros(values.shape, np.uint8)
    unknown = np.ones(values.shape, np.bool_)
    for value, index in known.items():
        here = whole == value
        classes[here] = index
        unknown &= ~here
    if unknown.any():
        raise _refused(
            f"has a mask with the value {int(whole[unknown].flat[0])}, which is no class; ingest.classes and "
            f"ingest.label_values allow {', '.join(map(str, sorted(known)))}"
        )
    return classes


def check_pair(image: "Nifti1Image", mask: "Nifti1Image") -> None:
    """Make sure that every voxel of the mask lies on one of the image.

    Raises:
        RefusedFileError: their shapes differ, or their places in space.
    """
    if image.shape != mask.shape:
        raise _refused(
            f"has {' x '.join(map(str, image.shape))} voxels, but its mask {' x '.join(map(str, mask.shape))}"
        )
    ends = [(0, length - 1) for length in image.shape]
    corners = np.array([*np.array(np.meshgrid(*ends)).reshape(3, -1), np.ones(8)])
    apart = float(np.linalg.norm((image.affine - mask.affine) @ corners, axis=0).max())
    if apart > MOST_APART * float(np.linalg.norm(image.affine[:3, :3], axis=0).min()):
        raise _refused(f"has a mask that lies elsewhere (a corner is {apart:.3g} mm from the image's)")


@contextmanager
def said_of_the_mask() -> Iterator[None]:
    """Let a refusal within say that it is about the mask of an image."""
    try:
        yield
    except RefusedFileError as refusal:
        raise _refused(f"has a mask that {refusal}") from refusal


def shrink_mask(classes: NDArray[np.uint8], *, pixels: int) -> Tensor:
    """The mask of a picture, (height, width), as (pixels, pixels) uint8; see `resampled_classes`."""
    return resampled_classes(torch.from_numpy(np.ascontiguousarray(classes)), (pixels, pixels))


def resampled_classes(classes: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A class for every pixel, (*spatial) uint8, over the same extent with other numbers of pixels: nearest neighbours.

    A structure that falls between the coarser pixels keeps the one that holds most of it, so that a model that misses
    it is told to have done so; but it takes no other structure's last pixel.
    """
    if classes.shape == shape:
        return classes
    grid = functional.interpolate(classes[None, None], size=shape, mode="nearest-exact")[0, 0]
    before = torch.bincount(classes.flatten())
    after = torch.bincount(grid.flatten(), minlength=len(before))
    scale = torch.tensor(shape) / torch.tensor(classes.shape)
    for structure in range(1, len(before)):
        if before[structure] == 0 or after[structure] > 0:
            continue
        within = ((torch.nonzero(classes == structure) + 0.5) * scale).long()
        pixels, held = torch.unique(within, dim=0, return_counts=True)
        for pixel in pixels[held.argsort(descending=True, stable=True)].tolist():
            there = int(grid[tuple(pixel)])
            if there == 0 or after[there] > 1:
                grid[tuple(pixel)] = structure
                after[there] -= 1
                after[structure] = 1
                break
    return grid


def _refused(reason: str) -> RefusedFileError:
    return RefusedFileError(reason, way_out=_WAY_OUT)
