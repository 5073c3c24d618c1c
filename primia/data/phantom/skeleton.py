"""Bones: spine, posterior and anterior ribs, clavicles, shoulder blades and humeri."""

import numpy as np

from primia.data.phantom.anatomy import Anatomy, Frame, Pose
from primia.data.phantom.shapes import Field, bump, inside, rod
from primia.data.phantom.tissue import elbow, shoulder_joint


def render_skeleton(anatomy: Anatomy, pose: Pose, frame: Frame) -> Field:
    """Attenuation of bone (height, width), in units of the attenuation of a child's trunk."""
    return _ribs(anatomy, frame) + _spine(anatomy, frame) + _shoulders(anatomy, pose, frame)


def _ribs(anatomy: Anatomy, frame: Frame) -> Field:
    # All ribs at once: `rank` counts ribs downwards along curves of equal shape, so a rib is a fixed part of each unit.
    across = np.minimum(frame.across, 1.1)
    rise = anatomy.rib_bow * (across**2 * (0.55 + 0.75 * across) - 0.35 * across)
    level = (frame.y - np.float32(anatomy.apex)) * np.float32(1.0 / frame.height)
    back_rank = (level - rise + 0.06) * np.float32(anatomy.ribs) * (1.06 - 0.06 * level)
    back = _bands(back_rank, anatomy.rib_thickness, frame, anatomy.ribs)
    # Anterior ribs continue from the posterior ones at the chest wall and run down towards the sternum.
    reach = 1.0 - across
    front_rank = (level - 0.9 * anatomy.rib_bow - 0.62 * reach + 0.06) * np.float32(anatomy.ribs)
    front = _bands(front_rank, anatomy.rib_thickness * 1.1, frame, anatomy.ribs) * inside(across - 0.60, 0.2)
    cage = inside(frame.thorax + 0.025 - frame.lateral, frame.soft) * inside(frame.lateral - 0.06, 0.04)
    limb = 1.0 + 1.1 * np.clip((across - 0.80) * 5.0, 0.0, 1.0) ** 2  # seen edge-on at the side
    end = inside(1.22 - level, 0.2)
    return anatomy.rib_density * cage * end * limb * (back + 0.40 * front)


def _bands(rank: Field, thickness: float, frame: Frame, count: float) -> Field:
    offset = np.abs(rank - np.floor(rank) - 0.5)
    softness = max(0.07, frame.soft * count / frame.height)
    body = inside(0.5 * thickness - offset, softness)
    cortex = bump(offset - np.float32(0.42 * thickness), 0.08)
    return body * (0.75 + 0.35 * cortex) * (rank > 0.0)


def _spine(anatomy: Anatomy, frame: Frame) -> Field:
    width = anatomy.spine_width * (0.85 + 0.2 * np.clip(frame.down, -0.5, 1.5))
    column = inside(width - frame.lateral, 0.03)
    rank = (frame.y - np.float32(anatomy.apex)) * np.float32(anatomy.ribs / frame.height) * 0.98
    disc = np.abs(rank - np.floor(rank) - 0.5)
    bodies = 0.75 + 0.25 * inside(disc - 0.08, 0.08)
    pedicles = bump(frame.lateral - 0.62 * width, 0.018) * bump(disc - 0.30, 0.10)
    processes = bump(frame.lateral, 0.022) * inside(0.22 - np.abs(disc - 0.35), 0.08)
    wings = bump(disc - 0.42, 0.10) * inside(width * 1.9 - frame.lateral, 0.03) * 0.35
    column = column * (1.0 - 0.5 * inside(frame.down - 1.0, 0.2))
    return column * (0.055 * bodies + 0.05 * pedicles + 0.04 * processes) + 0.04 * wings


def _shoulders(anatomy: Anatomy, pose: Pose, frame: Frame) -> Field:
    joint = shoulder_joint(anatomy)
    lateral, y = np.abs(frame.front_x), frame.y
    start, tip = 0.09, joint[0] - 0.06
    share = np.clip((lateral - start) / (tip - start), 0.0, 1.0)
    raised = 0.12 if anatomy.arm_angle > np.pi / 2 else 0.0  # raised arms lift the outer ends
    curve = (
        anatomy.apex
        + 0.17
        + (anatomy.clavicle_slope * 0.4 - raised) * share
        - anatomy.clavicle_bend * np.sin(2.0 * np.pi * share)
    )
    thickness = 0.032 + 0.018 * np.abs(share - 0.5)
    offset = np.abs(y - curve) / thickness
    ends = inside(lateral - start, 0.015) * inside(tip - lateral, 0.02)
    clavicle = inside(1.0 - offset, max(0.35, frame.soft / 0.03)) * (0.8 + 0.3 * bump(offset - 0.75, 0.3)) * ends
    humerus = rod(frame.lateral, y, start=joint, end=elbow(anatomy, pose), radius=0.055)
    head = rod(frame.lateral, y, start=joint, end=(joint[0] + 0.03, joint[1] + 0.02), radius=0.085)
    blade_x = joint[0] - 0.10 + 0.10 * (y - joint[1])
    along = inside(y - np.float32(joint[1] + 0.02), 0.06) * inside(np.float32(joint[1] + 0.48) - y, 0.10)
    border = bump(frame.lateral - blade_x + 0.30 * np.maximum(y - joint[1] - 0.1, 0.0), 0.022) * along
    socket = rod(
        frame.lateral, y, start=(joint[0] - 0.12, joint[1] + 0.04), end=(joint[0] - 0.04, joint[1] - 0.06), radius=0.05
    )
    return 0.20 * clavicle + 0.15 * np.maximum(humerus, head) + 0.06 * border + 0.07 * socket
