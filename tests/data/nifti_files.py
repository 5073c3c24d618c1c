"""Small real NIfTI volumes with masks, in the layout of the Medical Segmentation Decathlon."""

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np

SHAPE = (18, 22, 14)


def affine(
    *,
    order: Sequence[int] = (0, 1, 2),
    directions: Sequence[int] = (1, 1, 1),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    tilt: float = 0.0,
    origin: Sequence[float] = (-40.0, 25.5, 310.0),
) -> np.ndarray:
    """Stored axis i runs along `order[i]` of (right, front, up), turned round and tilted by radians about all axes."""
    turned = np.zeros((3, 3))
    for axis, (along, direction, length) in enumerate(zip(order, directions, spacing, strict=True)):
        turned[along, axis] = direction * length
    cosine, sine = np.cos(tilt), np.sin(tilt)
    about_z = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    whole = np.eye(4)
    whole[:3, :3] = about_x @ about_z @ turned
    whole[:3, 3] = origin
    return whole


def structures(shape: Sequence[int] = SHAPE) -> np.ndarray:
    """An ellipsoid in the middle, value 1 in the first half of the last axis and 2 in the other."""
    at = [np.linspace(-1, 1, length) for length in shape]
    distance = sum(grid**2 for grid in np.meshgrid(*at, indexing="ij"))
    mask = (distance < 0.5).astype(np.uint8)
    mask[..., shape[2] // 2 :] *= 2
    return mask


def intensities(mask: np.ndarray, *, seed: int, high: float = 900.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 0.05, mask.shape)
    return ((0.2 + 0.3 * mask + noise).clip(0) * high).astype(np.float32)


def save(path: Path, values: np.ndarray, where: np.ndarray | None = None, *, kind=nibabel.Nifti1Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind(values, affine() if where is None else where).to_filename(path)
    return path


def write_pair(folder: Path, name: str, *, seed: int = 1, where=None, shape=SHAPE, suffix=".nii.gz") -> None:
    mask = structures(shape)
    save(folder / "imagesTr" / f"{name}{suffix}", intensities(mask, seed=seed), where)
    save(folder / "labelsTr" / f"{name}{suffix}", mask, where)


def decathlon(folder: Path, *, patients: int = 12) -> Path:
    """Patients whose scanners stored the axes in different orders and directions, with different voxels."""
    orders = [(0, 1, 2), (2, 0, 1), (1, 2, 0), (1, 0, 2)]
    for number in range(patients):
        order = orders[number % 4]
        where = affine(
            order=order,
            directions=[1 if number >> axis & 1 else -1 for axis in range(3)],
            spacing=[(0.9, 1.0, 1.2)[axis] for axis in order],
            tilt=0.02 * (number % 5),
        )
        shape = tuple(SHAPE[axis] for axis in order)
        write_pair(folder, f"case_{number:03d}", seed=number, where=where, shape=shape)
    return folder
