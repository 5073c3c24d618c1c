"""Small random changes of exposure and pose, as between two X-rays of one child."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_ROTATION = math.radians(7.0)
_SCALE = 0.07
_SHIFT = 0.05  # of the image's side
_CONTRAST = 0.1
_BRIGHTNESS = 0.1  # of a standard deviation of the standardised image
CHANGED_COPIES = 3  # of each image that a teacher is asked about: a change never makes a wrong answer
_BATCH = 128
_BOTH = ("image", "mask")


# Maps images to images, or images and masks to both.
Change = Callable[..., Any]


def augmentation(*, pixels: int, seed: int) -> Callable[[Tensor], Tensor]:
    """A function that moves, turns, scales and re-exposes each image of a batch by its own random amount.

    MONAI's RandAffine, RandScaleIntensity and RandShiftIntensity: rotation up to 7°, scale up to 7 % along each axis,
    shift up to 5 % of the side, contrast up to 10 %, brightness up to 0.1. Never mirrored: the heart lies on the left.

    Args:
        pixels: side p of the square images.
        seed: of all randomness, below 2^32; the first call gives the same images again, and so does the second.

    Returns:
        Maps standardised images (n, 1, p, p) float32 to a new tensor of the same shape; what moves in from outside
        repeats the border.
    """
    # Importing MONAI takes seconds.
    from monai.transforms import Compose, RandAffine, RandScaleIntensity, RandShiftIntensity

    change = Compose(
        [
            RandAffine(**_pose((pixels, pixels)), padding_mode="border"),
            RandScaleIntensity(factors=_CONTRAST, prob=1.0),
            RandShiftIntensity(offsets=_BRIGHTNESS, prob=1.0),
        ]
    ).set_random_state(seed=seed)

    def augmented(images: Tensor) -> Tensor:
        with _without_history():
            return torch.stack([change(image) for image in images])

    return augmented


def augmentation_with_masks(*, sides: Sequence[int], seed: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """As `augmentation`, of images and of their masks, which move alike and keep whole classes.

    Args:
        sides: of the images, (p, p), or of volumes, (p, p, depth); volumes are turned about their last axis only, and
            moved and scaled along all.
        seed: see `augmentation`.

    Returns:
        Maps standardised images (n, 1, *sides) float32 and masks (n, *sides) of integers to new ones, each of its shape
        and type.
    """
    # Importing MONAI takes seconds.
    from monai.transforms import Compose, RandAffined, RandScaleIntensityd, RandShiftIntensityd

    change = Compose(
        [
            RandAffined(keys=_BOTH, mode=("bilinear", "nearest"), padding_mode=("border", "border"), **_pose(sides)),
            RandScaleIntensityd(keys="image", factors=_CONTRAST, prob=1.0),
            RandShiftIntensityd(keys="image", offsets=_BRIGHTNESS, prob=1.0),
        ]
    ).set_random_state(seed=seed)

    def augmented(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        with _without_history():
            pairs = [
                change({"image": image, "mask": mask[None].float()}) for image, mask in zip(images, masks, strict=True)
            ]
        moved = torch.stack([pair["mask"][0] for pair in pairs])
        return torch.stack([pair["image"] for pair in pairs]), moved.to(masks.dtype)

    return augmented


def changed(change: Change | None, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and labels after a change, if there is one: masks move with their images, and a diagnosis stays."""
    if change is None:
        return rows, labels
    if labels.dim() == 1:
        return change(rows), labels
    moved: tuple[Tensor, Tensor] = change(rows, labels)
    return moved


def _pose(sides: Sequence[int]) -> dict[str, Any]:
    return {
        "prob": 1.0,
        "rotate_range": _ROTATION if len(sides) == 2 else (0.0, 0.0, _ROTATION),
        "scale_range": (_SCALE,) * len(sides),
        "translate_range": tuple(_SHIFT * side for side in sides),
        "spatial_size": tuple(sides),
        "cache_grid": True,
    }


def changed_copies(images: Tensor, *, mean: float, std: float, seed: int) -> Tensor:
    """Three changed copies of each image, for a teacher that is asked about all of them.

    Args:
        images: (n, 1, p, p) in [0, 1], of any float type.
        mean: in the unit of which brightness changes.
        std: in the unit of which brightness changes.
        seed: see `augmentation`.

    Returns:
        (3 · n, 1, p, p) float16 in [0, 1]: all images once, then all of them again.
    """
    change, changed = augmentation(pixels=images.shape[-1], seed=seed), []
    for _ in range(CHANGED_COPIES):
        for batch in torch.split(images, _BATCH):
            changed.append((change((batch.float() - mean) / std) * std + mean).clamp(0.0, 1.0).half())
    return torch.cat(changed)


@contextmanager
def _without_history() -> Iterator[None]:
    """Keep MONAI from recording on each image what was done to it, which takes more time than doing it."""
    from monai.data import get_track_meta, set_track_meta

    recorded = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(recorded)
