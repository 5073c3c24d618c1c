"""Phantoms as a batch of preprocessed images: data that is nobody's, for teaching without a budget."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from primia.data.masks import shrink_mask
from primia.data.phantom import PHANTOM_CLASSES, generate_phantoms
from primia.data.preprocess import shrink_grey

# Drawn larger than needed, so that shrinking smooths them as it smooths a hospital's images.
OVERSAMPLING = 1.5
SMALLEST = 32  # pixels of a phantom


def phantom_images(
    *,
    patients: int,
    pixels: int,
    hospitals: Sequence[str],
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """One image of each of `patients` synthetic patients, (patients, 1, pixels, pixels) float16 in [0, 1]."""
    images, _ = labelled_phantoms(
        patients=patients, pixels=pixels, hospitals=hospitals, seed=seed, on_progress=on_progress
    )
    return images


def labelled_phantoms(
    *,
    patients: int,
    pixels: int,
    hospitals: Sequence[str],
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The images of `phantom_images`, and (patients,) int64 labels, an index into `PHANTOM_CLASSES`."""
    images, labels, _ = _drawn(patients, pixels, hospitals, seed, on_progress)
    return images, labels


def masked_phantoms(
    *,
    patients: int,
    pixels: int,
    hospitals: Sequence[str],
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The images of `phantom_images`, and (patients, pixels, pixels) uint8, an index into `PHANTOM_STRUCTURES`."""
    images, _, masks = _drawn(patients, pixels, hospitals, seed, on_progress)
    return images, masks


def _drawn(
    patients: int,
    pixels: int,
    hospitals: Sequence[str],
    seed: int,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and masks of the first image of each patient."""
    drawn = max(SMALLEST, int(pixels * OVERSAMPLING))
    images: dict[str, Tensor] = {}
    labels: list[int] = []
    masks: list[Tensor] = []
    for phantom in generate_phantoms(patients=patients, pixels=drawn, hospitals=hospitals, seed=seed):
        if phantom.patient_id not in images:
            images[phantom.patient_id] = shrink_grey(phantom.pixels, pixels=pixels)
            labels.append(PHANTOM_CLASSES.index(phantom.label))
            masks.append(shrink_mask(phantom.lung_mask.astype(np.uint8), pixels=pixels))
            if on_progress is not None:
                on_progress(len(images), patients)
    return torch.stack(list(images.values())), torch.tensor(labels), torch.stack(masks)
