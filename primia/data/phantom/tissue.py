"""Soft tissue and air: torso, arms, mediastinum, heart, diaphragm, lungs and their vessels."""

from dataclasses import dataclass

import numpy as np

from primia.data.phantom.anatomy import Anatomy, Frame, Pose
from primia.data.phantom.shapes import Field, bump, ellipsoid, inside, look_up, rod


@dataclass(frozen=True)
class Tissue:
    """Layers of one exposure, each (height, width), in units of the attenuation of a child's trunk."""

    body: Field  # attenuation of soft tissue as if the lungs held no air
    air: Field  # path length of air, 0 to 1
    vessels: Field  # vessel shadows, to be added where there is air
    solid: Field  # 1 inside the trunk, 0 outside


def shoulder_joint(anatomy: Anatomy) -> tuple[float, float]:
    """Lateral distance and y of the shoulder joints."""
    return anatomy.thorax_width + 0.02, anatomy.apex + 0.16


def elbow(anatomy: Anatomy, pose: Pose) -> tuple[float, float]:
    """Lateral distance and y of the elbows."""
    lateral, y = shoulder_joint(anatomy)
    angle = anatomy.arm_angle + pose.arm_swing
    return lateral + 0.8 * float(np.sin(angle)), y + 0.8 * float(np.cos(angle))


def render_tissue(anatomy: Anatomy, pose: Pose, frame: Frame) -> Tissue:
    """Render everything but bone, findings and devices."""
    trunk, solid = _trunk(anatomy, pose, frame)
    below, air = _diaphragm_and_air(anatomy, frame)
    middle, blocked = _middle(anatomy, pose, frame)
    breast = anatomy.breast * ellipsoid(
        np.abs(frame.front_x) - np.float32(0.55 * anatomy.thorax_width), frame.down - 0.82, radius_x=0.26, radius_y=0.24
    )
    gas = anatomy.stomach_gas * ellipsoid(
        frame.x - np.float32(0.36), frame.down - np.float32(1.24), radius_x=0.17, radius_y=0.11
    )
    texture = look_up(anatomy.mottle, frame.y * 24.0, frame.x * 24.0)
    body = trunk + solid * (0.15 * below * (1.0 - gas * 2.0) + middle + breast + 0.014 * texture)
    air = air * (1.0 - 0.86 * blocked)
    return Tissue(body=body, air=air, vessels=_vessels(anatomy, frame), solid=solid)


def _trunk(anatomy: Anatomy, pose: Pose, frame: Frame) -> tuple[Field, Field]:
    lateral, y = frame.lateral, frame.y
    width = anatomy.thorax_width + anatomy.wall
    joint = shoulder_joint(anatomy)
    # Shoulders fall from the neck to the joints; the flanks taper slightly towards the armpits.
    reach = np.clip((lateral - 0.22) / (width - 0.22), 0.0, 1.2)
    shoulder_line = anatomy.apex - 0.22 + 0.16 * np.sqrt(reach) + 0.12 * reach**3
    flank = width * (0.94 + 0.06 * np.clip(frame.down, 0.0, 1.3)) - lateral
    solid = inside(flank, frame.soft * 1.5) * inside(y - shoulder_line, 0.07)
    depth = np.sqrt(np.maximum(1.0 - (lateral / (width * 1.03)) ** 2, 0.0))
    neck = inside(0.25 + 0.5 * np.maximum(y - anatomy.apex + 0.3, 0.0) ** 2 - lateral, 0.04) * (y < anatomy.apex)
    chin = ellipsoid(frame.front_x, y + 1.32 - anatomy.head, radius_x=0.42, radius_y=0.36)
    upper_arm = rod(lateral, y, start=joint, end=elbow(anatomy, pose), radius=anatomy.arm_radius)
    deltoid = ellipsoid(lateral - joint[0] + 0.02, y - joint[1], radius_x=0.26, radius_y=0.27)
    arm = np.maximum(upper_arm, deltoid)
    trunk = solid * (0.12 + 0.48 * depth)
    outside = np.maximum(0.46 * neck, 0.42 * arm)
    return np.maximum(trunk, outside) + 0.10 * arm * solid + 0.35 * chin, solid


