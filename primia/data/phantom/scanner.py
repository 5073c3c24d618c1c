"""A hospital's X-ray unit: turns attenuation into the grey values its images show."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from primia.data.phantom.shapes import Field, grid, inside


@dataclass(frozen=True)
class Scanner:
    """Habits of one hospital's unit; lengths in half-frames, grey values from 0 to 1."""

    level: float  # shift of the window's centre
    contrast: float  # steepness of the sigmoid curve
    gamma: float
    blur: float  # width of the focal spot and screen
    sharpening: float
    grain: float  # noise where the film is half exposed
    scatter: float  # grey of the film beside the patient
    collimation: float  # usual width of the black borders
    heel: float  # fall-off from one side of the field to the other


@dataclass(frozen=True)
class Exposure:
    """What varies between two images of one unit."""

    level: float
    contrast: float
    gamma: float
    grain: float
    shade_x: float
    shade_y: float
    borders: tuple[float, float, float, float]  # left, top, right, bottom


def scanner_of(hospital: str) -> Scanner:
    """The unit of a hospital: a pure function of its name."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(hospital.encode()).digest()[:8], "big"))
    return Scanner(
        level=rng.uniform(-0.04, 0.04),
        contrast=rng.uniform(3.0, 4.6),
        gamma=rng.uniform(0.9, 1.25),
        blur=rng.uniform(0.006, 0.013),
        sharpening=rng.uniform(0.0, 0.8),
        grain=rng.uniform(0.004, 0.012),
        scatter=rng.uniform(0.0, 0.08),
        collimation=rng.uniform(0.0, 0.04),
        heel=rng.uniform(-0.05, 0.05),
    )


def draw_exposure(scanner: Scanner, rng: Generator) -> Exposure:
    """Draw one exposure around the unit's habits."""
    left, top, right, bottom = (max(0.0, float(b)) for b in scanner.collimation + rng.normal(-0.03, 0.03, size=4))
    return Exposure(
        level=scanner.level + rng.normal(0.0, 0.05),
        contrast=scanner.contrast * float(np.exp(rng.normal(0.0, 0.15))),
        gamma=scanner.gamma * float(np.exp(rng.normal(0.0, 0.15))),
        grain=scanner.grain * float(np.exp(rng.normal(0.0, 0.25))),
        shade_x=scanner.heel + rng.normal(0.0, 0.02),
        shade_y=rng.normal(0.0, 0.03),
        borders=(left, top, right, bottom),
    )


def expose(
    attenuation: Field, *, target: NDArray[np.bool_], scanner: Scanner, exposure: Exposure, rng: Generator
) -> NDArray[np.float32]:
    """Film of an attenuation map (height, width): grey values 0 (black) to 1 (white).

    The exposure is set on `target`, the region of the automatic exposure control (the trunk), as real units do:
    an opaque chest gets more dose, so that overall brightness tells little about disease.
    """
    pixels = attenuation.shape[0]
    x, y = grid(pixels)
    sharp = ndimage.gaussian_filter(attenuation, scanner.blur * pixels / 2.0, truncate=3.0)
    if scanner.sharpening > 0.02:
        wide = ndimage.uniform_filter(sharp, max(3, pixels // 12))
        sharp = sharp + scanner.sharpening * (sharp - wide)
    inner = sharp[target]
    middle, spread = float(np.mean(inner)), float(np.std(inner))
    signal = (sharp - middle) * np.float32(0.16 / spread) + exposure.level + exposure.shade_x * x + exposure.shade_y * y
    curve = 1.0 / (1.0 + np.exp(-exposure.contrast * signal * 1.1))
    # Units stretch what they show over the whole grey scale; scattered rays keep the darkest parts from black.
    ordered = np.partition(curve.ravel(), (curve.size // 100, curve.size - 1 - curve.size // 200))
    low, high = ordered[curve.size // 100], ordered[curve.size - 1 - curve.size // 200]
    film = np.clip((curve - low) / (high - low), 0.0, 1.0) ** np.float32(exposure.gamma)
    film = scanner.scatter + (1.0 - scanner.scatter) * film
    # Quantum noise is strongest where few photons arrive, that is behind dense tissue.
    noise = rng.standard_normal((pixels, pixels), dtype=np.float32)
    film = film + exposure.grain * noise * (0.35 + film)
    left, top, right, bottom = exposure.borders
    window = inside(np.minimum(x + 1.0 - left, 1.0 - right - x), 0.02) * inside(
        np.minimum(y + 1.0 - top, 1.0 - bottom - y), 0.02
    )
    return np.asarray(np.clip(film, 0.0, 1.0) * window, np.float32)
