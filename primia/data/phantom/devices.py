"""What lies on or in the patient without being disease: leads, tubes and side markers."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from primia.data.phantom.anatomy import Frame
from primia.data.phantom.shapes import Field, grid, inside, rod

_GLYPHS = {
    "R": ("1111.", "1...1", "1...1", "1111.", "1.1..", "1..1.", "1...1"),
    "L": ("1....", "1....", "1....", "1....", "1....", "1....", "11111"),
}


@dataclass(frozen=True)
class Devices:
    """Leads and tubes of one exposure, as chains of points (x, y) in the patient's coordinates."""

    chains: tuple[tuple[tuple[float, float], ...], ...]
    electrodes: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Marker:
    """A side marker: its letter, the centre and height in half-frames of the image, and its brightness."""

    letter: str
    x: float
    y: float
    height: float
    brightness: float


def draw_devices(rng: Generator) -> Devices:
    """Draw leads and tubes, the same way for every class: most exposures have none."""
    chains: list[tuple[tuple[float, float], ...]] = []
    electrodes: list[tuple[float, float]] = []
    if rng.random() < 0.22:
        for _ in range(int(rng.integers(1, 4))):
            start = (rng.uniform(-0.6, 0.6), rng.uniform(-0.5, 0.5))
            middle = (start[0] * 1.3 + rng.uniform(-0.2, 0.2), start[1] + rng.uniform(-0.3, 0.5))
            end = (float(np.sign(start[0])) * 1.1, rng.uniform(-0.6, 1.1))
            chains.append((start, middle, end))
            electrodes.append(start)
    if rng.random() < 0.07:
        bend = rng.uniform(-0.04, 0.04)
        tip = (rng.uniform(0.05, 0.30), rng.uniform(0.55, 0.8))
        chains.append(((bend, -1.3), (0.02 - bend, -0.4), (0.03, 0.35), tip))
    return Devices(chains=tuple(chains), electrodes=tuple(electrodes))


def draw_marker(rng: Generator) -> Marker | None:
    """Draw a side marker, or none; R stands at the image's left, where the patient's right is."""
    if rng.random() < 0.3:
        return None
    letter = "R" if rng.random() < 0.8 else "L"
    side = -1.0 if letter == "R" else 1.0
    return Marker(
        letter=letter,
        x=side * rng.uniform(0.72, 0.93),
        y=rng.uniform(-0.92, 0.1),
        height=rng.uniform(0.08, 0.13),
        brightness=rng.uniform(0.75, 1.0),
    )


def render_devices(devices: Devices, frame: Frame) -> Field:
    """Attenuation of leads and tubes (height, width)."""
    wire = max(0.011, 0.5 * frame.soft)
    total: Field = np.zeros((1, 1), np.float32)
    for chain in devices.chains:
        for start, end in itertools.pairwise(chain):
            total = np.maximum(total, 0.16 * rod(frame.x, frame.y, start=start, end=end, radius=wire * 1.3))
    for x, y in devices.electrodes:
        distance = np.sqrt((frame.x - np.float32(x)) ** 2 + (frame.y - np.float32(y)) ** 2)
        total = np.maximum(total, 0.16 * inside(0.012 - np.abs(distance - 0.028), frame.soft))
    return total


def stamp_marker(marker: Marker, image: NDArray[np.float32]) -> None:
    """Draw the marker into `image` (height, width), values 0 to 1, in place."""
    pixels = image.shape[0]
    glyph = np.array([[cell == "1" for cell in row] for row in _GLYPHS[marker.letter]], np.float32)
    x, y = grid(pixels)
    column = (x[0] - marker.x) * (7.0 / marker.height) + 2.0
    row = (y[:, 0] - marker.y) * (7.0 / marker.height) + 3.0
    columns, rows = np.flatnonzero(np.abs(column - 2.0) < 3.0), np.flatnonzero(np.abs(row - 3.0) < 4.0)
    if columns.size == 0 or rows.size == 0:
        return
    # A box around each cell as wide as a pixel keeps thin strokes visible in small images.
    box = max(1.0, 14.0 / (pixels * marker.height))
    in_row = np.clip((1.0 + box) / 2.0 - np.abs(row[rows, None] - np.arange(7)), 0.0, 1.0)
    in_column = np.clip((1.0 + box) / 2.0 - np.abs(column[columns, None] - np.arange(5)), 0.0, 1.0)
    ink = np.clip(in_row @ glyph @ in_column.T, 0.0, 1.0).astype(np.float32)
    patch = image[np.ix_(rows, columns)]
    image[np.ix_(rows, columns)] = patch + ink * (marker.brightness - patch) * (patch < marker.brightness)