def _diaphragm_and_air(anatomy: Anatomy, frame: Frame) -> tuple[Field, Field]:
    # The domes are highest at 45 % of the way out and fall steeply to the costophrenic angle.
    span = frame.across - np.float32(0.45)
    fall = anatomy.dome * (2.6 * np.maximum(span, 0.0) ** 2 + 0.7 * np.minimum(span, 0.0) ** 2)
    dome = anatomy.apex + frame.height + np.float32(anatomy.left_drop) * inside(frame.x - 0.05, 0.2) + fall
    above = dome - frame.y
    below = 1.0 - inside(above, frame.soft)
    wall = frame.thorax - frame.lateral
    medial = frame.lateral - anatomy.mediastinum * (0.72 + 0.28 * np.clip(frame.down * 1.6, 0.0, 1.0))
    edge = np.minimum(np.minimum(wall, above), np.minimum(medial, frame.y - anatomy.apex))
    field = inside(edge, frame.soft)
    # Rays cross more air in the middle of a lung than along its walls; some reaches down behind the domes.
    air = field * (0.70 + 0.30 * np.clip(wall * 5.0, 0.0, 1.0) * np.clip(0.4 + 1.6 * frame.down, 0.0, 1.0))
    behind = (
        0.14 * inside(wall, 0.03) * (frame.lateral > anatomy.mediastinum) * below * np.clip(1.0 + above * 6.0, 0.0, 1.0)
    )
    return below, air + behind


def _middle(anatomy: Anatomy, pose: Pose, frame: Frame) -> tuple[Field, Field]:
    x, down = frame.front_x, frame.down
    squat = 1.0 + 0.15 * (1.0 - pose.breath)  # the heart lies broader in expiration
    # Borders of the cardiac and mediastinal silhouette, as distances from its midline at every height.
    swell = np.clip((down - anatomy.heart_top) * np.float32(1.0 / (0.86 - anatomy.heart_top)), 0.0, 1.0)
    swell = (swell * (2.0 - swell)) ** 1.25 * (1.0 - 0.5 * np.clip(down - 0.86, 0.0, 0.4))
    sail = anatomy.thymus * inside(0.40 - down, 0.12)
    base = anatomy.mediastinum * (0.85 + 0.15 * np.clip(down, 0.0, 1.0))
    left = base + anatomy.heart_width * squat * swell + anatomy.knob * bump(down - 0.33, 0.08) + 0.10 * sail
    right = base + anatomy.heart_right * squat * bump(down - 0.76, 0.24) + 0.07 * sail * np.clip(down * 3.0, 0.0, 1.0)
    depth = np.where(x > 0.0, left, right) - np.abs(x)
    blocked = inside(depth, frame.soft * 1.3)
    column = 0.08 * bump(x, anatomy.mediastinum * 1.2) * (1.0 - 0.6 * inside(down - 1.0, 0.2))
    bulk = 0.19 * np.sqrt(np.clip(depth * 4.0, 0.0, 1.0)) * inside(down - 0.35, 0.3)
    windpipe = 0.11 * bump(x + 0.01, 0.045) * (1.0 - inside(down - 0.36, 0.08))
    fork = np.abs(x) - (down - 0.36) * 0.55
    bronchi = 0.05 * bump(fork, 0.035) * inside(down - 0.38, 0.04) * inside(0.58 - down, 0.08)
    chest = inside(1.08 - down, 0.12)
    return (0.10 * blocked + bulk) * chest + column - windpipe - bronchi, blocked


def _vessels(anatomy: Anatomy, frame: Frame) -> Field:
    # Vessels run radially from the hila and fork: few broad ones inside, many fine ones outside.
    radius, angle = frame.hilum_distance, frame.hilum_turns
    # Next to the hilum the rays would meet in a star, so they start at some distance.
    start = np.clip(radius * 9.0 - 0.3, 0.0, 1.0)
    coarse: Field = start * look_up(anatomy.vessels_coarse, angle * 64.0, radius * 10.0)
    fine = look_up(anatomy.vessels_fine, angle * 128.0, radius * 18.0)
    branches: Field = np.maximum(coarse, 0.0) * bump(radius, 0.25) + np.maximum(fine, 0.0) * bump(radius, 0.60)
    return anatomy.vessel_density * branches + anatomy.hilum_density * bump(
        np.sqrt(frame.hilum_out**2 + 0.4 * frame.hilum_drop**2), 0.13
    ) * (0.8 + 0.45 * coarse)
