"""What a pneumonia adds to a chest: one dense lobe (bacterial) or haze and streaks on both sides (viral)."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from primia.data.phantom.anatomy import Anatomy, Frame
from primia.data.phantom.shapes import Field, bump, inside, look_up, smooth_noise


@dataclass(frozen=True)
class Lobe:
    """Where a lobe projects: side, centre and half-extents in `Frame.down` and `Frame.across`, and its fissure."""

    left: bool
    down: float
    across: float
    half_down: float
    half_across: float
    fissure: float  # `down` of the fissure that bounds it; consolidation ends sharply there
    above_fissure: bool


LOBES = (
    Lobe(left=False, down=0.30, across=0.58, half_down=0.26, half_across=0.40, fissure=0.50, above_fissure=True),
    Lobe(left=False, down=0.72, across=0.42, half_down=0.20, half_across=0.34, fissure=0.52, above_fissure=False),
    Lobe(left=False, down=0.84, across=0.60, half_down=0.28, half_across=0.42, fissure=0.42, above_fissure=False),
    Lobe(left=True, down=0.32, across=0.58, half_down=0.28, half_across=0.40, fissure=0.62, above_fissure=True),
    Lobe(left=True, down=0.84, across=0.66, half_down=0.28, half_across=0.36, fissure=0.44, above_fissure=False),
)


@dataclass(frozen=True)
class Consolidation:
    """A bacterial focus: air replaced by fluid in part of one lobe."""

    lobe: Lobe
    down: float  # centre
    across: float
    size: float  # of the lobe's extent
    density: float  # share of the air replaced in the middle, 0 to 1
    bronchograms: float  # contrast of air-filled bronchi inside, 0 to 1
    effusion: float  # fluid level over the dome, in lung heights
    outline: NDArray[np.float32]  # (32, 32) noise that frays the edge


@dataclass(frozen=True)
class Interstitial:
    """A viral pattern: perihilar haze, thick bronchial walls, a net of fine lines, on both sides."""

    haze: float
    reach: float  # of the haze and streaks around the hila, half-frames
    net: float
    streaks: float
    imbalance: float  # -1 only right, 1 only left
    patches: NDArray[np.float32]  # (32, 32)
    mesh: NDArray[np.float32]  # (64, 64)
    walls: NDArray[np.float32]  # (256, 8)


Finding = Consolidation | Interstitial | None


def draw_finding(label: str, rng: Generator) -> Finding:
    """Draw a finding for a class of `PHANTOM_CLASSES`; severity is continuous, from barely visible to gross."""
    if label == "normal":
        return None
    severity = rng.beta(2.2, 1.2)
    if label == "bacterial":
        lobe = LOBES[rng.integers(len(LOBES))]
        return Consolidation(
            lobe=lobe,
            down=lobe.down + 0.35 * lobe.half_down * rng.uniform(-1.0, 1.0),
            across=lobe.across + 0.35 * lobe.half_across * rng.uniform(-1.0, 1.0),
            size=0.72 + 0.90 * severity * rng.uniform(0.75, 1.0),
            density=0.42 + 0.58 * severity,
            bronchograms=max(0.0, rng.uniform(-0.6, 0.7)),
            effusion=max(0.0, rng.uniform(-0.6, 0.22)) * severity,
            outline=smooth_noise(rng, rows=32, columns=32, row_scale=1.5, column_scale=1.5),
        )
    assert label == "viral", label
    mix = rng.dirichlet((4.0, 4.0, 4.0)) * 3.0
    return Interstitial(
        haze=float(mix[0]) * (0.18 + 0.66 * severity),
        reach=rng.uniform(0.22, 0.42),
        net=float(mix[1]) * (0.04 + 0.16 * severity),
        streaks=float(mix[2]) * (0.03 + 0.10 * severity),
        imbalance=rng.uniform(-0.3, 0.3),
        patches=smooth_noise(rng, rows=32, columns=32, row_scale=1.6, column_scale=1.6),
        mesh=smooth_noise(rng, rows=64, columns=64, row_scale=1.1, column_scale=1.1),
        walls=smooth_noise(rng, rows=256, columns=8, row_scale=0.9, column_scale=1.0),
    )


def render_finding(finding: Finding, anatomy: Anatomy, frame: Frame) -> tuple[Field, Field]:
    """The share of air that fluid has replaced, and shadows to add where air is left; both (height, width)."""
    if isinstance(finding, Consolidation):
        return _consolidation(finding, anatomy, frame)
    if isinstance(finding, Interstitial):
        return _interstitial(finding, frame)
    return np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32)


def _consolidation(finding: Consolidation, anatomy: Anatomy, frame: Frame) -> tuple[Field, Field]:
    lobe = finding.lobe
    vertical = (frame.down - finding.down) * np.float32(1.0 / (lobe.half_down * finding.size))
    horizontal = (frame.across - finding.across) * np.float32(1.0 / (lobe.half_across * finding.size))
    fray = look_up(finding.outline, frame.down * 12.0, frame.across * 12.0)
    depth = 1.0 - np.sqrt(vertical * vertical + horizontal * horizontal) + 0.22 * fray
    # The fissure slopes down a little towards the side.
    margin = finding.lobe.fissure + 0.06 * frame.across - frame.down
    bound = inside(margin if lobe.above_fissure else -margin, 0.03)
    side = frame.left if lobe.left else ~frame.left
    fluid = finding.density * inside(depth, 0.45) * bound
    if finding.bronchograms > 0.0:
        bronchi = np.clip(
            look_up(anatomy.vessels_coarse, frame.hilum_turns * 64.0 + 5.0, frame.hilum_distance * 10.0) - 0.9, 0.0, 1.0
        )
        fluid = fluid * (1.0 - finding.bronchograms * bronchi)
    if finding.effusion > 0.0:
        meniscus = 1.05 - finding.effusion * (0.25 + np.minimum(frame.across, 1.0) ** 3) * 1.6
        fluid = np.maximum(fluid, 0.9 * inside(frame.down - meniscus, 0.05))
    return np.minimum(fluid, 1.0) * side, np.zeros((1, 1), np.float32)


def _interstitial(finding: Interstitial, frame: Frame) -> tuple[Field, Field]:
    radius = frame.hilum_distance
    share = np.where(frame.left, np.float32(1.0 + finding.imbalance), np.float32(1.0 - finding.imbalance))
    patches = look_up(finding.patches, frame.y * 8.0, frame.x * 8.0)
    patchy = np.clip(0.75 + 0.55 * patches, 0.15, 2.0)
    near = bump(radius, finding.reach)
    haze = finding.haze * share * patchy * (0.8 * near + 0.2)
    mesh = look_up(finding.mesh, frame.y * 36.0, frame.x * 36.0)
    # Contours of smooth noise form a net; a second look at the table breaks its meshes open.
    gaps = look_up(finding.mesh, frame.x * 30.0 + 17.0, frame.y * 30.0)
    lines = bump(mesh, 0.45) * np.clip(0.6 + 0.7 * gaps, 0.0, 1.6) - 0.25
    walls = np.maximum(look_up(finding.walls, frame.hilum_turns * 128.0, radius * 9.0) - 0.3, 0.0)
    walls = walls * np.clip(radius * 9.0 - 0.3, 0.0, 1.0)
    shadows = share * (finding.net * patchy * lines + finding.streaks * walls * bump(radius, 1.5 * finding.reach))
    return np.minimum(haze, 0.95), shadows
