"""Phantoms as a batch of preprocessed images: data that is nobody's, for teaching without a budget."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from primia.data.phantom import generate_phantoms
from primia.data.preprocess import shrink_grey

# Drawn larger than needed, so that shrinking smooths them as it smooths a hospital's images.
OVERSAMPLING = 1.5


def phantom_images(
    *,
    patients: int,
    pixels: int,
    hospitals: Sequence[str],
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """One image of each of `patients` synthetic patients, (patients, 1, pixels, pixels) float16 in [0, 1]."""
    drawn = int(pixels * OVERSAMPLING)
    images: dict[str, Tensor] = {}
    for phantom in generate_phantoms(patients=patients, pixels=drawn, hospitals=hospitals, seed=seed):
        if phantom.patient_id not in images:
            images[phantom.patient_id] = shrink_grey(phantom.pixels, pixels=pixels)
            if on_progress is not None:
                on_progress(len(images), patients)
    return torch.stack(list(images.values()))
