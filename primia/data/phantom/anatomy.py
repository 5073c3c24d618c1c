"""The proportions of one child's chest, the pose of one exposure, and the coordinates both imply."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from primia.data.phantom.shapes import Field, grid, smooth_noise


@dataclass(frozen=True)
class Anatomy:
    """Proportions of a patient in half-frames: the frame runs from -1 to 1, x to the image's right, y down."""

    thorax_width: float  # half the width of the rib cage at the diaphragm
    apex: float  # y of the lung apices
    base: float  # y of the right dome at full breath
    roundness: float  # exponent of the rib cage's outline; higher is more barrel-shaped
    taper: float  # share of the outline that is a plain triangle
    wall: float  # thickness of the chest wall
    dome: float  # height of the diaphragm domes
    left_drop: float  # how much lower the left dome stands
    mediastinum: float  # half-width
    heart_width: float  # bulge of the left border beyond the mediastinum
    heart_right: float  # bulge of the right atrium
    heart_top: float  # `down` at which the left border starts to bulge
    knob: float  # bulge of the aortic arch
    thymus: float  # 0 to 1; the sail of young children beside the upper mediastinum
    ribs: float  # pairs of posterior ribs above the diaphragm
    rib_bow: float
    rib_thickness: float  # share of the spacing
    rib_density: float
    spine_width: float
    spine_bend: float
    clavicle_slope: float
    clavicle_bend: float
    arm_angle: float  # radians from straight down; above pi/2 the arms are raised
    arm_radius: float
    hilum_density: float
    vessel_density: float
    breast: float  # 0 where no breast shadow is seen
    stomach_gas: float
    head: float  # how far the chin reaches into the frame
    corpulence: float  # 0 slim, 1 thick: less contrast between air and tissue
    vessels_coarse: NDArray[np.float32]  # (2 sides * 64 angles, 16 radii)
    vessels_fine: NDArray[np.float32]  # (2 sides * 128 angles, 16 radii)
    mottle: NDArray[np.float32]  # (64, 64) soft tissue irregularities


@dataclass(frozen=True)
class Pose:
    """What differs between two exposures of the same patient."""

    shift_x: float
    shift_y: float
    zoom: float
    tilt: float  # rotation in the image plane, radians
    twist: float  # rotation about the long axis, -1 to 1
    breath: float  # 0 expiration, 1 full inspiration
    arm_swing: float


@dataclass(frozen=True)
class Frame:
    """Coordinates of every pixel in one patient's chest, each (height, width)."""

    x: Field  # from the midline of the spine
    y: Field
    front_x: Field  # from the midline of sternum and heart; differs from x when the patient is twisted
    lateral: Field  # distance from the spine
    left: NDArray[np.bool_]  # the patient's left, at the image's right
    thorax: Field  # half-width of the rib cage at this height
    across: Field  # lateral / thorax: 0 at the spine, 1 at the ribs' outer edge
    down: Field  # 0 at the apex, 1 at the dome
    hilum_out: Field  # from the hilum of the same side outwards
    hilum_drop: Field  # and downwards
    hilum_distance: Field
    hilum_turns: Field  # direction, -0.5 to 0.5 turns on the right side, 0.5 to 1.5 on the left
    height: float  # from apex to dome
    soft: float  # half a soft edge: never narrower than a pixel


