"""Soft-edged shapes and noise on a pixel grid: the drawing tools of the phantom."""

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

# (height, width), or any shape that broadcasts with it; single precision throughout, which type checkers cannot follow
Field = NDArray[np.floating[Any]]


def grid(pixels: int) -> tuple[Field, Field]:
    """Pixel centres as x (1, pixels) and y (pixels, 1); both run from -1 to 1, y downwards."""
    line = ((np.arange(pixels, dtype=np.float32) + 0.5) * (2.0 / pixels) - 1.0).astype(np.float32)
    return line[None, :], line[:, None]


def inside(depth: Field, softness: float) -> Field:
    """Smooth step from 0 at depth -softness to 1 at depth +softness; `depth` is the signed distance inwards."""
    ramp = depth * np.float32(0.5 / softness)
    ramp += np.float32(0.5)
    np.clip(ramp, 0.0, 1.0, out=ramp)
    step = 3.0 - 2.0 * ramp
    step *= ramp
    step *= ramp
    return step


def bump(distance: Field, width: float) -> Field:
    """Bell of height 1 and about the half-width `width`, rational so that no exponential is needed."""
    square = (distance * np.float32(1.0 / width)) ** 2
    return 1.0 / (1.0 + square * (0.4 + 0.6 * square))


def ellipsoid(x: Field, y: Field, *, radius_x: float, radius_y: float) -> Field:
    """Relative path length of rays through an ellipsoid centred on the origin: 1 in the middle, 0 outside."""
    square = (x * np.float32(1.0 / radius_x)) ** 2 + (y * np.float32(1.0 / radius_y)) ** 2
    return np.sqrt(np.maximum(1.0 - square, 0.0))


def rod(x: Field, y: Field, *, start: tuple[float, float], end: tuple[float, float], radius: float) -> Field:
    """Relative path length of rays through a round rod between two points: 1 on its axis, 0 outside."""
    along_x, along_y = end[0] - start[0], end[1] - start[1]
    length = along_x * along_x + along_y * along_y
    from_x, from_y = x - np.float32(start[0]), y - np.float32(start[1])
    share = np.clip((from_x * np.float32(along_x) + from_y * np.float32(along_y)) / np.float32(length), 0.0, 1.0)
    square = (from_x - share * np.float32(along_x)) ** 2 + (from_y - share * np.float32(along_y)) ** 2
    return np.sqrt(np.maximum(1.0 - square * np.float32(1.0 / radius**2), 0.0))


def smooth_noise(
    rng: Generator, *, rows: int, columns: int, row_scale: float, column_scale: float
) -> NDArray[np.float32]:
    """Periodic Gaussian noise table (rows, columns) of zero mean and unit variance, correlated over the scales."""
    white = rng.standard_normal((rows, columns), dtype=np.float32)
    table: NDArray[np.float32] = ndimage.gaussian_filter(white, (row_scale, column_scale), mode="wrap", truncate=3.0)
    return np.asarray((table - table.mean()) / table.std(), np.float32)


def look_up(table: Field, row: Field, column: Field) -> Field:
    """Values of a periodic table at fractional positions, bilinear; row and column in cells.

    The table's sizes are powers of two, so that a bit mask wraps positions of either sign.
    """
    rows, columns = table.shape
    assert rows & (rows - 1) == 0 and columns & (columns - 1) == 0, table.shape
    row_floor, column_floor = np.floor(row), np.floor(column)
    row_share, column_share = row - row_floor, column - column_floor
    top, left = row_floor.astype(np.int32), column_floor.astype(np.int32)
    bottom, right = ((top + 1) & (rows - 1)) * columns, (left + 1) & (columns - 1)
    top, left = (top & (rows - 1)) * columns, left & (columns - 1)
    flat = table.ravel()
    upper: Field = flat.take(top + left)
    lower: Field = flat.take(bottom + left)
    upper += column_share * (flat.take(top + right) - upper)
    lower += column_share * (flat.take(bottom + right) - lower)
    lower -= upper
    lower *= row_share
    upper += lower
    return upper
