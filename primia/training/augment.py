"""Small random changes of exposure and pose, as between two X-rays of one child."""

import math

import torch
from torch import Tensor
from torch.nn import functional

_ROTATION = math.radians(7.0)
_SCALE = 0.07
_SHIFT = 0.05  # of the image's side
_CONTRAST = 0.1
_BRIGHTNESS = 0.1  # of a standard deviation of the standardised image


def augment_images(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Move, turn, scale and re-expose each image by its own random amount.

    Rotation up to 7°, scale up to 7 %, shift up to 5 % of the side, contrast up to 10 %, brightness up to 0.1. Never
    mirrored: the heart lies on the left.

    Args:
        images: standardised, (n, 1, p, p) float32.
        generator: all randomness comes from here.

    Returns:
        A new tensor of the same shape; what moves in from outside repeats the border.
    """
    n = len(images)
    draws = 2 * torch.rand(n, 6, generator=generator) - 1
    angle = draws[:, 0] * _ROTATION
    scale = 1 + draws[:, 1] * _SCALE
    # affine_grid counts the image from -1 to 1, so the side is 2 long.
    shift = draws[:, 2:4] * 2 * _SHIFT
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    pose = torch.stack(
        [torch.stack([cosine, -sine, shift[:, 0]], dim=1), torch.stack([sine, cosine, shift[:, 1]], dim=1)], dim=1
    )  # (n, 2, 3)
    grid = functional.affine_grid(pose, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    contrast = 1 + draws[:, 4] * _CONTRAST
    brightness = draws[:, 5] * _BRIGHTNESS
    return moved * contrast[:, None, None, None] + brightness[:, None, None, None]