def draw_anatomy(rng: Generator) -> Anatomy:
    """Draw a child's proportions."""
    size = rng.uniform(0.92, 1.06)
    arms_raised = rng.random() < 0.45
    return Anatomy(
        thorax_width=size * rng.uniform(0.72, 0.84),
        apex=-size * rng.uniform(0.72, 0.86),
        base=size * rng.uniform(0.40, 0.60),
        roundness=rng.uniform(2.0, 2.9),
        taper=rng.uniform(0.05, 0.35),
        wall=rng.uniform(0.07, 0.16),
        dome=rng.uniform(0.26, 0.46),
        left_drop=rng.uniform(0.0, 0.08),
        mediastinum=rng.uniform(0.11, 0.16),
        heart_width=rng.uniform(0.20, 0.34),
        heart_right=rng.uniform(0.03, 0.11),
        heart_top=rng.uniform(0.36, 0.48),
        knob=rng.uniform(0.0, 0.05),
        thymus=max(0.0, rng.uniform(-1.0, 1.0)),
        ribs=rng.uniform(8.0, 9.6),
        rib_bow=rng.uniform(0.22, 0.36),
        rib_thickness=rng.uniform(0.40, 0.52),
        rib_density=rng.uniform(0.06, 0.12),
        spine_width=rng.uniform(0.075, 0.10),
        spine_bend=rng.normal(0.0, 0.012),
        clavicle_slope=rng.uniform(-0.20, 0.02),
        clavicle_bend=rng.uniform(0.02, 0.06),
        arm_angle=rng.uniform(1.9, 2.7) if arms_raised else rng.uniform(0.15, 1.0),
        arm_radius=rng.uniform(0.15, 0.20),
        hilum_density=rng.uniform(0.04, 0.18),
        vessel_density=rng.uniform(0.03, 0.08),
        breast=max(0.0, rng.uniform(-0.20, 0.10)),
        stomach_gas=max(0.0, rng.uniform(-0.15, 0.28)),
        head=rng.uniform(-0.25, 0.22),
        corpulence=rng.random(),
        vessels_coarse=smooth_noise(rng, rows=128, columns=16, row_scale=0.6, column_scale=1.4),
        vessels_fine=smooth_noise(rng, rows=256, columns=16, row_scale=0.7, column_scale=1.3),
        mottle=smooth_noise(rng, rows=64, columns=64, row_scale=2.0, column_scale=2.0),
    )


def draw_pose(rng: Generator) -> Pose:
    """Draw how the patient lay, breathed and was centred for one exposure."""
    return Pose(
        shift_x=rng.normal(0.0, 0.035),
        shift_y=rng.normal(0.0, 0.035),
        zoom=float(np.exp(rng.normal(0.0, 0.035))),
        tilt=rng.normal(0.0, 0.035),
        twist=float(np.clip(rng.normal(0.0, 0.4), -1.0, 1.0)),
        breath=rng.beta(3.0, 1.5),
        arm_swing=rng.normal(0.0, 0.08),
    )


def frame_of(anatomy: Anatomy, pose: Pose, *, pixels: int) -> Frame:
    """Coordinates of a (pixels, pixels) image of this patient in this pose."""
    image_x, image_y = grid(pixels)
    cosine = np.float32(np.cos(pose.tilt) / pose.zoom)
    sine = np.float32(np.sin(pose.tilt) / pose.zoom)
    x = cosine * image_x + sine * image_y - np.float32(pose.shift_x)
    y = cosine * image_y - sine * image_x - np.float32(pose.shift_y)
    spine_x = x + np.float32(0.03 * pose.twist) + np.float32(anatomy.spine_bend) * np.sin(3.0 * y)
    height = anatomy.base - 0.16 * (1.0 - pose.breath) - anatomy.apex
    down = (y - np.float32(anatomy.apex)) * np.float32(1.0 / height)
    share = np.clip(down, 0.0, 1.0)
    barrel = (1.0 - (1.0 - share) ** np.float32(anatomy.roundness)) ** np.float32(1.0 / anatomy.roundness)
    width = anatomy.thorax_width * (0.96 + 0.04 * pose.breath)
    outline = (1.0 - anatomy.taper) * barrel + anatomy.taper * share
    # Turning to one side shows that lung wider and the other narrower.
    left = spine_x > 0.0
    sidedness = np.where(left, np.float32(1.0 - 0.05 * pose.twist), np.float32(1.0 + 0.05 * pose.twist))
    thorax = np.maximum(np.float32(width) * outline * sidedness, np.float32(1e-3))
    lateral = np.abs(spine_x)
    hilum_out = lateral - np.float32(anatomy.mediastinum + 0.03)
    hilum_drop = (down - np.float32(0.46)) * np.float32(height)
    turns = np.arctan2(hilum_drop, hilum_out) * np.float32(0.5 / np.pi)
    return Frame(
        x=spine_x,
        y=y,
        front_x=x - np.float32(0.05 * pose.twist),
        lateral=lateral,
        left=left,
        thorax=thorax,
        across=lateral / thorax,
        down=down,
        hilum_out=hilum_out,
        hilum_drop=hilum_drop,
        hilum_distance=np.sqrt(hilum_out * hilum_out + hilum_drop * hilum_drop),
        hilum_turns=turns + left.astype(np.float32),
        height=height,
        soft=max(0.012, 1.6 / pixels),
    )
