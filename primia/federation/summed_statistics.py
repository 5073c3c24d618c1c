"""The sums before the first round: how many images, how bright, how spread, and which labels.

Means become integers in steps of 2^-12, far finer than their own spread, and integers add up to the same bits in any
order. With differential privacy every patient weighs as much as another, and every hospital adds noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from primia.errors import FederationError
from primia.federation.plan import Plan
from primia.federation.sums import Totals, Values, impossible, most_patients
from primia.privacy.noise import NoiseSource
from primia.privacy.patient_sums import STEPS, NoisySum, weights_of
from primia.secagg.vector import Layout, Part, share_of_signed_word, share_of_word
from primia.training.objective import balanced_weights

_MOMENT_STEPS = 2**12
_SMALLEST_STD = 1e-3
_NONE = np.zeros(0, dtype=np.int64)
_MOST_IMAGES = 10**7  # of all hospitals together; masks that do not cancel give far more


def statistics_layout(plan: Plan) -> Layout:
    """Count of training images, sums of their means and mean squares, and counts of labels if classes are weighed.

    With differential privacy, which does not cover labels: `moments`, those three of patients instead of images.
    """
    hospitals = len(plan.hospitals)
    if plan.privacy is not None:
        return Layout((Part("moments", 3, share_of_signed_word(hospitals), signed=True),))
    share = share_of_word(hospitals)
    labels = len(plan.classes) if plan.training.class_weights else 0
    return Layout(
        (Part("images", 1, share), Part("mean", 1, share), Part("square", 1, share), Part("labels", labels, share))
    )


def statistics_values(plan: Plan, images: Tensor, labels: Tensor, patients: Tensor, *, noise: NoiseSource) -> Values:
    """One site's part of the statistics.

    Args:
        plan: of the run.
        images: (images, 1, *spatial) in [0, 1].
        labels: (images,) int64; masks, which no class weights are for, are not looked at.
        patients: (images,) int64, equal for images of one patient.
        noise: of differential privacy; unused without it.
    """
    pixels = images.to(torch.float64).flatten(1)
    mean, square = pixels.mean(dim=1), pixels.square().mean(dim=1)
    if plan.privacy is not None:
        weights = weights_of(patients)
        exact = torch.stack([weights.sum(), weights @ mean, weights @ square]).numpy()
        limit = share_of_signed_word(len(plan.hospitals))
        return {"moments": _noisy_moments(plan).release(exact, limit=limit, noise=noise)}
    return {
        "images": len(images),
        "mean": round(float(mean.sum()) * _MOMENT_STEPS),
        "square": round(float(square.sum()) * _MOMENT_STEPS),
        "labels": np.bincount(labels.numpy(), minlength=len(plan.classes)) if plan.training.class_weights else _NONE,
    }


def _noisy_moments(plan: Plan) -> NoisySum:
    assert plan.privacy is not None
    # A patient counts once, and has a mean and a mean square in [0, 1].
    return NoisySum(entries=3, sensitivity=math.sqrt(3), noise_multiplier=plan.privacy.statistics_noise)


@dataclass(frozen=True)
class PooledStatistics:
    """Mean and standard deviation of the training pixels of the sites in `counted`, and their number of images.

    With differential privacy `images` is about the number of patients. `class_weights` balance the label counts of all
    these images, None where the plan does not weigh classes.
    """

    images: int
    mean: float
    std: float
    counted: tuple[str, ...]
    class_weights: tuple[float, ...] | None = None


def pooled_statistics(totals: Totals, *, counted: Sequence[str]) -> PooledStatistics:
    """Read the unmasked statistics of the sites in `counted`."""
    if "moments" in totals:
        count, mean, square = (int(entry) / STEPS for entry in totals["moments"])
        if count < 1:
            raise FederationError(
                "The noise on the pooled statistics hides all patients; lower privacy.statistics_noise, or let more "
                "patients take part."
            )
        # Noise may carry the moments where no image can be.
        mean, square, labels = min(max(mean / count, 0.0), 1.0), min(square / count, 1.0), []
    else:
        count = int(totals["images"][0])
        if count == 0:
            raise FederationError("No hospital holds a training image; run the preprocess stage again.")
        mean, square = (int(totals[name][0]) / _MOMENT_STEPS / count for name in ("mean", "square"))
        labels = [int(number) for number in totals["labels"]]
    std = math.sqrt(max(square - mean**2, _SMALLEST_STD**2))
    return PooledStatistics(
        images=round(count),
        mean=float(np.float32(mean)),
        std=float(np.float32(std)),
        counted=tuple(sorted(counted)),
        class_weights=balanced_weights(labels) if labels else None,
    )


def check_statistics(plan: Plan, totals: Totals, *, sites: int) -> None:
    """Raise `FederationError` for a sum of statistics that images in [0, 1] at `sites` honest sites cannot have."""
    if plan.privacy is not None:
        patients, mean, square = (int(entry) for entry in totals["moments"])
        spread = _noisy_moments(plan).spread(sites) + 2 * sites
        if not (
            patients <= most_patients(plan, sites) * STEPS
            and -spread <= mean <= patients + 2 * spread
            and -spread <= square <= mean + 2 * spread
        ):
            raise impossible("statistics")
        return
    images, mean, square = (int(totals[name][0]) for name in ("images", "mean", "square"))
    labels = totals["labels"]
    fits = images <= _MOST_IMAGES and 0 <= mean <= images * _MOMENT_STEPS and square <= mean + len(totals) + images
    if not fits or (len(labels) and int(labels.sum()) != images):
        raise impossible("statistics")
