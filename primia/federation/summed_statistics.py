"""The sums before the first round: how many images, how bright, how spread, and which labels.

Means become integers in steps of 2^-12, far finer than their own spread, and integers add up to the same bits in any
order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from primia.errors import FederationError
from primia.federation.plan import Plan
from primia.federation.sums import Totals, impossible
from primia.secagg.vector import Layout, Part, share_of_word
from primia.training.objective import balanced_weights

_MOMENT_STEPS = 2**12
_SMALLEST_STD = 1e-3
_MOST_IMAGES = 10**7  # of all hospitals together; masks that do not cancel give far more


def statistics_layout(plan: Plan) -> Layout:
    """Count of training images, sums of their means and mean squares, and counts of labels if classes are weighed."""
    share = share_of_word(len(plan.hospitals))
    labels = len(plan.classes) if plan.training.class_weights else 0
    return Layout(
        (Part("images", 1, share), Part("mean", 1, share), Part("square", 1, share), Part("labels", labels, share))
    )


def statistics_values(plan: Plan, images: Tensor, labels: Tensor) -> dict[str, NDArray[np.int64] | int]:
    """One site's part of the statistics; `images` is (images, 1, pixels, pixels) in [0, 1], `labels` (images,)."""
    pixels = images.to(torch.float64).flatten(1)
    counts = np.bincount(labels.numpy(), minlength=len(plan.classes))
    return {
        "images": len(images),
        "mean": round(float(pixels.mean(dim=1).sum()) * _MOMENT_STEPS),
        "square": round(float(pixels.square().mean(dim=1).sum()) * _MOMENT_STEPS),
        "labels": counts if plan.training.class_weights else np.zeros(0, dtype=np.int64),
    }


@dataclass(frozen=True)
class PooledStatistics:
    """Mean and standard deviation of the training pixels of the sites in `counted`, and their number of images.

    `class_weights` balance the label counts of all these images, None where the plan does not weigh classes.
    """

    images: int
    mean: float
    std: float
    counted: tuple[str, ...]
    class_weights: tuple[float, ...] | None = None


def pooled_statistics(totals: Totals, *, counted: Sequence[str]) -> PooledStatistics:
    """Read the unmasked statistics of the sites in `counted`."""
    images = int(totals["images"][0])
    if images == 0:
        raise FederationError("No hospital holds a training image; run the preprocess stage again.")
    mean, square = (int(totals[name][0]) / _MOMENT_STEPS / images for name in ("mean", "square"))
    std = math.sqrt(max(square - mean**2, _SMALLEST_STD**2))
    labels = [int(count) for count in totals["labels"]]
    return PooledStatistics(
        images=images,
        mean=float(np.float32(mean)),
        std=float(np.float32(std)),
        counted=tuple(sorted(counted)),
        class_weights=balanced_weights(labels) if labels else None,
    )


def check_statistics(totals: Totals) -> None:
    """Raise `FederationError` for a sum of statistics that no images in [0, 1] can have."""
    images, mean, square = (int(totals[name][0]) for name in ("images", "mean", "square"))
    labels = totals["labels"]
    fits = images <= _MOST_IMAGES and 0 <= mean <= images * _MOMENT_STEPS and square <= mean + len(totals) + images
    if not fits or (len(labels) and int(labels.sum()) != images):
        raise impossible("statistics")
